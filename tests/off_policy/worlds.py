"""Small worlds whose values are known exactly, logs drawn from them, and a bootstrap for tests."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float64

from what_next.off_policy.decisions import Decisions, Target

TINY = 1e-10
"""A ridge penalty that leaves exact numbers alone."""


@dataclass(frozen=True, eq=False)
class World:
    """Finitely many states and actions. A world in which nothing moves on is a bandit.

    Attributes:
        starts: how often a trajectory starts in each state.
        moves: the chance of each next state; what is missing to 1 is the chance that the decision was the last.
        rewards: the mean reward; `noise`: the standard deviation around it (normal).
        behaviour, target: the chance of each action in each state.
    """

    starts: Float64[np.ndarray, "states"]
    moves: Float64[np.ndarray, "states actions states"]
    rewards: Float64[np.ndarray, "states actions"]
    behaviour: Float64[np.ndarray, "states actions"]
    target: Float64[np.ndarray, "states actions"]
    noise: float = 1.0

    def values(self, discount: float) -> Float64[np.ndarray, "states"]:
        """V of each state under the target: the solution of V = r + discount * P V."""
        rewards = (self.target * self.rewards).sum(axis=1)
        moves = np.einsum("sa,sat->st", self.target, self.moves)
        return np.linalg.solve(np.eye(len(rewards)) - discount * moves, rewards)

    def action_values(self, discount: float) -> Float64[np.ndarray, "states actions"]:
        """Q of each state and action under the target."""
        return self.rewards + discount * self.moves @ self.values(discount)

    def value(self, discount: float) -> float:
        """What the target earns in a trajectory, on average."""
        return float(self.starts @ self.values(discount))

    def draw(self, units: int, seed: int) -> "Log":
        """A log of the behaviour policy; one-hot contexts and vectors."""
        rng = np.random.default_rng(seed)
        alive, states = np.arange(units), _drawn(np.broadcast_to(self.starts, (units, len(self.starts))), rng)
        parts = []
        while len(alive):
            actions = _drawn(self.behaviour[states], rng)
            parts.append((alive, states, actions))
            following = _drawn(self.moves[states, actions], rng)
            alive, states = alive[following < len(self.starts)], following[following < len(self.starts)]
        owners, states, actions = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(owners, kind="stable")
        owners, states, actions = owners[order], states[order], actions[order]
        rewards = self.rewards[states, actions] + self.noise * rng.normal(size=len(owners))
        contexts, vectors = np.eye(len(self.starts))[states], np.eye(self.rewards.shape[1])
        decisions = Decisions(owners, actions, rewards, self.behaviour[states, actions], vectors, contexts=contexts)
        chances = self.target[states]
        return Log(decisions, Target(self.target[states, actions], chances, chances), states)


@dataclass(frozen=True, eq=False)
class Log:
    """What was drawn, and the state of each row."""

    decisions: Decisions
    target: Target
    states: np.ndarray

    @property
    def weights(self) -> Float64[np.ndarray, "rows"]:
        """The target's chance over the propensity."""
        return self.target.chances / self.decisions.propensities


def bandit(noise: float = 1.0, seed: int = 0) -> World:
    """Nine contexts, four actions, one decision; no weight above 2.1."""
    world = sessions(noise, seed)
    return replace(world, starts=np.full(len(world.starts), 1 / len(world.starts)), moves=np.zeros_like(world.moves))


def sessions(noise: float = 1.0, seed: int = 0) -> World:
    """One to three decisions among four actions; three states at each step.

    The target takes what earns more up to 2.1 times as often as the log, so that no product of weights reaches 10.
    """
    rng = np.random.default_rng(seed)
    places, actions, steps = 3, 4, 3
    states = places * steps
    moves = np.zeros((states, actions, states))
    for step in range(steps - 1):
        here = slice(step * places, (step + 1) * places)
        following = slice((step + 1) * places, (step + 2) * places)
        moves[here, :, following] = rng.dirichlet(np.ones(places + 1), (places, actions))[..., :places]
    behaviour = 0.5 / actions + 0.5 * rng.dirichlet(np.ones(actions), states)
    rewards = rng.normal(size=(states, actions))
    better = rewards - (behaviour * rewards).sum(axis=1, keepdims=True)
    reach = np.minimum(1.1 / better.max(axis=1), 0.9 / -better.min(axis=1))
    target = behaviour * (1 + reach[:, None] * better)
    starts = np.append(rng.dirichlet(np.full(places, 5.0)), np.zeros(states - places))
    return World(starts, moves, rewards, behaviour, target, noise)


def first_states_decide(seed: int = 0) -> World:
    """`sessions`, but what is earned hangs on the first state: 0, 5 or 10 more at the first decision; little noise."""
    world = sessions(0.3, seed)
    extra = np.zeros((len(world.starts), 1))
    extra[:3, 0] = 0, 5, 10
    return replace(world, rewards=0.3 * world.rewards + extra)


def random_log(units=80, dim=3, width=2, seed=0) -> tuple[Decisions, Target]:
    """Trajectories of one to four decisions with contexts and vectors of nothing in particular."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(units), rng.integers(1, 5, units))
    rows, vectors = len(owners), rng.normal(size=(6, width))
    actions, full = rng.integers(6, size=rows), rng.dirichlet(np.ones(6), rows)
    decisions = Decisions(
        owners,
        actions,
        rng.normal(size=rows),
        np.full(rows, 1 / 6),
        vectors,
        contexts=rng.normal(size=(rows, dim)),
    )
    return decisions, Target(full[np.arange(rows), actions], full @ vectors, full)


def some_of(decisions: Decisions, target: Target, units) -> tuple[Decisions, Target]:
    """The log of these units, in this order, each as often as it is named."""
    lengths = np.bincount(decisions.units)
    rows = np.concatenate([np.flatnonzero(decisions.units == unit) for unit in units])
    drawn = Decisions(
        np.repeat(np.arange(len(units)), lengths[units]),
        decisions.actions[rows],
        decisions.rewards[rows],
        decisions.propensities[rows],
        decisions.vectors,
        contexts=decisions.contexts[rows],
    )
    return drawn, Target(target.chances[rows], target.expected[rows], target.full[rows])


@cache
def resampled(units: int, resamples: int) -> Float64[np.ndarray, "resamples units"]:
    """How often each resample of a bootstrap over units holds each; the same for every log of as many units."""
    rng = np.random.default_rng(units)
    return np.stack([np.bincount(rng.integers(units, size=units), minlength=units) for _ in range(resamples)]) * 1.0


def covers(value: float, estimates: Float64[np.ndarray, "resamples"]) -> bool:
    """Whether the 95 % percentile interval of some resamples holds a value."""
    low, high = np.percentile(estimates, [2.5, 97.5])
    return bool(low <= value <= high)


def _drawn(chances: Float64[np.ndarray, "rows choices"], rng: np.random.Generator) -> np.ndarray:
    """A choice for each row; one more than there are where the uniform number lies beyond their sum."""
    return (rng.random(len(chances))[:, None] >= chances.cumsum(axis=1)).sum(axis=1)
