"""What one question wants, and what was chosen for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from what_next.serving.engine.masks import Mask


class Alarm(Exception):
    """A score or a propensity is not a finite number."""


@dataclass(eq=False, slots=True)
class Row:
    """How one question wants its items chosen.

    Attributes:
        slots: how many.
        mask: which are permitted; None: all. `seen`: those that are not, besides.
        temperature: of the draw; 0 takes the best.
        epsilon: chance of a random permitted item at each slot; one of the two is 0.
        rng: of the draw.
    """

    slots: int
    mask: Mask | None
    seen: Int32[np.ndarray, "heard"]
    temperature: float
    epsilon: float
    rng: np.random.Generator

    def free(self, items: int) -> Bool[np.ndarray, "items"]:
        """What may be chosen."""
        free = np.ones(items, np.bool_) if self.mask is None else self.mask.permitted.copy()
        free[self.seen] = False
        return free


@dataclass(eq=False, slots=True)
class Choice:
    """What was chosen for a row.

    Attributes:
        items: positions in the catalogue, in the order of the slate.
        propensities: exact, of each given those before it.
        scores: of the items; None where there are none.
        candidates: hash of the items that were looked at; None: all.
    """

    items: Int32[np.ndarray, "chosen"]
    propensities: Float64[np.ndarray, "chosen"]
    scores: Float32[np.ndarray, "chosen"] | None
    candidates: str | None = None


def allowed(rows: Sequence[Row], items: int) -> Bool[np.ndarray, "batch items"] | None:
    """Which items each row permits; None: all."""
    if all(row.mask is None for row in rows):
        return None
    found = np.ones((len(rows), items), np.bool_)
    for place, row in enumerate(rows):
        if row.mask is not None:
            found[place] = row.mask.permitted
    return found


def excluded(rows: Sequence[Row]) -> Int32[np.ndarray, "batch width"] | None:
    """The items that each row was seen with, -1 pads; None: none."""
    width = max((len(row.seen) for row in rows), default=0)
    if not width:
        return None
    found = np.full((len(rows), width), -1, np.int32)
    for place, row in enumerate(rows):
        found[place, : len(row.seen)] = row.seen
    return found
