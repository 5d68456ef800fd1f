"""src/main.py trains and recommends, as a setup file says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import what_next as wn

from .conftest import run_main

SOURCE = Path(__file__).resolve().parents[1] / "src"


def program(*words: str | Path, limit: str = "") -> subprocess.CompletedProcess[str]:
    """Run src/main.py in a process of its own; `limit` is a shell command before it."""
    command = f'{limit} exec "$@"'
    return subprocess.run(
        ["bash", "-c", command, "main", sys.executable, SOURCE / "main.py", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "160"},
    )


@pytest.fixture
def setup_file(tmp_path: Path, log_file: Path) -> Path:
    path = tmp_path / "setup.txt"
    path.write_text(
        f'train, yes\nmodel, lstm\ndata, "{log_file}"\nepochs, 128\nbatch_size, 32\nwindow, 20\ndim, 16\nthreads, 1\n'
        "model_agent_path, models/agent.safetensors\nmodel_critic_path, models/critic.safetensors\n"
    )
    return path


def test_it_trains_saves_and_recommends(setup_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = program(setup_file)
    assert trained.returncode == 0, trained.stderr
    assert "trained on 128 histories" in trained.stdout
    models = setup_file.parent / "models"
    assert {path.name for path in models.iterdir()} >= {"agent.safetensors", "critic.safetensors"}
    assert run_main(setup_file, "train=no", "user=u7", "slots=3") == 0
    found = capsys.readouterr().out
    assert "What next for user u7?" in found
    assert found.count("Song ") >= 3
    assert "proposed" in found


def test_the_same_from_python(setup_file: Path) -> None:
    report = wn.Environment.from_setup(str(setup_file)).run_sim()
    assert report.saved == tuple(
        setup_file.parent / "models" / name for name in ("agent.safetensors", "critic.safetensors")
    )
    assert report.valid is not None
    json.dumps(report.as_json(), allow_nan=False)


def test_overrides_go_before_the_file(setup_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(setup_file, "epochs=32") == 0
    assert "trained on 32 histories" in capsys.readouterr().out


def test_an_interrupted_run_says_how_to_go_on(
    setup_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    original = wn.Agent.propagate

    def propagate(agent: wn.Agent, *args: object) -> object:
        if not agent.histories:
            signal.raise_signal(signal.SIGINT)
        return original(agent, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(wn.Agent, "propagate", propagate)
    assert run_main(setup_file) == 130
    assert f"`what-next train {setup_file} --resume`" in capsys.readouterr().err
    assert wn.load(setup_file.parent / "models" / "agent.safetensors").policy.agent.histories == 32


def test_main_is_executable_and_a_few_lines_long() -> None:
    assert os.access(SOURCE / "main.py", os.X_OK)
    assert len((SOURCE / "main.py").read_text().splitlines()) < 30


def test_the_shipped_setup_is_valid() -> None:
    setup = wn.Setup.read(SOURCE / "setup.txt")
    assert (setup.train, setup.window) == (True, 20)


class TestRefusals:
    """Others are in test_refusals.py."""

    def refused(self, code: int, out: str, err: str) -> str:
        assert code == 2, err
        assert out == ""
        assert "Traceback" not in err
        assert err.count("what-next: ") == 1
        return err.strip()

    def test_no_setup_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = self.refused(run_main(tmp_path / "none.txt"), *capsys.readouterr())
        assert message == f"what-next: {tmp_path}/none.txt: there is no such setup file; what-next init DATA writes one"

    @pytest.mark.medium
    def test_a_full_disk(self, setup_file: Path) -> None:
        assert run_main(setup_file) == 0
        models = setup_file.parent / "models"
        agent = models / "agent.safetensors"
        before = {path.name: path.read_bytes() for path in models.iterdir() if path.suffix != ".jsonl"}
        done = program(setup_file, "epochs=256", limit="ulimit -f 8;")  # a limit is that of a whole process
        message = self.refused(done.returncode, done.stdout, done.stderr)
        assert "cannot be written" in message
        assert {path.name: path.read_bytes() for path in models.iterdir() if path.suffix != ".jsonl"} == before
        assert wn.load(agent).policy.agent.histories == 128

    def test_an_evil_pickle(self, setup_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        mark = tmp_path / "it ran"
        evil = tmp_path / "clean.pk"
        evil.write_bytes(f"cos\nsystem\n(S'touch \"{mark}\"'\ntR.".encode())
        message = self.refused(run_main(setup_file, f"data={evil}"), *capsys.readouterr())
        assert "os.system" in message
        assert "refused" in message
        assert not mark.exists()
