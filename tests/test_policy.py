"""A trained agent as a policy: what it tells of its choice before it makes one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from what_next import Agent, Dataset, LearnedPolicy, State

from .conftest import SetupOf


@pytest.fixture(params=["next_item", "whatnext"])
def policy(request, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> LearnedPolicy:
    state = State(dataset, setup_of(tmp_path, algorithm=request.param))
    return LearnedPolicy(Agent(state.setup, state.space).wake_agent().eval(), state)


def some(policy: LearnedPolicy):
    return policy.state.get_user_history(np.arange(6, dtype=np.int32))


def test_the_chance_of_a_drawn_item_is_the_propensity_that_comes_with_it(policy: LearnedPolicy) -> None:
    history, rows = some(policy), np.arange(6)
    chances = policy.chances(history, exclude=history.items)
    assert chances.shape == (6, 80)
    assert chances.sum(axis=1) == pytest.approx(1)
    for seed in range(5):
        slate = policy.act(history, 1, np.random.default_rng(seed), exclude=history.items, propensities=True)
        drawn = slate.items[:, 0]
        assert chances[rows, drawn] == pytest.approx(slate.propensities[:, 0])
        logs = policy.log_prob(history, drawn, exclude=history.items)
        assert np.exp(logs) == pytest.approx(slate.propensities[:, 0])


def test_what_is_not_permitted_has_no_chance(policy: LearnedPolicy) -> None:
    history = some(policy)
    heard = history.items[:, 0]
    assert np.isneginf(policy.log_prob(history, heard, exclude=history.items)).all()


def test_the_scores_are_those_by_which_a_greedy_slate_is_ranked(policy: LearnedPolicy) -> None:
    history = some(policy)
    scores = policy.scored(history, exclude=history.items)
    if policy.agent.setup.algorithm.by_attributes:
        assert scores is None  # it proposes a point, and takes items near it
        return
    slates = policy.act(history, 5, exclude=history.items).items
    assert torch.equal(scores.topk(5).indices, torch.from_numpy(slates).long())
