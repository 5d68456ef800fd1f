"""The scripts that install and start the service, as an image or a unit runs them."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from what_next import serving
from what_next.errors import MissingExtraError, SetupError
from what_next.settings import Setup

from .processes import ROOT, SOURCE, ask, environment, free_port, until_ready

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

DEPLOY = ROOT / "deploy"
SECONDS = 20.0
"""In which a service ends that was asked to."""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `install.sh` leaves behind, without an environment of its own: the script beside the program."""
    folder = tmp_path_factory.mktemp("prefix") / "bin"
    folder.mkdir()
    shutil.copy(DEPLOY / "entrypoint.sh", folder / "what-next-entrypoint")
    program = folder / "what-next"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCE} exec {sys.executable} -m what_next "$@"\n')
    program.chmod(0o755)
    return folder


def entrypoint(prefix: Path, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    """The script with some words, until it ends."""
    return subprocess.run(
        [prefix / "what-next-entrypoint", *map(str, words)],
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("library", ["filelock", "tenacity", "uvicorn"])
def test_a_library_that_is_missing_is_told(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else name)
    with pytest.raises(MissingExtraError, match=rf"needs {library}, .*what-next-rl\[serve\]"):
        importlib.reload(serving)


@contextmanager
def started(prefix: Path, setup: Path, **more: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The service by the entrypoint, on a free port of this machine."""
    port = free_port()
    own = {"WHAT_NEXT_SETUP": str(setup), "WHAT_NEXT_PORT": str(port), "WHAT_NEXT_HOST": "127.0.0.1"}
    with (setup.parent / "service.log").open("ab") as log:
        process = subprocess.Popen(
            [prefix / "what-next-entrypoint"], env=environment() | own | more, stdout=log, stderr=log
        )
    try:
        until_ready(port, lambda: process.poll() is None)
        yield port, process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def ended(process: subprocess.Popen[bytes]) -> int:
    """Asked by SIGTERM, as docker and systemd ask; the exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(SECONDS)


class TestEntrypoint:
    def test_without_a_setup_it_says_where_it_looked(self, prefix: Path, tmp_path: Path) -> None:
        missing = tmp_path / "setup.txt"
        done = entrypoint(prefix, WHAT_NEXT_SETUP=str(missing))
        assert done.returncode == 2
        assert f"there is no setup file {missing}" in done.stderr

    def test_a_secret_that_cannot_be_read_is_told(self, prefix: Path, tmp_path: Path) -> None:
        done = entrypoint(prefix, PGPASSWORD_FILE=str(tmp_path / "none"))
        assert done.returncode == 2
        assert "none, which cannot be read" in done.stderr

    def test_words_are_handed_on_with_the_password_of_the_secret(self, prefix: Path, tmp_path: Path) -> None:
        shutil.copy(prefix / "what-next-entrypoint", tmp_path / "entrypoint")
        (tmp_path / "what-next").write_text('#!/bin/sh\necho "$PGPASSWORD" "$@"\n')
        (tmp_path / "what-next").chmod(0o755)
        (tmp_path / "secret").write_text("s3cret word\n")
        (tmp_path / "setup.txt").touch()
        own = {"PGPASSWORD_FILE": str(tmp_path / "secret"), "WHAT_NEXT_SETUP": str(tmp_path / "setup.txt")}

        def told(*words: str, **more: str) -> str:
            return subprocess.run(
                [tmp_path / "entrypoint", *words], env=environment() | own | more, capture_output=True, text=True
            ).stdout.strip()

        assert told("key", "list", "a b") == "s3cret word key list a b"
        assert told() == f"s3cret word serve {tmp_path}/setup.txt"
        assert told("serve", "--json", WHAT_NEXT_PORT="80") == (
            f"s3cret word serve {tmp_path}/setup.txt server.port=80 --json"
        )


def test_the_url_of_a_database_is_no_setting_and_its_password_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "setup.txt").write_text("train, no\ndata, log.parquet\nmodel_agent_path, agent.safetensors\n")
    with pytest.raises(SetupError, match=r"server\.store is a URL; allowed: .*WHAT_NEXT_STORE") as refused:
        Setup.read(tmp_path / "setup.txt", ["server.store=postgresql://service:s3cret@database/what_next"])
    assert "s3cret" not in str(refused.value)


@pytest.mark.medium
def test_the_service_starts_by_the_entrypoint_is_backed_up_through_it_and_ends_when_asked(
    prefix: Path, tmp_path: Path
) -> None:
    from .models import served

    served(tmp_path, import_data=False)
    with started(prefix, tmp_path / "setup.txt") as (port, process):
        sent = {"event_id": "e1", "user_id": "u1", "item_id": "i1", "event": "play"}
        assert ask(port, "POST", "/v1/events", sent)[0] == 201
        done = entrypoint(prefix, "backup", tmp_path / "setup.txt", tmp_path / "backups")
        assert done.returncode == 0, done.stderr
        assert (Path(done.stdout.strip()) / "store.sqlite").is_file()
        assert ended(process) == 0


def test_an_interpreter_that_the_unit_may_not_read_is_told(tmp_path: Path) -> None:
    own = tmp_path / "python"
    own.write_text('#!/bin/sh\ncase "$2" in *base_prefix*) echo /home/anna/.pyenv ;; venv) exit 3 ;; esac\n')
    own.chmod(0o755)
    done = subprocess.run(
        [DEPLOY / "install.sh", tmp_path / "new"],
        env=environment() | {"PYTHON": str(own)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3
    assert f"warning: {own} lies in a home, where the unit may not read" in done.stderr


@pytest.mark.slow
def test_a_fresh_environment_installs_starts_answers_and_stops(tmp_path: Path) -> None:
    """The steps of the image, without the image; takes the time that pip needs."""
    from .models import served

    folder = tmp_path / "files"
    folder.mkdir()
    served(folder)
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TORCH_INDEX")}
    fresh = tmp_path / "environment"
    done = subprocess.run(
        [DEPLOY / "install.sh", fresh], env=own | {"PYTHON": sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    port = free_port()
    serving = own | {"WHAT_NEXT_SETUP": str(folder / "setup.txt"), "WHAT_NEXT_PORT": str(port)}
    with (folder / "service.log").open("ab") as log:
        process = subprocess.Popen([fresh / "bin" / "what-next-entrypoint"], env=serving, stdout=log, stderr=log)
    try:
        until_ready(port, lambda: process.poll() is None)
        status, answer = ask(port, "POST", "/v1/recommendations", {"user_id": "u1", "k": 5})
        assert (status, len(answer["items"]), answer["fallback"]) == (200, 5, None)
        began = time.monotonic()
        assert ended(process) == 0
        assert time.monotonic() - began < SECONDS
    finally:
        if process.poll() is None:
            process.kill()
    keys = subprocess.run(
        [fresh / "bin" / "what-next-entrypoint", "key", "list", str(folder / "setup.txt"), "--json"],
        env=serving, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(keys.stdout) == {"keys": []}
