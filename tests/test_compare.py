"""Several setups on the same users: who is judged on what, what is trained, and what the ablations take away."""

import json
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Agent, Dataset, Environment, Setup, State
from what_next.cli import main
from what_next.errors import ModelError, SetupError
from what_next.experiments import evaluate_next
from what_next.experiments.compare import ONE_SEED, ShuffledSource, _entrants, compare
from what_next.experiments.models import is_trained, of_seed, trained
from what_next.policy import LearnedPolicy
from what_next.settings import Evaluation, SplitSettings
from what_next.sources import LogSource
from what_next.training.artefacts import read_models, remove_models

from .conftest import SetupOf, listening


@pytest.fixture
def made(setup_of: SetupOf, tmp_path: Path):
    """`made(name, algorithm)`: a setup with a folder of its own."""

    def make(name: str, algorithm: str = "next_item", **changes) -> Setup:
        return setup_of(tmp_path / name, **{"algorithm": algorithm, "passes": 1, "split": "leave_last_out", **changes})

    return make


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """The folders and seeds that are trained, in order."""
    found: list[tuple[str, int]] = []
    train = Environment.train_agent

    def counted(self: Environment):
        found.append((self.setup.model_agent_path.parent.name, self.setup.seed))
        return train(self)

    monkeypatch.setattr(Environment, "train_agent", counted)
    return found


@pytest.mark.medium
def test_each_training_says_whose_it_is(made, capsys: pytest.CaptureFixture[str]) -> None:
    setups = {"a": made("a"), "b": made("b")}
    compare(setups, seeds=[3, 4], baselines=())
    told = [line for line in capsys.readouterr().err.splitlines() if "(seed" in line]
    paths = [setups[name].model_agent_path.parent / f"seed-{seed}" for name in "ab" for seed in (3, 4)]
    assert told == [f"training {path}/agent.safetensors (seed {path.name[-1]})" for path in paths]
    compare(setups, seeds=[3, 4], baselines=())
    assert "(seed" not in capsys.readouterr().err  # they are there


@pytest.mark.medium
def test_a_setup_and_its_double_do_not_differ_for_any_user(made) -> None:
    result = compare({"a": made("a"), "b": made("b")}, seeds=[0, 1]).result
    assert list(result["policies"])[:4] == ["a", "b", "random", "popular"]
    found = result["differences"]["b - a"]
    assert {(one["mean"], one["low"], one["high"]) for one in found.values()} == {(0, 0, 0)}
    assert {one["n"] for name, one in found.items() if not name.startswith("spread")} == {60}


class TestInterrupted:
    """A training that Ctrl-C ended amid its steps, when its model is asked for again."""

    @pytest.fixture
    def counted(self, monkeypatch: pytest.MonkeyPatch):
        """`counted(setup, state, source, stop)`: train, and press Ctrl-C amid a step; how many steps were taken."""
        cycle = Environment._cycle

        def count(setup: Setup, state: State, source: type[LogSource] | None = None, stop: int = 0) -> int:
            steps: list[int] = []

            def step(environment: Environment):
                steps.append(environment.agent.steps)
                if len(steps) == stop:
                    signal.raise_signal(signal.SIGINT)
                return cycle(environment)

            with monkeypatch.context() as patched:
                patched.setattr(Environment, "_cycle", step)
                with pytest.raises(KeyboardInterrupt) if stop else nullcontext():
                    trained(setup, state, source)
            return len(steps)

        return count

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("source", "ensemble", "stop"), [(None, 1, 3), (ShuffledSource, 1, 3), (None, 2, 3), (None, 2, 11)]
    )
    def test_goes_on_and_comes_to_the_same_end(self, made, counted, source, ensemble: int, stop: int) -> None:
        whole, parts = (made(name, ensemble=ensemble, algorithm="sqn", passes=4) for name in ("whole", "parts"))
        state = State.from_setup(whole)
        all_steps = counted(whole, state, source)
        assert counted(parts, State.from_setup(parts), source, stop) == stop < all_steps
        assert all_steps - stop <= counted(parts, State.from_setup(parts), source) < all_steps  # from the last save on
        ours, theirs = (read_models(*one.model_paths).tensors for one in (parts, whole))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

    @pytest.mark.medium
    def test_begins_anew_where_settings_or_data_have_changed(self, made, counted, dataset: Dataset) -> None:
        setup = made("a", algorithm="sqn", passes=4)
        state = State.from_setup(setup)
        longer = setup.model_copy(update={"passes": 8})
        log, items = listening()
        others = State(Dataset.from_frame(log.with_columns(reward=6 - pl.col("reward")), items), setup)
        for one, learned in ((longer, State.from_setup(longer)), (setup, others)):
            counted(setup, state, stop=3)
            assert counted(one, learned) == 8 * one.passes // 4
            remove_models(setup)


@pytest.mark.medium
def test_a_difference_is_that_of_the_means_over_the_same_users(made) -> None:
    result = compare({"a": made("a"), "b": made("b", "whatnext", epochs=64, passes=None)}, "validation").result
    for metric, found in result["differences"]["b - a"].items():
        a, b = (result["policies"][name][metric] for name in "ab")
        assert found["mean"] == pytest.approx(b["mean"] - a["mean"])
        assert found["low"] < found["mean"] < found["high"]
    assert result["split"]["part"] == "validation"


@pytest.mark.medium
def test_of_one_training_each_nothing_is_known_of_other_seeds(made) -> None:
    setups = {"a": made("a"), "b": made("b")}
    assert [ONE_SEED in compare(setups, seeds=seeds, baselines=()).notes for seeds in ([3], [3, 4])] == [True, False]


@pytest.mark.medium
def test_what_is_missing_is_trained_once_and_its_seconds_are_told(made, trainings) -> None:
    setups = {"a": made("a"), "b": made("b", "iql")}
    results = [compare(setups, seeds=[3, 4]).result for _ in range(2)]
    assert trainings == [("seed-3", 3), ("seed-4", 4)] * 2  # of a, then of b; the second time, of none
    assert results[0] == results[1]
    assert results[0]["training"]["b"]["algorithm"] == "iql"
    assert all(0 < seconds < 60 for seconds in results[0]["training"]["a"]["seconds"])


@pytest.mark.medium
def test_a_model_of_a_seed_is_the_one_that_training_with_that_seed_gives(made) -> None:
    setup = made("a")
    beside = compare({"a": setup, "b": made("b")}, seeds=[5]).result["policies"]["a"]
    alone = setup.model_copy(update={"seed": 5})
    Environment.from_setup(alone).run_sim()
    assert evaluate_next(alone).result["policies"]["agent"] == beside


@pytest.mark.medium
def test_a_model_of_the_users_own_is_used_and_not_overwritten(made, trainings) -> None:
    setup = made("a")
    Environment.from_setup(setup).run_sim()
    compare({"a": setup, "b": made("b")})
    assert trainings == [("a", 0), ("b", 0)]
    for changes in ({"dim": 8}, {"passes": 2}):
        (name,) = changes
        told = rf"was made by other settings than its setup has now \({name}={getattr(setup, name)}\)"
        with pytest.raises(ModelError, match=told):
            compare({"a": setup.model_copy(update=changes), "b": made("b")})
    assert trainings == [("a", 0), ("b", 0)]


def test_a_limit_of_time_counts_as_the_end_of_training(made) -> None:
    setup = made("a", passes=10**6, seconds=0.3)
    state = State.from_setup(setup)
    assert not is_trained(setup, state)
    Environment.from_setup(setup).run_sim()
    assert is_trained(setup, state)
    assert not is_trained(setup.model_copy(update={"seconds": 0.6}), state)


def test_setups_that_are_judged_on_other_targets_are_refused(made, trainings) -> None:
    other = made("b").model_copy(update={"split": SplitSettings()})
    with pytest.raises(SetupError, match=r"b cannot be compared with a: it is judged on other targets .* `split`"):
        compare({"a": made("a"), "b": other})
    with pytest.raises(SetupError, match=r"a and b both save to .*agent.safetensors"):
        compare({"a": made("same"), "b": made("same", "iql")})
    assert trainings == []


def test_a_setup_that_is_named_like_a_baseline_is_refused(made) -> None:
    with pytest.raises(SetupError, match="'popular' is the name of a baseline"):
        compare({"popular": made("a"), "b": made("b")})


def test_setups_that_are_judged_otherwise_are_refused(made) -> None:
    other = made("b").model_copy(update={"evaluation": Evaluation(k=(5,))})
    with pytest.raises(SetupError, match="their settings of `evaluation`"):
        compare({"a": made("a"), "b": other})


class TestAblations:
    @pytest.mark.medium
    def test_the_critic_is_taken_away_and_rewards_are_shuffled(self, made, trainings) -> None:
        result = compare({"a": made("a", "iql")}, seeds=[0], ablations=True).result
        assert list(result["policies"])[:4] == ["a", "a, critic off", "a, rewards shuffled", "random"]
        assert list(result["differences"]) == ["a, critic off - a", "a, rewards shuffled - a"]
        assert [one["algorithm"] for one in result["training"].values()] == ["iql", "next_item", "iql"]
        plain = compare({"plain": made("plain"), "other": made("a", "iql")}, seeds=[0]).result["policies"]["plain"]
        assert result["policies"]["a, critic off"] == plain
        assert result["policies"]["a, rewards shuffled"] != result["policies"]["a"]

    def test_who_learns_from_shuffled_rewards_is_not_chosen_by_the_true_ones(self, made) -> None:
        entrants = dict(_entrants({"a": made("a", "iql")}, ablations=True))
        assert [one.state.monitored for one in entrants.values()] == ["dcg@10", "ndcg@10", "ndcg@10"]

    @pytest.mark.medium
    def test_each_is_beside_its_own_setup(self, made) -> None:
        result = compare({"a": made("a"), "b": made("b", "iql")}, seeds=[0], ablations=True).result
        assert list(result["differences"]) == ["b - a", "b, critic off - b", "b, rewards shuffled - b"]

    def test_there_are_none_where_nothing_is_earned_from_the_log(self, made) -> None:
        setups = {"a": made("a"), "b": made("b", "whatnext", epochs=32, passes=None)}
        found = compare(setups, ablations=True)
        assert list(found.result["training"]) == ["a", "b"]
        assert any(note.startswith("without ablations: a and b, where no critic") for note in found.notes)

    @pytest.mark.medium
    def test_equal_rewards_are_not_shuffled(self, made, dataset: Dataset, monkeypatch) -> None:
        equal = replace(dataset, rewards=np.ones(dataset.events, np.float32))
        monkeypatch.setattr(Dataset, "read", lambda path: equal)
        found = compare({"a": made("a", "iql")}, ablations=True)
        assert list(found.result["training"]) == ["a", "a, critic off"]
        assert not any("without ablations" in note for note in found.notes)


class TestShuffledRewards:
    @pytest.fixture
    def sources(self, made, dataset: Dataset) -> tuple[LogSource, ShuffledSource]:
        state = State(dataset, made("a", "iql", max_length=7))  # histories of 38 known events are cut into windows
        return LogSource(state), ShuffledSource(state)

    def test_the_same_rewards_are_earned_by_others(self, sources) -> None:
        true, shuffled = sources
        state = true.state
        places, values = shuffled.own
        assert len(places) == len(set(places.tolist())) == sum(state.split.known) - len(state.train_users)
        assert np.array_equal(values, state.dataset.rewards[places])
        moved = shuffled.shuffled[places]
        assert np.array_equal(np.sort(moved), np.sort(values))
        assert abs(np.corrcoef(moved, values)[0, 1]) < 0.1

    def test_an_event_earns_the_same_in_every_pass_and_nothing_else_changes(self, sources) -> None:
        true, shuffled = sources
        policy, rng = LearnedPolicy(Agent(true.setup, true.state.space), true.state), np.random.default_rng(0)
        for step in range(2 * len(true.batches)):
            history = true.windows(true.batches.batch(step))
            one, other = (source.next_batch(policy, rng) for source in sources)
            assert np.array_equal(one.items, other.items)
            assert np.array_equal(one.factors.actor, other.factors.actor)
            for row, (user, start, length) in enumerate(
                zip(history.users, history.before, history.lengths, strict=True)
            ):
                events = true.state.dataset.offsets[user] + start + np.arange(1, length)
                assert np.array_equal(other.rewards[row, : length - 1], shuffled.shuffled[events])
                assert not other.rewards[row, length - 1 :].any()

    def test_the_order_is_the_seeds(self, sources, dataset: Dataset) -> None:
        _, shuffled = sources
        again = ShuffledSource(State(dataset, shuffled.setup))
        other = ShuffledSource(State(dataset, of_seed(shuffled.setup, 1)))
        assert np.array_equal(again.shuffled, shuffled.shuffled)
        assert not np.array_equal(other.shuffled, shuffled.shuffled)


class TestCommand:
    @pytest.fixture
    def files(self, log_file: Path, tmp_path: Path) -> list[str]:
        names = []
        for name in ("one", "another"):
            text = f"""train, yes, model, lstm, data, "{log_file}", algorithm, next_item, passes, 1, dim, 8, threads, 1,
                model_agent_path, {name}/agent.safetensors"""
            (tmp_path / f"{name}.txt").write_text(text)
            names.append(str(tmp_path / f"{name}.txt"))
        return names

    def run(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
        monkeypatch.setattr("sys.argv", ["what-next", *words])
        return main()

    @pytest.mark.medium
    def test_it_prints_json_under_the_names_of_the_files(self, files, monkeypatch, capsys) -> None:
        assert self.run(monkeypatch, "compare", *files, "dim=4", "--seeds", "1", "--json") == 0
        result = json.loads(capsys.readouterr().out)
        assert list(result["differences"]) == ["another - one"]
        assert result["seeds"] == [1]
        assert Setup.read(files[0]).model_agent_path.with_name("seed-1").joinpath("agent.safetensors").exists()

    @pytest.mark.medium
    def test_it_prints_a_table_with_differences_and_seconds(self, files, monkeypatch, capsys) -> None:
        monkeypatch.setenv("COLUMNS", "200")
        assert self.run(monkeypatch, "compare", *files) == 0
        text = capsys.readouterr().out
        for shown in ("another \N{MINUS SIGN} one", "training", "popular", "next items of 60 users", "reward@1"):
            assert shown in text

    @pytest.mark.medium
    @pytest.mark.parametrize("command", ["compare", "evaluate"])
    def test_the_result_is_shown_though_the_page_cannot_be_written(
        self, files, command: str, monkeypatch, tmp_path, capsys
    ) -> None:
        page = tmp_path / "page.html"
        monkeypatch.setattr("what_next.reporting._page", lambda: lambda *_: page.mkdir() or "")
        words = files if command == "compare" else files[:1]
        assert self.run(monkeypatch, command, *words, "--seeds", "0", "--report", str(page), "--json") == 2
        out, err = capsys.readouterr()
        assert json.loads(out)["seeds"] == [0]
        assert "page.html: cannot be written (it is a folder)" in err

    @pytest.mark.parametrize("count", [0, 1])
    def test_one_setup_alone_is_no_comparison(self, files, count: int, monkeypatch, capsys) -> None:
        words = files[:count] or ["dim=4"]
        assert self.run(monkeypatch, "compare", *words) == 2
        assert "two setup files or more" in capsys.readouterr().err
