"""`ensemble`: several networks become one, whose score is the mean of theirs, and which is like any other."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import what_next as wn
from tests.conftest import SetupOf
from what_next import Agent, Dataset, Environment, LearnedPolicy, Setup, State
from what_next.algorithms import NextItem
from what_next.algorithms.base import Networks
from what_next.errors import SetupError, TrainingError
from what_next.experiments.models import chosen, is_trained, of_seed
from what_next.experiments.tuning import tune
from what_next.inference.session import Event, Sessions
from what_next.models.ensemble import join
from what_next.models.heads import PairValue
from what_next.sources import LogSource, Mixture
from what_next.training.artefacts import read_manifest
from what_next.training.distributed import Ranks
from what_next.training.monitor import Monitor
from what_next.training.step import Step


def a_setup(setup_of: SetupOf, folder: Path, **changes: object) -> Setup:
    values = {"algorithm": "next_item", "epochs": 1, "passes": 2, "patience": 2, "dim": 8, "window": None,
              "batch_size": None, "split": "leave_last_out"}  # fmt: skip
    return setup_of(folder, **(values | changes))


def environment(setup: Setup, dataset: Dataset, **more: object) -> Environment:
    state = State(dataset, setup)
    return Environment(Agent(setup, state.space), state, setup, quiet=True, **more)  # type: ignore[arg-type]


def scores(setup: Setup, dataset: Dataset) -> np.ndarray:
    policy = LearnedPolicy.load(setup.model_copy(update={"train": False}), dataset)
    users = np.arange(10, dtype=np.int32)
    states = policy.states(policy.state.histories(users, np.zeros(10, np.int64), np.arange(10) + 3))
    assert states.ranked is not None
    return np.asarray(states.points @ states.ranked.vectors.numpy().T)


def nets_of(setup: Setup, state: State, seed: int) -> Networks:
    torch.manual_seed(seed)
    agent = Agent(setup, state.space)
    nets, _ = agent.add_model()
    for net in nets.values():
        for weight in net.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        net.eval()
    return nets


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "lstm", "skip": "yes"},
        {"model": "lstm", "layers": 2, "inputs": {"rewards": True, "items": "both"}},
        {"model": "gru", "inputs": {"items": "attributes"}},
    ],
)
def test_the_score_is_the_mean_of_the_scores(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path, changes: dict[str, object]
) -> None:
    """Of the critic and the value as well, in `iql`: three members, random weights."""
    one = a_setup(setup_of, tmp_path, algorithm="iql", linear="no", **changes)
    state = State(dataset, one)
    members, whole = [nets_of(one, state, seed) for seed in range(3)], nets_of(
        one.model_copy(update={"ensemble": 3}), state, 9
    )  # fmt: skip
    for name, net in whole.items():
        join(net, [member[name] for member in members])
    history = state.histories(np.arange(6, dtype=np.int32), np.zeros(6, np.int64), np.arange(6) + 4)

    def told(setup: Setup, nets: Networks) -> tuple[torch.Tensor, ...]:
        agent = Agent(setup, state.space)
        agent.nets = nets
        found = agent.predict(history)
        assert found.ranked is not None
        assert found.encoded is not None
        points, vectors = nets["critic"](found.encoded), found.ranked.vectors
        values = points[:, :-1] @ vectors.T + points[:, -1:]
        return torch.from_numpy(found.points) @ vectors.T, values, nets["value"](found.encoded)

    apart = [told(one, nets) for nets in members]
    for place, together in enumerate(told(one.model_copy(update={"ensemble": 3}), whole)):
        wanted = torch.stack([found[place] for found in apart]).mean(0)
        torch.testing.assert_close(together, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def joined(setup_of: SetupOf, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Two networks by a setup that says so."""
    setup = a_setup(setup_of, tmp_path_factory.mktemp("joined"), ensemble=2, linear="no")
    report = environment(setup, dataset).run_sim()
    assert report.passes == pytest.approx(4)
    assert report.valid
    return setup


def pressed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes after the last step of a network."""
    finish = Monitor.finish

    def pressed(monitor: Monitor, *, ended: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        finish(monitor, ended=ended)

    monkeypatch.setattr(Monitor, "finish", pressed)


@pytest.mark.medium
def test_a_run_trains_each_by_its_own_seed_and_leaves_one_model(
    joined: Setup, setup_of: SetupOf, dataset: Dataset, tmp_path: Path
) -> None:
    agent = joined.model_agent_path
    assert sorted(path.name for path in agent.parent.glob("*member*")) == []
    assert read_manifest(agent).setup["dim"] == 8
    alone = [
        a_setup(setup_of, tmp_path / str(seed), linear="no").model_copy(update={"seed": seed})
        for seed in (2 * joined.seed, 2 * joined.seed + 1)
    ]
    for setup in alone:
        environment(setup, dataset).run_sim()
    one, other = (scores(setup, dataset) for setup in alone)
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(scores(joined, dataset), (one + other) / 2, atol=1e-5)


@pytest.mark.parametrize(("processes", "seconds"), [(1, 20.0), (2, 30.0), (3, 60.0), (4, 20.0)])
def test_its_time_is_shared_by_the_networks_that_a_process_trains(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path, processes: int, seconds: float
) -> None:
    setup = a_setup(setup_of, tmp_path, linear="no").model_copy(update={"ensemble": 3, "seconds": 60.0})
    state = State(dataset, setup)
    ranks = Ranks(0, processes, joined=processes > 1)
    whole = Environment(Agent(setup, state.space), state, setup, ranks=ranks)
    one = whole._member(2, resume=False)
    assert one.setup.seconds is not None
    assert one.setup.seconds * one._share == pytest.approx(seconds)


@pytest.mark.medium
def test_interrupted_in_the_second_it_goes_on(setup_of: SetupOf, dataset: Dataset, tmp_path: Path) -> None:
    setup = a_setup(setup_of, tmp_path, ensemble=2)
    seen = list[Step]()
    half = len(environment(setup, dataset).run_sim().steps) // 2
    wanted = scores(setup, dataset)
    for path in tmp_path.glob("*"):
        path.unlink()

    def stop(step: Step) -> bool:
        seen.append(step)
        return len(seen) > half

    stopped = environment(setup, dataset, on_step=stop).run_sim()
    assert stopped.stopped
    assert not setup.model_agent_path.exists()
    again = environment(setup, dataset, resume=True)
    assert not again.run_sim().stopped
    np.testing.assert_array_equal(scores(setup, dataset), wanted)
    done = environment(setup, dataset, resume=True).run_sim()
    assert not done.steps
    assert not done.stopped
    with pytest.raises(SetupError, match="are one there"):
        environment(setup.model_copy(update={"passes": 3}), dataset, resume=True).run_sim()


@pytest.mark.medium
def test_what_another_run_left_of_single_networks_is_no_part_of_this_one(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path
) -> None:
    setup = a_setup(setup_of, tmp_path, ensemble=2)
    longer = setup.model_copy(update={"passes": 2})
    of_first = environment(setup.members[0], dataset).run_sim()

    def in_the_second(_: Step) -> bool:
        return setup.members[1].log_path.exists()

    assert environment(longer, dataset, on_step=in_the_second).run_sim().stopped
    assert all(one.model_agent_path.exists() for one in setup.members)
    anew = environment(setup, dataset, on_step=lambda _: True).run_sim()
    assert (anew.stopped, anew.histories < of_first.histories) == (True, True)
    assert [one.model_agent_path.exists() for one in setup.members] == [True, False]


@pytest.mark.medium
def test_interrupted_in_the_last_save_of_the_first_it_goes_on(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = a_setup(setup_of, tmp_path, ensemble=2)
    with monkeypatch.context() as patched:
        pressed_at_the_end(patched)
        stopped = environment(setup, dataset).run_sim()
        assert (stopped.stopped, stopped.saved) == (True, setup.members[0].model_paths)
        with pytest.raises(TrainingError, match="before the ensemble's networks were joined, so there is no model"):
            wn.fit(dataset, ensemble=2, passes=1, dim=8, verbose=False)
    assert not environment(setup, dataset, resume=True).run_sim().stopped


@pytest.mark.medium
def test_interrupted_in_its_last_save_a_training_is_whole_and_no_other_follows(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = a_setup(setup_of, tmp_path, linear="no")
    state = State(dataset, setup)
    pressed_at_the_end(monkeypatch)
    report = environment(setup, dataset).run_sim()
    assert (report.stopped, report.interrupted) == (False, True)
    with pytest.raises(KeyboardInterrupt):
        chosen(setup, state, [1, 2])
    assert [is_trained(of_seed(setup, seed), state) for seed in (1, 2)] == [True, False]
    assert tune(setup, 2, seconds=60.0).stopped


@pytest.mark.medium
def test_each_learns_from_a_source_of_the_kind_that_is_given(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path
) -> None:
    made = list[int]()

    class Counted(LogSource):
        def __init__(self, state: State) -> None:
            super().__init__(state)
            made.append(state.setup.seed)

    setup = a_setup(setup_of, tmp_path, ensemble=2, passes=1)
    state = State(dataset, setup)
    Environment(Agent(setup, state.space), state, setup, source=Counted(state), quiet=True).run_sim()
    assert made == [setup.seed, *(one.seed for one in setup.members)]
    mixed = Mixture({Counted(state): 1.0, Counted(state): 1.0})
    with pytest.raises(SetupError, match="a source of its own"):
        Environment(Agent(setup, state.space), state, setup, source=mixed, quiet=True).run_sim()


def test_a_session_step_by_step_is_the_batch_pass(joined: Setup) -> None:
    policy = LearnedPolicy.load(joined.model_copy(update={"train": False}))
    sessions, session = Sessions.of(policy.agent), Sessions.of(policy.agent).begin()
    for item in (3, 5, 1):
        (session,) = sessions.fold([session], [Event(item)])
    history, _ = policy.state.history_of([policy.state.space.catalogue.ids[item] for item in (3, 5, 1)])
    wanted = policy.states(history).points
    np.testing.assert_allclose(sessions.states([session]).points, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"model": "transformer"}, {"algorithm": "dqn"}, {"algorithm": "hac"}, {"cluster": {"items": "sharded"}}]
)
def test_what_has_no_mean_is_refused(setup_of: SetupOf, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(SetupError, match="ensemble is 2"):
        a_setup(setup_of, tmp_path, ensemble=2, **changes)


class Judged(NextItem):
    """With a head that stands in no blocks."""

    name: Literal["judged"] = "judged"  # type: ignore[assignment]

    def networks(self, *what: Any) -> Networks:
        return {**super().networks(*what), "judge": PairValue(what[0].dim)}


def test_heads_that_cannot_be_joined_are_refused_before_the_first_step(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path
) -> None:
    setup = a_setup(setup_of, tmp_path, ensemble=2, algorithm=Judged())
    with pytest.raises(SetupError, match=r"'judge' \(PairValue\) none can be made; heads are Point or Value there"):
        environment(setup, dataset).run_sim()


def test_it_starts_from_nothing(joined: Setup, dataset: Dataset) -> None:
    with pytest.raises(SetupError, match="starts from nothing"):
        environment(joined, dataset, origin=joined.model_agent_path).run_sim()


@pytest.mark.medium
def test_interrupted_while_all_are_weighed_it_goes_on(
    setup_of: SetupOf, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(linear: object, _: str, score: Callable[[], float], *more: object, **options: object) -> bool:
        signal.raise_signal(signal.SIGINT)
        return bool(score())

    setup = a_setup(setup_of, tmp_path, ensemble=2, linear="yes")
    with monkeypatch.context() as patched:
        patched.setattr("what_next.environment.weigh", pressed)
        assert environment(setup, dataset).run_sim().stopped
    done = environment(setup, dataset, resume=True).run_sim()
    assert (done.steps, done.stopped, done.idle) == ((), False, False)
    assert environment(setup, dataset, resume=True).run_sim().idle
    assert not any(one.model_agent_path.exists() for one in setup.members)
