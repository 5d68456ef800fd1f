"""The imports of the package go one way, as pyproject.toml draws it, and need no extra of the service outside it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def test_imports_go_one_way(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # it would silence our loggers in later tests
    failed = lint_imports(config_filename=str(PYPROJECT), no_cache=True)
    assert not failed, capsys.readouterr().out


def test_only_plain_consoles_print() -> None:
    """A console of Rich's own would take names for markup and emoji codes, and so would a column of its bars."""
    for path in sorted((PYPROJECT.parent / "src").rglob("*.py")):
        text = path.read_text()
        assert not re.search(r"\bConsole\(|rich\.markup|from_markup", text), path
        assert not re.search(r'TextColumn\("[^"]*\{[^)]*"\)', text), path


BLOCKED = """
import importlib, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ModuleNotFoundError(name, name=name)

NAMES = set(sys.argv[1].split(","))
OUTSIDE = ("what_next.serving", "what_next.__main__", "what_next.worlds.gym", "what_next.worlds.minari")
sys.meta_path.insert(0, Missing())
import what_next
for module in pkgutil.walk_packages(what_next.__path__, "what_next."):
    if not module.name.startswith(OUTSIDE):
        importlib.import_module(module.name)
"""


@pytest.mark.medium
def test_the_base_install_is_enough_for_all_but_the_service() -> None:
    """Every module outside `serving` and Gymnasium's side of `worlds` can be imported without the extras."""
    service = "cachetools,orjson,prometheus_client,psycopg,sqlalchemy,starlette,uvicorn"
    others = "faiss,gymnasium,onnx,onnxruntime,pandas,pyarrow,sardine"
    words = [sys.executable, "-c", BLOCKED, f"{service},{others}"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
