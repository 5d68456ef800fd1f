"""From a point to items by their scores `<point, item>`: the best ones, or a draw from the softmax over all."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64
from torch import Tensor

from what_next.retrieval.choice import Selection
from what_next.types import Ranked

CHUNK = 2**24
"""Scores at work at a time: 64 MB."""

Allowed = Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None


@torch.no_grad()
def select_ranked(
    points: Float32[np.ndarray, "batch dim"],
    ranked: Ranked,
    *,
    slots: int = 1,
    rng: np.random.Generator | None = None,
    allowed: Allowed = None,
    exclude: Int32[np.ndarray, "batch width"] | None = None,
    propensities: bool = False,
) -> Selection:
    """Choose `slots` different items for each point.

    Args:
        points: what the item vectors are multiplied with.
        ranked: those vectors, the softmax's temperature, and what puts the best in order anew.
        slots: items per point; -1 where no further one is permitted.
        rng: draws from the softmax over the permitted items, without replacement; None takes the best, at
            propensity 1, the lower item among equals.
        allowed: the permitted items, for all points or for each; `exclude`: items not permitted, -1 pads.
        propensities: whether to tell the probability of each step's choice, given those before it.
    """
    outcome = Selection.nothing(len(points), slots, propensities)
    for part, scores in scored(points, ranked, allowed, exclude):
        chosen, chances = _best(scores, slots) if rng is None else _drawn(scores, slots, ranked.temperature, rng)
        found = outcome.part(part)
        found.items[:, : chosen.shape[1]] = chosen.cpu().numpy()
        found.matches[:] = torch.isfinite(scores).sum(1).cpu().numpy()[:, None]
        found.fallback[:] = found.items < 0
        if found.propensities is not None:
            found.propensities[:, : chosen.shape[1]] = chances.cpu().numpy()
            found.propensities[found.items < 0] = np.nan
    return outcome


@torch.no_grad()
def chances_ranked(
    points: Float32[np.ndarray, "batch dim"],
    ranked: Ranked,
    *,
    allowed: Allowed = None,
    exclude: Int32[np.ndarray, "batch width"] | None = None,
) -> Float64[np.ndarray, "batch items"]:
    """The probability of every item to be the first that `select_ranked` draws; a row sums to 1, or 0 without items."""
    found = np.zeros((len(points), len(ranked.vectors)))
    for part, scores in scored(points, ranked, allowed, exclude):
        if ranked.temperature:
            found[part] = (scores / ranked.temperature).double().softmax(1).nan_to_num().cpu().numpy()
        else:
            best = _best(scores, 1)[0][:, 0].cpu().numpy()
            found[part][best >= 0, best[best >= 0]] = 1
    return found


@torch.no_grad()
def scored(
    points: Float32[np.ndarray, "batch dim"],
    ranked: Ranked,
    allowed: Allowed = None,
    exclude: Int32[np.ndarray, "batch width"] | None = None,
) -> Iterator[tuple[slice, Float[Tensor, "rows items"]]]:
    """The scores of all items for some points at a time; minus infinity where an item is not permitted."""
    batch, items = len(points), len(ranked.vectors)
    step = max(1, CHUNK // max(1, items, ranked.rescored * ranked.vectors.shape[1]))
    for start in range(0, batch, step):
        part = slice(start, min(start + step, batch))
        scores = torch.from_numpy(points[part]).to(ranked.vectors) @ ranked.vectors.T
        forbid(scores, part, allowed, exclude)
        yield part, _again(scores, ranked, part) if ranked.rescored else scores


def forbid(
    scores: Float[Tensor, "rows items"], part: slice, allowed: Allowed, exclude: Int32[np.ndarray, "batch width"] | None
) -> None:
    """Set the scores of items that are not permitted to minus infinity."""
    if allowed is not None:
        mask = torch.from_numpy(~(allowed if allowed.ndim == 1 else allowed[part]))
        scores.masked_fill_(mask.to(scores.device), -torch.inf)
    if exclude is not None:
        rows, places = np.nonzero(exclude[part] >= 0)
        columns = exclude[part][rows, places].astype(np.int64)
        scores[torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(scores.device)] = -torch.inf


def _again(scores: Float[Tensor, "rows items"], ranked: Ranked, part: slice) -> Float[Tensor, "rows items"]:
    """The best items' scores replaced, so that they stay before all others, in the order of their new scores."""
    assert ranked.rescore is not None
    count = min(ranked.rescored, scores.shape[1])
    best, candidates = scores.topk(count)
    again = ranked.rescore(candidates, part).masked_fill(torch.isneginf(best), -torch.inf)
    if count < scores.shape[1]:
        rest = scores.scatter(1, candidates, -torch.inf).amax(1, keepdim=True)
        lowest = again.masked_fill(torch.isneginf(again), torch.inf).amin(1, keepdim=True)
        # Those that were not asked about follow, however they were scored.
        shift = torch.where(torch.isfinite(rest) & torch.isfinite(lowest), lowest - rest - 1, 0)
        scores = scores + shift
    return scores.scatter(1, candidates, again)


def _best(
    scores: Float[Tensor, "rows items"], slots: int
) -> tuple[Int64[Tensor, "rows chosen"], Float[Tensor, "rows chosen"]]:
    """The highest scores; a stable order makes the lower item first among equals."""
    count = min(slots, scores.shape[1])
    values, items = scores.topk(min(count + 1, scores.shape[1]))
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    values, items = values[:, :count], items[:, :count]
    if tied.any():
        again, places = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], items[tied] = again[:, :count], places[:, :count]
    return items.masked_fill(torch.isneginf(values), -1), torch.ones(items.shape, dtype=torch.float64)


def _drawn(
    scores: Float[Tensor, "rows items"], slots: int, temperature: float, rng: np.random.Generator
) -> tuple[Int64[Tensor, "rows chosen"], Float[Tensor, "rows chosen"]]:
    """Gumbel top-k: draws without replacement from the softmax (Kool et al. 2019, arXiv 1903.06059, section 3)."""
    if temperature == 0:
        return _best(scores, slots)
    logits = (scores / temperature).double()
    noise = torch.from_numpy(rng.gumbel(size=tuple(scores.shape))).to(logits.device)
    items, _ = _best(logits + noise, slots)
    chances, left = [], logits
    for slot in range(items.shape[1]):
        column = items[:, slot : slot + 1].clamp(min=0)
        chances.append(left.log_softmax(1).gather(1, column).exp())
        left = left.scatter(1, column, -torch.inf)
    return items, torch.cat(chances, 1)
