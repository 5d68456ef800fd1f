"""A setting holds wherever it is given: threads, seconds, paths, and the options of commands."""

import errno
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import what_next as wn
from what_next.cli import app
from what_next.sources.bandit import EVENTS
from what_next.training.artefacts import read_manifest
from what_next.types import Batch

from .conftest import SetupOf, Trained


def batch_of(environment: wn.Environment) -> Batch:
    """The first batch of a run."""
    environment.agent.wake_agent()
    return environment.source.next_batch(wn.LearnedPolicy(environment.agent, environment.state), environment.rng)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs `what-next` in this process: exit code, standard output, standard error."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["what-next", *map(str, words)])
        code = app.main()
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def write_setup(path: Path, data: Path, *more: str, models: str = "models") -> Path:
    path.write_text(
        f'train, yes\ndata, "{data}"\nepochs, 64\nbatch_size, 32\nwindow, 20\ndim, 16\nthreads, 1\n'
        f"model_agent_path, {models}/agent.safetensors\nmodel_critic_path, {models}/critic.safetensors\n"
        + "\n".join(more)
    )
    return path


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A setup file with the models of a short founding training."""
    shutil.copytree(trained.folder, tmp_path / "models")
    return write_setup(tmp_path / "setup.txt", trained.setup.data)


class TestThreads:
    @pytest.mark.medium
    @pytest.mark.parametrize(
        "command",
        [
            ("recommend", "--user", "u1"),
            ("evaluate",),
            ("compare", "--ablations"),
            ("estimate", "--log", "LOG", "--policy"),
            ("export", "--to", "ONNX"),
        ],
        ids=lambda words: words[0],
    )
    def test_every_command_takes_as_many_as_the_setup_says(
        self, copied: Path, say, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copied.write_text(copied.read_text().replace("threads, 1", "threads, 3"))
        seen: list[int] = []
        monkeypatch.setattr(torch, "set_num_threads", seen.append)
        name, *rest = (str(tmp_path / word.lower()) if word.isupper() else word for word in command)
        if name == "estimate":
            pl.DataFrame(
                {"user_id": ["u1"] * 9, "item_id": [f"i{n}" for n in range(9)], "reward": [1.0] * 9}
            ).with_columns(propensity=pl.lit(0.1)).write_csv(tmp_path / "log.csv")
            rest = ["--log", str(tmp_path / "log.csv"), "--policy"]
        say(name, *rest, copied)
        assert seen
        assert seen[0] == 3


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users with 6,000 events each."""
    from what_next.data import Options, import_files, save

    folder, rng = tmp_path_factory.mktemp("long"), np.random.default_rng(0)
    pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(20), 6000),
            "item_id": rng.integers(300, size=120_000),
            "timestamp": np.tile(np.arange(6000) * 60 + 1_600_000_000, 20),
        }
    ).write_csv(folder / "log.csv")
    attributes = {name: rng.normal(size=300) for name in "abc"}
    pl.DataFrame({"item_id": np.arange(300), **attributes}).write_csv(folder / "items.csv")
    save(import_files([folder / "log.csv"], folder / "items.csv", Options()), folder / "long.parquet")
    return folder / "long.parquet"


class TestSeconds:
    @pytest.mark.medium
    def test_they_bound_training_on_complete_histories(self, long: Path, setup_of: SetupOf, tmp_path: Path) -> None:
        setup = setup_of(tmp_path, data=long, window=None, batch_size=64, epochs=40_000, seconds=1.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        report = wn.Environment.from_setup(setup).run_sim()
        assert report.histories > 0
        assert not report.stopped
        assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 8  # before: more than a minute

    def test_a_longer_history_is_read_in_a_random_window(self, long: Path, setup_of: SetupOf, tmp_path: Path) -> None:
        setup = setup_of(tmp_path, data=long, window=None, max_length=50)
        state = wn.State(wn.Dataset.read(long), setup)
        drawn = state.get_random_user_history(30, np.random.default_rng(0))
        assert drawn.items.shape == (30, 50)
        whole = state.get_user_history(drawn.users)
        starts = {
            int(np.flatnonzero((np.lib.stride_tricks.sliding_window_view(one, 50) == row).all(-1))[0])
            for one, row in zip(whole.items, drawn.items, strict=True)
        }
        assert len(starts) > 20

    def test_a_step_of_long_histories_has_fewer_of_them(self, long: Path, setup_of: SetupOf, tmp_path: Path) -> None:
        setup = setup_of(tmp_path, data=long, window=None, max_length=1000, batch_size=64)
        batch = batch_of(wn.Environment.from_setup(setup))
        assert batch.items.shape == (4, 1000)
        assert batch.items.size <= EVENTS

    def test_a_wide_window_leaves_short_histories_together(
        self, dataset: wn.Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        setup = setup_of(tmp_path, window=100_000, batch_size=64)
        state = wn.State(dataset, setup)
        assert batch_of(wn.Environment(wn.Agent(setup, state.space), state, setup)).items.shape == (64, 40)

    def test_a_batch_that_time_ends_is_given_up(
        self, setup_of: SetupOf, dataset: wn.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setup = setup_of(tmp_path, seconds=60.0)
        state = wn.State(dataset, setup)
        agent = wn.Agent(setup, state.space)
        original, taken = wn.Agent.predict, []

        def predict(self: wn.Agent, *args: object, **more: object) -> object:
            taken.append(self.histories)
            if len(taken) == 3:
                self.deadline = 0.0  # this one takes for ever
            return original(self, *args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(wn.Agent, "predict", predict)
        monkeypatch.setattr(wn.Environment, "validate", lambda self: {})
        report = wn.Environment(agent, state, setup).train_agent()
        assert taken == [0, 32, 64]
        assert (report.histories, len(report.steps), report.stopped) == (64, 2, False)

    @pytest.mark.medium
    def test_resuming_a_run_that_used_them_up_says_so(self, copied: Path, say) -> None:
        text = copied.read_text()
        copied.write_text(text + "seconds, 0.5\n")
        assert say("train", copied, "epochs=1000000", "--force")[0] == 0
        code, _, told = say("train", copied, "epochs=1000000", "--resume")
        assert code == 0
        assert "nothing was left to train: the run has had its 0.5 seconds" in told
        assert "seconds=1" in told
        before = read_manifest(copied.parent / "models/agent.safetensors").histories
        code, _, told = say("train", copied, "epochs=1000000", "seconds=1", "--resume")
        assert code == 0
        assert "nothing was left" not in told
        assert read_manifest(copied.parent / "models/agent.safetensors").histories > before

    def test_resuming_a_run_that_is_complete_says_so(self, copied: Path, say) -> None:
        assert say("train", copied)[0] == 0
        assert (
            "has had its 64 histories; go on with a higher limit, such as epochs=128"
            in say("train", copied, "--resume")[2]
        )


class TestOverwriting:
    def files(self, folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".jsonl"}

    def test_another_algorithm_needs_force(self, copied: Path, say) -> None:
        before = self.files(copied.parent / "models")
        for command in ("train", "run"):
            code, _, told = say(command, copied, "algorithm=sqn", "passes=1")
            assert code == 2
            assert "agent.safetensors: holds what whatnext learned of listening" in told
            assert "--force" in told
        assert self.files(copied.parent / "models") == before
        assert say("train", copied, "algorithm=sqn", "passes=1", "--force")[0] == 0
        assert read_manifest(copied.parent / "models/agent.safetensors").setup["algorithm"]["name"] == "sqn"

    def test_the_same_algorithm_on_the_same_data_may_be_trained_again(self, copied: Path, say) -> None:
        assert say("train", copied, "learning_rate=0.001")[0] == 0

    def test_other_data_need_force(self, copied: Path, say, tmp_path: Path) -> None:
        for name in ("listening.parquet", "listening.items.parquet"):
            source = read_manifest(copied.parent / "models/agent.safetensors").setup["data"]
            shutil.copy(Path(source).with_name(name), tmp_path / name.replace("listening", "plays"))
        code, _, told = say("train", copied, f"data={tmp_path / 'plays.parquet'}")
        assert code == 2
        assert "learned of listening" in told
        assert "would learn of plays" in told

    def test_other_items_under_the_same_name_need_force(self, copied: Path, say, tmp_path: Path) -> None:
        log = pl.DataFrame({"user_id": np.repeat(np.arange(30), 12), "item_id": np.arange(360) % 40 + 1000})
        log.with_columns(a=pl.col("item_id") % 7, b=pl.col("item_id") % 5).write_csv(tmp_path / "listening.csv")
        code, _, told = say("train", copied, f"data={tmp_path / 'listening.csv'}")
        assert code == 2
        assert "and listening holds less than half of its items now" in told
        assert "--force" in told

    def test_a_critic_that_belongs_to_another_agent_is_not_torn_from_it(self, copied: Path, say) -> None:
        before = self.files(copied.parent / "models")
        code, _, told = say("train", copied, "model_agent_path=models/second.safetensors")
        assert code == 2
        assert "critic.safetensors: is the critic of" in told
        assert "agent.safetensors" in told
        assert self.files(copied.parent / "models") == before

    @pytest.mark.medium
    def test_recommend_and_evaluate_take_the_algorithm_of_the_model(self, copied: Path, say) -> None:
        assert say("train", copied, "algorithm=sqn", "passes=1", "--force")[0] == 0
        assert "What next for user u1" in say("recommend", copied, "--user", "u1")[1]
        code, told, error = say("evaluate", copied, "--json")
        assert code == 0, error
        assert "was trained with sqn, and that counts; the setup says whatnext" in error
        assert "ndcg@10" in told
        assert "leave_last_out" in told  # the split that sqn brings along, and that it was trained on

    def test_a_path_that_is_no_safetensors_is_refused_with_the_reason(self, copied: Path, say) -> None:
        for key in ("model_agent_path", "model_critic_path"):
            code, _, told = say("train", copied, f"{key}=agent.pt")
            assert code == 2
            assert f"command line: {key} is " in told
            assert "must end" in told or "ends in .safetensors" in told


class TestRecommend:
    def test_every_user_that_is_named_is_answered(self, copied: Path, say) -> None:
        told = say("recommend", copied, "--user", "u1", "--user", "u2")[1]
        assert told.index("What next for user u1") < told.index("What next for user u2")
        found = json.loads(say("recommend", copied, "--user", "u1", "--user", "u2", "--json")[1])
        assert [one["user"] for one in found["recommendations"]] == ["u1", "u2"]

    def test_no_title_is_cut_in_a_pipe(self, copied: Path, say, monkeypatch: pytest.MonkeyPatch) -> None:
        item = wn.inference.recommendation.Item("shop:a:0", "A" * 200, {}, True, False, None)
        found = wn.Recommendation("u1", (), {}, (item,))
        monkeypatch.setattr(wn.Recommender, "recommend", lambda *_, **__: found)
        told = say("recommend", copied, "--user", "u1")[1]
        assert "A" * 200 in told
        assert "shop:a:0" in told

    def test_the_ending_says_the_format(self, copied: Path, say, tmp_path: Path) -> None:
        readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
        frames = []
        for ending, reader in readers.items():
            assert say("recommend", copied, "--all", "-k", "2", "--to", tmp_path / f"recs{ending}")[0] == 0
            frames.append(reader(tmp_path / f"recs{ending}"))
        assert all(frame.rows() == frames[0].rows() for frame in frames)
        assert len(frames[0]) == 120

    @pytest.mark.parametrize("name", ["recs.xlsx", "recs"])
    def test_another_ending_is_refused_before_anything_is_read(
        self, copied: Path, say, tmp_path: Path, name: str
    ) -> None:
        code, _, told = say("recommend", copied, "--all", "--to", tmp_path / name)
        assert code == 2
        assert "must end in .parquet, .csv, .tsv or .jsonl" in told
        assert not (tmp_path / name).exists()


class TestTrain:
    """`train, yes` or `no` says what `run` does, and nothing else."""

    def test_what_does_not_run_needs_none(self, copied: Path, say) -> None:
        copied.write_text(copied.read_text().replace("train, yes", ""))
        assert "these are for next items" in say("evaluate", copied, "--baselines", "ease")[2]
        assert "no such store" in say("log", "export", copied, "--to", copied.with_name("log.parquet"))[2]
        assert "the setting 'train' is missing" in say("run", copied)[2]

    @pytest.mark.parametrize("word", ["train=yes", "TRAIN = no"])
    def test_it_may_be_given_where_it_says_nothing(self, copied: Path, word: str, say) -> None:
        code, out, told = say("recommend", copied, "--user", "u1", word)
        assert (code, told) == (0, "")
        assert "What next for user u1" in out


def test_a_file_that_may_not_be_read_is_one_message(copied: Path, say, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a service whose files belong to somebody else; `chmod` alone stops nobody who is root."""
    opened = Path.open

    def denied(path: Path, *how: object, **more: object) -> object:
        if path.name in hidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *how, **more)  # type: ignore[call-overload]

    data, hidden = copied.with_name("log.csv"), ["log.csv"]
    data.write_text("user_id,item_id")
    monkeypatch.setattr(Path, "open", denied)
    told = f"what-next: {data}: cannot be opened (Permission denied); mend that, or name another\n"
    for words in (["data", "describe", data], ["recommend", copied, "--user", "u1", f"data={data}"]):
        assert say(*words)[::2] == (2, told)
    hidden = ["agent.safetensors"]
    for words in (["inspect", copied.parent / "models/agent.safetensors"], ["recommend", copied, "--user", "u1"]):
        code, _, told = say(*words)
        assert code == 2
        assert told == f"what-next: {copied.parent / 'models/agent.safetensors'}: cannot be read (Permission denied)\n"


def test_names_in_a_model_file_are_neither_markup_nor_emoji_codes(copied: Path, say, monkeypatch) -> None:
    odd = read_manifest(copied.parent / "models/agent.safetensors").model_copy(update={"event_names": ("[/c]", ":a:")})
    monkeypatch.setattr("what_next.training.artefacts.read_manifest", lambda _: odd)
    told = say("inspect", copied.parent / "models/agent.safetensors")[1]
    assert '"[/c]"' in told
    assert '":a:"' in told


def test_a_name_that_is_too_long_is_one_message(say, tmp_path: Path) -> None:
    code, _, told = say("data", "describe", tmp_path / ("x" * 300 + ".parquet"))
    assert code == 2
    assert told.endswith(": cannot be opened (File name too long); mend that, or name another\n")


class TestSeen:
    """`evaluation.seen, yes` recommends what was heard, as judging does."""

    def items(self, out: str) -> set[str]:
        return {item["item_id"] for item in json.loads(out)["items"]}

    def test_recommend_and_run_follow_the_setup(self, copied: Path, say) -> None:
        asked = ["recommend", copied, "--history", "i1,i2", "-k", "100", "--json"]
        assert not {"i1", "i2"} & self.items(say(*asked)[1])
        assert {"i1", "i2"} <= self.items(say(*asked, "evaluation.seen=yes")[1])
        assert {"i1", "i2"} <= self.items(say(*asked, "--seen")[1])
        assert not {"i1", "i2"} & self.items(say(*asked, "--unseen", "evaluation.seen=yes")[1])
        run = ["run", copied, "train=no", "user=u1", "slots=100", "evaluation.seen=yes"]
        assert "known already" in say(*run)[1]

    def test_a_list_that_is_empty_says_why(self, copied: Path, say) -> None:
        (copied.parent / "two.txt").write_text("i1\ni2\n")
        words = ["recommend", copied, "--allowed", copied.parent / "two.txt"]
        assert "nothing: all that may be named was heard (--seen" in say(*words, "--history", "i1,i2")[1]
        told = say(*words, "--all", "--to", copied.parent / "all.csv")[1]
        some = pl.read_csv(copied.parent / "all.csv")["user_id"].n_unique()
        assert 0 < some < 60
        assert f"for each of {some} users; none for {60 - some}, who had every item that may be recommended" in told
