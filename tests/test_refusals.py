"""Every mistake of a user gets one clear message and exit code 2, without a traceback and with nothing half written."""

import math
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import save_file

import what_next as wn
from what_next.data import Options, import_files, save, split_users
from what_next.inference.extend import NewItem, extend

from .conftest import Trained, listening, run_main

MINIMAL = """train, yes
data, log.csv
model_agent_path, models/agent.safetensors
model_critic_path, models/critic.safetensors
epochs, 64
"""

Refused = Callable[..., str]


def wide(**columns: object) -> pl.DataFrame:
    """The synthetic log with its attributes beside each event; columns replace some of them."""
    log, items = listening(users=12, events=12)
    return log.join(items, on="item_id", how="left", maintain_order="left").with_columns(**columns)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    wide().write_csv(tmp_path / "log.csv")
    (tmp_path / "setup.txt").write_text(MINIMAL)
    return tmp_path


@pytest.fixture
def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs main, which must refuse and leave the folder as it was; returns the message."""

    def run(*overrides: str, setup: str | None = None, log: str | bytes | pl.DataFrame | None = None) -> str:
        if setup is not None:
            (folder / "setup.txt").write_text(setup)
        if isinstance(log, pl.DataFrame):
            log.write_csv(folder / "log.csv")
        elif log is not None:
            (folder / "log.csv").write_bytes(log if isinstance(log, bytes) else log.encode())
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert run_main(folder / "setup.txt", *overrides) == 2
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert len(re.findall("^what-next: ", err, re.MULTILINE)) == 1
        assert err.startswith("what-next: ")
        return err.strip()

    return run


def test_what_is_refused_below_runs_otherwise(folder: Path) -> None:
    assert run_main(folder / "setup.txt") == 0


class TestSetup:
    def test_no_setup_file(self, folder: Path, refused: Refused) -> None:
        (folder / "setup.txt").unlink()
        assert "setup.txt: there is no such setup file" in refused()

    def test_an_odd_number_of_tokens(self, refused: Refused) -> None:
        message = refused(setup=MINIMAL + "batch_size\n")
        assert "line 6" in message
        assert "11 tokens" in message
        assert "'batch_size' has no partner" in message

    def test_an_unknown_key(self, refused: Refused) -> None:
        message = refused(setup=MINIMAL + "bach_size, 32\n")
        assert "line 6" in message
        assert "'bach_size'" in message
        assert "the nearest is 'batch_size'" in message

    def test_train_maybe(self, refused: Refused) -> None:
        message = refused(setup=MINIMAL.replace("yes", "maybe"))
        assert "line 1: train is 'maybe'; allowed: yes or no" in message

    @pytest.mark.parametrize("epochs", ["0", "-5", "many", "1.5", "nan", "1e3x"])
    def test_epochs_that_are_no_count(self, refused: Refused, epochs: str) -> None:
        message = refused(setup=MINIMAL.replace("64", epochs))
        assert f"line 5: epochs is '{epochs}'; allowed: a whole number above 0" in message

    def test_a_missing_key(self, refused: Refused) -> None:
        assert "'data' is missing" in refused(setup=MINIMAL.replace("data, log.csv\n", ""))

    def test_an_unknown_algorithm(self, refused: Refused) -> None:
        assert "algorithm" in refused(setup=MINIMAL + "algorithm, magic\n")

    def test_an_override_that_is_no_pair(self, refused: Refused) -> None:
        assert "'quickly' found where key=value is allowed" in refused("quickly")

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00train", b"\x80\x02"])
    def test_a_setup_that_is_no_text(self, folder: Path, refused: Refused, content: bytes) -> None:
        (folder / "setup.txt").write_bytes(content)
        assert "is not UTF-8 text" in refused()

    def test_a_folder_for_a_setup(self, folder: Path, refused: Refused) -> None:
        (folder / "setup.txt").unlink()
        (folder / "setup.txt").mkdir()
        assert "setup.txt" in refused()


class TestData:
    def test_a_missing_file(self, folder: Path, refused: Refused) -> None:
        (folder / "log.csv").unlink()
        assert "log.csv" in refused()

    @pytest.mark.parametrize("content", ["", "\n\n", "user_id,item_id,energy\n"], ids=["nothing", "lines", "header"])
    def test_an_empty_file(self, refused: Refused, content: str) -> None:
        assert "log.csv" in refused(log=content)

    def test_one_user(self, refused: Refused) -> None:
        assert "user" in refused(log=wide(user_id=pl.lit("me")))

    def test_one_item(self, refused: Refused) -> None:
        message = refused(log=wide().with_columns(pl.lit("i1").alias("item_id")))
        assert "item" in message

    def test_no_attributes(self, refused: Refused) -> None:
        message = refused(log=wide().select("user_id", "item_id", "timestamp"))
        assert "no attributes" in message
        assert "--attributes" in message

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_attributes_that_are_no_numbers(self, refused: Refused, bad: float) -> None:
        some = pl.when(pl.col("item_id") == "i3").then(bad).otherwise("energy")
        assert "energy" in refused(log=wide(energy=some))

    def test_a_constant_attribute(self, folder: Path, refused: Refused) -> None:
        log, items = listening(users=12, events=12)
        log.write_csv(folder / "events.csv")
        items.with_columns(energy=pl.lit(0.5)).write_csv(folder / "items.csv")
        named = Options(attributes=["energy"])  # else it is left out
        save(import_files([folder / "events.csv"], folder / "items.csv", named), folder / "flat.parquet")
        told = "its items have no attributes (one that all items with a training event share is none), and whatnext"
        assert told in refused("data=flat.parquet")

    def test_an_attribute_that_is_constant_on_what_training_knows_is_left_out(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It varies on an item that only a user set aside has heard."""
        log = wide(item_id=pl.when(pl.col("user_id") == "u0").then(pl.lit("rare")).otherwise("item_id"))
        rare = pl.when(pl.col("item_id") == "rare")
        others = [rare.then(0.0).otherwise(name).alias(name) for name in ("tempo", "valence", "danceability")]
        log = log.with_columns(rare.then(1.0).otherwise(0.0).alias("energy"), *others)
        log.write_csv(folder / "log.csv")
        data = wn.Dataset.read(folder / "log.csv")
        place = data.user_index(["u0"])[0]
        seed = next(seed for seed in range(100) if place in split_users(data, seed=seed).test)
        assert run_main(folder / "setup.txt", f"split.seed={seed}") == 0
        assert "left out: 1 attribute, the same for all items with a training event (energy)" in capsys.readouterr().err
        odd = NewItem("odd", "Odd", dict.fromkeys(data.catalogue.names, 1.0) | {"energy": 1e9})
        model = extend(wn.load(folder / "models" / "agent.safetensors"), [odd])
        place = model.catalogue.names.index("energy")
        assert not model.catalogue.vectors[:, place].any()
        assert model.recommend(["i1", "rare", "odd"], k=3).proposal["energy"] == 0

    def test_users_with_two_events(self, refused: Refused) -> None:
        short = wide().filter(pl.int_range(pl.len()).over("user_id") < 2)
        assert "no training user has 3 events" in refused(log=short)

    def test_too_few_users_for_the_split(self, refused: Refused) -> None:
        assert "cannot be split" in refused(log=wide().filter(pl.col("user_id").is_in(["u0", "u1"])))

    def test_a_split_by_time_without_times(self, refused: Refused) -> None:
        assert "a split by time needs times" in refused("split=time", log=wide().drop("timestamp"))

    def test_a_pickle_with_more_than_a_frame(self, folder: Path, refused: Refused) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (folder / "it ran",)

        (folder / "clean.pk").write_bytes(pickle.dumps(Evil()))
        message = refused("data=clean.pk")
        assert "pathlib" in message
        assert not (folder / "it ran").exists()

    def test_a_pickle_of_something_else(self, folder: Path, refused: Refused) -> None:
        (folder / "clean.pk").write_bytes(pickle.dumps({"user_id": [1]}))
        assert "not a pandas DataFrame" in refused("data=clean.pk")

    def test_a_damaged_parquet_file(self, folder: Path, refused: Refused) -> None:
        wide().write_parquet(folder / "log.parquet")
        (folder / "log.parquet").write_bytes((folder / "log.parquet").read_bytes()[:200])
        assert "log.parquet" in refused("data=log.parquet")


class TestModels:
    @pytest.fixture(autouse=True)
    def models(self, folder: Path, trained: Trained) -> Path:
        """A trained model, its log and its setup; the setup asks for a recommendation."""
        shutil.copytree(trained.folder, folder / "models")
        (folder / "setup.txt").write_text(MINIMAL.replace("yes", "no").replace("log.csv", str(trained.setup.data)))
        return folder / "models"

    def test_what_is_refused_below_runs_otherwise(self, folder: Path) -> None:
        assert run_main(folder / "setup.txt") == 0

    @pytest.mark.parametrize("name", ["agent.safetensors", "critic.safetensors", "agent.catalogue.parquet"])
    def test_a_missing_file(self, models: Path, refused: Refused, name: str) -> None:
        (models / name).unlink()
        assert name in refused()

    @pytest.mark.parametrize("name", ["agent.safetensors", "critic.safetensors", "agent.catalogue.parquet"])
    def test_a_truncated_file(self, models: Path, refused: Refused, name: str) -> None:
        (models / name).write_bytes((models / name).read_bytes()[:-100])
        assert name in refused()

    def test_no_model(self, models: Path, refused: Refused) -> None:
        (models / "agent.safetensors").write_text("this is a letter to a friend, and no model at all")
        assert "is damaged or no model" in refused()

    def test_a_safetensors_file_of_somebody_else(self, models: Path, refused: Refused) -> None:
        save_file({"weight": torch.zeros(3)}, models / "agent.safetensors", {"author": "somebody"})
        assert "no manifest of What Next?" in refused()

    def test_a_newer_format(self, models: Path, refused: Refused) -> None:
        save_file({"weight": torch.zeros(3)}, models / "critic.safetensors", {"what_next": '{"format": 99}'})
        assert "has format 99, and this version knows 1; upgrade What Next?" in refused()

    def test_another_catalogue(self, folder: Path, refused: Refused) -> None:
        assert "was trained on another catalogue (80 items" in refused(f"data={folder / 'log.csv'}")

    def test_an_unknown_user(self, refused: Refused) -> None:
        assert "user 'nobody' is not among the 60 users" in refused("user=nobody")


class TestSaving:
    @pytest.mark.parametrize("key", ["model_agent_path", "model_critic_path", "log"])
    def test_a_path_below_a_regular_file(self, folder: Path, key: str, capsys: pytest.CaptureFixture[str]) -> None:
        path = folder / "log.csv" / "file.safetensors"
        assert run_main(folder / "setup.txt", f"{key}={path}") == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("what-next: ")
        assert "log.csv/file" in message
        assert "written" in message
        left = {found.name for found in folder.rglob("*") if found.is_file()}
        assert left <= {"log.csv", "setup.txt", "agent.jsonl"}

    def test_a_model_path_that_is_a_folder(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "models" / "agent.safetensors").mkdir(parents=True)
        assert run_main(folder / "setup.txt") == 2
        assert "agent.safetensors" in capsys.readouterr().err.splitlines()[-1]

    def test_a_loss_that_is_no_number(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = wn.Agent.propagate

        def spoil(agent: wn.Agent, *args: object) -> object:
            if agent.histories == 48:
                with torch.no_grad():
                    next(agent.nets["actor"].parameters()).view(-1)[5] = torch.nan
            return original(agent, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(wn.Agent, "propagate", spoil)
        assert run_main(folder / "setup.txt", "batch_size=16", "save_every=32") == 2
        err = capsys.readouterr().err
        message = err.splitlines()[-1]
        assert "Traceback" not in err
        assert message.startswith("what-next: training stopped after 48 histories: the loss 'actor' is nan")
        assert "agent.safetensors" in message
        assert wn.load(folder / "models" / "agent.safetensors").policy.agent.histories == 32
