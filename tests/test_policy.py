"""A trained agent as a policy: what it tells of its choice before it makes one."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from what_next import Agent, Dataset, LearnedPolicy, State
from what_next.inference.session import Event, Sessions
from what_next.retrieval import Exact
from what_next.sources import source_of
from what_next.types import EpsilonGreedy, Permitted, Request

from .conftest import SetupOf


@pytest.fixture(params=["next_item", "whatnext"])
def policy(request, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> LearnedPolicy:
    state = State(dataset, setup_of(tmp_path, algorithm=request.param, tolerance=3.0))  # several items match a point
    return LearnedPolicy(Agent(state.setup, state.space).wake_agent().eval(), state)


def some(policy: LearnedPolicy):
    return policy.state.get_user_history(np.arange(6, dtype=np.int32))


def test_the_chance_of_a_drawn_item_is_the_propensity_that_comes_with_it(policy: LearnedPolicy) -> None:
    history, rows = some(policy), np.arange(6)
    states, request = policy.states(history), Request(3, policy.sampler, Permitted.of(without=history.items))
    for seed in range(5):
        slate = policy.act(states, request, np.random.default_rng(seed))
        judged = policy.propensities(states, request, slate.items)
        assert judged == pytest.approx(slate.propensities, rel=1e-6)
        for slot, chances in enumerate(policy.chances(states, request, slate.items)):
            assert chances.shape == (6, 80)
            assert chances.sum(axis=1) == pytest.approx(1)
            assert chances[rows, slate.items[:, slot]] == pytest.approx(judged[:, slot])


def test_what_is_not_permitted_has_no_chance(policy: LearnedPolicy) -> None:
    history = some(policy)
    request = Request(1, policy.sampler, Permitted.of(without=history.items))
    assert (policy.propensities(policy.states(history), request, history.items[:, :1]) == 0).all()


def test_the_scores_are_those_by_which_a_greedy_slate_is_ranked(policy: LearnedPolicy) -> None:
    history = some(policy)
    states, permitted = policy.states(history), Permitted.of(without=history.items)
    if (backend := policy.backend(states)) is None:
        assert states.ranked is None  # it proposes a point, and takes items near it
        return
    scores = backend.scores(states.points, Request(permitted=permitted))
    slates = policy.act(states, Request(5, permitted=permitted)).items
    assert torch.equal(scores.topk(5).indices, torch.from_numpy(slates).long())


@pytest.mark.parametrize("inputs", ["learned", "attributes", "both"])
def test_what_is_asked_after_more_training_is_chosen_by_the_weights_as_they_are_then(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path, inputs: str
) -> None:
    state = State(dataset, setup_of(tmp_path, algorithm="next_item", inputs={"items": inputs}, learning_rate=0.1))
    agent, rng = Agent(state.setup, state.space).wake_agent(), np.random.default_rng(0)
    policy, source = LearnedPolicy(agent, state), source_of(state)
    request = Request(3, policy.sampler)
    for _ in range(2):
        states = policy.states(some(policy))
        slate = policy.act(states, request, rng)
        assert policy.propensities(states, request, slate.items) == pytest.approx(slate.propensities, rel=1e-6)
        agent.train().propagate(source.next_batch(policy, rng), rng)
        agent.eval()


def test_item_vectors_are_made_once_for_the_same_weights(dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    state = State(dataset, setup_of(tmp_path, algorithm="next_item", inputs={"items": "both"}))
    policy = LearnedPolicy(Agent(state.setup, state.space).wake_agent().eval(), state)
    first, second = (policy.backend(policy.states(some(policy))) for _ in range(2))
    assert isinstance(first, Exact)
    assert isinstance(second, Exact)
    assert first.table is second.table


def test_a_random_item_outside_the_box_is_a_fallback(dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    state = State(dataset, setup_of(tmp_path, algorithm="whatnext", tolerance=0.5))
    policy = LearnedPolicy(Agent(state.setup, state.space).wake_agent().eval(), state)
    states = policy.states(some(policy))
    slate = policy.act(states, Request(8, EpsilonGreedy(1.0)), np.random.default_rng(0))
    apart = np.abs(state.space.catalogue.vectors[slate.items] - states.points[:, None]).max(-1)
    assert (apart > 0.5).any()
    np.testing.assert_array_equal(slate.fallback, apart > 0.5)


@pytest.mark.medium
def test_one_live_session_is_chosen_for_as_ten_thousand_states_are(policy: LearnedPolicy) -> None:
    """Each row by its own generator: whoever else is in the batch."""
    rows, asked = 10_000, ["i3", "i9", "i27", "i3"]
    one, _ = policy.state.history_of(asked)
    arrays = {each.name: getattr(one, each.name) for each in fields(one)}
    many = replace(one, **{name: np.repeat(each, rows, 0) for name, each in arrays.items() if each is not None})
    request = Request(4, policy.sampler, Permitted.of(without=one.items))
    without = Permitted.of(without=many.items)
    slates = policy.act(
        policy.states(many), replace(request, permitted=without), [np.random.default_rng(seed) for seed in range(rows)]
    )
    assert len(np.unique(slates.items, axis=0)) > 10
    sessions = Sessions.of(policy.agent)
    states = sessions.states([sessions.replay([Event(int(item)) for item in one.items[0]])])
    for seed in (0, 17, 9_999):
        slate = policy.act(states, request, np.random.default_rng(seed))
        np.testing.assert_array_equal(slate.items[0], slates.items[seed])
        np.testing.assert_allclose(slate.propensities[0], slates.propensities[seed], rtol=1e-5)
