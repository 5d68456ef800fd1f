"""Deployed models are immutable copies; a rollback takes one command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from what_next.cli import promote as commands
from what_next.cli.output import guarded
from what_next.errors import ModelError
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import before, intact, keep, line, version_of, versions_folder
from what_next.serving.store import Deployment, Store
from what_next.settings import Setup

from .engines import in_time, running
from .models import served

HISTORY = ("i3", "i14", "i15")


def deployments(*words: str) -> list[Deployment]:
    kinds = {"+": "promoted", "-": "rolled back", "1": "first"}
    return [Deployment(place, word[1:], kinds[word[0]], 0, {}) for place, word in enumerate(words)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "versions"),
    [
        (("1a",), ["a"]),
        (("1a", "+b"), ["a", "b"]),
        (("1a", "+b", "-a"), ["a"]),
        (("1a", "+b", "+c", "-b"), ["a", "b"]),
        (("1a", "+b", "+c", "-b", "-a"), ["a"]),
        (("1a", "+b", "-a", "+c"), ["a", "c"]),
        (("1a", "+b", "+a", "-b"), ["a", "b"]),
        (("1a", "+a"), ["a"]),
    ],
)
def test_what_was_rolled_back_is_no_longer_in_line(words: tuple[str, ...], versions: list[str]) -> None:
    assert line(deployments(*words)) == versions
    if len(versions) > 1:
        assert before(deployments(*words)) == versions[-2]
    else:
        with pytest.raises(ModelError, match="is the first"):
            before(deployments(*words))


def test_nothing_comes_before_nothing() -> None:
    with pytest.raises(ModelError, match="nothing is deployed yet"):
        before([])


@pytest.mark.parametrize("algorithm", ["next_item", "whatnext"])
def test_a_kept_version_outlives_the_files_that_it_was_made_of(tmp_path: Path, algorithm: str) -> None:
    setup = served(tmp_path, algorithm)
    version = keep(tmp_path / "versions", setup.model_agent_path)
    assert version == version_of(setup.model_agent_path)
    assert keep(tmp_path / "versions", setup.model_agent_path) == version
    for path in setup.model_paths:
        path.unlink()
    assert len(Served.load(tmp_path / "versions", version).ids) == 80
    assert "## For whom it is not" in (tmp_path / "versions" / version / "agent.card.md").read_text()
    assert [path.name for path in (tmp_path / "versions").iterdir()] == [version]


def test_a_damaged_model_is_not_kept(tmp_path: Path) -> None:
    setup = served(tmp_path)
    setup.model_agent_path.with_name("agent.catalogue.parquet").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="catalogue"):
        keep(tmp_path / "versions", setup.model_agent_path)
    assert not (tmp_path / "versions").exists()


def test_versions_lie_beside_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = served(tmp_path, store=tmp_path / "data" / "store.sqlite")
    assert versions_folder(setup) == tmp_path / "data" / "versions"
    monkeypatch.setenv("WHAT_NEXT_STORE", "postgresql://somewhere/store")
    assert versions_folder(setup) == setup.model_agent_path.parent / "versions"


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return served(tmp_path)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    (tmp_path / "second").mkdir()
    return served(tmp_path / "second", "dqn").model_agent_path


Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(setup: Setup, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command on the setup; its exit code, and what it says as JSON (or `error`)."""
    app = typer.Typer()
    app.command("promote")(commands.promote)
    app.command("rollback")(commands.rollback)
    path = str(setup.model_agent_path.with_name("setup.txt"))

    def command(name: str, *words: object) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = guarded(lambda: app([name, path, *map(str, words), "--json"], standalone_mode=False))()
        told = capsys.readouterr()
        return code or 0, json.loads(told.out) if told.out else {"error": told.err}

    return command


@pytest.mark.medium
def test_a_model_takes_over_by_force_and_goes_by_a_rollback(setup: Setup, second: Path, run: Run) -> None:
    with running(setup) as service:
        first = service.ask(history=HISTORY).version
        code, told = run("promote", "--model", second, "--force")
        assert (code, told["version"], told["number"]) == (0, version_of(second), 2)
        in_time(lambda: service.ask(history=HISTORY).version == told["version"])
        note = service.store.deployments()[-1].note
        assert (note["forced"], note["from"], note["gate"]) == (True, first, None)
        assert run("rollback")[0] == 0
        in_time(lambda: service.ask(history=HISTORY).version == first)
        assert service.engine.model()["deployed"]["kind"] == "rolled back"
        code, told = run("rollback")
        assert code == 2
        assert "is the first" in told["error"]


def test_what_is_deployed_is_not_deployed_again(setup: Setup, run: Run) -> None:
    with running(setup) as service:
        code, told = run("promote")
        assert (code, told["promote"]) == (0, False)
        assert "already" in told["why"]
        assert len(service.store.deployments()) == 1


def test_a_setup_names_its_model_and_mistakes_are_told(setup: Setup, second: Path, run: Run) -> None:
    code, told = run("promote")
    assert (code, "no such store" in told["error"]) == (2, True)
    Store.open(setup.model_agent_path.with_suffix(".store.sqlite")).close()
    code, told = run("promote", "--model", "nowhere.safetensors")
    assert (code, "no such file" in told["error"]) == (2, True)
    code, told = run("promote", "--model", second.with_name("setup.txt"))
    assert (code, told["version"]) == (0, version_of(second))
    assert "nothing was deployed before" in told["why"]


def test_what_is_missing_is_told_apart_from_what_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"a-1-12345678: is missing; restore it from a back-up .* what-next rollback SETUP"
    ):
        intact(tmp_path / "a-1-12345678", "a-1-12345678")
    (tmp_path / "a-1-12345678").mkdir()
    with pytest.raises(ModelError, match=r"a-1-12345678: is damaged: .*remove this folder and .* rollback SETUP"):
        intact(tmp_path / "a-1-12345678", "a-1-12345678")


def test_a_setups_model_that_was_deployed_before_is_not_called_new(setup: Setup, second: Path, run: Run) -> None:
    """As after each promotion by the loop: deploying the older model again is no advice."""
    with running(setup) as service:
        first = service.ask(history=HISTORY).version
        other = run("promote", "--model", second, "--force")[1]["version"]
    with running(setup) as service:
        assert service.engine.undeployed() == f"{other} answers; the setup's model {first} was deployed before it"


def test_what_works_is_told_where_a_deployed_version_is_missing(setup: Setup, second: Path, run: Run) -> None:
    folder = versions_folder(setup)
    with running(setup) as service:
        first = service.ask(history=HISTORY).version
        other = run("promote", "--model", second, "--force")[1]["version"]
    shutil.rmtree(folder / other)
    with running(setup) as service:
        told = service.engine.undeployed()
        assert told == (
            f"the deployed version {other} cannot be used, so the setup's model {first} answers; restore the first "
            "from a back-up, or deploy the second: what-next promote SETUP --force"
        )
        code, refused = run("promote")
        assert (code, "is missing; restore it from a back-up" in refused["error"]) == (2, True)
        code, told = run("promote", "--model", second, "--force")
        assert (code, "is deployed already, and its files are whole" in told["why"]) == (0, True)
    with running(setup) as service:
        assert service.ask(history=HISTORY).version == other
    shutil.rmtree(folder / first)
    code, refused = run("rollback")
    assert (code, f"{first}: is missing; restore it from a back-up" in refused["error"]) == (2, True)


def test_what_helps_is_told_where_a_version_of_the_loop_is_damaged(
    setup: Setup, second: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """The setup's model is not the version before: deploying that would go back further than needed."""
    with running(setup):
        before = run("promote", "--model", second, "--force")[1]["version"]
        (second.parent / "third").mkdir()
        third = served(second.parent / "third", "sqn").model_agent_path
        newest = run("promote", "--model", third, "--force")[1]["version"]
    (versions_folder(setup) / newest / "agent.safetensors").write_bytes(b"nothing")
    with running(setup) as service:
        assert service.engine.undeployed() == (
            f"the deployed version {newest} cannot be used, so {before} answers, which was deployed before it; restore "
            "the first from a back-up, or stay with the second: what-next rollback SETUP"
        )
        assert "what-next rollback SETUP; if the model's own file is still there" in caplog.text
        assert run("rollback")[1]["version"] == before
        assert service.ask(history=HISTORY).version == before
    with running(setup) as service:
        assert "was deployed before it" in str(service.engine.undeployed())
        shutil.rmtree(versions_folder(setup) / newest)
        assert run("promote", "--model", third, "--force")[1]["version"] == newest


def test_a_catalogue_that_was_not_copied_with_its_agent_is_told(tmp_path: Path, run: Run, second: Path) -> None:
    Store.open(tmp_path / "agent.store.sqlite").close()
    second.with_name("agent.catalogue.parquet").unlink()
    code, refused = run("promote", "--model", second)
    told = f"agent.catalogue.parquet: no such model file; it belongs to {second}, and must be copied with it"
    assert (code, told in refused["error"]) == (2, True)
