"""Requests to backends, as the tests put them: masks as arrays, one sampler for all rows."""

from typing import Any

import numpy as np
import torch

from what_next.retrieval import Box, Matching, choosing
from what_next.types import Greedy, Permitted, Product, Request, Sampler, Slate, Softmax

EMPTY = np.zeros(0, np.int32)


def select(
    box: Box,
    points: np.ndarray,
    *,
    rng: np.random.Generator | None,
    slots: int = 1,
    allowed: np.ndarray | None = None,
    exclude: np.ndarray | None = None,
    propensities: bool = False,
    **how: Any,
) -> Product:
    """What matches some points: greedily without `rng`; `how` is of `Matching`."""
    sampler = Greedy() if rng is None else Softmax()
    request = Request(slots, sampler, Permitted.of(allowed, exclude), propensities)
    return Matching(box, **how).act(points, request, rng)


def first_chances(
    box: Box, points: np.ndarray, allowed: np.ndarray | None = None, exclude: np.ndarray | None = None, **how: Any
) -> np.ndarray:
    """The chance of every item to be drawn first."""
    request, nothing = Request(1, Softmax(), Permitted.of(allowed, exclude)), np.full((len(points), 1), -1, np.int32)
    return next(Matching(box, **how).chances(points, request, nothing))


def chosen(scores: np.ndarray, slots: int, sampler: Sampler, rng: np.random.Generator | None = None) -> Slate:
    """The slate of one row of scores."""
    return choosing.choose(torch.from_numpy(scores[None].astype(np.float64)), Request(slots, sampler), rng).each()[0]


def drawn(
    scores: np.ndarray, slots: int, temperature: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Items and propensities of a draw from the softmax of one row of scores."""
    slate = chosen(scores, slots, Softmax(temperature), rng)
    assert slate.propensities is not None
    return slate.items, slate.propensities


def draws(scores: np.ndarray, slots: int, temperature: float, rng: np.random.Generator, count: int) -> np.ndarray:
    """The items of many draws from one row of scores."""
    parts = [min(400, count - start) for start in range(0, count, 400)]
    rows, request = torch.from_numpy(scores[None]), Request(slots, Softmax(temperature))
    return np.concatenate([choosing.choose(rows.expand(part, -1), request, rng).items for part in parts])


def best(scores: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """The best items of one row of scores."""
    slate = chosen(scores, slots, Greedy())
    assert slate.propensities is not None
    return slate.items, slate.propensities
