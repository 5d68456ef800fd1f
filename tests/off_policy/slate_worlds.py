"""Slates drawn slot by slot, each item once; what a policy earns is known by going through all slates there are."""

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from what_next.off_policy.decisions import Decisions, Target

Reads = Literal["own", "above", "all"]


@dataclass(frozen=True, eq=False)
class SlateWorld:
    """Items with mean rewards (0 or 1), and two policies that draw from weights without replacement.

    Attributes:
        means: the chance of a reward of 1 of each item by itself.
        length: of a slate.
        behaviour, target: weights of the items; an item is drawn by its share of what is left.
        reads: what an item's reward hangs on: itself; those above, too, of which each with a better mean takes a third;
            or all others, likewise.
    """

    means: Float64[np.ndarray, "items"]
    length: int
    behaviour: Float64[np.ndarray, "items"]
    target: Float64[np.ndarray, "items"]
    reads: Reads = "own"

    def rewards(self, slate: Int64[np.ndarray, "slots"]) -> Float64[np.ndarray, "slots"]:
        """The mean reward in each slot of a slate."""
        found = self.means[slate].copy()
        for slot in range(len(slate)):
            others = {"own": [], "above": slate[:slot], "all": np.delete(slate, slot)}[self.reads]
            found[slot] *= (2 / 3) ** int((self.means[others] > self.means[slate[slot]]).sum() if len(others) else 0)
        return found

    def chance(self, weights: Float64[np.ndarray, "items"], slate: tuple[int, ...]) -> float:
        """Of a whole slate."""
        found, left = 1.0, weights.sum()
        for item in slate:
            found, left = found * weights[item] / left, left - weights[item]
        return found

    def value(self, weights: Float64[np.ndarray, "items"]) -> float:
        """What a policy earns per slate: over all of them, its chance times what that brings."""
        every = permutations(range(len(self.means)), self.length)
        return sum(self.chance(weights, slate) * self.rewards(np.array(slate)).sum() for slate in every)

    def marginals(self, weights: Float64[np.ndarray, "items"]) -> Float64[np.ndarray, "slots items"]:
        """The chance of each item in each slot, whatever stands in the others: over all slates."""
        found = np.zeros((self.length, len(self.means)))
        for slate in permutations(range(len(self.means)), self.length):
            found[np.arange(self.length), list(slate)] += self.chance(weights, slate)
        return found

    def inclusion(self, weights: Float64[np.ndarray, "items"]) -> Float64[np.ndarray, "items"]:
        """The chance of each item to be in a slate: its race of exponential times, by the trapezium rule over time."""
        times = np.geomspace(1e-9, 1e3, 20_001)
        before = -np.expm1(-np.outer(weights / weights.sum(), times))  # that an item's time has come
        found = np.zeros(len(weights))
        for item, rate in enumerate(weights / weights.sum()):
            counts = np.zeros((self.length, len(times)))  # how many of the others have come, below the length
            counts[0] = 1.0
            for other in np.delete(before, item, axis=0):
                counts[1:] = counts[1:] * (1 - other) + counts[:-1] * other
                counts[0] *= 1 - other
            density = rate * np.exp(-rate * times) * counts.sum(axis=0)
            found[item] = np.trapezoid(density, times)
        return found

    def draw(self, slates: int, seed: int, *, marginal: bool = False) -> tuple[Decisions, Target]:
        """A log of the behaviour policy, a slate a unit; one-hot vectors, and the slot as context."""
        rng, items = np.random.default_rng(seed), len(self.means)
        keys = np.log(self.behaviour) + rng.gumbel(size=(slates, items))  # the order of these is the draw's
        actions = np.argsort(-keys, axis=1)[:, : self.length]
        chances = (rng.random(actions.shape) < self._rewards(actions)).astype(np.float64)
        rows, slots = np.repeat(np.arange(slates), self.length), np.tile(np.arange(self.length), slates)
        free = np.ones((slates, self.length, items), np.bool_)
        for slot in range(1, self.length):
            free[np.arange(slates), slot:, actions[:, slot - 1]] = False
        logged, aimed = (self._shares(weights, free, slots, marginal) for weights in (self.behaviour, self.target))
        flat = actions.ravel()
        every = np.arange(len(flat))
        decisions = Decisions(
            rows, flat, chances.ravel(), logged[every, flat], np.eye(items), slots, rows,
            contexts=np.eye(self.length)[slots], marginal=marginal,
        )  # fmt: skip
        return decisions, Target(aimed[every, flat], aimed, aimed)

    def _rewards(self, actions: Int64[np.ndarray, "slates slots"]) -> Float64[np.ndarray, "slates slots"]:
        kinds, of_rows = np.unique(actions, axis=0, return_inverse=True)
        return np.stack([self.rewards(kind) for kind in kinds])[of_rows.ravel()]

    def _shares(self, weights, free, slots, marginal: bool) -> Float64[np.ndarray, "rows items"]:
        if marginal:
            return self.marginals(weights)[slots]
        left = np.where(free, weights, 0.0).reshape(-1, len(weights))
        return left / left.sum(axis=1, keepdims=True)


UNIFORM = np.ones(5)
A = np.array([0.92, 0.02, 0.02, 0.02, 0.02])
B = np.array([0.48, 0.48, 0.4 / 30, 0.4 / 30, 0.4 / 30])
CLASSIC = SlateWorld(np.array([0.6, 0.45, 0.1, 0.1, 0.1]), 2, UNIFORM, A)
"""A takes the best item and then any; B the two best ones, which earns .108 more a decision."""
MILD = replace(CLASSIC, length=3, target=np.array([1.0, 2.0, 1.5, 0.6, 0.8]))
"""No product of weights reaches 10."""
