"""From scores to slates: the best items, draws from the softmax, or epsilon-greedy, with exact propensities.

Scores come in parts, each of several blocks of columns. The whole matrix of rows times items is read only once: while a
part is in the processor's cache, the maximum or the softmax mass of each block is taken, and later steps read a few
blocks per row. If each row has its own generator, its draws do not depend on the other rows of the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int32, Int64
from torch import Tensor

from what_next.errors import NotFinite
from what_next.types import EpsilonGreedy, Greedy, Product, Random, Request, Softmax

BLOCK = 128
"""Columns in a block."""
LEAST = float(np.finfo(np.float32).min)
"""Replaces minus infinity in differences, because -inf - -inf is NaN."""
SPARE = 6
"""Draws beyond the number of slots, because repeated draws of an item are skipped."""
POWER = 80.0
"""If no logit exceeds this, neither its exponential nor a block's sum overflows a float32."""
LEAST_REST = 1e-3
"""Smallest remaining share of the mass: below it, subtracting the chosen mass from the total loses too many digits."""

Parts = Float[Tensor, "parts rows blocks block"]
Weights = Float[np.ndarray, "parts rows blocks block"]
Masses = Float64[np.ndarray, "rows all_blocks"]


class Scores(ABC):
    """Scores of some rows over the same columns; minus infinity for forbidden columns and padding.

    Attributes:
        kept: the scores of the last pass, in blocks.
        shape: (parts, rows, blocks per part).
        longest: a bound on the absolute scores; infinite if unknown.
    """

    kept: Parts
    shape: tuple[int, int, int]
    longest: float = np.inf

    @abstractmethod
    def passed(self, scale: Float[np.ndarray, "rows"] | None) -> Iterator[Float[Tensor, "rows blocks block"]]:
        """The parts one by one, divided by `scale`; changes made in place stay in `kept`."""

    @abstractmethod
    def whole(self, row: int) -> Float64[np.ndarray, "columns"]:
        """All scores of a row."""

    @abstractmethod
    def values(self, columns: Int64[np.ndarray, "rows slots"]) -> Float[np.ndarray, "rows slots"]:
        """The scores of some columns of each row; the value for column -1 is arbitrary."""


class Dense(Scores):
    """Scores that are already computed."""

    def __init__(self, scores: Float[Tensor, "rows columns"]) -> None:
        self.scores = scores
        self.shape = (1, len(scores), max(1, -(-scores.shape[1] // BLOCK)))

    def passed(self, scale: Float[np.ndarray, "rows"] | None) -> Iterator[Float[Tensor, "rows blocks block"]]:
        """See `Scores.passed`: there is one part."""
        rows, columns = self.scores.shape
        padded = self.scores.new_full((rows, self.shape[2] * BLOCK), -torch.inf)
        padded[:, :columns] = self.scores
        if scale is not None:
            padded /= torch.from_numpy(scale).to(padded)[:, None]
        self.kept = padded.view(*self.shape, BLOCK)
        yield self.kept[0]

    def whole(self, row: int) -> Float64[np.ndarray, "columns"]:
        """See `Scores.whole`."""
        return self.scores[row].double().numpy().copy()

    def values(self, columns: Int64[np.ndarray, "rows slots"]) -> Float[np.ndarray, "rows slots"]:
        """See `Scores.values`."""
        if not self.scores.shape[1]:
            return np.zeros(columns.shape, np.float32)
        return np.take_along_axis(self.scores.numpy(), np.maximum(columns, 0), 1)


def nothing(batch: int, slots: int, *, scores: bool = True, propensities: bool = True) -> Product:
    """Empty slates, to be filled."""
    shape = (batch, slots)
    return Product(
        items=np.full(shape, -1, np.int32),
        propensities=np.full(shape, np.nan) if propensities else None,
        scores=np.full(shape, np.nan, np.float32) if scores else None,
        matches=np.zeros(shape, np.int64),
        fallback=np.ones(shape, np.bool_),
    )


def check_finite(points: Float[np.ndarray, "batch dim"]) -> None:
    """Raise `NotFinite` where an entry of a point is NaN or infinite."""
    if len(wrong := np.flatnonzero(~np.isfinite(points).all(1))):
        raise NotFinite(wrong.tolist())


def choose(scores: Float[Tensor, "batch items"], request: Request, rng: Random) -> Product:
    """A slate for each row of scores; the score of a forbidden item is minus infinity."""
    scores, rows = scores.cpu(), np.arange(len(scores))
    found = nothing(len(scores), request.width)
    fill(found, rows, request, rng, lambda some: Dense(scores[some]), lambda row: (scores[row] > -torch.inf).numpy())
    return found


def fill(
    found: Product,
    rows: Int64[np.ndarray, "some"],
    request: Request,
    rng: Random,
    scores_of: Callable[[Int64[np.ndarray, "chunk"]], Scores],
    permitted: Callable[[int], Bool[np.ndarray, "columns"]],
    most: int = 2**14,
) -> None:
    """Fill the slates of some rows of a batch with columns of their scores.

    Args:
        found: the slates of the whole batch; `request` and `rng` are of the whole batch, too.
        rows: the rows to fill.
        scores_of: computes the scores of some rows, at most `most` at a time.
        permitted: the permitted columns of a row, for epsilon-greedy rows.

    Raises:
        NotFinite: a score is NaN or infinite; it names the rows.
    """
    drawn = request.drawn(rows)
    for some, draws in ((rows[drawn], True), (rows[~drawn], False)):
        for start in range(0, len(some), most):
            part = some[start : start + most]
            scores, slots = scores_of(part), request.counts(part)
            try:
                columns, chances = _drawn(scores, slots, part, request, rng) if draws else _best(scores, slots)
            except NotFinite as error:
                raise NotFinite(part[np.array(error.rows)].tolist()) from None
            if not draws:
                explore(columns, chances, part, request, rng, permitted)
            place, there = (part[:, None], np.arange(columns.shape[1])), columns >= 0
            assert found.propensities is not None
            assert found.scores is not None
            found.items[place] = columns
            found.propensities[place] = np.where(there, np.minimum(chances, 1), np.nan)
            found.scores[place] = np.where(there, scores.values(columns), np.nan)
            found.matches[place], found.fallback[place] = there, ~there


def chances(
    scores: Float[Tensor, "batch items"], request: Request, slates: Int32[np.ndarray, "batch slots"]
) -> Iterator[Float64[np.ndarray, "batch items"]]:
    """For each slot, the chance of every item to be chosen given the slate's items above it.

    A row sums to 1, or to 0 if no item is left. `scores` are overwritten.
    """
    rows = np.arange(len(slates))
    for slot in range(slates.shape[1]):
        yield distribution(scores, request)
        taken = np.flatnonzero(slates[:, slot] >= 0)
        items = slates[taken, slot].astype(np.int64)
        scores[torch.from_numpy(rows[taken]).to(scores.device), torch.from_numpy(items).to(scores.device)] = -torch.inf


def of_slates(
    chances: Iterator[Float64[np.ndarray, "batch items"]], slates: Int32[np.ndarray, "batch slots"]
) -> Float64[np.ndarray, "batch slots"]:
    """The chance of each item of the slates, picked from the chances of all items; NaN for -1."""
    found, rows = np.full(slates.shape, np.nan), np.arange(len(slates))
    for slot, own in enumerate(chances):
        found[:, slot] = np.where(slates[:, slot] >= 0, own[rows, slates[:, slot]], np.nan)
    return found


def distribution(scores: Float[Tensor, "batch items"], request: Request) -> Float64[np.ndarray, "batch items"]:
    """The chance of every item to be chosen next."""
    found = np.zeros(scores.shape)
    samplers = [request.sampler_of(row) for row in range(len(scores))]
    drawn = request.drawn(np.arange(len(scores)))
    if drawn.any():
        scale = np.array([one.temperature for one in samplers if isinstance(one, Softmax)])
        logits = scores[torch.from_numpy(drawn).to(scores.device)].double()
        logits /= torch.from_numpy(scale).to(logits)[:, None]
        found[drawn] = logits.softmax(1).nan_to_num().cpu().numpy()
    if len(rows := np.flatnonzero(~drawn)):
        left = scores[torch.from_numpy(rows).to(scores.device)].cpu()
        there, first = (left > -torch.inf).numpy(), left.argmax(1).numpy()  # ties go to the lower item
        found[rows] = mixed(there, first, [samplers[row] for row in rows.tolist()])
    return found


def mixed(
    permitted: Bool[np.ndarray, "rows items"], first: Int[np.ndarray, "rows"], samplers: Sequence[object]
) -> Float64[np.ndarray, "rows items"]:
    """The chance of every item under epsilon-greedy, whose greedy choice is `first`."""
    epsilon = np.array([one.epsilon if isinstance(one, EpsilonGreedy) else 0.0 for one in samplers])[:, None]
    found = np.where(permitted, epsilon / np.maximum(permitted.sum(1, keepdims=True), 1), 0.0)
    some = np.flatnonzero(permitted.any(1))
    found[some, first[some]] += 1 - epsilon[some, 0]
    return found


# The best


def _best(
    scores: Scores, slots: Int64[np.ndarray, "rows"]
) -> tuple[Int64[np.ndarray, "rows chosen"], Float64[np.ndarray, "rows chosen"]]:
    """The columns of the highest scores, with propensity 1; ties go to the lower column."""
    tops = torch.stack([part.amax(-1) for part in scores.passed(None)], 1).flatten(1)
    _finite(tops.numpy())
    kept, width = scores.kept, scores.kept.shape[2]
    most = int(slots.max(initial=0))
    if most == 1:  # the first column with the maximum, in the first block that holds it
        every, block = torch.arange(len(tops)), tops.argmax(1)
        value, place = kept[block // width, every, block % width].max(1)
        only = torch.where((value > -torch.inf) & (torch.from_numpy(slots) > 0), block * BLOCK + place, -1)
        return only.numpy()[:, None], np.ones((len(tops), 1))
    # The best columns are in the blocks with the largest maxima.
    largest, blocks = tops.topk(min(most, tops.shape[1]))
    rows = torch.arange(len(tops))[:, None]
    values, places = kept[blocks // width, rows, blocks % width].flatten(1).topk(min(most + 1, blocks.shape[1] * BLOCK))
    columns = (blocks.gather(1, places // BLOCK) * BLOCK + places % BLOCK).numpy()
    last = values[:, min(most, values.shape[1]) - 1, None]
    equal = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)
    hidden = ((tops >= last).sum(1) > (largest >= last).sum(1)) & (last[:, 0] > -torch.inf)
    count = min(most, columns.shape[1])
    found = np.full((len(tops), most), -1)
    found[:, :count] = np.where(values[:, :count].numpy() > -np.inf, columns[:, :count], -1)
    for row in torch.nonzero(equal.any(1) | hidden)[:, 0].tolist():
        those = torch.nonzero(tops[row] >= last[row])[:, 0]
        some = kept[those // width, row, those % width].flatten().numpy()
        order = np.argsort(-some, kind="stable")[:most]
        inside = those.numpy()[order // BLOCK] * BLOCK + order % BLOCK
        found[row, : len(order)] = np.where(some[order] > -np.inf, inside, -1)
    found[np.arange(most) >= slots[:, None]] = -1
    return found, np.ones(found.shape)


def explore(
    columns: Int[np.ndarray, "rows slots"],
    chances: Float64[np.ndarray, "rows slots"],
    rows: Int64[np.ndarray, "rows"],
    request: Request,
    rng: Random,
    permitted: Callable[[int], Bool[np.ndarray, "columns"]],
) -> None:
    """Apply epsilon-greedy exploration to the best columns, in place."""
    if isinstance(request.sampler, Greedy):
        return
    for place, row in enumerate(rows.tolist()):
        sampler = request.sampler_of(row)
        if isinstance(sampler, EpsilonGreedy):
            best = columns[place][columns[place] >= 0]
            items, own = epsilon_greedy(best, permitted(row), sampler.epsilon, generator(rng, row))
            columns[place, : len(items)], chances[place, : len(items)] = items, own


def epsilon_greedy(
    best: Int[np.ndarray, "best"], permitted: Bool[np.ndarray, "items"], epsilon: float, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "best"], Float64[np.ndarray, "best"]]:
    """For each slot the best remaining item or, with probability epsilon, a uniformly random remaining item.

    Args:
        best: permitted items, best first: one for each slot.
        permitted: which items may be chosen.
        epsilon: the probability, per slot.
        rng: gives at most two numbers per slot.

    Returns:
        The items and their propensities.
    """
    count, order, place = int(np.count_nonzero(permitted)), best.tolist(), 0
    chosen: dict[int, None] = {}  # an ordered set
    propensities, everyone = np.empty(len(order)), None
    for slot in range(len(order)):
        while order[place] in chosen:
            place += 1
        item, left = order[place], count - slot
        if rng.random() < epsilon:
            everyone = np.flatnonzero(permitted) if everyone is None else everyone
            rank = int(rng.integers(left))
            for taken in sorted(np.searchsorted(everyone, list(chosen)).tolist()):
                rank += taken <= rank
            item = int(everyone[rank])
        propensities[slot] = epsilon / left + (1 - epsilon) * (item == order[place])
        chosen[item] = None
    return np.array(list(chosen), np.int64), propensities


def generator(rng: Random, row: int) -> np.random.Generator:
    """The generator of a row."""
    if rng is None:
        raise ValueError("a sampler that draws needs a generator; give one, or ask for Greedy()")
    return rng if isinstance(rng, np.random.Generator) else rng[row]


# Draws from the softmax


def _drawn(
    scores: Scores, slots: Int64[np.ndarray, "rows"], rows: Int64[np.ndarray, "rows"], request: Request, rng: Random
) -> tuple[Int64[np.ndarray, "rows chosen"], Float64[np.ndarray, "rows chosen"]]:
    """Columns drawn one by one, without replacement, from the softmax over the remaining ones.

    A column's propensity is its weight over the total weight of all columns not chosen before (Plackett 1975). Draws
    are made with replacement, and repeats are skipped, which gives the same distribution. If that is not enough (little
    mass is left, or too many repeats), the draw continues from the columns drawn so far; starting over would favour
    slates that need no continuation.
    """
    samplers = [request.sampler_of(row) for row in rows.tolist()]
    scale = np.array([one.temperature for one in samplers if isinstance(one, Softmax)])
    weights, masses = _weighed(scores, scale)
    columns, shares = _looked_up(weights, masses, _uniforms(slots, rows, rng))
    most = int(slots.max(initial=0))
    found, chances = np.full((len(rows), most), -1), np.full((len(rows), most), np.nan)
    for place, (some, own, count) in enumerate(zip(columns.tolist(), shares.tolist(), slots.tolist(), strict=True)):
        drawn = _distinct(some[: count + SPARE], own, count)
        if len(drawn) < count and drawn:
            logits = scores.whole(place) / scale[place]
            _complete(logits, drawn, count, generator(rng, int(rows[place])))
        found[place, : len(drawn)], chances[place, : len(drawn)] = list(drawn), list(drawn.values())
    return found, chances


def _complete(
    logits: Float64[np.ndarray, "columns"], drawn: dict[int, float], slots: int, rng: np.random.Generator
) -> None:
    """Draw the missing columns in double precision; `logits` are overwritten."""
    logits[list(drawn)] = -np.inf
    while len(drawn) < slots and (logits > -np.inf).any():
        count, row = slots - len(drawn), Dense(torch.from_numpy(logits[None]))
        columns, shares = _looked_up(*_weighed(row, None), rng.random((1, count + SPARE)))
        more = _distinct(columns[0].tolist(), shares[0].tolist(), count)
        drawn |= more
        logits[list(more)] = -np.inf


def _weighed(scores: Scores, scale: Float64[np.ndarray, "rows"] | None) -> tuple[Weights, Masses]:
    """Softmax weights exp(score / scale), each block scaled on its own; and the blocks' masses on a common scale.

    A block is divided by its largest weight, or not at all if the bound on the scores rules out an overflow.
    """
    parts, rows, blocks = scores.shape
    units, sums = np.ones((rows, parts * blocks)), np.empty((rows, parts, blocks))
    safe = scores.longest / (1.0 if scale is None else float(scale.min())) <= POWER
    tops = np.empty_like(sums)
    for place, part in enumerate(scores.passed(scale)):
        if not safe:
            top = part.amax(-1)
            tops[:, place] = top.numpy()
            part.sub_(top.clamp(min=LEAST)[..., None])
        sums[:, place] = part.exp_().sum(-1).numpy()
    if not safe:
        largest = _finite(tops.reshape(rows, -1))
        units = np.exp(largest - np.maximum(largest.max(1, keepdims=True), LEAST))
    return scores.kept.numpy(), units * sums.reshape(rows, -1)


def _finite(tops: Float[np.ndarray, "rows all_blocks"]) -> Float[np.ndarray, "rows all_blocks"]:
    if len(wrong := np.flatnonzero(~(tops < np.inf).all(1))):
        raise NotFinite(wrong.tolist())
    return tops


def _looked_up(
    weights: Weights, masses: Masses, uniforms: Float64[np.ndarray, "rows draws"]
) -> tuple[Int64[np.ndarray, "rows draws"], Float64[np.ndarray, "rows draws"]]:
    """The column drawn by each uniform number (-1 if no column is permitted), and its probability in one draw."""
    rows, width = np.arange(len(masses))[:, None], weights.shape[2]
    ends = masses.cumsum(1)
    total = ends[:, -1:]
    # One search serves all rows: the cumulative shares of row r are shifted to the interval from 2 r to 2 r + 1. The
    # shift's rounding moves a target by 1e-13 of the mass.
    with np.errstate(invalid="ignore"):
        found = np.searchsorted((np.nan_to_num(ends / total) + 2 * rows).ravel(), uniforms + 2 * rows, "right")
    last = (ends < total).sum(1, keepdims=True)
    blocks = np.minimum(found - rows * ends.shape[1], last)
    inside = weights[blocks // width, rows, blocks % width].astype(np.float64).cumsum(2)
    whole, mass = inside[..., -1], masses[rows, blocks]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (uniforms * total - (ends[rows, blocks] - mass)) / mass
        columns = (inside <= (np.clip(share, 0, 1) * whole)[..., None]).sum(2)
        columns = np.minimum(columns, (inside < whole[..., None]).sum(2))
        own = weights[blocks // width, rows, blocks % width, columns]
        chances = mass / total * (own / whole)
    return np.where(total > 0, blocks * BLOCK + columns, -1), chances


def _uniforms(
    slots: Int64[np.ndarray, "rows"], rows: Int64[np.ndarray, "rows"], rng: Random
) -> Float64[np.ndarray, "rows draws"]:
    """Uniform numbers per row: from a row's own generator only as many as its own slots need."""
    count = int(slots.max(initial=0)) + SPARE
    if isinstance(rng, np.random.Generator):
        return rng.random((len(rows), count))
    found = np.zeros((len(rows), count))
    for place, (row, own) in enumerate(zip(rows.tolist(), slots.tolist(), strict=True)):
        generator(rng, row).random(out=found[place, : own + SPARE])
    return found


def _distinct(columns: list[int], shares: list[float], slots: int) -> dict[int, float]:
    """The first distinct columns of these draws, with the chance of each given those before it; at most `slots`.

    Whether it stops early depends only on the returned columns and their repeats, never on the next column, so stopping
    does not bias the draw.
    """
    chosen: dict[int, float] = {}
    rest = 1.0
    for column, share in zip(columns, shares, strict=False):
        if len(chosen) == slots or rest < LEAST_REST or column < 0:
            break
        if column not in chosen:
            chosen[column] = share / rest
            rest -= share
    return chosen
