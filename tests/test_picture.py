"""docs/picture.svg and docs/results.md are what their commands write, from what was measured."""

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from what_next import Setup

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("picture", "tables", "tables_page", "sets")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def picture(benchmarks: None) -> Any:
    import picture

    return picture


@pytest.fixture
def cells() -> Any:
    return json.loads((ROOT / "docs/results.json").read_text())


def test_the_kept_picture_is_what_make_picture_draws(picture: Any, cells: Any) -> None:
    assert picture.draw(cells) == (ROOT / "docs/picture.svg").read_text(), "draw it anew: make picture"
    assert picture.draw_tradeoff(cells) == (ROOT / "docs/tradeoff.svg").read_text(), "draw it anew: make picture"


def test_every_row_that_was_measured_is_drawn_where_its_numbers_put_it(picture: Any) -> None:
    def cell(mean: float, **more: Any) -> dict[str, Any]:
        found = {"ndcg@10": {"low": mean - 0.01, "mean": mean, "high": mean + 0.01}}
        return {"metrics": found, "split": {"users": 943}, **more}

    run = {"runs": [{}], "seeds": [0, 1], "limit": 30.0}
    rows = {
        "next_item": cell(0.05, **run),
        "whatnext": cell(0.02, **run),
        "mine": cell(0.03, **run),
        "random": cell(0.01),
    }
    rows["broken"] = {"failed": "the loss is nan", **run}
    drawn = ElementTree.fromstring(picture.draw(dict.fromkeys(picture.SETS, rows)))
    words = [part.text for part in drawn.iter() if part.tag.endswith("text")]
    assert {"next_item", "whatnext", "mine", "random"} <= set(words)
    assert "broken" not in words
    assert any("2 seeds of at most 30 s" in str(text) for text in words)
    ends = {text: float(part.get("x", "")) for part in drawn.iter() if (text := part.text) in ("0.00", "0.03")}
    circles = [float(part.get("cx", "")) for part in drawn.iter() if part.tag.endswith("circle")]
    assert max(circles) == pytest.approx(ends["0.03"], abs=0.1)


def test_the_kept_tables_are_what_make_tables_writes(benchmarks: None, cells: Any) -> None:
    import tables

    written = tables.page(cells, tables.read(tables.TUNED), tables.every_row(), (*tables.MAIN, *tables.MORE))
    assert written.strip() in (ROOT / "docs/results.md").read_text()


def test_every_row_that_was_trained_has_its_setup(benchmarks: None, cells: Any) -> None:
    import tables

    kept = {path: path.read_text() for path in tables.CONFIGS.iterdir()}
    assert kept == tables.configs(cells), "write them anew: python benchmarks/tables.py show"
    for path, text in kept.items():
        name, _, row = path.stem.partition(".")
        setup = Setup.from_text(text, ROOT)
        settings = cells[name][row]["tuned"] or {}
        wanted = tables.with_settings(tables.setup_of(row, 0, setup.seconds, ROOT, {}), settings)
        assert setup.algorithm == wanted.algorithm
        assert (setup.split, setup.dim, setup.learning_rate) == (wanted.split, wanted.dim, wanted.learning_rate)


def test_a_table_replaces_what_stands_between_its_own_markers(
    benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tables_page

    page = tmp_path / "results.md"
    monkeypatch.setattr(tables_page, "PAGE", page)
    page.write_text("By hand.\n<!-- one -->\nold\nold\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\n")
    tables_page.put("one", "new\n")
    assert page.read_text() == "By hand.\n<!-- one -->\nnew\n<!-- /one -->\n<!-- two -->\nkept\n<!-- /two -->\n"
    with pytest.raises(AssertionError, match="three"):
        tables_page.put("three", "new")
