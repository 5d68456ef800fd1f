"""Judging says how far it is: every stage of it, to its end; drawn for people alone."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from what_next import Dataset, State
from what_next.baselines import Ease
from what_next.cli import main
from what_next.data.stages import Done, Stages
from what_next.experiments import evaluate_next, evaluate_windows
from what_next.experiments.baselines import PLAIN, Search, chosen_on, grid_of, searched, tries
from what_next.experiments.compare import compare
from what_next.metrics.bootstrap import means, means_of
from what_next.off_policy import LogSettings, estimate_policy
from what_next.reporting.bars import Bars

from .conftest import SetupOf, listening


class Told(Stages):
    """Remembers each stage: its parts, and how many of them were done."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, list[int]]] = []

    def begin(self, name: str, total: int) -> Done:
        done: list[int] = []
        self.stages.append((name, total, done))
        return done.append

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.stages]

    def came_to_their_ends(self) -> bool:
        return all(sum(done) == total > 0 for _, total, done in self.stages)


class TestEveryStage:
    @pytest.mark.medium
    def test_of_next_items(self, setup_of: SetupOf, tmp_path: Path) -> None:
        told = Told()
        setup = setup_of(tmp_path, algorithm="next_item", passes=1, evaluation={"seen": True})
        evaluate_next(setup, seeds=[0, 1], stages=told, anew=True)
        assert told.came_to_their_ends()
        tuned_ones = ("popular_recent", "popular_personal", "markov", "item_knn", "ease", "slim")
        assert {f"choosing the settings of {name}" for name in tuned_ones} < set(told.names)
        assert {f"judging {name}" for name in ("agent", "untrained", *PLAIN, *tuned_ones)} < set(told.names)
        assert {name: total for name, total, _ in told.stages}["judging agent"] == 2 * 60  # two seeds
        assert "intervals" in told.names

    @pytest.mark.medium
    def test_of_windows(self, setup_of: SetupOf, tmp_path: Path) -> None:
        told = Told()
        evaluate_windows(setup_of(tmp_path, epochs=32), seeds=[0], stages=told)
        assert told.came_to_their_ends()
        assert {"judging agent by windows", "judging oracle by windows", "intervals"} < set(told.names)

    @pytest.mark.medium
    def test_of_a_comparison(self, setup_of: SetupOf, tmp_path: Path) -> None:
        told = Told()
        setups = {name: setup_of(tmp_path / name, algorithm="next_item", passes=1) for name in ("one", "two")}
        compare(setups, seeds=[0], baselines=["popular"], stages=told)
        assert told.came_to_their_ends()
        assert {"judging one", "judging two", "judging popular", "intervals"} <= set(told.names)

    @pytest.mark.medium
    def test_of_an_estimate(self, setup_of: SetupOf, tmp_path: Path) -> None:
        from what_next import Environment

        setup = setup_of(tmp_path, algorithm="next_item", passes=1)
        Environment.from_setup(setup).run_sim()
        (tmp_path / "setup.txt").write_text(
            f'train, no, data, "{setup.data}", algorithm, next_item, model_agent_path, agent.safetensors'
        )
        log, _ = listening(users=20)
        log.with_columns(propensity=pl.lit(1 / 80)).write_parquet(tmp_path / "log.parquet")
        told = Told()
        estimate_policy(LogSettings(tmp_path / "log.parquet"), str(tmp_path / "setup.txt"), stages=told)
        assert told.came_to_their_ends()
        assert told.names == [f"asking {tmp_path / 'setup.txt'}", "estimates", "intervals"]


class TestBars:
    def drawn(self, **more: object) -> str:
        out = StringIO()
        console = Console(file=out, **{"force_terminal": True, "width": 100, "_environ": {"TERM": "xterm"}, **more})  # type: ignore[arg-type]
        with Bars(console=console) as stages:
            done = stages.begin("judging agent [/x] :a:", 4)
            done(1)
            stages.begin("intervals", 2)(2)
        return out.getvalue()

    def test_a_terminal_shows_each_stage_with_its_share_and_the_time_that_is_left(self) -> None:
        shown = self.drawn()
        assert "judging agent [/x] :a:" in shown
        assert "25%" in shown
        assert "-:--:--" in shown or "0:00:0" in shown
        assert "intervals" in shown

    def test_nothing_is_drawn_into_a_file(self) -> None:
        assert self.drawn(force_terminal=False) == ""

    def test_nothing_is_drawn_for_machines(self) -> None:
        out = StringIO()
        with Bars(silent=True, console=Console(file=out, force_terminal=True)) as stages:
            stages.begin("judging agent", 1)(1)
        assert out.getvalue() == ""


class TestBaselines:
    @pytest.fixture
    def setup_file(self, log_file: Path, tmp_path: Path) -> Path:
        path = tmp_path / "setup.txt"
        path.write_text(
            f'train, yes, data, "{log_file}", algorithm, next_item, passes, 1, dim, 8, threads, 1, '
            "model_agent_path, a.safetensors"
        )
        return path

    def outcome(self, monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
        monkeypatch.setattr("sys.argv", ["what-next", *map(str, words)])
        return main()

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("command", "wanted"), [("evaluate", "markov,random"), ("evaluate", "none"), ("compare", "markov,random")]
    )
    def test_those_are_judged_that_are_asked_for(
        self,
        command: str,
        wanted: str,
        setup_file: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        files, ours = [setup_file], {"agent", "untrained"}
        if command == "compare":
            other = setup_file.with_name("other.txt")
            other.write_text(setup_file.read_text().replace("a.safetensors", "b.safetensors"))
            files, ours = [setup_file, other], {"setup", "other"}
        page = setup_file.with_name("page.html")
        words = ("--seeds", "0", "--baselines", wanted, "--report", page, "--json")
        assert self.outcome(monkeypatch, command, *files, *words) == 0
        result = json.loads(capsys.readouterr().out)
        others = {"random", "markov"} if wanted != "none" else set()
        assert set(result["policies"]) == ours | others
        assert set(result["baselines"]) == set(result["searched"]["tried"]) == others - {"random"}
        assert page.is_file()

    def test_others_are_refused(
        self, setup_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.outcome(monkeypatch, "evaluate", setup_file, "--seeds", "0", "--baselines", "markow") == 2
        assert "expected none, or some of random, popular, popular_recent, popular_personal" in capsys.readouterr().err
        windows = ("algorithm=whatnext", "model_critic_path=c.safetensors", "split=users", "--baselines", "markov")
        assert self.outcome(monkeypatch, "evaluate", setup_file, *windows) == 2
        assert "judged by windows; add --next-items" in capsys.readouterr().err

    def test_a_result_says_what_was_searched_and_on_whom(
        self, setup_of: SetupOf, tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("what_next.experiments.baselines.MOST", 25)
        state, told = State(dataset, setup_of(tmp_path, algorithm="next_item", passes=1)), Told()
        Search(state, stages=told).best("markov")
        found = searched(state, ["markov"])
        assert (found["targets"], found["of"], len(chosen_on(state))) == (25, 60, 25)
        (_, _, done), ranked = told.stages[0], found["tried"]["markov"] * 25
        assert sum(done) == ranked == 7 * 25  # five decays and three smoothings, one pair of which is tried once
        assert tries(grid_of("markov", state)) == 7


class TestLittleWork:
    def test_users_are_drawn_once_for_all_policies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import what_next.metrics.bootstrap as module

        calls, drawn = [], module.resampled_counts

        def counted(*args: int) -> object:
            calls.append(args)
            return drawn(*args)

        monkeypatch.setattr(module, "resampled_counts", counted)
        rng = np.random.default_rng(0)
        several = {name: {"hr": rng.random(40), "ndcg": rng.random(40)} for name in "abc"}
        several["b"]["hr"][3] = np.nan
        found = means_of(several, resamples=300)
        assert len(calls) == 1
        for name, values in several.items():
            alone = means(values, resamples=300)
            assert all(found[name][metric] == pytest.approx(alone[metric]) for metric in ("hr", "ndcg"))

    @pytest.mark.medium
    def test_the_judge_draws_once_for_policies_and_differences_and_once_for_each_group(
        self, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        told = Told()
        result = evaluate_next(setup_of(tmp_path, algorithm="next_item", passes=1), seeds=[0], stages=told).result
        assert told.names.count("intervals") == 1 + sum(len(groups) for groups in result["groups"].values())

    def test_ease_with_few_users_solves_for_users_and_finds_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        sizes, solve = [], torch.linalg.cholesky

        def counted(matrix: torch.Tensor, **more: object) -> torch.Tensor:
            sizes.append(len(matrix))
            return solve(matrix, **more)

        monkeypatch.setattr(torch.linalg, "cholesky", counted)
        rng = np.random.default_rng(0)
        log = pl.DataFrame({"user_id": np.repeat(np.arange(9), 12), "item_id": rng.integers(60, size=108)})
        data = Dataset.from_frame(log, name="few users")
        items, known = len(data.catalogue), data.lengths.copy()
        known[0] = 0  # set aside whole
        few = Ease.fit(data, known, penalty=3.0)
        monkeypatch.setattr("what_next.baselines.ease.FEW", 10**6)
        many = Ease.fit(data, known, penalty=3.0)
        assert (sizes, items > 3 * 8) == ([8, items], True)
        assert few.weights.numpy() == pytest.approx(many.weights.numpy(), abs=1e-6)
        assert few.weights.is_contiguous()
