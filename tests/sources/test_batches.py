"""A batch is a value: learned from twice, from another process, or from several sources in a proportion."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from what_next import Agent, Dataset, Environment, LearnedPolicy, State
from what_next.algorithms import Iql, WhatNext
from what_next.errors import SetupError
from what_next.sources import LogSource, Mixture, Source, source_of
from what_next.testing import Rig
from what_next.training.learner import Learner
from what_next.types import Batch

from ..conftest import SetupOf
from ..forked import Forked
from ..test_log_learning import log_setup, weights

ALGORITHMS = pytest.mark.parametrize("algorithm", [Iql(), WhatNext(random_items=3)], ids=lambda one: one.name)


def batch_of(rig: Rig) -> Batch:
    return rig.source.next_batch(rig.policy, rig.rng)


def same(one: Batch, other: Batch) -> bool:
    mine, theirs = one.arrays(), other.arrays()
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)


def learn(rig: Rig, *batches: Batch) -> dict[str, torch.Tensor]:
    """The weights after learning from some batches."""
    for step, batch in enumerate(batches):
        rig.agent.propagate(batch, np.random.default_rng(step))
    return weights(rig.agent)


@ALGORITHMS
class TestAValue:
    def test_it_is_frozen(self, algorithm: Any) -> None:
        batch = batch_of(Rig(algorithm))
        for one in fields(batch):
            with pytest.raises(FrozenInstanceError):
                setattr(batch, one.name, None)

    def test_learning_from_it_changes_nothing_in_it_so_that_it_can_be_learned_from_again(self, algorithm: Any) -> None:
        rig, other = Rig(algorithm), Rig(algorithm)
        batch = batch_of(rig)
        kept = Batch.of_arrays({name: value.copy() for name, value in batch.arrays().items()})
        once = {name: value.clone() for name, value in weights(rig.agent).items()}
        twice = learn(rig, batch, batch)
        assert same(batch, kept)
        assert any(not torch.equal(once[name], twice[name]) for name in twice)
        found = learn(other, kept, kept)
        assert all(torch.equal(found[name], twice[name]) for name in twice)

    def test_the_losses_are_a_function_of_networks_batch_step_and_random_numbers(self, algorithm: Any) -> None:
        rig = Rig(algorithm)
        batch = batch_of(rig)
        before = {name: value.clone() for name, value in weights(rig.agent).items()}
        first, second = (rig.losses(batch, step=3) for _ in range(2))
        assert {name: loss.item() for name, loss in first.items()} == {
            name: loss.item() for name, loss in second.items()
        }
        assert all(torch.equal(before[name], value) for name, value in weights(rig.agent).items())

    def test_nothing_is_kept_between_predict_and_propagate(
        self, algorithm: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig, changed = Rig(algorithm), set[str]()

        def noted(self: object, name: str, value: object) -> None:
            changed.add(name)
            object.__setattr__(self, name, value)

        for owner in (Agent, Learner):
            monkeypatch.setattr(owner, "__setattr__", noted)
        batch = batch_of(rig)
        assert changed == set()
        rig.agent.propagate(batch, rig.rng)
        assert changed == {"histories", "steps", "held"}


SCRIPT = """
import sys
from safetensors.numpy import save_file
from what_next.algorithms import Iql, WhatNext
from what_next.errors import SetupError
from what_next.testing import Rig
algorithm = {"iql": Iql(), "whatnext": WhatNext(random_items=3)}[sys.argv[1]]
rig = Rig(algorithm)
save_file(rig.source.next_batch(rig.policy, rig.rng).arrays(), sys.argv[2])
"""


@pytest.mark.medium
@ALGORITHMS
def test_a_batch_of_another_process_teaches_the_same(algorithm: Any, forked: Forked, tmp_path: Path) -> None:
    path = tmp_path / "batch.safetensors"
    done = forked.run("", algorithm.name, str(path), code=SCRIPT, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    mine, theirs = Rig(algorithm), Rig(algorithm)
    own, sent = batch_of(mine), Batch.of_arrays(load_file(path))
    assert same(own, sent)
    one, other = learn(mine, own), learn(theirs, sent)
    assert all(torch.equal(one[name], other[name]) for name in one)


class Counted(LogSource):
    """The log, with rewards that tell where a batch came from."""

    def __init__(self, state: State, reward: float) -> None:
        super().__init__(state)
        self.reward = reward

    def earned(self, history: Any) -> Any:
        return np.full(history.items.shape, self.reward, np.float32)


class TestMixture:
    def sources(self, state: State) -> dict[Source, float]:
        return {Counted(state, 1.0): 3.0, Counted(state, 2.0): 1.0}

    def run(self, dataset: Dataset, setup: Any, steps: int = 10**9, **more: Any) -> Environment:
        state = State(dataset, setup)
        mixed = Mixture(self.sources(state))
        environment = Environment(Agent(setup, state.space), state, setup, source=mixed, **more)
        done = environment.done
        environment.done = lambda: done() or environment.agent.steps >= steps  # type: ignore[method-assign]
        environment.run_sim()
        return environment

    def test_each_source_gives_its_share_of_the_batches(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        state = State(dataset, log_setup(setup_of, tmp_path, algorithm="iql"))
        mixed = Mixture(self.sources(state))
        policy, rng = LearnedPolicy(Agent(state.setup, state.space).wake_agent(), state), np.random.default_rng(0)
        rewards = [float(mixed.next_batch(policy, rng).rewards.max()) for _ in range(16)]
        assert (rewards.count(1.0), rewards.count(2.0)) == (12, 4)

    @pytest.mark.medium
    def test_a_run_that_learns_from_both_resumes_bit_for_bit(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        whole = self.run(dataset, log_setup(setup_of, tmp_path / "whole", algorithm="iql", patience=None))
        setup = log_setup(setup_of, tmp_path / "parts", algorithm="iql", patience=None)
        self.run(dataset, setup, steps=5)
        resumed = self.run(dataset, setup, resume=True)
        assert resumed.agent.steps == whole.agent.steps > 5
        mine = weights(resumed.agent)
        assert all(torch.equal(mine[name], value) for name, value in weights(whole.agent).items())

    @pytest.mark.medium
    def test_a_run_ends_with_its_histories_whatever_the_batches_hold(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup = log_setup(setup_of, tmp_path, algorithm="iql", passes=4)
        state = State(dataset, setup)
        small = LogSource(State(dataset, setup.model_copy(update={"batch_size": 1})))
        orders: list[dict[Source, float]] = [{small: 1.0, LogSource(state): 1.0}, {LogSource(state): 1.0, small: 1.0}]
        for sources in orders:
            agent = Agent(setup, state.space)
            Environment(agent, state, setup, source=Mixture(sources), force=True).run_sim()
            last = max(len(state.train_users), setup.batch_size or 0)
            assert agent.horizon <= agent.histories <= agent.horizon + last

    def test_shares_are_above_zero(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        state = State(dataset, log_setup(setup_of, tmp_path, algorithm="iql"))
        with pytest.raises(ValueError, match="give numbers above 0"):
            Mixture({LogSource(state): 1.0, LogSource(state): 0.0})


class Elsewhere(Iql):
    """Learns from a source that nobody has installed."""

    name: Literal["elsewhere"] = "elsewhere"  # type: ignore[assignment]
    source: ClassVar[str] = "elsewhere"


def test_a_source_that_is_not_installed_is_named(dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
    state = State(dataset, log_setup(setup_of, tmp_path, algorithm=Elsewhere()))
    with pytest.raises(SetupError, match="'elsewhere', which is not known here; install the package"):
        source_of(state)
