"""Targets of temporal differences, against a world whose values are known by dynamic programming on its model.

The state is the last item, the next item is the action, and what it pays depends on both. The log is one long history
in which every run of three of six symbols stands once (a de Bruijn sequence); two symbols each are the items A and B,
one each C and D. So items are chosen with 1/3, 1/3, 1/6 and 1/6 whatever came before, without any sampling error, and
the model of the log is known. Algorithms learn through the real agent, by tables: states and item vectors are unit
vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch
from scipy.optimize import brentq, fsolve
from torch import Tensor, nn

from what_next import Agent, Dataset, Setup, State
from what_next.algorithms import (
    KNOWN,
    Algorithm,
    Bcq,
    Cql,
    Crr,
    Ddpg,
    Dqn,
    Hac,
    Iql,
    Sa2c,
    SacRec,
    Snqn,
    Sqn,
    Td3,
    Td3Bc,
)
from what_next.algorithms.base import LossContext
from what_next.algorithms.ddpg import Critics, on_sphere
from what_next.models.encoders import Encoder, EncoderSizes
from what_next.models.items import ItemVectors
from what_next.policy import LearnedPolicy
from what_next.sources import source_of
from what_next.testing import Rig
from what_next.types import Events, Transitions

from .sphere import Judges
from .worlds import Head

ITEMS, SYMBOLS, ORDER = "ABCD", "AABBCD", 3
CHANCES = np.array([1 / 3, 1 / 3, 1 / 6, 1 / 6])
REWARDS = np.array([[0.0, 1.0, 0.5, 0.0], [0.5, 0.0, 0.0, 2.0], [1.0, 0.0, 0.0, 0.5], [0.0, 0.5, 3.0, 0.0]])
"""Of an item (column) after another (row). The best goes B, D, C; A and B alone pay less."""
DISCOUNT = 0.6
ROUTE = np.array([1, 2, 3, 0])
"""A policy: the item that it takes after each."""


# The truth: the model of the world, and no transition of its log


Rule = Callable[[np.ndarray], np.ndarray]
"""From values of actions, `[state action]`, to those of states."""


def ahead(values: np.ndarray, steps: int) -> np.ndarray:
    """What an action is worth: its reward, those of `steps - 1` more actions of the log, and then the state's value."""
    for _ in range(steps - 1):
        values = REWARDS @ CHANCES + DISCOUNT * (CHANCES @ values)  # the next state is the action, and so is its value
    return REWARDS + DISCOUNT * values


def solved(update: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Where an update of the values of actions leaves them as they are."""
    found = np.zeros((4, 4))
    for _ in range(300):
        found = update(found)
    return found


def by(rule: Rule) -> Callable[[int], np.ndarray]:
    def truth(steps: int) -> np.ndarray:
        return solved(lambda values: ahead(rule(values), steps))

    truth.__name__ = rule.__name__
    return truth


def best(values: np.ndarray) -> np.ndarray:
    return values.max(1)


def best_of_common(values: np.ndarray) -> np.ndarray:
    return values[:, :2].max(1)


def as_the_log(steps: int) -> np.ndarray:
    """The log's own policy, by a linear solution, which is the same for every number of steps (Bellman 1957)."""
    policy = np.tile(CHANCES, (4, 1))
    return REWARDS + DISCOUNT * np.linalg.solve(np.eye(4) - DISCOUNT * policy, REWARDS @ CHANCES)


def of_route(steps: int) -> np.ndarray:
    """`ROUTE`, after the log's steps: a linear system of all sixteen values."""
    places = np.arange(16).reshape(4, 4)
    following = ahead(np.zeros(4), steps)
    matrix = np.zeros((16, 16))
    for state in range(4):
        for action in range(4):
            if steps == 1:
                matrix[places[state, action], places[action, ROUTE[action]]] = 1
            else:  # after the last of the log's actions any item was heard with its chance
                matrix[places[state, action], places[np.arange(4), ROUTE]] = CHANCES
    return np.linalg.solve(np.eye(16) - DISCOUNT**steps * matrix, following.ravel()).reshape(4, 4)


def expectile(values: np.ndarray) -> np.ndarray:
    """At 0.8: where the chances of what is above, times the distance, weigh a quarter of those below."""

    def off(value: float, row: np.ndarray) -> float:
        return float(CHANCES @ np.where(row > value, 0.8 * (row - value), 0.2 * (row - value)))

    return np.array([brentq(off, row.min() - 1, row.max() + 1, args=(row,)) for row in values])


def regressed(values: np.ndarray) -> np.ndarray:
    """Of the policy that is the log's times exp(advantage): the state's own value cancels."""
    policy = CHANCES * np.exp(values)
    return (policy * values).sum(1) / policy.sum(1)


def with_negatives(steps: int) -> np.ndarray:
    """Each action is the log's with its chance, and, twice, one of three others: worth staying where one is."""

    def update(values: np.ndarray) -> np.ndarray:
        drawn = 2 * (1 - CHANCES) / 3
        stayed = DISCOUNT * values.max(1, keepdims=True)
        return (CHANCES * ahead(values.max(1), steps) + drawn * stayed) / (CHANCES + drawn)

    return solved(update)


def held_down(steps: int) -> np.ndarray:
    """The gradient of CQL's loss with alpha 0.1 is 0: sixteen equations."""

    def gradient(flat: np.ndarray) -> np.ndarray:
        values = flat.reshape(4, 4)
        policy = np.exp(values) / np.exp(values).sum(1, keepdims=True)
        return (CHANCES * (values - ahead(values.max(1), steps)) + 0.1 * (policy - CHANCES)).ravel()

    found: np.ndarray = fsolve(gradient, np.full(16, 2.0))
    return found.reshape(4, 4)


# What is learnt


class Table(Encoder):
    """The state is the last item's unit vector."""

    def __init__(self) -> None:
        super().__init__(ItemVectors(4, 4), EncoderSizes(4))
        with torch.no_grad():
            self.items.learned.copy_(torch.eye(4))  # type: ignore[union-attr]

    def forward(self, events: Events) -> Tensor:
        return self.items.rows(events.items)

    encode = start = advance = NotImplemented  # type: ignore[assignment]


def history() -> list[str]:
    """Every run of `ORDER` symbols once (Fredricksen, Kessler and Maiorana: Lyndon words in order), as items."""
    words, word = [], [-1]
    while word:
        word[-1] += 1
        if ORDER % len(word) == 0:
            words += word
        word = [word[place % len(word)] for place in range(ORDER)]
        while word and word[-1] == len(SYMBOLS) - 1:
            word.pop()
    return [SYMBOLS[place] for place in [*words, *words[: ORDER - 1]]]


def test_the_log_holds_every_run_as_often_as_said() -> None:
    heard = "".join(history())
    runs = [heard[place : place + 3] for place in range(len(heard) - 2)]
    assert {run: runs.count(run) for run in ("AAB", "ABC", "BCD", "DDD")} == {"AAB": 8, "ABC": 4, "BCD": 2, "DDD": 1}


@dataclass(frozen=True)
class Case:
    """An algorithm, what its values are known to be by the number of steps, whether its actor is held at `ROUTE`."""

    algorithm: Algorithm
    truth: Callable[[int], np.ndarray]
    route: bool = False
    steps: int = 120
    rate: float = 0.2


def logged() -> Dataset:
    heard = history()
    places = [ITEMS.index(item) for item in heard]
    earned = [0.0, *(REWARDS[one, other] for one, other in pairwise(places))]
    # Two more events, which the split holds back; and somebody of whom there is nothing to learn.
    users = [*["u"] * (len(heard) + 2), "v"]
    log = pl.DataFrame({"user_id": users, "item_id": [*heard, "A", "A", "A"], "reward": [*earned, 0.0, 0.0, 0.0]})
    return Dataset.from_frame(log.with_columns(timestamp=1_600_000_000 + pl.int_range(pl.len())), name="sequence")


def learnt(case: Case, n_step: int) -> np.ndarray:
    """The values of actions that the critic comes to, `[state action]` in the order of `ITEMS`."""
    algorithm = case.algorithm
    setup = Setup(
        train=True,
        data="-",
        model_agent_path="a",
        model_critic_path="c",
        algorithm=algorithm,
        split="leave_last_out",
        max_length=2000,
        dim=4,
        dropout=0.0,
        weight_decay=0.0,
        discount=DISCOUNT,
        n_step=n_step,
        learning_rate=case.rate,
        clip=1e6,
        device="cpu",
        precision="fp32",
    )
    state = State(logged(), setup)
    agent, rng = Agent(setup, state.space).wake_agent(), np.random.default_rng(0)
    order = state.space.catalogue.index(list(ITEMS))
    for nets in (agent.nets, agent.targets):
        nets["encoder"] = Table()  # type: ignore[index]
        if isinstance(algorithm, Ddpg):
            made = torch.zeros(4, 4)
            if case.route:  # an actor that stays as it is
                made[order, order[ROUTE]] = 1.0
                nets["actor"] = Head(made.tolist())  # type: ignore[index]
            judges = len(nets["critic"].judges)  # type: ignore[arg-type]
            nets["critic"] = Judges(*(torch.full((4, 4), 0.1 * one).tolist() for one in range(judges)))  # type: ignore[index]
            agent.optimisers["critic"] = torch.optim.Adam(agent.nets["critic"].parameters(), case.rate)
    agent.horizon = case.steps
    source, policy = source_of(state), LearnedPolicy(agent, state)
    for _ in range(case.steps):
        agent.propagate(source.next_batch(policy, rng), rng)
    found = values_of(agent.nets["critic"])
    return found[np.ix_(order, order)]


def values_of(critic: nn.Module) -> np.ndarray:
    """All sixteen, of a critic that judges pairs or one that gives points with a level."""
    unit = torch.eye(4)
    with torch.no_grad():
        if isinstance(critic, Judges):
            return critic(unit[:, None], unit[None]).numpy().mean(0)  # type: ignore[no-any-return]
        points = critic(unit)
        return (points[:, :4] + points[:, 4:]).numpy()  # type: ignore[no-any-return]


CASES = [
    Case(Dqn(tau=0.2), by(best)),
    Case(Sqn(tau=0.2), by(best)),
    Case(SacRec(tau=0.2, warm_up=10), by(best)),
    Case(Snqn(tau=0.2, negatives=2), with_negatives),
    Case(Sa2c(tau=0.2, negatives=2), with_negatives),
    Case(Cql(tau=0.2, alpha=0.1), held_down),
    Case(Bcq(tau=0.2, threshold=0.75), by(best_of_common)),
    Case(Iql(tau=0.2, expectile=0.5), as_the_log, steps=250, rate=0.1),
    Case(Iql(tau=0.2, expectile=0.8), by(expectile), steps=250, rate=0.1),
    Case(Crr(tau=0.2, beta=1.0), by(regressed), steps=250, rate=0.1),
    Case(Ddpg(tau=0.2, candidates=4), by(best)),
    Case(Ddpg(tau=0.2, candidates=1), of_route, route=True),
    Case(Td3(tau=0.2, candidates=1), of_route, route=True),
    Case(Td3Bc(tau=0.2, candidates=1), of_route, route=True),
    Case(Hac(tau=0.2), of_route, route=True),
]


# Of one step are the losses worked by hand in each algorithm's own tests.
@pytest.mark.parametrize("n_step", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.algorithm.name}-{case.truth.__name__}")
def test_values_come_to_those_of_the_world(case: Case, n_step: int) -> None:
    np.testing.assert_allclose(learnt(case, n_step), case.truth(n_step), atol=0.06)


# Where nothing of the slow copies moves, no target does


# What those of play expect of the next state is tested beside their losses.
SLOWED = [kind(tau=1e-9) for kind in KNOWN if kind.targets and kind.source != "world"]


def rows(context: LossContext[Transitions], some: slice) -> LossContext[Transitions]:
    return replace(context, batch=Transitions(**{name: values[some] for name, values in vars(context.batch).items()}))


def estimates(rig: Rig, context: LossContext[Transitions]) -> Tensor:
    """What the critic says of the items that came next: where there are two, their mean."""
    critic, items, batch = rig.agent.nets["critic"], context.items, context.batch
    with torch.no_grad():
        if isinstance(critic, Critics):
            return critic(batch.states, on_sphere(items).rows(batch.actions)).mean(0)  # type: ignore[no-any-return]
        return rig.algorithm.estimates(rig.agent.nets, batch, items)  # type: ignore[return-value]


def of_next(rig: Rig, context: LossContext[Transitions]) -> Tensor:
    """The discounted value of the next state in each step's target, read off the loss alone.

    The critic's loss is a parabola of a step's reward, lowest where reward and next value make the critic's estimate.
    """
    found = []
    for step in range(len(context.batch.actions)):
        one = rows(context, slice(step, step + 1))
        low, middle, high = (
            rig.algorithm.losses(
                replace(
                    one,
                    batch=replace(one.batch, rewards=torch.full((1,), reward)),
                    items=replace(one.items, rng=np.random.default_rng(0)),
                    rng=np.random.default_rng(0),
                )
            )["critic"].item()
            for reward in (-4.0, 0.0, 4.0)
        )
        found.append(estimates(rig, one) + 4 * (high - low) / 2 / (high + low - 2 * middle))
    return torch.cat(found)


def target_values(rig: Rig, context: LossContext[Transitions]) -> Tensor:
    """What the target critic says of every item in the next states, discounted."""
    items, batch = context.items, context.batch
    with torch.no_grad():
        points = rig.agent.targets["critic"](batch.next_states)
    return batch.discounts[:, None] * (points[:, :-1] @ items.target.T + points[:, -1:])


@pytest.mark.parametrize("algorithm", SLOWED, ids=lambda one: one.name)
def test_while_target_networks_stand_targets_do_and_the_critic_goes(algorithm: Algorithm) -> None:
    """Training has dropout; what is read of the next state has none. In double Q-learning the critic's choice may move
    on, to another of the slow values."""
    rig = Rig(algorithm, dropout=0.3)
    history = rig.history()
    before = rows(rig.context(rig.batch(history)), slice(12))
    first = of_next(rig, before)
    thought = estimates(rig, before)
    known = first[:, None] if isinstance(algorithm, Crr | Ddpg | Iql) else target_values(rig, before)
    for _ in range(40):
        rig.step()
    after = rows(rig.context(rig.batch(history)), slice(12))
    then = of_next(rig, after)
    assert (estimates(rig, after) - thought).abs().max() > 0.2
    if isinstance(algorithm, Iql):  # its value is no slow copy, and goes on; what it reads of the next state stands
        with torch.no_grad():
            known = (before.batch.discounts * rig.agent.nets["value"](before.batch.next_states))[:, None]
    assert (known - then[:, None]).abs().amin(1).max() < 2e-3
