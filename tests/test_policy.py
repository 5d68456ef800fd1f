"""A trained agent as a policy: what it tells of its choice before it makes one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from what_next import Agent, Dataset, LearnedPolicy, State
from what_next.types import Permitted, Request

from .conftest import SetupOf


@pytest.fixture(params=["next_item", "whatnext"])
def policy(request, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> LearnedPolicy:
    state = State(dataset, setup_of(tmp_path, algorithm=request.param))
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
    scores = policy.scores(states, permitted)
    if states.ranked is None:
        assert scores is None  # it proposes a point, and takes items near it
        return
    slates = policy.act(states, Request(5, permitted=permitted)).items
    assert torch.equal(scores.topk(5).indices, torch.from_numpy(slates).long())
