"""Where items stand by what is heard around them: vectors from counts of the log, before anything is trained.

Items that are heard near each other come to lie near each other: the positive pointwise mutual information of their
co-occurrence, factorised by a truncated SVD. It is what word2vec's skip-grams approach by gradient steps (Levy and
Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization"), for the cost of a pass or two over the log.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64

Pairs = Int64[np.ndarray, "pairs"]
Sums = Float64[np.ndarray, "pairs"]

REACH = 5
"""How many events apart two items still count as near each other; a pair counts by one over that distance."""
SMOOTHING = 0.75
"""The exponent of the shares of contexts, which damps the pull of rare items (Levy, Goldberg and Dagan 2015, 3.2)."""
MOST = 2**24
"""Events that are counted, at most, those of the last users: counting takes memory."""
EXTRA = 16
"""Columns of the randomised SVD beyond those that are asked for; and `TURNS`, its power iterations (Halko et al. 2011,
algorithm 4.4)."""
TURNS = 2
TURNS_OF_DIRECTIONS = 6
"""Of what is used as it is, and not learned further: with 2, validation NDCG@10 on lastfm-s3rec is .078, not .080."""


def placed(
    items: Int32[np.ndarray, "events"], users: Int32[np.ndarray, "events"], count: int, dim: int, seed: int
) -> Float32[np.ndarray, "items dim"]:
    """A vector of length 1 for each item with neighbours in the log; 0 for the others.

    Only directions along which neighbours are alike are kept; where there are fewer than `dim`, the last columns are 0.

    Args:
        items: of the events, positions in the catalogue, by user and then time; `users`: whose they are.
        count: how many items there are; `dim`: entries of a vector.
        seed: of the randomised SVD.
    """
    first, second, near = neighbours(items[-MOST:], users[-MOST:], count)
    information, kept = ppmi(first, second, near, count)
    one, other, values = first[kept], second[kept], information[kept]
    places = torch.from_numpy(np.stack([np.r_[one, other], np.r_[other, one]]))  # each pair both ways
    both = torch.from_numpy(np.r_[values, values].astype(np.float32))
    matrix = torch.sparse_coo_tensor(places, both, (count, count), check_invariants=True).coalesce()
    columns = min(dim, count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, sizes, right = torch.svd_lowrank(matrix, min(columns + EXTRA, count), TURNS)
    alike = ((left * right).sum(0) > 0).nonzero().ravel()[:columns]  # elsewhere the eigenvalue is negative
    # The square root of the values weighs the directions (Levy, Goldberg and Dagan 2015, equation 8).
    vectors = (left * sizes.sqrt())[:, alike]
    lengths = vectors.norm(dim=1, keepdim=True)
    found = np.zeros((count, dim), np.float32)
    found[:, : len(alike)] = torch.where(lengths > 1e-6, vectors / lengths.clamp(min=1e-6), 0.0).numpy()
    return found


def directions(
    users: Pairs, items: Pairs, count: int, rank: int, seed: int
) -> tuple[Float32[np.ndarray, "items some"], Float32[np.ndarray, "some"]]:
    """Along which items go together in what people had: the first right singular vectors of the matrix of who had
    what, and the squares of its singular values, the largest first. No more than `rank`, or than there are.

    Args:
        users: of the distinct pairs of who had what, by user; `items`: of these; `count`: how many items there are.
        rank: how many directions; `seed`: of the randomised SVD.
    """
    if not len(users):
        return np.zeros((count, 0), np.float32), np.zeros(0, np.float32)
    _, rows = np.unique(users[-MOST:], return_inverse=True)
    places = torch.from_numpy(np.stack([rows, items[-MOST:]]))
    size = int(rows.max()) + 1, count
    matrix = torch.sparse_coo_tensor(places, torch.ones(len(rows)), size, check_invariants=True).coalesce()
    kept = min(rank, *size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, values, right = torch.svd_lowrank(matrix, min(kept + EXTRA, *size), TURNS_OF_DIRECTIONS)
    return right[:, :kept].contiguous().numpy(), values[:kept].square().numpy()


def neighbours(
    items: Int32[np.ndarray, "events"], users: Int32[np.ndarray, "events"], count: int
) -> tuple[Pairs, Pairs, Sums]:
    """The pairs of different items, the smaller position first, and how often they are near each other."""
    codes, sums = np.zeros(0, np.int64), np.zeros(0, np.float64)
    for distance in range(1, min(REACH, len(items) - 1) + 1):
        one, other = items[:-distance].astype(np.int64), items[distance:].astype(np.int64)
        pair = (users[:-distance] == users[distance:]) & (one != other)
        new = np.minimum(one, other)[pair] * count + np.maximum(one, other)[pair]
        weights = np.concatenate([sums, np.full(len(new), 1 / distance)])
        codes, places = np.unique(np.concatenate([codes, new]), return_inverse=True)
        sums = np.bincount(places, weights, len(codes)).astype(np.float64)
    return codes // count, codes % count, sums


def ppmi(first: Pairs, second: Pairs, near: Sums, count: int) -> tuple[Sums, Bool[np.ndarray, "pairs"]]:
    """log(p(i, j) / (p(i) p(j))) of each pair, the context smoothed and both orders averaged; and where it is positive.

    Levy and Goldberg 2014, section 2.1, with their shift of 0.
    """
    total = np.bincount(first, near, count) + np.bincount(second, near, count)
    context = total**SMOOTHING / max(1e-12, float((total**SMOOTHING).sum()))
    # p(i, j) / p(i) is near / total[i]; the grand total cancels.
    forward = np.log(near / (total[first] * context[second]))
    backward = np.log(near / (total[second] * context[first]))
    found = (forward + backward) / 2
    return found, found > 0
