"""A run is the spine: every call of it nests as promised, matters, and an interrupted one goes on bit for bit."""

import errno
import json
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from filelock import FileLock
from safetensors import safe_open

from what_next import Agent, Dataset, Environment, Report, Setup, State
from what_next.algorithms.base import LossContext
from what_next.errors import CatalogueError, ModelError, SaveError, TrainingError
from what_next.training.step import Step
from what_next.training.tracking import Tracker
from what_next.types import Factors, History, Product, Proposal

from .conftest import SetupOf, Trained, listening

SPINE: dict[str, type] = {
    "run_sim": Environment,
    "train_agent": Environment,
    "wake_agent": Agent,
    "ready_agent": Agent,
    "add_model": Agent,
    "get_random_user_history": State,
    "predict": Agent,
    "factorize": Agent,
    "produce": State,
    "propagate": Agent,
    "add_prediction": Agent,
    "get_critic_loss": Agent,
}


def environment_of(dataset: Dataset, setup: Setup, **more: Any) -> Environment:
    state = State(dataset, setup)
    return Environment(Agent(setup, state.space), state, setup, **more)


@contextmanager
def changed(name: str, change: Callable[..., Any]) -> Iterator[None]:
    """`change(original, *arguments)` in the place of a method of the spine."""
    owner = SPINE[name]
    original = getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))
        yield


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The calls of the spine, in order, each with those that it stands in."""
    calls: list[str] = []
    open_calls: list[str] = []

    def record(name: str) -> Callable[..., Any]:
        def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            open_calls.append(name)
            calls.append(" > ".join(open_calls))
            try:
                return original(*args, **kwargs)
            finally:
                open_calls.pop()

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, owner in SPINE.items():
            original, call = getattr(owner, name), record(name)

            def stand_in(*args: Any, original: Any = original, call: Any = call, **kwargs: Any) -> Any:
                return call(original, *args, **kwargs)

            patch.setattr(owner, name, stand_in)
        yield calls


def tensors(path: Path) -> dict[str, bytes]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118


def outcome(report: Any, setup: Setup) -> dict[str, Any]:
    """All that a run leaves behind: weights, the log, and what it returns (but for the time it took)."""
    assert setup.model_critic_path
    told = [report.histories, report.targets, report.steps, report.valid, report.recommendations, report.stopped]
    models = [
        setup.model_agent_path,
        setup.model_critic_path,
        setup.model_agent_path.with_suffix(".resume.safetensors"),
    ]
    return {path.name: tensors(path) for path in models if path.exists()} | {
        "log": setup.log_path.read_text() if setup.log_path.exists() else "",
        "report": repr(told),
    }


class TestNesting:
    def test_training(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        with recorded() as calls:
            environment_of(dataset, setup_of(tmp_path, epochs=96)).run_sim()
        train = "run_sim > train_agent"
        cycle = [
            f"{train} > get_random_user_history",
            f"{train} > predict",
            f"{train} > predict > factorize",
            f"{train} > produce",
            f"{train} > propagate",
            f"{train} > propagate > add_prediction",
            f"{train} > propagate > get_critic_loss",
        ]
        start = calls.index("run_sim")  # before it the State measures its tolerance on random histories
        built = ["run_sim", train, f"{train} > wake_agent", f"{train} > wake_agent > add_model"]
        assert calls[start : start + 4] == built
        assert calls[start + 4 : start + 4 + 3 * len(cycle)] == 3 * cycle
        # What is left is the look at the validation users, which learns nothing.
        rest = calls[start + 4 + 3 * len(cycle) :]
        assert rest == [f"{train} > predict", f"{train} > predict > factorize", f"{train} > produce"]

    def test_inference_is_one_cycle_without_learning(self, dataset: Dataset, trained: Trained) -> None:
        environment = environment_of(dataset, trained.setup.model_copy(update={"train": False}))
        with recorded() as calls:
            report = environment.run_sim()
        assert calls == [
            "run_sim",
            "run_sim > ready_agent",
            "run_sim > ready_agent > add_model",
            "run_sim > predict",
            "run_sim > predict > factorize",
            "run_sim > produce",
        ]
        assert len(report.recommendations) == 1


def other(value: Any) -> Any:
    """Another value of the same kind and shape."""
    if isinstance(value, torch.Tensor):
        return value * 1.5 if value.is_floating_point() else value
    if isinstance(value, History):
        return replace(value, items=np.where(value.items >= 0, (value.items + 1) % 80, -1).astype(np.int32))
    if isinstance(value, Factors):
        return Factors(value.actor + 1, value.prospects + 1, value.critic + 1)
    if isinstance(value, Proposal):
        return replace(value, points=-value.points)
    if isinstance(value, Product):
        return replace(value, items=((value.items + 1) % 80).astype(np.int32))
    if isinstance(value, LossContext):
        return replace(value, batch=replace(value.batch, targets=value.batch.targets + 1))
    if isinstance(value, Report):
        return replace(value, histories=value.histories + 1)
    if isinstance(value, Agent):
        for net in value.nets.values():
            with torch.no_grad():
                for weight in net.parameters():
                    weight.copy_(weight.flip(0) * 1.5)
        return value
    if isinstance(value, tuple):  # networks and optimisers
        for net in value[0].values():
            with torch.no_grad():
                for weight in net.parameters():
                    weight.mul_(1.1)
        return value
    assert is_dataclass(value)  # a Step
    first = fields(value)[1].name
    return replace(value, **{first: getattr(value, first) + 1})  # type: ignore[type-var]


@pytest.fixture(scope="module")
def plain(dataset: Dataset, setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run of two steps that nobody meddled with."""
    setup = setup_of(tmp_path_factory.mktemp("plain"), epochs=64)
    return outcome(environment_of(dataset, setup).run_sim(), setup)


class TestEveryCallMatters:
    def test_the_same_run_has_the_same_outcome(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, plain: dict[str, Any]
    ) -> None:
        setup = setup_of(tmp_path, epochs=64)
        assert outcome(environment_of(dataset, setup).run_sim(), setup) == plain

    @pytest.mark.parametrize("name", [name for name in SPINE if name != "ready_agent"])
    def test_another_return_value_changes_a_training(
        self, name: str, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, plain: dict[str, Any]
    ) -> None:
        setup = setup_of(tmp_path, epochs=64)
        environment = environment_of(dataset, setup)
        with changed(name, lambda original, *args, **kwargs: other(original(*args, **kwargs))):
            report = environment.run_sim()
        assert outcome(report, setup) != plain

    @pytest.mark.parametrize("name", ["run_sim", "ready_agent", "predict", "factorize", "produce"])
    def test_another_return_value_changes_an_inference(self, name: str, dataset: Dataset, trained: Trained) -> None:
        setup = trained.setup.model_copy(update={"train": False, "user": ("u1", "u2", "u3", "u4"), "slots": 3})
        found = environment_of(dataset, setup).run_sim()

        with changed(name, lambda original, *args, **kwargs: other(original(*args, **kwargs))):
            assert environment_of(dataset, setup).run_sim() != found

    def test_an_inference_runs_on_the_networks_that_add_model_returns(self, dataset: Dataset, trained: Trained) -> None:
        """They are filled from the files: so other weights change nothing, and networks of another size are refused."""
        setup = trained.setup.model_copy(update={"train": False})
        wider = setup.model_copy(update={"dim": 24})

        def change(original: Callable[..., Any], agent: Agent) -> Any:
            return original(Agent(wider, agent.space))

        environment = environment_of(dataset, setup)
        with changed("add_model", change), pytest.raises(ModelError, match="is not the one that its setup describes"):
            environment.run_sim()


class TestTraining:
    def test_epochs_are_user_histories_and_the_last_batch_is_cut(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        sizes: list[int] = []

        def count(original: Any, state: State, batch: int, rng: np.random.Generator) -> History:
            sizes.append(batch)
            return original(state, batch, rng)

        environment = environment_of(dataset, setup_of(tmp_path, epochs=70))
        with changed("get_random_user_history", count):
            report = environment.run_sim()
        assert sizes == [32, 32, 6]
        assert report.histories == 70
        assert report.targets == 70 * 18
        assert not report.stopped

    def test_the_log_holds_a_line_of_numbers_for_every_step(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup = setup_of(tmp_path, epochs=96)
        report = environment_of(dataset, setup).run_sim()
        lines = [json.loads(line) for line in setup.log_path.read_text().splitlines()]
        assert [line["histories"] for line in lines] == [32, 64, 96]
        assert [line["reward"] for line in lines] == [step.reward for step in report.steps]
        assert {name for name in lines[0] if not name.startswith("note_")} == {
            "histories", "passes", "reward", "value", "fallback", "matches", "masked", "targets", "loss_actor",
            "loss_critic",
        }  # fmt: skip
        assert all(math.isfinite(value) for line in lines for value in line.values())

    def test_the_log_is_json_where_a_number_is_none(self, tmp_path: Path) -> None:
        log = tmp_path / "a.jsonl"
        log.write_text('{"histories": 1}\n{"histories": 2}\n{"histories": ')
        with Tracker(log, 1, 4, users=2, quiet=True) as tracker:
            tracker.show(Step({"actor": math.nan}, math.inf, 0.0, 0.0, 0.0, 0.0), 2)
        kept, line = (json.loads(line, parse_constant=pytest.fail) for line in log.read_text().splitlines())
        assert (kept["histories"], line["histories"], line["reward"], line["loss_actor"]) == (1, 2, None, None)

    def test_no_more_histories_are_told_than_there_are(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Tracker(tmp_path / "a.jsonl", 0, 584, users=584) as tracker:
            tracker.show(Step({"actor": 0.0}, 0.0, 0.0, 0.0, 0.0, 0.0), 585)
        assert "training 584 of 584 histories" in capsys.readouterr().err

    def test_models_are_saved_at_intervals_and_at_the_end(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from what_next.training import checkpoint

        saved: list[int] = []
        monkeypatch.setattr(checkpoint, "save", lambda agent, *_: saved.append(agent.histories))
        environment_of(dataset, setup_of(tmp_path, epochs=256, save_every=96)).run_sim()
        assert saved == [96, 192, 256, 256]  # at the end before validation, so that no interrupt loses it, and after

    def test_histories_without_spread_are_masked_not_fatal(self, setup_of: SetupOf, tmp_path: Path) -> None:
        """Three users who always hear the same song: a batch may hold nobody else."""
        log, items = listening(users=6)
        log = log.with_columns(
            pl.when(pl.col("user_id").is_in(["u0", "u1", "u2"]))
            .then(pl.lit("i3"))
            .otherwise("item_id")
            .alias("item_id")
        )
        setup = setup_of(tmp_path, epochs=12, batch_size=1, split={"test": 0, "validation": 0})
        report = environment_of(Dataset.from_frame(log, items), setup).run_sim()
        masked = [step.masked for step in report.steps]
        assert 1.0 in masked
        assert min(masked) < 0.2
        assert "NaN" not in setup.log_path.read_text()

    @pytest.mark.parametrize(
        "changes",
        [
            {"window": None},
            {"split": "leave_last_out"},
            {"split": "time"},
            {"relax": 2.0},
            {"layers": 2, "dropout": 0.2},
            {"selection": "critic"},
            {"algorithm": {"random_items": 0}},
            {"reward": {"spread": {"form": "change", "pairs": "consecutive", "repeat_factor": 0.5}}},
            {"batch_size": 500},
            {"split": {"test": 0, "validation": 0}},
        ],
        ids=str,
    )
    def test_every_setting_trains_and_infers(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        setup = setup_of(tmp_path, epochs=64, **changes)
        report = environment_of(dataset, setup).run_sim()
        assert all(math.isfinite(loss) for step in report.steps for loss in step.losses.values())
        found = environment_of(dataset, setup.model_copy(update={"train": False})).run_sim()
        assert len(found.recommendations[0].items) == 10

    def test_a_log_without_times_and_rewards_trains_and_infers(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log, items = listening()
        bare = Dataset.from_frame(log.select("user_id", "item_id"), items)
        setup = setup_of(tmp_path, epochs=64)
        environment_of(bare, setup).run_sim()
        report = environment_of(bare, setup.model_copy(update={"train": False})).run_sim()
        assert len(report.recommendations[0].items) == 10

    def test_a_catalogue_smaller_than_the_window_is_validated_on_nothing(
        self, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        small = Dataset.from_frame(*listening(items=4))
        report = environment_of(small, setup_of(tmp_path, epochs=32)).run_sim()
        json.dumps(report.as_json(), allow_nan=False)

    @pytest.mark.medium
    def test_rewards_that_are_all_alike_are_left_out_of_its_report(self, setup_of: SetupOf, tmp_path: Path) -> None:
        log, items = listening()
        bare = Dataset.from_frame(log.select("user_id", "item_id"), items)
        same, differ = (
            environment_of(data, setup_of(tmp_path / name, epochs=64, algorithm="next_item")).run_sim()
            for data, name in ((bare, "bare"), (Dataset.from_frame(log, items), "rewards"))
        )
        assert "last tenth" not in str(same.__rich__())
        assert "last tenth of training: reward +" in str(differ.__rich__())


def interrupt_after(histories: int) -> Callable[..., Any]:
    """Ctrl-C while the step is under way that reaches so many histories."""

    def propagate(original: Any, agent: Agent, *args: Any) -> Any:
        step = original(agent, *args)
        if agent.histories == histories:
            signal.raise_signal(signal.SIGINT)
        return step

    return propagate


class TestResume:
    @pytest.mark.medium
    @pytest.mark.parametrize("changes", [{}, {"dropout": 0.3, "layers": 2}], ids=["plain", "dropout"])
    def test_an_interrupted_run_goes_on_bit_for_bit(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        straight = setup_of(tmp_path / "straight", epochs=512, **changes)
        halves = setup_of(tmp_path / "halves", epochs=512, **changes)
        whole = environment_of(dataset, straight).run_sim()

        before = signal.getsignal(signal.SIGINT)
        environment = environment_of(dataset, halves)
        with changed("propagate", interrupt_after(256)):
            first = environment.run_sim()
        assert (first.histories, first.stopped) == (256, True)
        assert first.as_json()["stopped"] is True
        assert signal.getsignal(signal.SIGINT) is before
        assert Agent(halves, environment.state.space).ready_agent().histories == 256

        second = environment_of(dataset, halves, resume=True).run_sim()
        assert (second.histories, second.stopped) == (512, False)
        assert first.steps + second.steps == whole.steps
        assert second.valid == whole.valid
        one, two = (
            outcome(replace(whole, steps=()), straight),
            outcome(replace(second, steps=()), halves),
        )
        assert one == two

    def test_a_second_interrupt_stops_at_once_and_leaves_the_last_save(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup = setup_of(tmp_path, epochs=512, save_every=64)

        def twice(original: Any, agent: Agent, *args: Any) -> Any:
            if agent.histories == 96:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            return original(agent, *args)

        environment = environment_of(dataset, setup)
        with changed("propagate", twice), pytest.raises(KeyboardInterrupt):
            environment.run_sim()
        assert Agent(setup, environment.state.space).ready_agent().histories == 64

    def test_an_interrupt_in_the_last_step_is_no_stop(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        environment = environment_of(dataset, setup_of(tmp_path, epochs=64))
        with changed("propagate", interrupt_after(64)):
            assert not environment.run_sim().stopped

    def test_a_finished_run_goes_on_to_more_epochs(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        environment_of(dataset, setup_of(tmp_path, epochs=64)).run_sim()
        report = environment_of(dataset, setup_of(tmp_path, epochs=96), resume=True).run_sim()
        assert (report.histories, len(report.steps)) == (96, 1)

    def test_lines_of_the_log_after_the_save_are_dropped_also_a_broken_one(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup = setup_of(tmp_path, epochs=64)
        environment_of(dataset, setup).run_sim()
        with setup.log_path.open("a") as log:
            log.write('{"histories": 96, "reward": 0.1}\n{"histories": 1')
        environment_of(dataset, setup_of(tmp_path, epochs=96), resume=True).run_sim()
        lines = setup.log_path.read_text().splitlines()
        assert [json.loads(line)["histories"] for line in lines] == [32, 64, 96]

    def test_other_settings_are_refused(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        environment_of(dataset, setup_of(tmp_path, epochs=32)).run_sim()
        with pytest.raises(ModelError, match=r"with batch_size=32 .* has batch_size=16 learning_rate=0\.1 "):
            environment_of(dataset, setup_of(tmp_path, batch_size=16, learning_rate=0.1), resume=True).run_sim()

    @pytest.mark.medium
    def test_all_that_differs_is_told_as_a_command_takes_it_and_a_world_that_is_not_there_is_none(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        run = {"algorithm": "next_item", "window": None, "passes": 1, "batch_size": 15, "patience": None}
        loss = {"name": "sampled_softmax", "negatives": 7}
        environment_of(dataset, setup_of(tmp_path, loss=loss, world={"users": 1024}, **run)).run_sim()
        with pytest.raises(ModelError, match=r"with loss=sampled_softmax loss\.negatives=7, and the setup "):
            environment_of(dataset, setup_of(tmp_path, **run), resume=True).run_sim()
        run |= {"loss": loss, "passes": 2}
        assert environment_of(dataset, setup_of(tmp_path, **run), resume=True).run_sim().steps

    @pytest.mark.parametrize("changed", ["rewards", "timestamps"])
    def test_a_log_that_has_changed_is_refused_and_may_be_started_from(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, changed: str
    ) -> None:
        setup = setup_of(tmp_path, epochs=32)
        environment_of(dataset, setup).run_sim()
        other = replace(dataset, **{changed: getattr(dataset, changed) + 1})
        with pytest.raises(ModelError, match=r"listening\.parquet has changed since it was saved .*--from"):
            environment_of(other, setup_of(tmp_path, epochs=64), resume=True).run_sim()
        assert environment_of(other, setup, origin=setup.model_agent_path).run_sim().histories == 32

    def test_nothing_to_resume_is_told(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        told = pytest.raises(ModelError, match=r"no such model file, .* leave --resume out")
        with told:
            environment_of(dataset, setup_of(tmp_path), resume=True).run_sim()
        with told:
            Environment.from_setup(setup_of(tmp_path), resume=True)


class TestFailures:
    def test_a_weight_that_becomes_nan_stops_the_run_and_the_last_good_model_stays(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        def spoil(original: Any, agent: Agent, *args: Any) -> Any:
            if agent.histories == 128:
                with torch.no_grad():
                    next(agent.nets["critic"].parameters()).fill_(torch.nan)
            return original(agent, *args)

        setup = setup_of(tmp_path, save_every=64)
        environment = environment_of(dataset, setup)
        with changed("propagate", spoil), pytest.raises(TrainingError, match="after 128 histories: the loss"):
            environment.run_sim()
        agent = Agent(setup, environment.state.space).ready_agent()
        assert agent.histories == 128
        assert all(weight.isfinite().all() for net in agent.nets.values() for weight in net.parameters())

    def test_a_second_training_of_one_model_is_refused(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup, lock = setup_of(tmp_path, epochs=64), tmp_path / ".agent.safetensors.lock"
        lock.touch()  # as a killed one leaves it

        def second(_: object) -> None:
            with pytest.raises(SaveError, match=r"agent\.safetensors: another training writes it; wait for its end"):
                environment_of(dataset, setup, force=True).run_sim()

        assert environment_of(dataset, setup, on_step=second).run_sim().histories == 64
        assert not lock.exists()
        with pytest.raises(ZeroDivisionError):
            environment_of(dataset, setup, force=True, on_step=lambda _: 1 / 0).run_sim()
        assert not lock.exists()

    def test_where_nothing_can_be_locked_training_goes_on(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unable(_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(FileLock, "acquire", unable)
        with pytest.warns(UserWarning, match=r"lock: cannot be locked .*No locks"):
            assert environment_of(dataset, setup_of(tmp_path, epochs=32)).run_sim().histories == 32

    def test_a_log_that_cannot_be_written_is_told(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        log.symlink_to("/dev/full")
        with pytest.raises(SaveError, match=r"log\.jsonl.*No space left.* last save.* --resume"):
            environment_of(dataset, setup_of(tmp_path, log=log)).run_sim()

    def test_an_unknown_user_is_told(self, dataset: Dataset, trained: Trained) -> None:
        setup = trained.setup.model_copy(update={"train": False, "user": ("nobody",)})
        with pytest.raises(CatalogueError, match="user 'nobody' is not among the 60 users"):
            environment_of(dataset, setup).run_sim()


class TestInference:
    def test_users_of_the_setup_are_recommended_to(self, dataset: Dataset, trained: Trained) -> None:
        setup = trained.setup.model_copy(update={"train": False, "user": ("u3", "u44"), "slots": 4})
        report = environment_of(dataset, setup).run_sim()
        assert [found.user for found in report.recommendations] == ["u3", "u44"]
        assert [len(found.items) for found in report.recommendations] == [4, 4]

    def test_from_setup_reads_data_and_setup(self, log_file: Path, trained: Trained, tmp_path: Path) -> None:
        text = (
            f"train, no\ndata, {log_file}\nmodel_agent_path, {trained.setup.model_agent_path}\n"
            f"model_critic_path, {trained.setup.model_critic_path}\nuser, u5\n"
        )
        path = tmp_path / "setup.txt"
        path.write_text(text)
        assert Environment.from_setup(path).run_sim().recommendations[0].user == "u5"
