"""The imports of the package go one way, as pyproject.toml draws it."""

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def test_imports_go_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    failed = lint_imports(config_filename=str(PYPROJECT), no_cache=True)
    assert not failed, capsys.readouterr().out
