"""All items scored for a batch of points, some thousand at a time: the best ones, or draws from the softmax.

Nothing of the size rows times items is looked at twice: while the scores of a part are in the processor's cache, the
largest score or the mass of each block of items is taken. What is asked of a row then looks into a few blocks alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

from what_next.retrieval.explore import Chosen, best, softmax_draw

WIDTH = 2**13
"""Items that are scored at a time: fewer cost more calls, more leave the caches (measured with 8 to 128 rows)."""
BLOCK = 128
"""Items in a block."""
ROWS = 2**24
"""Scores that are kept at a time: 64 MB."""
LEAST = float(np.finfo(np.float32).min)
"""Taken for minus infinity where that would be subtracted from itself."""
SPARE = 6
"""Draws beyond the slots: a draw of an item that was drawn before is passed over."""
POWER = 80.0
"""Where no score can be beyond it, neither e to its power nor the sum of a block leaves the range of a float."""
LEAST_REST = 1e-3
"""The share of the mass that may be left: below it, subtracting the chosen from the whole costs too many digits."""

_Drawn = tuple[Int32[np.ndarray, "drawn"], Float64[np.ndarray, "drawn"]]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is asked of one row.

    Attributes:
        slots: how many items.
        permitted: which are; None: all. `seen`: those that are not, besides.
        temperature: of the softmax; `best` overlooks it.
        rng: of the draws.
    """

    slots: int
    permitted: Bool[np.ndarray, "items"] | None
    seen: Int32[np.ndarray, "seen"]
    temperature: float
    rng: np.random.Generator


class Blocks:
    """The vectors of all items, laid out for this. One thread at a time: it keeps its memory from call to call."""

    def __init__(self, vectors: Float32[Tensor, "items dim"]) -> None:
        """Takes as much memory again as the vectors."""
        self.vectors, self.items = vectors, len(vectors)
        parts = max(1, -(-self.items // WIDTH))
        self.width = max(1, -(-self.items // (parts * BLOCK))) * BLOCK
        padded = torch.zeros(parts * self.width, vectors.shape[1])
        padded[: self.items] = vectors
        self.parts = padded.view(parts, self.width, -1).transpose(1, 2).contiguous()
        self.most = max(1, ROWS // len(padded))
        self._longest = float(vectors.norm(dim=1).max())
        self._memory = self._kept = torch.empty(0)

    @torch.no_grad()
    def best(self, points: Float32[np.ndarray, "rows dim"], wanted: Sequence[Wanted]) -> list[Chosen]:
        """For each row what `explore.best` chooses.

        Raises:
            ValueError: a score is NaN or infinite.
        """
        found: list[Chosen] = []
        for start in range(0, len(points), self.most):
            rows = wanted[start : start + self.most]
            scores, tops = self._scored(points[start : start + self.most], rows)
            for place, row in enumerate(rows):
                # The best items are in the blocks whose largest scores are the largest.
                count = min(row.slots, tops.shape[1])
                least = np.partition(tops[place], -count)[-count]
                blocks = np.flatnonzero(tops[place] >= least)
                chosen, ones = best(scores[_part(blocks, self), place, _inner(blocks, self)].ravel(), row.slots)
                found.append(((blocks[chosen // BLOCK] * BLOCK + chosen % BLOCK).astype(np.int32), ones))
        return found

    @torch.no_grad()
    def draw(self, points: Float32[np.ndarray, "rows dim"], wanted: Sequence[Wanted]) -> list[Chosen]:
        """For each row items drawn one after the other from the softmax over those that are left, as `softmax_draw`.

        An item that is drawn again is passed over, which is the same distribution. Where that does not do (hardly any
        mass is left, or too many draws were passed over), `softmax_draw` goes on from the items that were drawn.

        Raises:
            ValueError: a score is NaN or infinite.
        """
        found: list[Chosen] = []
        for start in range(0, len(points), self.most):
            rows, some = wanted[start : start + self.most], points[start : start + self.most]
            scaled = some / np.array([[row.temperature] for row in rows], np.float32)
            weights, masses = self._weighed(scaled, rows)
            count = max(row.slots for row in rows) + SPARE
            items, shares = self._looked_up(weights, masses, _uniforms(rows, count))
            for place, row in enumerate(rows):
                drawn = _distinct(items[place].tolist(), shares[place].tolist(), row.slots)
                found.append(drawn if len(drawn[0]) == row.slots else self._completed(some[place], row, drawn))
        return found

    def _scored(
        self, points: Float32[np.ndarray, "rows dim"], wanted: Sequence[Wanted]
    ) -> tuple[Float32[np.ndarray, "parts rows blocks block"], Float32[np.ndarray, "rows all_blocks"]]:
        """Scores, minus infinity where an item is not permitted, and the largest of each block."""
        tops = torch.empty(len(points), len(self.parts), self.width // BLOCK)
        for part, scores in self._passed(points, wanted):
            torch.amax(scores, -1, out=tops[:, part])
        return self._kept.numpy(), _finite(tops)

    def _weighed(
        self, points: Float32[np.ndarray, "rows dim"], wanted: Sequence[Wanted]
    ) -> tuple[Float32[np.ndarray, "parts rows blocks block"], Float64[np.ndarray, "rows all_blocks"]]:
        """e to the power of the scores, each block in units of its own; and the masses of blocks, all in one unit.

        A block's unit is its largest weight, or 1 where the lengths of the vectors say that there is no need.
        """
        tops = torch.zeros(len(points), len(self.parts), self.width // BLOCK)
        sums = torch.empty_like(tops)
        safe = bool(np.linalg.norm(points, axis=1).max() * self._longest <= POWER)  # Cauchy and Schwarz
        for part, scores in self._passed(points, wanted):
            if not safe:
                torch.amax(scores, -1, out=tops[:, part])
                scores.sub_(tops[:, part].clamp(min=LEAST)[..., None])
            torch.sum(scores.exp_(), -1, out=sums[:, part])
        largest = _finite(tops)
        units = np.exp((largest - np.maximum(largest.max(1, keepdims=True), LEAST)).astype(np.float64))
        return self._kept.numpy(), units * sums.view(len(points), -1).numpy()

    def _passed(
        self, points: Float32[np.ndarray, "rows dim"], wanted: Sequence[Wanted]
    ) -> Iterator[tuple[int, Float32[Tensor, "rows blocks block"]]]:
        """The scores of each part, while they are in the cache."""
        rows, parts = len(points), len(self.parts)
        if len(self._memory) < parts * rows * self.width:
            self._memory = torch.empty(parts * rows * self.width)
        self._kept = self._memory[: parts * rows * self.width].view(parts, rows, -1, BLOCK)
        own, seen = torch.from_numpy(np.ascontiguousarray(points)), _seen(wanted, self.width, parts)
        for part in range(parts):
            scores = self._kept[part].view(rows, self.width)
            torch.mm(own, self.parts[part], out=scores)
            self._forbid(scores, part, wanted, seen[part])
            yield part, self._kept[part]

    def _forbid(
        self,
        scores: Float32[Tensor, "rows width"],
        part: int,
        wanted: Sequence[Wanted],
        seen: tuple[Tensor, Tensor] | None,
    ) -> None:
        start = part * self.width
        for place, row in enumerate(wanted):
            if row.permitted is not None:
                mask = row.permitted[start : start + self.width]
                scores[place, : len(mask)].masked_fill_(torch.from_numpy(~mask), -torch.inf)
        if start + self.width > self.items:
            scores[:, max(0, self.items - start) :] = -torch.inf
        if seen is not None:
            scores[seen] = -torch.inf

    def _looked_up(
        self,
        weights: Float32[np.ndarray, "parts rows blocks block"],
        masses: Float64[np.ndarray, "rows all_blocks"],
        uniforms: Float64[np.ndarray, "rows draws"],
    ) -> tuple[Int64[np.ndarray, "rows draws"], Float64[np.ndarray, "rows draws"]]:
        """The item that each number falls on, -1 where none is permitted, and the probability of just that draw."""
        rows = np.arange(len(masses))[:, None]
        ends = masses.cumsum(1)
        total = ends[:, -1:]
        # Rows one behind the other, so that one search serves all: the share of a row lies between its number and the
        # next one. What rounding does to a target moves it by 1e-13 of the mass.
        with np.errstate(invalid="ignore"):
            found = np.searchsorted((np.nan_to_num(ends / total) + 2 * rows).ravel(), uniforms + 2 * rows, "right")
        last = (ends < total).sum(1, keepdims=True)
        blocks = np.minimum(found - rows * ends.shape[1], last)
        inside = weights[_part(blocks, self), rows, _inner(blocks, self)].astype(np.float64).cumsum(2)
        whole, mass = inside[..., -1], masses[rows, blocks]
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (uniforms * total - (ends[rows, blocks] - mass)) / mass
            columns = (inside <= (np.clip(share, 0, 1) * whole)[..., None]).sum(2)
            columns = np.minimum(columns, (inside < whole[..., None]).sum(2))
            own = weights[_part(blocks, self), rows, _inner(blocks, self), columns]
            chances = mass / total * (own / whole)
        return np.where(total > 0, blocks * BLOCK + columns, -1), chances

    def _completed(self, point: Float32[np.ndarray, "dim"], row: Wanted, drawn: _Drawn) -> Chosen:
        """The slots that are left, given what was drawn: to draw all anew would favour what needs no completion."""
        scores = self.vectors.numpy() @ point
        if row.permitted is not None:
            scores[~row.permitted] = -np.inf
        scores[row.seen] = -np.inf
        scores[drawn[0]] = -np.inf
        rest = softmax_draw(scores, row.slots - len(drawn[0]), row.temperature, row.rng)
        return np.concatenate([drawn[0], rest[0]]), np.concatenate([drawn[1], rest[1]])


def _finite(tops: Float32[Tensor, "rows parts blocks"]) -> Float32[np.ndarray, "rows all_blocks"]:
    largest: Float32[np.ndarray, "rows all_blocks"] = tops.view(len(tops), -1).numpy()
    if not (largest < np.inf).all():
        raise ValueError("a score is NaN or infinite")
    return largest


def _part(blocks: Int64[np.ndarray, "*some"], laid: Blocks) -> Int64[np.ndarray, "*some"]:
    return blocks // (laid.width // BLOCK)


def _inner(blocks: Int64[np.ndarray, "*some"], laid: Blocks) -> Int64[np.ndarray, "*some"]:
    return blocks % (laid.width // BLOCK)


def _uniforms(wanted: Sequence[Wanted], count: int) -> Float64[np.ndarray, "rows draws"]:
    """As many numbers of each row's own as its slots ask for, whoever else is in the batch."""
    found = np.zeros((len(wanted), count))
    for place, row in enumerate(wanted):
        row.rng.random(out=found[place, : row.slots + SPARE])
    return found


def _seen(wanted: Sequence[Wanted], width: int, parts: int) -> list[tuple[Tensor, Tensor] | None]:
    """For each part the rows and columns of items that were seen."""
    lengths = [len(row.seen) for row in wanted]
    if not sum(lengths):
        return [None] * parts
    items = np.concatenate([row.seen for row in wanted]).astype(np.int64)
    rows = np.repeat(np.arange(len(wanted)), lengths)
    if parts == 1:
        return [(torch.from_numpy(rows), torch.from_numpy(items))]
    order = np.argsort(items, kind="stable")
    rows, items = rows[order], items[order]
    ends = np.searchsorted(items, np.arange(parts + 1) * width)
    return [
        (torch.from_numpy(rows[start:end]), torch.from_numpy(items[start:end] - part * width))
        for part, (start, end) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))
    ]


def _distinct(items: list[int], shares: list[float], slots: int) -> _Drawn:
    """The first different items, and the chance of each given those before it: as many as these draws tell of.

    Whether it stops short depends on the items it returns, and on how often they were drawn again, never on the item
    that would have come next.
    """
    chosen: dict[int, float] = {}
    rest = 1.0
    for item, share in zip(items[: slots + SPARE], shares, strict=False):
        if len(chosen) == slots or rest < LEAST_REST or item < 0:
            break
        if item not in chosen:
            chosen[item] = share / rest
            rest -= share
    return np.array(list(chosen), np.int32), np.array(list(chosen.values()))
