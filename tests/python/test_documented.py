"""The page about Python runs from top to bottom: a stranger's day with a frame of their own."""

import json
import operator
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import what_next as wn
import what_next.testing
import what_next.worlds

from .test_fit import LIBRARIES, shopping

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def frame(prefix: str) -> pl.DataFrame:
    return shopping().with_columns(pl.format(f"{prefix}{{}}", "Product").alias("Product"))


@pytest.mark.medium
def test_docs_python_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"frame": LIBRARIES["pandas"](frame("p")), "__name__": "stranger"}
    for code in blocks("docs/python.md"):
        exec(compile(code.replace("passes=20", "passes=2"), "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "user: Customer (by its name)" in printed
    assert "the history is empty; give the ids of one item or more" in printed
    assert "agent" in names["results"]  # type: ignore[operator]
    assert (tmp_path / "models" / "setup.txt").is_file()


def test_the_algorithms_of_the_pages_pass_the_checks_that_they_name() -> None:
    cells = json.loads((ROOT / "docs/notebooks/own-algorithm.ipynb").read_text())["cells"]
    pages = [*blocks("docs/python.md"), *("".join(cell["source"]) for cell in cells)]
    found = [code.partition("\n\n\nliked =")[0] for code in pages if "class Liked" in code]
    assert len(found) == 2
    for code in found:
        names: dict[str, Any] = {"__name__": "stranger"}
        exec(code, names)
        what_next.testing.check_algorithm(names["Liked"]())


def test_every_name_that_a_page_mentions_is_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name in re.findall(r"\bwn((?:\.[A-Za-z_]+)+)", page.read_text()):
            assert operator.attrgetter(name[1:])(wn), page


def test_every_name_that_a_page_imports_from_them_is_public() -> None:
    """Their pages of the reference show nothing else of what they import."""
    for module in (what_next.testing, what_next.worlds):
        for page in (ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
            for names in re.findall(rf"from {module.__name__} import ([\w, ]+)", page.read_text()):
                assert set(names.split(", ")) <= set(module.__all__), page
            for name in re.findall(rf"{module.__name__}\.(\w+)\(", page.read_text()):
                assert name in module.__all__, page


def test_the_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    items = {"p3": "A17", "p4": "B4", "p5": "C9"}
    names: dict[str, object] = {"frame": frame("p").with_columns(pl.col("Product").replace(items))}
    code = next(one for one in blocks("README.md") if "wn.fit" in one)
    exec(compile(code.replace("wn.fit(frame)", "wn.fit(frame, passes=2)"), "README.md", "exec"), names)
    assert (tmp_path / "models" / "agent.safetensors").is_file()
