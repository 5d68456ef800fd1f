"""Contextual bandits whose values are known exactly, and logs drawn from them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from what_next.off_policy.decisions import Decisions, Target


class Drawn(NamedTuple):
    """A log, the policy in question, and the whole distribution of the policy that wrote it."""

    decisions: Decisions
    target: Target
    behaviour: np.ndarray


@dataclass(frozen=True, eq=False)
class Bandit:
    """Contexts that are equally likely, items, and rewards of 0 or 1.

    Attributes:
        contexts, vectors: what a model reads of each.
        rewards: the chance of a reward of 1.
        behaviour, target: the policies.
        clusters: of the items; those of one cluster have the same vector.
    """

    contexts: Float64[np.ndarray, "contexts dim"]
    vectors: Float64[np.ndarray, "items width"]
    rewards: Float64[np.ndarray, "contexts items"]
    behaviour: Float64[np.ndarray, "contexts items"]
    target: Float64[np.ndarray, "contexts items"]
    clusters: Int64[np.ndarray, "items"]

    @property
    def value(self) -> float:
        """What the target earns per decision."""
        return float((self.target * self.rewards).sum(axis=1).mean())

    def draw(self, rows: int, seed: int) -> Drawn:
        """A log of the behaviour policy, each decision a unit of its own."""
        rng = np.random.default_rng(seed)
        seen = rng.integers(len(self.contexts), size=rows)
        actions = (self.behaviour.cumsum(axis=1)[seen] > rng.random((rows, 1))).argmax(axis=1)
        rewards = (rng.random(rows) < self.rewards[seen, actions]).astype(np.float64)
        decisions = Decisions(
            np.arange(rows),
            actions,
            rewards,
            self.behaviour[seen, actions],
            self.vectors,
            contexts=self.contexts[seen],
        )
        target = Target(self.target[seen, actions], self.target[seen] @ self.vectors, self.target[seen])
        return Drawn(decisions, target, self.behaviour[seen])


def softmax(scores: np.ndarray) -> np.ndarray:
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    return chances / chances.sum(axis=1, keepdims=True)


def bandit(*, linear: bool = True, seed: int = 1) -> Bandit:
    """12 contexts, 10 items in 5 pairs that are alike, weights below 10.

    In a linear one the reward is bilinear in context and vector, so that a reward model is right; in another it is
    whatever it is for each context and pair.
    """
    rng = np.random.default_rng(seed)
    contexts, kinds = rng.uniform(-1, 1, (12, 2)), rng.uniform(-1, 1, (5, 2))
    clusters = np.repeat(np.arange(5), 2)
    vectors = kinds[clusters]
    taste = contexts @ rng.uniform(-1, 1, (2, 2)) @ vectors.T
    rewards = 0.4 + 0.25 * taste / np.abs(taste).max() if linear else rng.uniform(0.1, 0.9, (12, 5))[:, clusters]
    behaviour = 0.5 * softmax(rng.normal(size=(12, 10))) + 0.05
    target = 0.9 * softmax(2 * taste + rng.normal(size=(12, 10))) + 0.01
    return Bandit(contexts, vectors, rewards, behaviour, target, clusters)
