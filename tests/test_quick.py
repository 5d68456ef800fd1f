"""A recommendation derives nothing that the model's file holds, and imports nothing that it does not use.

Work is counted, not timed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import what_next as wn
from what_next import State
from what_next.cli import main
from what_next.inference.recommender import Recommender

from .conftest import SetupOf, Trained, run_main

HEAVY = {
    "torch._dynamo", "torch._inductor", "sympy", "optuna", "matplotlib", "starlette", "onnx", "pandas", "jinja2",
    "what_next.off_policy.judge", "what_next.serving.engine.engine",
}  # fmt: skip


@pytest.fixture
def files(trained: Trained, log_file: Path, tmp_path: Path) -> dict[str, Path]:
    """A setup file for the trained founding model, and one for a trained `next_item`."""
    made = {}
    for name, more in (("whatnext", ""), ("next_item", "algorithm, next_item, split, users\n")):
        made[name] = tmp_path / f"{name}.txt"
        made[name].write_text(
            f'train, no\ndata, "{log_file}"\nwindow, 20\nthreads, 1\n{more}'
            f"model_agent_path, {trained.setup.model_agent_path if not more else 'next.safetensors'}\n"
            f"model_critic_path, {'none' if more else trained.setup.model_critic_path}\nuser, u7\n"
        )
    if not (tmp_path / "next.safetensors").exists():
        setup = wn.Setup.read(made["next_item"], ["train=yes", "passes=1", "dim=8"])
        wn.Environment.from_setup(setup).run_sim()
    return made


@pytest.fixture
def underived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever measures the training part fails."""
    for name in ("_measured", "smallest_tolerance"):
        monkeypatch.setattr(State, name, lambda self, *_: pytest.fail("measured anew"))
    monkeypatch.setattr("what_next.state.scaled_space", lambda *_: pytest.fail("scaled anew"))


@pytest.mark.parametrize("name", ["whatnext", "next_item"])
def test_a_recommendation_measures_nothing_that_the_models_file_holds(
    name: str,
    files: dict[str, Path],
    underived: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["what-next", "recommend", str(files[name]), "--user", "u7", "--json"])
    assert main() == 0
    assert len(json.loads(capsys.readouterr().out)["items"]) == 10
    assert run_main(files[name]) == 0
    assert wn.Environment.from_setup(files[name]).run_sim().recommendations[0].user == "u7"


def test_it_is_the_recommendation_of_a_state_that_was_measured(
    trained: Trained, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = wn.Agent(trained.setup, trained.state.space).ready_agent()
    measured = Recommender(wn.LearnedPolicy(agent, trained.state)).recommend(user="u7", k=5)
    monkeypatch.setattr(
        "sys.argv", ["what-next", "recommend", str(files["whatnext"]), "--user", "u7", "-k", "5", "--json"]
    )
    assert main() == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["item_id"] for one in found["items"]] == [one.item_id for one in measured.items]


def test_a_tolerance_of_the_setup_goes_before_the_models(files: dict[str, Path]) -> None:
    from what_next import State

    setup = wn.Setup.read(files["whatnext"], ["tolerance=1.25"])
    assert State.open(setup).space.tolerance == 1.25
    assert State.open(setup.model_copy(update={"tolerance": None})).space.tolerance != 1.25


def test_a_ready_agent_has_no_optimisers(setup_of: SetupOf, trained: Trained) -> None:
    agent = wn.Agent(trained.setup, trained.state.space)
    assert agent.ready_agent().optimisers == {}
    assert set(agent.wake_agent().optimisers) == {"actor", "critic"}


@pytest.mark.medium
def test_nothing_is_imported_that_a_recommendation_does_not_use(files: dict[str, Path]) -> None:
    program = (
        "import gc, sys; from what_next.cli.app import main; assert gc.isenabled();"
        f"sys.argv = ['what-next', 'recommend', {str(files['whatnext'])!r}, '--user', 'u7', '--json'];"
        f"assert main() == 0; print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
