"""The search for settings: where it looks, that it goes on where it stopped, and that the test users stay unseen."""

import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from what_next import Dataset, Environment, Setup, State
from what_next.algorithms import NextItem
from what_next.cli import main
from what_next.errors import DataError, MissingExtraError, SaveError, SetupError, TrainingError
from what_next.experiments import study, tuning
from what_next.experiments.tuning import Tuned, _score, distribution, search_space, tune, with_settings
from what_next.metrics.next_items import Targets
from what_next.settings import SplitSettings
from what_next.sources import LogSource

from .conftest import SetupOf, listening

optuna = pytest.importorskip("optuna")
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

Score = Callable[[Setup], float | None]


class Searched(NextItem):
    """Declares where its own settings are sought."""

    name: Literal["searched"] = "searched"  # type: ignore[assignment]
    strength: float = 0.5
    candidates: int = 20
    kind: str = "soft"
    limit: float | None = None
    search: ClassVar = {
        "strength": (0.1, 10.0),
        "candidates": (2, 16),
        "kind": ("soft", "hard"),
        "limit": (1.0, 2.0),
        "discount": (0.0, 0.9),
    }


@pytest.fixture
def setup(setup_of: SetupOf, tmp_path: Path) -> Setup:
    given = {"algorithm": "next_item", "passes": 1, "split": "leave_last_out", "batch_size": 32, "dropout": 0.5}
    return setup_of(tmp_path / "models", **given)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[Score], list[Setup]]:
    """`scored(score)` puts a function of the trial's setup in place of training; returns the setups that it saw."""

    def put(score: Score) -> list[Setup]:
        seen: list[Setup] = []

        def stand_in(setup: Setup, *_: object) -> float | None:
            seen.append(setup)
            return score(setup)

        monkeypatch.setattr("what_next.experiments.tuning._score", stand_in)
        return seen

    return put


def by_rate(setup: Setup) -> float:
    """The best learning rate is 0.001, without dropout."""
    return -abs(np.log10(setup.learning_rate) + 3) - setup.dropout


class TestSpace:
    def test_every_algorithm_shares_four_settings(self, setup: Setup) -> None:
        space = search_space(setup)
        assert list(space) == ["learning_rate", "dropout", "weight_decay", "batch_size"]
        assert space["learning_rate"] == FloatDistribution(3e-4, 1e-2, log=True)
        assert space["dropout"] == FloatDistribution(0.0, 0.5)

    def test_the_setups_own_values_are_among_it(self, setup: Setup) -> None:
        assert "batch_size" not in search_space(setup.model_copy(update={"batch_size": None}))
        assert 2048 in search_space(setup.model_copy(update={"batch_size": None}))["batch_targets"].choices
        changed = setup.model_copy(update={"learning_rate": 0.05, "batch_size": 48, "weight_decay": 0.02})
        space = search_space(changed)
        assert space["learning_rate"] == FloatDistribution(3e-4, 0.05, log=True)
        assert space["batch_size"].choices == (8, 16, 32, 64, 128, 48)
        assert space["weight_decay"].choices[-1] == 0.02

    def test_batches_that_the_log_bounds_are_not_searched(self, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        """60 users with 38 known events each: 2,220 targets, 34 of them in the 64th part of a pass."""
        open_setup = setup.model_copy(update={"batch_size": None})
        state = State.from_setup(open_setup)
        assert "batch_targets" not in search_space(open_setup, state)
        assert "batch_targets" in search_space(open_setup.model_copy(update={"batch_targets": 34}), state)
        monkeypatch.setattr("what_next.experiments.tuning.source_of", lambda state: None)  # what was shown has others
        assert "batch_targets" in search_space(open_setup, state)

    def test_an_algorithm_adds_its_own(self, setup: Setup) -> None:
        space = search_space(setup.model_copy(update={"algorithm": Searched()}))
        assert space["algorithm.strength"] == FloatDistribution(0.1, 10.0, log=True)
        assert space["algorithm.candidates"] == IntDistribution(2, 20, log=True)
        assert space["algorithm.kind"].choices == ("soft", "hard")
        assert "algorithm.limit" not in space  # it is none now, which is no number of a range
        assert space["discount"] == FloatDistribution(0.0, 0.9)

    def test_pairs_of_whole_numbers_are_whole(self) -> None:
        assert distribution((2, 20), 3) == IntDistribution(2, 20, log=True)
        assert distribution((0.1, 0.5), 0.2) == FloatDistribution(0.1, 0.5)
        assert distribution((1, 2, 4), 4) == CategoricalDistribution((1, 2, 4))

    def test_settings_are_put_where_they_belong(self, setup: Setup) -> None:
        base = setup.model_copy(update={"algorithm": Searched()})
        found = with_settings(base, {"dropout": 0.3, "algorithm.kind": "hard"})
        assert (found.dropout, found.algorithm.kind, found.algorithm.strength) == (0.3, "hard", 0.5)
        assert base.algorithm.kind == "soft"


class TestSearch:
    def test_the_first_trial_is_the_setup_as_it_is(self, setup: Setup, scored) -> None:
        seen = scored(by_rate)
        found = tune(setup, 1)
        assert found.trials[0].settings == {
            "learning_rate": 0.002,
            "dropout": 0.5,
            "weight_decay": 0.1,
            "batch_size": 32,
        }
        assert with_settings(seen[0], found.trials[0].settings) == setup

    def test_a_dropout_that_is_left_to_the_log_is_searched_as_well(self, setup: Setup, scored) -> None:
        seen = scored(by_rate)
        open_setup = setup.model_copy(update={"dropout": None})
        assert tune(open_setup, 2).trials == tune(setup, 2).trials
        assert seen[0].dropout == 0.5
        assert seen[1].dropout != 0.5

    def test_the_best_is_kept_and_told_after_each_trial(self, setup: Setup, scored) -> None:
        scored(by_rate)
        told: list[tuple[int, float]] = []
        found = tune(setup, 12, tell=lambda trial, best: told.append((trial.number, best.score)))
        scores = [trial.score for trial in found.trials]
        assert told == [(number, max(scores[:number])) for number in range(1, 13)]
        assert found.best.score == max(scores) > scores[0]
        assert len({trial.settings["learning_rate"] for trial in found.trials}) == 12

    def test_it_looks_where_it_was_better(self, setup: Setup, scored) -> None:
        scored(by_rate)
        scores = [trial.score for trial in tune(setup, 24).trials]
        assert np.mean(scores[-10:]) > np.mean(scores[:10]) + 0.1

    def test_a_study_goes_on_as_if_it_had_not_stopped(self, setup: Setup, scored, tmp_path: Path) -> None:
        scored(by_rate)
        whole = tune(setup, 9, study=tmp_path / "whole.jsonl")
        parts = [tune(setup, count, study=tmp_path / "parts.jsonl") for count in (1, 4, 9, 9)]
        assert [len(one.trials) for one in parts] == [1, 4, 9, 9]
        assert settings_of(parts[-1]) == settings_of(whole)
        other = tune(setup.model_copy(update={"seed": 1}), 9, study=tmp_path / "other.jsonl")
        assert settings_of(other)[0] == settings_of(whole)[0]
        assert settings_of(other)[1:] != settings_of(whole)[1:]

    @pytest.mark.parametrize("at", [1, 3])
    def test_an_interrupt_keeps_what_was_judged_and_its_trial_is_tried_again(
        self, setup: Setup, scored, tmp_path: Path, at: int
    ) -> None:
        scored(by_rate)
        whole = tune(setup, 4, study=tmp_path / "whole.jsonl")
        calls = iter(range(1, 9))
        seen = scored(lambda one: None if next(calls) == at else by_rate(one))
        first = tune(setup, 4)
        assert (first.stopped, len(first.trials)) == (True, at - 1)
        again = tune(setup, 4)
        assert (again.stopped, settings_of(again)) == (False, settings_of(whole))
        assert seen[at - 1] == seen[at]

    def test_a_loss_that_is_no_number_is_the_worst_of_all_and_the_search_goes_on(self, setup: Setup, scored) -> None:
        calls = iter(range(9))

        def score(one: Setup) -> float:
            if next(calls) in (0, 2):
                raise TrainingError("the loss 'actor' is nan")
            return by_rate(one)

        scored(score)
        found = tune(setup, 5)
        assert [np.isfinite(trial.score) for trial in found.trials] == [False, True, False, True, True]
        assert np.isfinite(found.best.score)
        assert json.loads(json.dumps(found.as_json(), allow_nan=False))["trials"][0]["score"] is None

    def test_trials_of_other_settings_are_not_mixed(self, setup: Setup, scored) -> None:
        scored(by_rate)
        tune(setup, 1)
        for changes, key in (({"dim": 8}, "dim"), ({"learning_rate": 0.01}, "learning_rate")):
            with pytest.raises(SetupError, match=rf"agent.tuning.jsonl: holds trials with another {key}; .*--study"):
                tune(setup.model_copy(update=changes), 2)
        with pytest.raises(SetupError, match="another seconds"):
            tune(setup, 2, seconds=5.0)
        assert len(tune(setup.model_copy(update={"threads": 2}), 2).trials) == 2

    def test_a_study_goes_on_whatever_an_earlier_version_kept_of_worlds_and_the_service(
        self, setup: Setup, scored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scored(by_rate)
        unread = {"world", "server", "loop"}
        with monkeypatch.context() as earlier:
            earlier.setattr(tuning, "FREE", tuning.FREE - unread)
            earlier.setattr(Setup, "as_json", lambda one: Setup.model_dump(one, mode="json") | dict.fromkeys(unread, 1))
            tune(setup, 1)
        assert len(tune(setup, 2).trials) == 2

    @pytest.mark.parametrize("content", ["train, yes\n", '{"histories": 3}\n', "[1]\n"])
    def test_a_file_of_something_else_is_no_study(self, setup: Setup, scored, tmp_path: Path, content: str) -> None:
        scored(by_rate)
        (tmp_path / "other").write_text(content)
        with pytest.raises(SetupError, match="is no study of What Next"):
            tune(setup, 1, study=tmp_path / "other")
        assert (tmp_path / "other").read_text() == content

    def test_a_line_that_was_not_written_to_its_end_is_cut_off_while_nobody_writes(
        self, setup: Setup, scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scored(by_rate)
        monkeypatch.chdir(tmp_path)
        whole, file = tune(setup, 3, study=tmp_path / "whole.jsonl"), Path("models/study.jsonl")
        tune(setup, 2, study=file)
        file.write_text(file.read_text() + '{"op_code":6,"worker_id":"14d65a')
        cut, locked = study._cut_torn_line, []
        # It exists as long as the link of the lock leads somewhere, without which Optuna never takes it for stale.
        monkeypatch.setattr(
            study, "_cut_torn_line", lambda path: locked.append(Path(f"{path}.lock").exists()) or cut(path)
        )
        with pytest.warns(UserWarning, match=r"study\.jsonl: the last line was not written to its end, and is cut off"):
            assert settings_of(tune(setup, 3, study=file)) == settings_of(whole)
        assert locked == [True]
        assert not Path("models/study.jsonl.lock").is_symlink()
        assert all(json.loads(line) for line in file.read_text().splitlines())

    def test_a_damaged_line_names_the_file(self, setup: Setup, scored, tmp_path: Path) -> None:
        scored(by_rate)
        tune(setup, 1, study=tmp_path / "study.jsonl")
        lines = (tmp_path / "study.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "study.jsonl").write_text("".join([lines[0], '{"op_code":6,"wor', *lines[1:]]))
        with pytest.raises(SetupError, match=r"study\.jsonl: a line is damaged"):
            tune(setup, 2, study=tmp_path / "study.jsonl")

    def test_two_searches_do_not_work_on_one_file(self, setup: Setup, scored) -> None:
        def score(one: Setup) -> float:
            with pytest.raises(SaveError, match=r"agent\.tuning\.jsonl: another search works on this file; .*--study"):
                tune(setup, 2)
            return by_rate(one)

        seen = scored(score)
        assert [trial.number for trial in tune(setup, 2).trials] == [1, 2]
        assert len(seen) == 2

    def test_a_full_disk_names_the_study_which_goes_on(self, setup: Setup, scored, monkeypatch) -> None:
        scored(by_rate)
        tune(setup, 1)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as disk:
            scored(lambda one: disk.setattr("os.fsync", full) or by_rate(one))
            with pytest.raises(SaveError, match=r"agent\.tuning\.jsonl: the disk is full .* are kept; make room"):
                tune(setup, 3)
        scored(by_rate)
        assert [trial.number for trial in tune(setup, 3).trials] == [1, 2, 3]

    def test_without_optuna_the_extra_is_named(self, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(MissingExtraError, match=r"tuning needs Optuna.* pip install 'what-next-rl\[tune\]'"):
            tune(setup, 1)


class TestTraining:
    @pytest.mark.medium
    def test_only_validation_targets_are_looked_at(self, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        parts: list[str] = []
        of = Targets.of

        def noted(dataset, split, part):
            parts.append(part)
            return of(dataset, split, part)

        monkeypatch.setattr(Targets, "of", noted)
        found = tune(setup, 2)
        assert set(parts) == {"validation"}
        assert all(0 <= trial.score <= 1 for trial in found.trials)
        assert not setup.model_agent_path.exists()

    def test_a_trial_ends_with_its_seconds(self, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        reports = []
        train = Environment.train_agent
        monkeypatch.setattr(Environment, "train_agent", lambda self: reports.append(train(self)) or reports[-1])
        tune(setup.model_copy(update={"passes": 400, "patience": None}), 1, seconds=0.4)
        assert 0.4 <= reports[0].seconds < 3
        assert not reports[0].stopped

    def test_ctrl_c_ends_the_training_under_way(self, setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = LogSource.next_batch

        def interrupted(self: LogSource, *given: Any):
            os.kill(os.getpid(), signal.SIGINT)
            return batch(self, *given)

        monkeypatch.setattr(LogSource, "next_batch", interrupted)
        found = tune(setup.model_copy(update={"passes": 50}), 3)
        assert (found.stopped, found.trials, found.best) == (True, (), None)

    def test_without_validation_users_there_is_nothing_to_tune_by(self, setup: Setup) -> None:
        with pytest.raises(DataError, match="no validation user"):
            tune(setup.model_copy(update={"split": SplitSettings(validation=0.0)}), 1)

    def test_histories_shorter_than_the_window_are_told(self, setup_of: SetupOf, tmp_path: Path) -> None:
        """The founding reward is measured on windows of 20 events."""
        dataset = Dataset.from_frame(*listening(events=16), name="short")
        founding = setup_of(tmp_path, epochs=8)
        state = State(dataset, founding)
        with pytest.raises(DataError, match="none of the 6 validation users has 20 events, the length of a window"):
            _score(founding, state, 1.0)


class TestCommand:
    def run(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
        monkeypatch.setattr("sys.argv", ["what-next", *words])
        return main()

    @pytest.fixture
    def file(self, log_file: Path, tmp_path: Path) -> str:
        text = f'train, yes, model, lstm, data, "{log_file}", algorithm, next_item, model_agent_path, agent.safetensors'
        (tmp_path / "setup.txt").write_text(text)
        return str(tmp_path / "setup.txt")

    def test_the_best_settings_are_lines_that_train_takes(self, file: str, scored, monkeypatch, capsys) -> None:
        scored(by_rate)
        assert self.run(monkeypatch, "tune", file, "--trials", "6") == 0
        out, err = capsys.readouterr()
        best = tune(Setup.read(file), 6).best
        assert with_settings(Setup.read(file), best.settings) == Setup.read(file, out.split())
        lines = err.splitlines()
        assert lines[0] == "6 trials by ndcg@10 on the validation users"
        for number, line in enumerate(lines[1:], start=1):
            assert re.match(rf"trial {number} of 6: ndcg@10 -?[0-9.]+ with ", line)
        assert ["left" in line for line in lines[1:]] == [True] * 5 + [False]

    def test_one_setting_alone_is_searched_where_that_is_said(self, file: str, scored, monkeypatch, capsys) -> None:
        seen = scored(by_rate)
        words = ("--search", "dropout=0.1,0.3", "--search", "learning_rate", "--search", "dim = 16, 32, 64")
        assert self.run(monkeypatch, "tune", file, "--trials", "6", *words, "weight_decay=0.05") == 0
        assert [line.partition("=")[0] for line in capsys.readouterr().out.split()] == [
            "dropout", "learning_rate", "dim",
        ]  # fmt: skip
        assert {setup.weight_decay for setup in seen} == {0.05}
        assert {setup.dim for setup in seen} <= {16, 32, 64, 128}
        assert all(0.1 <= setup.dropout <= 0.5 for setup in seen)  # its own is 0.5
        assert self.run(monkeypatch, "tune", file, "--trials", "6", "weight_decay=0.05") == 2
        assert "holds trials with another search" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("search", "told"),
        [
            ("droput=0.1,0.2", "there is no setting 'droput'; the nearest is 'dropout'"),
            ("dropout=0.1,7", "dropout is '7'; allowed: a number of at least 0 and below 1"),
            ("dim", "--search dim: needs values, such as dim=LOW,HIGH; without values: learning_rate, dropout"),
            ("split.test=0.1,0.2", "--search split.test: is not searched"),
            ("reward.logged.weight=1,2", "such as learning_rate, dropout"),
            ("reward.logged.weight=1,2", "compare setups that differ in it (what-next compare)"),
            ("window=3,9", "--search window: is none in the setup"),
        ],
    )
    def test_what_cannot_be_searched_is_refused(self, file: str, search: str, told: str, monkeypatch, capsys) -> None:
        assert self.run(monkeypatch, "tune", file, "--search", search) == 2
        assert told in capsys.readouterr().err

    def test_an_interrupt_has_its_exit_code_and_says_where_the_study_is(
        self, file: str, scored, monkeypatch, capsys
    ) -> None:
        scored(lambda one: None)
        assert self.run(monkeypatch, "tune", file, "--json") == 130
        out, err = capsys.readouterr()
        assert json.loads(out)["stopped"]
        assert "agent.tuning.jsonl keeps the trials" in err


def settings_of(found: Tuned) -> list[dict]:
    return [trial.settings for trial in found.trials]
