"""No event that is to be foretold, or that comes after it, can reach a prediction."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from what_next import Agent, Dataset, Environment, LearnedPolicy, State
from what_next.baselines import BASELINES
from what_next.baselines.rules import Popular
from what_next.data import Split
from what_next.metrics.next_items import Targets
from what_next.settings import ALGORITHMS
from what_next.types import Request

from .conftest import SetupOf

SPLITS = {
    "users": {"name": "users"},
    "leave_last_out": {"name": "leave_last_out"},
    "time": {"name": "time", "quantile": 0.8},
    "date": {"name": "time", "date": "2020-12-01"},
}


def changed(dataset: Dataset, split: Split) -> Dataset:
    """The log as it would be had all that training may not know been different."""
    owners = np.repeat(np.arange(dataset.users), dataset.lengths)
    unknown = np.arange(dataset.events) - dataset.offsets[owners] >= split.known[owners]
    assert unknown.any()
    others = np.random.default_rng(1).integers(len(dataset.catalogue), size=dataset.events).astype(np.int32)
    assert dataset.rewards is not None
    return replace(
        dataset,
        items=np.where(unknown, others, dataset.items),
        rewards=np.where(unknown, 100, dataset.rewards).astype(np.float32),
    )


@pytest.fixture(params=SPLITS)
def states(request, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> list[State]:
    setup = setup_of(tmp_path, algorithm="sqn", split=SPLITS[request.param], passes=2, reward={"spread": {"weight": 1}})
    first = State(dataset, setup)
    return [first, State(changed(dataset, first.split), setup)]


def test_statistics_of_the_catalogue_are_those_of_training(states: list[State]) -> None:
    one, other = (state.space for state in states)
    assert np.array_equal(one.counts, other.counts)
    for name in ("center", "scale"):
        assert np.array_equal(getattr(one.catalogue, name), getattr(other.catalogue, name))
    for name in ("seen", "event_center", "event_scale"):
        assert np.array_equal(getattr(one, name), getattr(other, name))


def test_baselines_are_fitted_to_training_alone(states: list[State]) -> None:
    history = states[0].get_random_user_history(20, np.random.default_rng(0))
    for name, fit in BASELINES.items():
        one, other = (fit(state.dataset, state.split.known).worth(history) for state in states)
        assert np.array_equal(one, other), name
    assert np.array_equal(*(Popular(state.space.counts).worth(history) for state in states))


@pytest.mark.parametrize("algorithm", ["sqn", "whatnext"])
def test_a_trained_agent_is_the_same_to_the_bit(states: list[State], algorithm: str) -> None:
    history = states[0].get_random_user_history(20, np.random.default_rng(0))
    slates = []
    for state in states:
        # The linear model beside the network is weighed by the validation users, as a run's end is chosen by them.
        changed = {"algorithm": ALGORITHMS[algorithm](), "passes": 1, "linear": "no"}
        setup = state.setup.model_copy(update=changed)
        learned = State(state.dataset, setup)
        environment = Environment(Agent(setup, learned.space), learned, setup)
        environment.train_agent()
        policy = LearnedPolicy(environment.agent.eval(), learned)
        slates.append(policy.act(policy.states(history), Request(10)).items)
    assert np.array_equal(*slates)


@pytest.mark.parametrize("kind", ["last", "random", "successive", "all"])
@pytest.mark.parametrize("name", SPLITS)
def test_the_history_of_a_target_ends_before_it(
    dataset: Dataset, setup_of: SetupOf, tmp_path: Path, name: str, kind: str
) -> None:
    state = State(dataset, setup_of(tmp_path, algorithm="next_item", split=SPLITS[name]))
    targets = Targets.of(dataset, state.split, "test", kind)
    history = state.histories(targets.users, np.zeros_like(targets.before), targets.before)
    places = dataset.offsets[targets.users] + targets.before
    assert np.array_equal(targets.items, dataset.items[places])
    assert history.times is not None
    last = history.times[np.arange(len(targets)), targets.before - 1]
    assert (last <= dataset.timestamps[places]).all()
    assert np.array_equal(history.lengths, targets.before)
