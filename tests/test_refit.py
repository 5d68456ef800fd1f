"""`refit`: a second training on more events, by what validation found in the first one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import pytest
import torch

import what_next as wn
from tests.conftest import SetupOf
from what_next import Agent, Dataset, Environment, LearnedPolicy, Setup, State
from what_next.algorithms import NextItem, Reinforce
from what_next.errors import ModelError, SetupError
from what_next.experiments import evaluate_next
from what_next.experiments.baselines import Search
from what_next.experiments.compare import compare
from what_next.experiments.models import is_trained
from what_next.experiments.tuning import tune
from what_next.settings.plugins import GIVEN
from what_next.sources import LogSource, Mixture, Source
from what_next.training.artefacts import read_manifest, read_models
from what_next.training.refit import Recipe, due, first_share, lacking, recipes_in, refit_on
from what_next.training.step import SLOWEST, Step
from what_next.types import Batch, History

ITEMS = 12
"""Of which each user takes the next one, over and over; one more is what comes at the end alone."""


def circles(users: int = 60, length: int = 7, few: bool = False) -> Dataset:
    """Everybody goes round the items from a place of their own; before the last event stands item `v`, then `w`.

    `few`: of every second user alone.
    """
    rows = [
        (
            f"u{user}",
            "vw"[step - length + 2] if step >= length - 2 and not (few and user % 2) else f"i{(user + step) % ITEMS}",
            step * 1.0,
        )
        for user in range(users)
        for step in range(length)
    ]
    return Dataset.from_frame(pl.DataFrame(rows, ["user_id", "item_id", "timestamp"], orient="row"), name="circles")


@pytest.fixture(scope="module")
def log() -> Dataset:
    return circles()


def a_setup(setup_of: SetupOf, folder: Path, **changes: Any) -> Setup:
    values = {"algorithm": "next_item", "epochs": 1, "passes": 5, "patience": 1, "dim": 16, "window": None,
              "batch_size": 10, "split": "leave_last_out", "learning_rate": 0.02, "refit": "validation"}  # fmt: skip
    return setup_of(folder, **(values | changes))


def environment(setup: Setup, dataset: Dataset, **more: Any) -> Environment:
    state = State(dataset, setup)
    return Environment(Agent(setup, state.space), state, setup, quiet=True, **more)


def best_after(setup: Setup, dataset: Dataset, *items: str, k: int = 1) -> list[str]:
    policy = LearnedPolicy.load(setup.model_copy(update={"train": False}), dataset)
    history, _ = policy.state.history_of(list(items))
    states = policy.states(history)
    assert states.ranked is not None
    scores = states.points @ states.ranked.vectors.numpy().T
    return [str(dataset.catalogue.ids[int(place)]) for place in (-scores[0]).argsort()[:k]]


def weights_of(setup: Setup) -> dict[str, torch.Tensor]:
    return dict(read_models(setup.model_agent_path).tensors)


def test_learning_rates_by_hand() -> None:
    """Three saves after 10, 20 and 40 histories; the rate was halved after the second."""
    recipe = Recipe.of([(10, 0.1, 0), (20, 0.2, 0), (40, 0.4, 1)], users=20)
    assert recipe.passes == 2
    assert recipe.rate(0.0) == (0, 0.0)
    assert recipe.rate(0.125) == (0, pytest.approx(0.05))
    assert recipe.rate(0.49) == (0, pytest.approx(0.196))
    assert recipe.rate(0.5) == (1, pytest.approx(0.2)), "the step after the save"
    assert recipe.rate(0.75) == (1, pytest.approx(0.3))
    assert recipe.rate(1.0) == recipe.rate(2.0) == (1, pytest.approx(0.4))


@pytest.mark.parametrize("kind", ["users", "leave_last_out", "time"])
def test_what_training_may_know_besides(setup_of: SetupOf, tmp_path: Path, log: Dataset, kind: str) -> None:
    """The events of validation, or all; the test stays as it is, or has nothing left."""
    state = State(log, a_setup(setup_of, tmp_path, split=kind))
    split, more = state.split, State(log, state.setup, more="validation")
    held = np.zeros(log.users, np.int64)
    held[split.validation] = (split.until - split.known)[split.validation]
    assert held.sum() > 0
    np.testing.assert_array_equal(more.split.known, split.known + held)
    np.testing.assert_array_equal(more.split.test, split.test)
    np.testing.assert_array_equal(more.split.targets("test")[0], split.targets("test")[0])
    assert more.chosen_by.hash == split.hash != more.split.hash
    assert not len(more.split.validation)
    every = State(log, state.setup, more="all").split
    np.testing.assert_array_equal(every.known, log.lengths)
    assert not len(every.validation) + len(every.test)


@pytest.mark.medium
def test_it_learns_what_only_validation_and_the_test_hold(setup_of: SetupOf, tmp_path: Path, log: Dataset) -> None:
    """`v` stands in validation events alone, `w` in those of the test."""
    found: dict[str, Setup] = {}
    for refit in ("no", "validation", "all"):
        found[refit] = a_setup(setup_of, tmp_path / refit, refit=refit, passes=12)
        report = environment(found[refit], log).train_agent()
        assert report.refit == (None if refit == "no" else refit)
        assert not list((tmp_path / refit).glob("*.refitting*"))
    counts = {name: read_manifest(one.model_agent_path).metrics.get("refit") for name, one in found.items()}
    assert counts == {
        "no": None,
        "validation": {"on": "validation", "events": log.events - log.users},
        "all": {"on": "all", "events": log.events},
    }
    assert best_after(found["all"], log, "i3", "i4", "v") == ["w"]
    assert best_after(found["validation"], log, "i3", "i4", "v") != ["w"]
    whole = "i0", "i1", "i2", "i3", "i4"
    assert "v" in best_after(found["validation"], log, *whole, k=2)
    assert "v" not in best_after(found["no"], log, *whole, k=2)


def test_it_follows_the_first_one(
    setup_of: SetupOf, tmp_path: Path, log: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many passes as up to the best model, at the learning rates of then."""
    rates: list[tuple[str, int, float]] = []
    setup = a_setup(setup_of, tmp_path, passes=30)

    def noted(agent: Agent, *given: Any, propagate: Any = Agent.propagate) -> Step:
        at = agent.histories
        step: Step = propagate(agent, *given)
        rates.append((agent.setup.refit, at, agent.optimisers["encoder"].param_groups[0]["lr"]))
        return step

    monkeypatch.setattr(Agent, "propagate", noted)
    environment(setup, log).train_agent()
    manifest = read_manifest(setup.model_agent_path)
    (recipe,) = recipes_in(manifest)
    assert recipe.converged
    assert recipe.passes == manifest.histories / log.users
    first = {at: rate for refit, at, rate in rates if refit != "no" and at < manifest.histories}
    second = {at: rate for refit, at, rate in rates if refit == "no"}
    assert second.keys() == first.keys()
    for at, rate in first.items():
        assert second[at] == pytest.approx(rate, rel=1e-6)
    assert min(first.values()) > SLOWEST * 0.02


def test_counts_weigh_as_validation_chose_and_are_made_anew(setup_of: SetupOf, tmp_path: Path) -> None:
    log = circles(few=True)
    setup = a_setup(setup_of, tmp_path, passes=1, learning_rate=1e-4, dim=2)  # two numbers say too little
    environment(setup, log).train_agent()
    manifest, weights = read_manifest(setup.model_agent_path), weights_of(setup)
    weighed = manifest.metrics["weighed"]["numbers"]
    assert weighed["weight"] > 0
    for name, value in weighed.items():
        assert float(weights[f"encoder.ridge.{name}"]) == pytest.approx(value)
    v = int(log.catalogue.index(["v"])[0])
    assert weights["encoder.ridge.directions"][v].abs().max() > 0, "validation events alone hold it"


@pytest.mark.medium
def test_a_run_that_is_interrupted_comes_to_the_same_end(setup_of: SetupOf, tmp_path: Path, log: Dataset) -> None:
    whole, apart = (a_setup(setup_of, tmp_path / name) for name in ("whole", "apart"))
    environment(whole, log).train_agent()
    steps = 0

    def stop(_: Step) -> bool:
        nonlocal steps
        steps += apart.second.model_agent_path.is_file()  # the second training has saved once
        return steps == 2

    report = environment(apart, log, on_step=stop).train_agent()
    assert report.stopped
    assert report.interrupted
    assert not is_trained(apart, State(log, apart))
    assert refit_on(read_manifest(apart.model_agent_path)) is None
    resumed = environment(apart, log, resume=True).train_agent()
    assert not resumed.stopped
    assert resumed.refit == "validation"
    assert is_trained(apart, State(log, apart))
    for name, value in weights_of(whole).items():
        torch.testing.assert_close(weights_of(apart)[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("ensemble", [1, 2])
def test_a_new_run_takes_nothing_of_an_interrupted_one(
    setup_of: SetupOf, tmp_path: Path, log: Dataset, ensemble: int
) -> None:
    """What a second training of another run left is not what a resumed one goes on with."""
    setup = a_setup(setup_of, tmp_path, passes=1, ensemble=ensemble)
    parts = [setup.second, *(setup.second.members if ensemble > 1 else ())]
    left = [path for one in parts for path in one.model_paths]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"of another run")
    environment(setup, log, on_step=lambda _: True).train_agent()
    assert not any(path.exists() for path in left)


@pytest.mark.medium
def test_a_finished_run_is_trained_a_second_time_alone(setup_of: SetupOf, tmp_path: Path, log: Dataset) -> None:
    setup = a_setup(setup_of, tmp_path, refit="no")
    first = environment(setup, log).train_agent()
    every = setup.model_copy(update={"refit": "all"})
    assert not is_trained(every, State(log, every))
    report = environment(every, log, resume=True).train_agent()
    assert (report.refit, report.valid, report.steps) == ("all", first.valid, ())
    idle = environment(every, log, resume=True).train_agent()
    assert idle.idle
    assert idle.refit == "all"
    assert not is_trained(setup, State(log, setup))
    for changed in (setup, every.model_copy(update={"passes": 50})):
        with pytest.raises(ModelError, match=r"was trained a second time \(refit\)"):
            environment(changed, log, resume=True).train_agent()


def test_what_an_earlier_version_trained_says_no_learning_rates(
    setup_of: SetupOf, tmp_path: Path, log: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = a_setup(setup_of, tmp_path, refit="no")
    environment(setup, log).train_agent()
    monkeypatch.setattr("what_next.training.refit.recipes_in", lambda _: [])
    with pytest.raises(ModelError, match="trained by an earlier version"):
        environment(setup.model_copy(update={"refit": "all"}), log, resume=True).train_agent()
    assert due(setup.model_copy(update={"refit": "auto"}), State(log, setup).split) is None


@pytest.mark.medium
def test_networks_of_an_ensemble_each_follow_their_own(setup_of: SetupOf, tmp_path: Path, log: Dataset) -> None:
    setup = a_setup(setup_of, tmp_path, ensemble=2, refit="all", passes=12)
    made = list[str]()
    on_save = lambda _: made.extend(one.name for one in tmp_path.glob("*refitting*.safetensors"))  # noqa: E731
    report = environment(setup, log, on_save=on_save).train_agent()
    assert report.refit == "all"
    assert not made, "a network that had a second training of its own has seen what validation judges by"
    manifest = read_manifest(setup.model_agent_path)
    assert len(recipes_in(manifest)) == 2
    assert manifest.metrics["refit"]["events"] == log.events
    assert best_after(setup, log, "i3", "i4", "v") == ["w"]
    assert {one.name for one in tmp_path.iterdir() if one.suffix == ".safetensors"} == {
        "agent.safetensors", "agent.resume.safetensors", "critic.safetensors",
    }  # fmt: skip


class TestByDefault:
    """`auto`: where validation ended the training, its events are later, and they are more than a few."""

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, setup_of: SetupOf, log: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Setup:
        setup = a_setup(setup_of, tmp_path_factory.mktemp("auto"), refit="no", passes=40)
        environment(setup, log).train_agent()
        return setup.model_copy(update={"refit": "auto"})

    def test_it_is_due(self, ended: Setup, log: Dataset) -> None:
        assert recipes_in(read_manifest(ended.model_agent_path))[0].converged
        assert due(ended, State(log, ended).split) == "validation"

    def test_not_of_other_users(self, ended: Setup, log: Dataset) -> None:
        split = State(log, ended).split
        assert due(ended, replace(split, kind="users")) is None

    def test_not_of_few_events(self, ended: Setup, log: Dataset) -> None:
        split = State(log, ended).split
        assert due(ended, replace(split, known=split.known * 20, until=split.known * 20 + 1)) is None
        assert due(ended, replace(split, known=split.known * 3, until=split.known * 3 + 1)) == "validation"

    def test_it_says_nothing_where_it_is_due_or_not_wanted(self, ended: Setup, log: Dataset) -> None:
        split = State(log, ended).split
        assert not lacking(ended, split)
        assert not lacking(ended.model_copy(update={"refit": "no"}), split)

    def test_not_where_a_limit_ended_it(
        self, setup_of: SetupOf, tmp_path: Path, log: Dataset, capsys: pytest.CaptureFixture[str]
    ) -> None:
        setup = a_setup(setup_of, tmp_path, refit="auto", passes=1)
        state = State(log, setup)
        assert Environment(Agent(setup, state.space), state, setup).train_agent().refit is None
        told = " ".join(capsys.readouterr().err.split())
        assert "no second training, since the first one ended by passes, not by validation" in told
        assert "so the model knows nothing of the 60 events of validation, beside 300 that" in told
        assert "`refit, validation` trains a second time" in told

    def test_the_first_share_of_the_time_by_hand(self, log: Dataset, ended: Setup) -> None:
        """Of seven events, training knows five; a second training has six, so that both have eleven."""
        assert first_share(State(log, ended).split) == pytest.approx(5 / 11)

    @pytest.mark.medium
    @pytest.mark.parametrize("ensemble", [1, 2])
    def test_time_is_left_for_it(self, setup_of: SetupOf, tmp_path: Path, log: Dataset, ensemble: int) -> None:
        setup = a_setup(setup_of, tmp_path, passes=10_000, patience=None, seconds=4.0, ensemble=ensemble, refit="auto")
        report = environment(setup, log).train_agent()
        recipes = recipes_in(read_manifest(setup.model_agent_path))
        assert report.refit == "validation"
        assert not any(one.converged for one in recipes)
        first = read_manifest(setup.model_agent_path).metrics["seconds"]
        assert first < 3.0, "4 * 5 / 11 and the last validation; without a share for the second, 4"

    @pytest.mark.medium
    def test_it_happens(self, setup_of: SetupOf, tmp_path: Path, log: Dataset) -> None:
        setup = a_setup(setup_of, tmp_path, refit="auto", passes=40)
        assert environment(setup, log).train_agent().refit == "validation"
        assert is_trained(setup, State(log, setup))


class TestJudging:
    @pytest.fixture(scope="class")
    @classmethod
    def setups(cls, setup_of: SetupOf, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Setup]:
        """Models of the log in a file, by `refit`."""
        folder = tmp_path_factory.mktemp("judging")
        tables = circles().to_tables()
        wn.data.save(tables, folder / "log.parquet")
        made = {}
        for refit in ("no", "validation", "all"):
            made[refit] = a_setup(setup_of, folder / refit, refit=refit, data=folder / "log.parquet", passes=3)
            environment(made[refit], Dataset.read(folder / "log.parquet")).train_agent()
        return made

    def test_baselines_learn_from_what_the_model_had(self, setups: Mapping[str, Setup]) -> None:
        """Their settings are chosen as ever: all targets of the test are `w`, which neither has seen."""
        alone, refit = (evaluate_next(setups[name], baselines=["markov"]).result for name in ("no", "validation"))
        assert refit["split"]["hash"] == alone["split"]["hash"]
        assert refit["targets"]["hash"] == alone["targets"]["hash"]
        assert refit["baselines"] == alone["baselines"]
        assert (alone["split"]["refit"], refit["split"]["refit"]) == (None, "validation")
        assert refit["split"]["training_events"] == alone["split"]["training_events"] + 60

    def test_a_baseline_is_fitted_to_validation_events_only_after_the_choice(self, setups: Mapping[str, Setup]) -> None:
        state = State.from_setup(setups["validation"])
        first, again = Search(state), Search(State(state.dataset, state.setup, more="validation"))
        assert first.best("markov")[1] == again.best("markov")[1]
        one, other = first.best("markov")[0], again.best("markov")[0]
        v = int(state.dataset.catalogue.index(["v"])[0])
        history = state.histories(np.arange(1, dtype=np.int32), np.zeros(1, np.int64), np.array([5]))
        assert other.worth(history)[0, v] > one.worth(history)[0, v]
        assert first.best("markov")[1] == again.best("markov")[1], "after a fit to more events, too"

    def test_nobody_is_judged_by_what_it_knows(self, setups: Mapping[str, Setup]) -> None:
        with pytest.raises(ModelError, match=r"on the events of validation, too, so that it knows .* refit=no"):
            evaluate_next(setups["validation"], "validation", baselines=())
        for part in ("validation", "test"):
            with pytest.raises(ModelError, match=r"on every event of the log, so that it knows"):
                evaluate_next(setups["all"], part, baselines=())

    def test_a_comparison_says_who_learned_from_more(self, setups: Mapping[str, Setup]) -> None:
        both = {name: setups[name] for name in ("no", "validation")}
        found = compare(both, baselines=())
        assert any("validation and the baselines learned from the validation events" in note for note in found.notes)
        assert found.result["split"]["refit"] == "validation"


@pytest.mark.medium
def test_from_python(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        [(f"u{user}", f"i{(user + step) % ITEMS}", step) for user in range(40) for step in range(6)],
        ["user", "item", "time"],
        orient="row",
    )
    model = wn.fit(frame, folder=tmp_path, passes=2, dim=8, refit="all", verbose=False)
    assert model.training is not None
    assert model.training.refit == "all"
    assert "then trained on every event of the log" in repr(model)
    with pytest.raises(ModelError, match="every event of the log"):
        model.evaluate(verbose=False)
    assert len(wn.load(tmp_path).recommend(["i1", "i2"], k=3).items) == 3


def test_tuning_trains_once(setup_of: SetupOf, tmp_path: Path, log: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*_: object) -> None:
        raise AssertionError("a trial was trained a second time")

    monkeypatch.setattr(Environment, "_second", second)
    tuned = tune(
        a_setup(setup_of, tmp_path, passes=1), trials=1, seconds=60.0, state=State(log, a_setup(setup_of, tmp_path))
    )
    assert len(tuned.trials) == 1


class Rounds(Source):
    """Everybody goes round the items, whatever the log says."""

    def resume(self, histories: int, steps: int) -> None:
        pass

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        items = (rng.integers(ITEMS, size=(10, 1)) + np.arange(6)) % ITEMS
        history = History.of(list(items), [np.ones(6)] * 10)
        return Batch.following(history, policy.agent.factorize(history), history.rewards, 0.5)


class Rounding(NextItem):
    """From a registered source."""

    name: Literal["rounding"] = "rounding"  # type: ignore[assignment]
    source: ClassVar[str] = "rounds"


def test_a_registered_source_that_does_not_read_the_log_trains_once(
    setup_of: SetupOf, tmp_path: Path, log: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that it now knew the events of validation, of which it had read none, and so was its card."""
    monkeypatch.setitem(GIVEN, "what_next.sources", {"rounds": Rounds})
    report = environment(a_setup(setup_of, tmp_path, algorithm=Rounding()), log).train_agent()
    assert report.refit is None
    assert "second time" not in str(report)


def test_only_what_learns_from_the_log(setup_of: SetupOf, tmp_path: Path, log: Dataset) -> None:
    with pytest.raises(SetupError, match=r"refit is 'all', and an agent that acts in a world"):
        Setup(train=True, algorithm="ppo", world={"name": "boredom:SlateTopK-Bored-v0"}, refit="all",
              model_agent_path="a", model_critic_path="c")  # fmt: skip
    state = State(log, a_setup(setup_of, tmp_path, algorithm=Reinforce()))
    mixed = Mixture({LogSource(state): 1.0, LogSource(state): 1.0})
    assert environment(state.setup, log, source=mixed).train_agent().refit is None
