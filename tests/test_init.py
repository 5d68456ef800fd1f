"""`what-next init` looks at the data: what it writes can be run."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from what_next.cli.app import app
from what_next.cli.output import guarded
from what_next.data import Dataset
from what_next.errors import DataError, ModelError, SetupError
from what_next.settings import Setup
from what_next.state import State

EVENTS = [(f"u{n % 6}", f"i{n * 7 % 10}", 1_700_000_000 + n, n * 7 % 10) for n in range(90)]


def run(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [str(one) for one in arguments])
    if outcome.exception and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.stdout


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    log = tmp_path / "plays.csv"
    log.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t, _ in EVENTS))
    return log


@pytest.mark.medium
def test_it_writes_what_learns_what_comes_next(plain: Path, tmp_path: Path) -> None:
    setup = tmp_path / "setup.txt"
    assert "setup.txt written; algorithm next_item; evaluation.seen yes" in " ".join(
        run("init", plain, "--to", setup).split()
    )
    assert setup.read_text().count("\nalgorithm, next_item\n") == 1
    State.from_setup(Setup.read(setup))
    assert f"next: what-next recommend {setup} epochs=16 --user ID, and what-next evaluate {setup} epochs=16" in run(
        "run", setup, "epochs=16"
    )
    assert (tmp_path / "models" / "agent.safetensors").is_file()


def test_setups_with_names_of_their_own_have_models_of_their_own(plain: Path, tmp_path: Path) -> None:
    """The second of two setups of one folder could not be trained, since both named models/agent.safetensors."""
    paths = {}
    for name in ("setup.txt", "sqn.txt", "crr,2.txt"):
        run("init", plain, "--to", tmp_path / name, "--algorithm", "sqn")
        paths[name] = [path.relative_to(tmp_path).as_posix() for path in Setup.read(tmp_path / name).model_paths]
    assert paths["setup.txt"] == ["models/agent.safetensors", "models/critic.safetensors"]
    assert paths["sqn.txt"] == ["models/sqn.safetensors", "models/sqn-critic.safetensors"]
    assert paths["crr,2.txt"] == ["models/crr,2.safetensors", "models/crr,2-critic.safetensors"]


@pytest.mark.parametrize(("items", "again"), [(7, True), (8, False)])
def test_where_most_events_are_repeats_those_are_judged(tmp_path: Path, items: int, again: bool) -> None:
    """Each of three users has 15 events: with 7 items, 8 of them are repeats, with 8 items 7."""
    log, setup = tmp_path / "plays.csv", tmp_path / "setup.txt"
    log.write_text("user,item,time\n" + "".join(f"u{u},i{n % items},{n}\n" for u in range(3) for n in range(15)))
    assert ("evaluation.seen yes, as 53% of the events are repeats" in run("init", log, "--to", setup)) is again
    assert Setup.read(setup).evaluation.seen is again
    told = " ".join(setup.read_text().replace("\n# ", " ").split())
    assert ("53% of the events are of an item that the user had before" in told) is again


def test_the_defaults_that_it_shows_are_those_of_the_algorithm_that_it_writes(plain: Path, tmp_path: Path) -> None:
    run("init", plain, "--to", tmp_path / "setup.txt")
    text = (tmp_path / "setup.txt").read_text()
    setup = Setup.from_text(text, tmp_path)
    assert (setup.passes, setup.split.name, setup.dim) == (60, "leave_last_out", 128)
    assert {"#passes, 60", "#split, leave_last_out", "#dim, 128"} <= set(text.splitlines())
    assert Setup.from_text(re.sub(r"(?m)^#(?! )", "", text), tmp_path) == setup


def test_attributes_are_no_reason_for_the_founding_algorithm_which_is_there_for_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A price alone made it the default once. It takes no item of its window again, so its setting stays as it is."""
    monkeypatch.chdir(tmp_path)
    rows = (f"u{n % 3},i{n % 7},{n},{n % 7}\n" for n in range(45))
    Path("plays.csv").write_text("user,item,time,tempo\n" + "".join(rows))
    told = " ".join(run("init", "plays.csv").split())
    assert "algorithm next_item; evaluation.seen yes, as 53% of the events are repeats" in told
    written = Setup.read("setup.txt")
    assert (written.algorithm.name, written.passes, written.evaluation.seen) == ("next_item", 60, True)
    assert "algorithm whatnext, which learns how widely items spread" in " ".join(
        run("init", "plays.csv", "--to", "spread.txt", "--algorithm", "whatnext").split()
    )
    setup = Setup.read("spread.txt")
    assert (setup.algorithm.name, setup.epochs) == ("whatnext", 20_000)  # of few users, fewer than of many
    assert not setup.evaluation.seen


def test_the_algorithm_that_is_asked_for_is_written_with_its_own_defaults(plain: Path, tmp_path: Path) -> None:
    """An `epochs` of the founding algorithm would go before the passes of another: two of 20,000 sessions."""
    told = run("init", plain, "--to", tmp_path / "setup.txt", "--algorithm", "sqn")
    assert "written; algorithm sqn;" in " ".join(told.split())
    setup = Setup.read(tmp_path / "setup.txt")
    assert (setup.algorithm.name, setup.passes) == ("sqn", 60)
    with pytest.raises(SetupError, match=r"--algorithm 'sqm': allowed are .*next_item"):
        run("init", plain, "--to", tmp_path / "other.txt", "--algorithm", "sqm")
    with pytest.raises(DataError, match="has no item attributes, which whatnext needs"):
        run("init", plain, "--to", tmp_path / "other.txt", "--algorithm", "whatnext")
    assert not (tmp_path / "other.txt").exists()


def test_the_founding_algorithm_on_such_data_names_the_setting(plain: Path) -> None:
    with pytest.raises(DataError, match="set algorithm to one that needs none, such as next_item"):
        State(Dataset.read(plain))


def test_the_folder_of_an_imported_data_set_is_told_what_to_name(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("data", "import", plain, "--to", tmp_path / "data" / "plays.parquet")
    monkeypatch.chdir(tmp_path / "data")
    for folder in (".", tmp_path / "data"):
        with pytest.raises(DataError, match=r"or name a file in it: plays\.parquet"):
            run("init", folder, "--to", tmp_path / "setup.txt")


@pytest.mark.parametrize("log", ["", "nothing.csv"])
def test_a_folder_or_nothing_is_refused_before_anything_is_written(tmp_path: Path, log: str) -> None:
    with pytest.raises(DataError, match=r"is a folder|no such file"):
        run("init", tmp_path / log, "--to", tmp_path / "setup.txt")
    assert not (tmp_path / "setup.txt").exists()


def test_an_option_that_is_given_again_is_refused_and_one_of_several_values_is_not(plain: Path, tmp_path: Path) -> None:
    for arguments in (("init", plain, "--to", "a.txt", "--to", "b.txt"), ("recommend", "s.txt", "-k", 5, "-k", 7)):
        with pytest.raises(SetupError, match=f"{arguments[-2]}: is given more than once; keep one"):
            run(*arguments)
    with pytest.raises(SetupError, match="there is no such setup file"):
        run("recommend", tmp_path / "none.txt", "--user", "u1", "--user", "u2")


def test_a_setup_is_inspected_as_its_model(plain: Path, tmp_path: Path) -> None:
    run("init", plain, "--to", tmp_path / "setup.txt")
    with pytest.raises(ModelError, match=r"models/agent\.safetensors: no such model file; train one first"):
        run("inspect", tmp_path / "setup.txt")
    with pytest.raises(ModelError, match="is a folder, no model file"):
        run("inspect", tmp_path)


def test_a_link_that_leads_to_itself_is_one_message(plain: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "loop").symlink_to("loop")
    text = f"train, yes, algorithm, next_item, data, {plain}, model_agent_path, loop/agent.safetensors, epochs, 1"
    assert Setup.from_text(text, tmp_path).model_agent_path == tmp_path / "loop" / "agent.safetensors"

    def command() -> int:
        (tmp_path / "loop").resolve()
        return 0

    assert guarded(command)() == 2
    assert "loop" in capsys.readouterr().err
