"""The places of relevant items in a ranking of the whole catalogue, ties included, and the best items."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int32, Int64, Shaped
from torch import Tensor

from what_next.retrieval.pool import sample_ranks

NOWHERE = 2**31 - 1
"""The place of an item outside the slate."""
GROUP = 16
"""Items per group in `_top`, which compares the groups' maxima first; 16 is the fastest of 16 to 256."""
CACHED = 2**20
"""Scores compared at a time: 4 MB fit the processor's cache, and their memory is reused."""


@dataclass(frozen=True, eq=False)
class Places:
    """The places of the relevant items of each row in its ranking. Items of one row with equal `above` are tied.

    Attributes:
        above: how many permitted items have a strictly higher score; NOWHERE for padding, for an item that is not
            permitted, and for one outside the slate.
        tied: how many permitted items have the same score, itself included; 1 where `above` is NOWHERE.
        counts: how many relevant items each row has, including those with NOWHERE.
    """

    above: Int64[np.ndarray, "rows relevant"]
    tied: Int64[np.ndarray, "rows relevant"]
    counts: Int64[np.ndarray, "rows"]

    @classmethod
    def of_slates(cls, slates: Int32[np.ndarray, "rows k"], relevant: Int[np.ndarray, "rows relevant"]) -> "Places":
        """For a policy without scores: positions in its slate, without ties; -1 is no item in either argument."""
        above = np.full(relevant.shape, NOWHERE)
        for position in reversed(range(slates.shape[1])):  # where an item stands twice, the first counts
            above[slates[:, position, None] == relevant] = position
        above[relevant < 0] = NOWHERE
        return cls(above, np.ones_like(above), (relevant >= 0).sum(axis=1))


@torch.no_grad()
def place(
    scores: Float[Tensor, "rows items"], relevant: Int64[Tensor, "rows relevant"], k: int, rng: np.random.Generator
) -> tuple[Places, Int32[np.ndarray, "rows k"]]:
    """Rank the catalogue for each row: where its relevant items stand, and the `k` best items.

    Ties inside the slate or at its border are ordered uniformly at random. Only rows with such ties draw random
    numbers, row after row and the same number each, so the result does not depend on how the rows are cut into chunks.

    Args:
        scores: higher is better; -inf where an item is not permitted.
        relevant: distinct items for each row, padded with -1.
        k: slots of the slate, and the deepest cutoff for which the places are valid.
        rng: breaks the ties of the slates; the places do not depend on it.

    Returns:
        The places, exact where fewer than `k` items have a higher score, else NOWHERE; and the slates, best first,
        padded with -1 where fewer than `k` items are permitted.
    """
    depth = min(k, scores.shape[1])
    assert depth > 0
    values, items = _top(scores, min(depth + 1, scores.shape[1]))
    assert not values[:, 0].isnan().any(), "a score is not a number"
    own = scores.gather(1, relevant.clamp(min=0)).masked_fill(relevant < 0, -torch.inf)
    descending, lowest = -values[:, :depth].contiguous(), values[:, depth - 1, None]
    above = torch.searchsorted(descending, -own)
    tied = (torch.searchsorted(descending, -own, right=True) - above).cpu().numpy()
    slates, crowds = _slates(scores, values.cpu().numpy(), items.cpu().numpy(), k, rng)
    # Items tied above the slate's lowest score all fit in the slate; those tied at the lowest score may not.
    tied = np.where((own == lowest).cpu().numpy(), np.maximum(tied, crowds[:, None]), tied)
    reached = ((own >= lowest) & (own > -torch.inf)).cpu().numpy()
    counts = (relevant >= 0).sum(1).cpu().numpy()
    return Places(np.where(reached, above.cpu().numpy(), NOWHERE), np.where(reached, tied, 1), counts), slates


def _top(
    scores: Float[Tensor, "rows items"], count: int
) -> tuple[Float[Tensor, "rows count"], Int64[Tensor, "rows count"]]:
    """`scores.topk(count)`, in a third of the time where the catalogue is large.

    At most `count - 1` groups contain a score above the `count`-th greatest, so the `count` groups with the greatest
    maxima contain all of those scores, and enough that equal the `count`-th.
    """
    width = scores.shape[1] // GROUP
    if width < GROUP * count:  # it would take longer
        values, best = scores.topk(count)
        return values, best
    groups = scores[:, : GROUP * width].view(len(scores), GROUP, width)  # a group: every width-th item
    found = groups.amax(1).topk(count, sorted=False).indices[:, None].expand(-1, GROUP, -1)
    places = torch.arange(scores.shape[1], device=scores.device)
    rest = places[GROUP * width :].expand(len(scores), -1)
    candidates = torch.cat([(found + places[:GROUP, None] * width).flatten(1), rest], 1)
    values, best = torch.cat([groups.gather(2, found).flatten(1), scores[:, GROUP * width :]], 1).topk(count)
    return values, candidates.gather(1, best)


def _slates(
    scores: Float[Tensor, "rows items"],
    values: Float[np.ndarray, "rows best"],
    items: Int64[np.ndarray, "rows best"],
    k: int,
    rng: np.random.Generator,
) -> tuple[Int32[np.ndarray, "rows k"], Int64[np.ndarray, "rows"]]:
    """The best items with their ties broken; and how many items share the lowest score, where not all have a slot.

    Args:
        scores: of all items.
        values: the greatest scores, one more than there are slots where the catalogue is large enough.
        items: the items of these scores.
        k: slots.
        rng: breaks the ties.
    """
    depth = min(k, scores.shape[1])
    equal = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -np.inf)
    rows = np.flatnonzero(equal.any(axis=1))
    best, crowds = items[:, :depth].copy(), np.zeros(len(scores), np.int64)
    if len(rows):
        uniforms = rng.random((len(rows), 3, depth))
        levels = -values[rows, :depth]
        chosen = _ordered(best[rows], levels, best[rows])  # the order of equals so far is of no one's choice
        crowded = np.flatnonzero(equal[rows, depth - 1 :].any(axis=1))
        sizes, drawn = _drawn_at_border(scores, rows[crowded], -levels[crowded, -1], uniforms[crowded, :2])
        slots = (levels[crowded] == levels[crowded, -1:]).sum(axis=1, keepdims=True)
        slot = np.arange(depth) - depth + slots
        inside = np.take_along_axis(drawn, np.maximum(slot, 0), axis=1)
        chosen[crowded] = np.where(slot >= 0, inside, chosen[crowded])
        best[rows], crowds[rows[crowded]] = _ordered(chosen, levels, uniforms[:, 2]), sizes
    slates = np.full((len(scores), k), -1, np.int32)
    slates[:, :depth] = np.where(values[:, :depth] > -np.inf, best, -1)
    return slates, crowds


def _ordered(
    items: Int64[np.ndarray, "rows slots"],
    levels: Float[np.ndarray, "rows slots"],
    keys: Shaped[np.ndarray, "rows slots"],
) -> Int64[np.ndarray, "rows slots"]:
    """Items by ascending level, then by ascending key."""
    return np.take_along_axis(items, np.lexsort((keys, levels)), axis=1)


def _drawn_at_border(
    scores: Float[Tensor, "rows items"],
    rows: Int64[np.ndarray, "crowded"],
    border: Float[np.ndarray, "crowded"],
    uniforms: Float64[np.ndarray, "crowded two slots"],
) -> tuple[Int64[np.ndarray, "crowded"], Int64[np.ndarray, "crowded slots"]]:
    """For some rows, how many items have the border's score, and up to `slots` of them drawn in random order.

    Padded with -1.
    """
    sizes, items = np.zeros(len(rows), np.int64), np.full(uniforms[:, 0].shape, -1)
    width = scores.shape[1]
    step = max(1, CACHED // width)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        some = scores[torch.from_numpy(rows[part]).to(scores.device)].cpu().numpy()
        flat = np.flatnonzero(some == border[part, None])
        starts = np.searchsorted(flat, np.arange(len(some) + 1) * width)
        sizes[part] = np.diff(starts)
        ranks = sample_ranks(uniforms[part, 0], sizes[part])
        found = flat[starts[:-1, None] + np.maximum(ranks, 0)] % width
        items[part] = np.where(ranks < 0, -1, found)
    order = np.where(items < 0, np.inf, uniforms[:, 1]).argsort(axis=1)  # what was drawn is a set: in no random order
    return sizes, np.take_along_axis(items, order, axis=1)
