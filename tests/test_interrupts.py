"""Ctrl-C ends every command with 130 and a line at most, from the first import on; so do other ends."""

import errno
import json
import os
import signal
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import typer

from what_next.cli.app import _Command, _Program, app, main
from what_next.cli.output import CLOSED, emit, guarded
from what_next.data import Dataset
from what_next.errors import NotFinite

from .forked import Forked

MAIN = Path(__file__).resolve().parents[1] / "src" / "main.py"

INTERRUPTED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
sys.argv = {argv!r}
run = (runpy.run_path, sys.argv[0]) if sys.argv[0].endswith(".py") else (runpy.run_module, "what_next")
run[0](run[1], run_name="__main__")
"""


@pytest.mark.medium
@pytest.mark.parametrize(
    ("program", "module"),
    [
        *(("what-next", module) for module in ("torch", "polars", "torch.optim", "rich.console")),
        *((str(MAIN), module) for module in ("torch", "what_next.settings")),
    ],
)
def test_while_a_library_is_imported(program: str, module: str) -> None:
    script = INTERRUPTED.format(module=module, argv=[program, "list", "algorithms"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == "what-next: interrupted"
    assert done.stdout == ""


@pytest.mark.medium
def test_sigterm_while_pytorch_is_imported_ends_it_as_sigterm() -> None:
    script = INTERRUPTED.format(module="torch.optim", argv=["what-next", "list", "algorithms"])
    script = script.replace("os.kill(os.getpid(), signal.SIGINT)", "os.kill(os.getpid(), signal.SIGTERM)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "what-next: interrupted\n")


def test_every_command_is_guarded() -> None:
    def leaves(one: Any) -> list[Any]:
        return [leaf for inner in getattr(one, "commands", {}).values() for leaf in leaves(inner)] or [one]

    found = leaves(typer.main.get_command(app))
    assert {"export", "revoke", "world"} <= {one.name for one in found}
    assert all(isinstance(one, _Command) for one in found)


@pytest.mark.parametrize("told", [(), ("the same command goes on",)])
def test_amid_a_command(told: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt(*told)

    monkeypatch.setattr(Dataset, "read", pressed)
    monkeypatch.setattr(sys, "argv", ["what-next", "init", str(tmp_path / "log.csv")])
    assert main() == 130
    assert capsys.readouterr().err == "; ".join(["what-next: interrupted", *told]) + "\n"


@pytest.mark.parametrize("command", [_Command, _Program])
def test_while_the_words_of_a_command_are_read(command: Any, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "parse_args", pressed)
    monkeypatch.setattr(sys, "argv", ["what-next", "list", "metrics"])
    assert main() == 130
    assert capsys.readouterr().err == "what-next: interrupted\n"


@pytest.mark.medium
@pytest.mark.parametrize("command", ["evaluate", "train", "serve"])
def test_while_data_are_read(command: str, forked: Forked, tmp_path: Path) -> None:
    (tmp_path / "setup.txt").write_text(
        "train, yes, data, log.csv, model_agent_path, a.safetensors, model_critic_path, c.safetensors, server.port, 0"
    )
    (tmp_path / "log.csv").write_text("user_id,item_id,energy\n" + "".join(f"u{n},i{n % 9},{n}\n" for n in range(99)))
    script = INTERRUPTED.format(
        module="what_next.serving.http.run" if command == "serve" else "nothing",
        argv=["what-next", command, str(tmp_path / "setup.txt")],
    )
    if command != "serve":
        script = script.replace(
            "sys.meta_path.insert",
            "import what_next.data\nread = what_next.data.Dataset.read\n"
            "def press(path):\n    os.kill(os.getpid(), signal.SIGINT)\n    return read(path)\n"
            "what_next.data.Dataset.read = staticmethod(press)\nsys.meta_path.insert",
        )
    done = forked.run(code=script, folder=tmp_path)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 1


def a_training(sent: str, usual: str, folder: Path) -> str:
    """A script of a training that is sent a signal in its third step; `usual` is the handler of Ctrl-C before."""
    (folder / "setup.txt").write_text(
        "train, yes, data, log.csv, algorithm, next_item, dim, 8, epochs, 900, linear, no\n"
        "model_agent_path, a.safetensors, model_critic_path, c.safetensors"
    )
    (folder / "log.csv").write_text(
        "user_id,item_id,energy\n" + "".join(f"u{n % 33},i{n % 9},{n % 7}\n" for n in range(330))
    )
    return f"""
import os, signal, sys
signal.signal(signal.SIGINT, {usual})
import what_next as wn
learn = wn.Agent.propagate
def propagate(agent, *given):
    if agent.steps == 2:
        os.kill(os.getpid(), signal.{sent})
    return learn(agent, *given)
wn.Agent.propagate = propagate
sys.argv = ["what-next", "train", "setup.txt", "--json"]
from what_next.cli.app import run
run()
"""


@pytest.mark.medium
@pytest.mark.parametrize("usual", ["signal.default_int_handler", "signal.SIG_IGN"])  # ignored in a script's background
def test_a_training_that_a_scheduler_ends_is_saved(usual: str, forked: Forked, tmp_path: Path) -> None:
    done = forked.run(code=a_training("SIGTERM", usual, tmp_path), folder=tmp_path)
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert json.loads(done.stdout)["stopped"]
    assert "interrupted and saved; go on with `what-next train " in done.stderr
    assert (tmp_path / "a.safetensors").exists()


@pytest.mark.medium
def test_a_training_is_saved_where_the_same_ctrl_c_ends_what_reads_it(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)  # `2>&1 | tee log`
    script = a_training("SIGINT", "signal.default_int_handler", tmp_path)
    try:
        done = subprocess.run([sys.executable, "-c", script], stdout=writes, stderr=writes, cwd=tmp_path, timeout=120)
    finally:
        os.close(writes)
    assert done.returncode == CLOSED
    assert (tmp_path / "a.safetensors").exists()


def test_help_imports_nothing_slow() -> None:
    script = """
import os, sys, typer, what_next as wn
assert wn.__version__ and "fit" in dir(wn)
from what_next.cli import main
from what_next.cli.app import app
names = typer.main.get_command(app).commands
wanted = [["--help"], ["--version"], ["list", "metrics"], *([name, "--help"] for name in names)]
assert len(wanted) > 18
for words in wanted:
    sys.argv = ["what-next", *words]
    assert main() == 0, words
    assert not {"torch", "polars"} & set(sys.modules), words
os.environ |= {"_WHAT_NEXT_COMPLETE": "complete_bash", "COMP_WORDS": "what-next tr", "COMP_CWORD": "1"}
sys.argv = ["what-next"]
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("train\n")


@pytest.mark.parametrize("words", [["list", "metrics"], ["list", "metrics", "--json"], ["--help"]])
def test_a_pipe_that_nobody_reads_ends_it_quietly(words: list[str]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    script = f"import sys; sys.argv = ['what-next', *{words}]; from what_next.cli.app import run; run()"
    try:
        done = subprocess.run([sys.executable, "-c", script], stdout=writes, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_the_handler_of_whoever_embeds_the_package_stays() -> None:
    before = signal.getsignal(signal.SIGINT)
    script = (
        "import signal\nmine = lambda *_: None\nsignal.signal(signal.SIGINT, mine)\nimport what_next.cli\n"
        "assert signal.getsignal(signal.SIGINT) is mine"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_is_one_message_wherever_it_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    def full(number: int) -> int:
        raise OSError(number, "No space left on device", "log.parquet")

    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        assert guarded(full)(number) == 2
        assert capsys.readouterr().err.startswith("what-next: the disk is full (")
    with pytest.raises(OSError, match="No space"):
        guarded(full)(errno.EIO)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_letters_that_the_terminal_lacks_end_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> int:
        print("Töpfe №1")
        emit({"title": "Töpfe №1 \N{COOKING}"})
        return 0

    out = TextIOWrapper(BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert guarded(shown)() == 0
    out.seek(0)
    assert json.loads(out.read().partition("\n")[2]) == {"title": "Töpfe №1 \N{COOKING}"}


def test_an_output_that_is_closed_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    emit({"of": "a command that was started with >&-"})


@pytest.mark.parametrize("words", [["list", "nothing", "--json"], ["list"]])
def test_a_message_that_cannot_be_told_changes_no_exit_code_and_stands_in_no_result(words: list[str]) -> None:
    script = f"import sys; sys.argv = ['what-next', *{words}]; from what_next.cli.app import run; run()"
    with Path("/dev/full").open("w") as full:
        for told in ("2>&-", ""):
            command = ["bash", "-c", f'exec "$0" -c "$1" {told}', sys.executable, script]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, timeout=60)
            assert (done.returncode, done.stdout) == (2, b""), told


def test_no_folder_for_temporary_files_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    def nowhere() -> int:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    assert guarded(nowhere)() == 2
    assert "name one that can be written by TMPDIR" in capsys.readouterr().err


def test_names_that_are_no_text_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["what-next", "data", "describe", "shop\udcff.csv"])
    assert main() == 2
    assert capsys.readouterr().err == "what-next: 'shop\\udcff.csv': is not UTF-8; rename the file or the folder\n"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main() == 2
    assert "is gone; go to another one" in capsys.readouterr().err


def test_scores_that_are_no_numbers_are_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    def scored() -> int:
        raise NotFinite([0])

    assert guarded(scored)() == 2
    assert "the model cannot be used: a score is NaN or infinite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            "can be opened ([Errno 24] Too many open files); raise the limit",
        ),
        (
            ImportError("libtorch.so: failed to map segment from shared object"),
            "memory ran out as a library was loaded",
        ),
        (
            OSError(errno.EFBIG, "File too large"),
            "the disk is full (a quota or a limit on a file's size is reached: [Errno 27] File too large)",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full ([Errno 28] No space left on device)"),
    ],
)
def test_limits_of_the_system_are_one_message(error: Exception, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def limited() -> int:
        raise error

    assert guarded(limited)() == 2
    assert told in capsys.readouterr().err


def test_a_library_that_is_broken_stays_a_fault_of_ours() -> None:
    def broken() -> int:
        raise ImportError("cannot import name 'x'")

    with pytest.raises(ImportError):
        guarded(broken)()
