"""`track` shows a run in TensorBoard or MLflow: settings, curves, what was measured, the model's card."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import what_next as wn
from what_next.cli.app import main
from what_next.errors import MissingExtraError, SetupError, TrainingError
from what_next.testing import made_up_log
from what_next.training import boards

HOW: dict[str, Any] = {"passes": 2, "dim": 4, "linear": False, "verbose": False}


def train(folder: Path, track: str, **more: Any) -> wn.Model:
    return wn.fit(made_up_log(users=12, items=9, events=6), folder=folder, track=track, **HOW, **more)


def test_tensorboard_reads_curves_measurements_settings_and_the_card(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (extra: track)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = train(tmp_path, "tensorboard")
    found = EventAccumulator(str(tmp_path / "agent.tensorboard")).Reload()
    losses = [one.value for one in found.Scalars("loss_actor")]
    assert model.training is not None
    assert losses == pytest.approx([step.losses["actor"] for step in model.training.steps], rel=1e-5)
    measured = model.training.valid["ndcg@10"]  # type: ignore[index]
    assert max(one.value for one in found.Scalars("valid_ndcg@10")) == pytest.approx(measured)
    texts = {tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]}
    assert "| dim | 4 |" in texts["settings/text_summary"]
    assert texts["model card/text_summary"] == (tmp_path / "agent.card.md").read_text()
    judged = model.evaluate(baselines=("popular",), verbose=False)
    found.Reload()
    assert found.Scalars("test_ndcg@10")[0].value == pytest.approx(judged["agent"]["ndcg@10"]["mean"])
    table = found.Tensors("test_next_items/text_summary")[0].tensor_proto.string_val[0].decode().splitlines()
    assert table[0] == "|metric|agent|untrained|popular|"
    assert f"{judged['popular']['ndcg@10']['mean']:.4g} [" in next(row for row in table if row.startswith("|ndcg@10|"))


def mlflow_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("mlflow", reason="MLflow is not installed (extra: track)")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the local default makes a database, which takes seconds
    monkeypatch.setenv(boards.RETRIES, "")  # so that what the board sets is taken back
    monkeypatch.delenv(boards.RETRIES)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "runs").as_uri())
    return MlflowClient


def test_mlflow_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow_runs(tmp_path, monkeypatch)
    model = train(tmp_path / "model", "mlflow")
    mlflow = client()
    assert os.environ[boards.RETRIES] == "4"
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("what-next").experiment_id])
    assert (run.data.params["dim"], run.data.params["algorithm.name"], run.info.status) == (
        "4",
        "next_item",
        "FINISHED",
    )
    assert model.training is not None
    curve = [one.value for one in mlflow.get_metric_history(run.info.run_id, "loss_actor")]
    assert curve == pytest.approx([step.losses["actor"] for step in model.training.steps])
    assert "valid_ndcg_at_10" in run.data.metrics
    card = Path(mlflow.download_artifacts(run.info.run_id, "README.md", str(tmp_path)))
    assert card.read_text() == (tmp_path / "model" / "agent.card.md").read_text()
    words = ["what-next", "evaluate", str(tmp_path / "model" / "setup.txt"), "--baselines", "none"]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0  # the setup says `track, mlflow`
    (same,) = mlflow.search_runs([run.info.experiment_id])
    assert (same.info.run_id, same.info.status) == (run.info.run_id, "FINISHED")
    assert "test_ndcg_at_10" in same.data.metrics
    assert {one.path for one in mlflow.list_artifacts(run.info.run_id)} == {"README.md", "test_next_items.md"}


def test_a_run_that_failed_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = mlflow_runs(tmp_path, monkeypatch)

    def broken(step: object) -> None:
        raise TrainingError("on purpose")

    with pytest.raises(TrainingError, match="on purpose"):
        train(tmp_path / "model", "mlflow", on_step=broken)
    mlflow = client()
    (run,) = mlflow.search_runs([mlflow.get_experiment_by_name("what-next").experiment_id])
    assert run.info.status == "FAILED"


class Away:
    """A board whose server is there for so many calls."""

    calls = 0
    error: Exception = RuntimeError("connection refused by http://anna:secret@host\nand a long story")

    def __init__(self, *_: object) -> None:
        self.add({}, 0)

    def add(self, *_: object) -> None:
        Away.calls -= 1
        if Away.calls < 0:
            raise Away.error

    tell = close = add


def test_a_board_that_is_away_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (extra: track)")
    monkeypatch.setattr(boards, "TensorBoard", Away)
    monkeypatch.setattr(Away, "calls", 0)
    with pytest.raises(SetupError, match=r"be shown there \(connection refused by http://\*{3}@host\); see"):
        train(tmp_path / "never", "tensorboard")
    with monkeypatch.context() as patched:
        patched.setattr(Away, "error", ModuleNotFoundError("No module", name="alembic.migration"))
        with pytest.raises(MissingExtraError, match=r"needs alembic, .*\[track\]"):
            train(tmp_path / "never", "tensorboard")
    monkeypatch.setattr(Away, "calls", 2)
    model = train(tmp_path / "model", "tensorboard")
    assert model.training is not None
    assert len(model.training.steps) > 1
    assert capsys.readouterr().err.count("from here on the run is not shown there") == 1


@pytest.mark.parametrize("library", ["tensorboard", "mlflow"])
def test_a_library_that_is_missing_is_told_before_training(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"needs {library}, .*what-next-rl\[track\]"):
        train(tmp_path, library)
    assert not (tmp_path / "agent.safetensors").exists()
