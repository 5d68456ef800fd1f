"""Folders for what nobody needs afterwards: none outlives its process, however that ends, by more than one call."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from what_next.data.files import scratch


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def killed(purpose: str) -> None:
    """A process that is killed while it has a folder."""
    if (child := os.fork()) == 0:
        with scratch(purpose) as folder:
            (folder / "log.parquet").write_bytes(b"histories")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_process_left_goes_and_what_others_have_stays(temporary: Path) -> None:
    killed("promote")
    killed("tune")
    left, others = sorted(temporary.iterdir())
    assert left.name.startswith("what-next-promote-")
    with scratch("promote") as mine:
        assert not left.exists(), "histories may be in it"
        with scratch("promote") as second:
            assert {*temporary.iterdir()} == {mine, second, others}, "of another purpose, or in use"
            assert mine.stat().st_mode & 0o077 == 0
    assert [*temporary.iterdir()] == [others]


def test_without_locks_nothing_of_others_is_removed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed("tune")
    (left,) = temporary.iterdir()

    def none(*_: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with scratch("tune") as mine:
        assert {*temporary.iterdir()} == {mine, left}
    assert [*temporary.iterdir()] == [left]


def test_a_link_of_that_name_is_not_followed(temporary: Path) -> None:
    (temporary / "mine").mkdir()
    (temporary / "what-next-tune-link").symlink_to(temporary / "mine")
    with scratch("tune"):
        assert (temporary / "mine").is_dir()
