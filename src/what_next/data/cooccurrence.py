"""Item vectors from co-occurrence counts of the log, to initialise training.

Items that occur near each other get similar vectors: the positive pointwise mutual information of their co-occurrence,
factorised by a truncated SVD. word2vec's skip-grams approach the same by gradient steps (Levy and Goldberg 2014,
"Neural Word Embedding as Implicit Matrix Factorization"); this takes only one or two passes over the log.
"""

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64

Pairs = Int64[np.ndarray, "pairs"]
Sums = Float64[np.ndarray, "pairs"]

REACH = 5
"""Largest distance in events at which two items co-occur; a pair counts as one over its distance."""
SMOOTHING = 0.75
"""Exponent of the context distribution, which damps rare items (Levy, Goldberg and Dagan 2015, section 3.2)."""
MOST = 2**24
"""Most events counted, those of the last users, because counting takes memory."""
EXTRA = 16
"""Oversampling of the randomised SVD, in columns; and `TURNS`, its power iterations (Halko et al. 2011, algorithm
4.4)."""
TURNS = 2
TURNS_OF_DIRECTIONS = 6
"""Power iterations where vectors are not trained further: with 2, validation NDCG@10 on lastfm-s3rec is .078, not
.080."""


def placed(
    items: Int32[np.ndarray, "events"], users: Int32[np.ndarray, "events"], count: int, dim: int, seed: int
) -> Float32[np.ndarray, "items dim"]:
    """A vector of length 1 for each item that co-occurs with others in the log; 0 for other items.

    Only directions with positive eigenvalues are kept; if there are fewer than `dim`, the last columns are 0.

    Args:
        items: of the events, as catalogue indices, by user, then time; `users`: of the events.
        count: number of items; `dim`: dimension of the vectors.
        seed: of the randomised SVD.
    """
    first, second, near = neighbours(items[-MOST:], users[-MOST:], count)
    information = ppmi(first, second, near, count)
    kept = information > 0
    one, other, values = first[kept], second[kept], information[kept]
    places = torch.from_numpy(np.stack([np.r_[one, other], np.r_[other, one]]))  # makes the matrix symmetric
    both = torch.from_numpy(np.r_[values, values].astype(np.float32))
    matrix = torch.sparse_coo_tensor(places, both, (count, count), check_invariants=True).coalesce()
    columns = min(dim, count)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left, sizes, right = torch.svd_lowrank(matrix, min(columns + EXTRA, count), TURNS)
    alike = ((left * right).sum(0) > 0).nonzero().ravel()[:columns]  # drops directions with negative eigenvalues
    # Directions are weighted by the square root of the values (Levy, Goldberg and Dagan 2015, equation 8).
    vectors = (left * sizes.sqrt())[:, alike]
    lengths = vectors.norm(dim=1, keepdim=True)
    found = np.zeros((count, dim), np.float32)
    found[:, : len(alike)] = torch.where(lengths > 1e-6, vectors / lengths.clamp(min=1e-6), 0.0).numpy()
    return found


def directions(
    users: Pairs, items: Pairs, count: int, rank: int, seed: int
) -> tuple[Float32[np.ndarray, "items some"], Float32[np.ndarray, "some"]]:
    """The first right singular vectors of the user-item matrix, and the squares of its singular values, in descending
    order: at most `rank`, or as many as there are.

    Args:
        users: of the distinct user-item pairs, sorted by user; `items`: of the same pairs; `count`: number of items.
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
    """Pairs of different items, the lower index first, with the sum of their weights (one over the distance)."""
    codes, sums = np.zeros(0, np.int64), np.zeros(0, np.float64)
    for distance in range(1, min(REACH, len(items) - 1) + 1):
        one, other = items[:-distance].astype(np.int64), items[distance:].astype(np.int64)
        pair = (users[:-distance] == users[distance:]) & (one != other)
        new = np.minimum(one, other)[pair] * count + np.maximum(one, other)[pair]
        weights = np.concatenate([sums, np.full(len(new), 1 / distance)])
        codes, places = np.unique(np.concatenate([codes, new]), return_inverse=True)
        sums = np.bincount(places, weights, len(codes)).astype(np.float64)
    return codes // count, codes % count, sums


def ppmi(first: Pairs, second: Pairs, near: Sums, count: int) -> Sums:
    """log(p(i, j) / (p(i) p(j))) of each pair, with smoothed contexts, averaged over both orders.

    Levy and Goldberg 2014, section 2.1; `placed` keeps the pairs above their shift of 0.
    """
    total = np.bincount(first, near, count) + np.bincount(second, near, count)
    context = total**SMOOTHING / max(1e-12, float((total**SMOOTHING).sum()))
    # p(i, j) / p(i) is near / total[i]; the grand total cancels.
    forward = np.log(near / (total[first] * context[second]))
    backward = np.log(near / (total[second] * context[first]))
    return np.asarray((forward + backward) / 2)
