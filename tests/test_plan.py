"""`what-next plan`: the formulas by hand, where the design breaks first, and that the page shows what it reckons."""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from what_next.cli import app
from what_next.errors import SetupError
from what_next.experiments import plan as planning
from what_next.experiments.plan import Limit, Part, Plan, Size, kept, plan

ROOT = Path(__file__).resolve().parents[1]
ROUND = {
    "log_bytes": 10.0, "import_memory": 100.0, "import_cpu": 1e-6, "target_cpu": 1e-5, "target_by_dim": 1.0,
    "target_by_items": 0.5, "targets_per_step": 1000.0, "dense_parameters": 500.0, "training_memory": 20.0,
    "training_base": 1e9, "table_memory": 12.0, "session_memory": 1000.0, "fold_cpu": 1e-4, "event_bytes": 200.0,
    "answer_bytes": 800.0, "event_cpu": 1e-4, "answer_cpu": 3e-4, "exact_cpu": 1e-8, "approximate_cpu": 1e-3,
    "approximate_by_items": 0.5, "index_memory": 100.0, "service_base": 5e8, "service_memory": 400.0,
    "answer_http_cpu": 2e-4, "http_bytes": 2000.0,
}  # fmt: skip


@pytest.fixture
def round_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "constants", lambda: ROUND)


@pytest.fixture
def picture(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import scale_picture

    yield scale_picture
    for name in ("scale_picture", "picture"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("round_numbers")
def test_every_part_by_hand() -> None:
    size = Size(1e6, 1e6, 1e8, dim=128, requests=100.0, replicas=2, ranks=4, passes=10.0, active=0.1, days=10.0)
    of = {part.name: part for part in plan(size).parts}
    assert of["log on disk"].disk == 1e9
    assert of["import"].memory == 1e10
    assert of["import"].cores == pytest.approx(100 / 86_400)
    # 1e9 targets a day, each 1e-5 s, twice that at dim 128, ten times at a hundred times the items
    assert of["training"].cores == pytest.approx(1e9 * 2e-4 / 86_400)
    assert (of["training"].memory, of["training"].copies) == (3e9, 4)
    # a million steps of 2,000 weights (4 bytes each, four times as many at dim 128) and 2,000 rows of 520 bytes, twice
    assert of["training"].network == pytest.approx(2 * 4 * 1e6 * (8000 + 2000 * 520) / 86_400)
    assert of["item tables"].memory == pytest.approx(12 * 128e6)
    assert of["item tables"].disk == 3 * 4 * 128e6
    shared = {part.name: part for part in plan(replace(size, sharded=True)).parts}["item tables"]
    assert shared.memory == pytest.approx(3 * 128e6)  # in each of the four
    assert of["sessions"].memory == pytest.approx(50_000 * (2000 + 400))
    assert of["sessions"].cores == pytest.approx(0.01)
    fresh = 100 * 864_000  # answers and events of ten days
    assert of["database"].disk == pytest.approx((1e8 + fresh) * 200 + fresh * 800)
    assert of["database"].cores == pytest.approx(0.04)
    assert of["database"].network == 100_000
    assert of["search"].memory == pytest.approx(1e6 * (512 + 200))
    assert of["search"].cores == pytest.approx(0.2)
    assert of["service"].memory == 9e8
    assert of["service"].cores == pytest.approx(0.02)
    assert of["service"].network == 200_000


@pytest.mark.usefixtures("round_numbers")
def test_few_items_are_all_looked_at_and_one_process_sends_nothing() -> None:
    of = {part.name: part for part in plan(Size(1e3, 1e5, 1e6, requests=10.0)).parts}
    assert of["search"].memory == 1e5 * 256
    assert of["search"].cores == pytest.approx(10 * 1e5 * 1e-8)
    assert of["training"].network == 0


@pytest.mark.usefixtures("round_numbers")
def test_a_log_beyond_half_of_the_memory_is_sorted_on_the_disk_and_mapped() -> None:
    of = {part.name: part for part in plan(Size(1e7, 1e5, 1e9, memory=1e11)).parts}
    assert of["import"].memory == 5e10
    assert of["import"].disk == 2 * 1e10
    assert of["log on disk"].disk == 26e9
    assert of["training"].memory == 1e9 + 100 * (1e7 + 1e7)


def test_money_is_that_of_all_copies_for_a_month() -> None:
    part = Part("one", "", memory=2.0**31, copies=3, disk=2.0**30, network=2.0**30 / 2_592_000, cores=0.5)
    assert part.cost((20.0, 3.0, 0.5, 0.25)) == pytest.approx(10 + 3 * 6 + 0.5 + 0.25)


@pytest.mark.usefixtures("round_numbers")
def test_what_breaks_first_is_told_first() -> None:
    small = plan(Size(1e3, 1e4, 1e5, requests=1.0))
    assert small.limits[0].times == max(one.times for one in small.limits) < 1
    assert small.verdict.startswith(f"it holds; the first to break, at {1 / small.limits[0].times:.3g} times this size")
    large = plan(Size(1e9, 1e5, 1e11, requests=1.0))
    broken = [one.name for one in large.limits if one.times > 1]
    assert broken[0] == "a day for a training"  # 1e12 targets of 3.2e-5 s: 366 cores where there is one
    assert large.limits[0].need == pytest.approx(1e12 * 1e-5 * 10**0.5 / 86_400)
    assert "disk of the one database" in broken
    assert large.verdict.startswith(f"it breaks at {broken[0]}")
    assert all(name in large.verdict for name in broken)
    last = Plan(Size(1.0, 1.0, 1.0), (), (Limit("doors", 3.0, 2.0, "doors", "buy one"),))
    assert last.verdict == "it breaks at doors (needs 3 doors, has 2 doors): buy one"


def test_room_for_sessions_is_that_of_the_service() -> None:
    cache = pytest.importorskip("what_next.serving.engine.cache", reason="the extra serve is not installed")
    assert cache.BYTES == planning.CACHE


def test_every_constant_says_what_it_was_measured_by() -> None:
    assert set(kept()["constants"]) == set(ROUND)
    for one in kept()["constants"].values():
        assert one["value"] >= 0
        script, _, part = one["command"].partition(" --only ")
        assert (ROOT / script).is_file()
        assert part in {row["part"] for row in kept()["rows"]}
    assert kept()["measured"]["machine"]


def test_constants_come_of_what_was_measured(picture: Any) -> None:
    assert picture.constants(kept()["rows"]) == kept()["constants"]
    rows = [{"part": "import", "events": events, "cpu_s": 2.0 * events**0.5} for events in (1, 100, 10_000)]
    some = picture.points(rows, "import", "events", "cpu_s", {})
    assert picture.growth(some) == pytest.approx(0.5)
    assert picture.slope(some) == pytest.approx((200 - 20) / 9900)


def test_the_page_and_the_picture_are_what_the_plan_reckons(picture: Any) -> None:
    told = picture.markdown([plan(size) for size in picture.CASES])
    assert told in picture.PAGE.read_text(), "write it anew: make bench-scale"
    assert picture.draw(kept()["rows"]) == picture.PICTURE.read_text(), "draw it anew: make bench-scale"
    root = ElementTree.fromstring(picture.PICTURE.read_text())
    curves = [one for one in root.iter("{http://www.w3.org/2000/svg}path") if "curve" in one.get("class", "")]
    assert len(curves) >= 9


def say(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["what-next", "plan", *words])
    return app.main()


def test_the_command_says_what_is_a_guess_and_where_it_breaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--users", "1e9", "--items", "1e7", "--events", "1e11"]
    assert say(monkeypatch, *asked) == 0
    told = capsys.readouterr().out
    assert re.search(r"Events were measured up to [\d,]+; beyond, the formulas extrapolate", told)
    assert "It breaks at " in told
    assert kept()["measured"]["machine"] in told
    assert say(monkeypatch, *asked, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in found["parts"]] == [
        "log on disk", "import", "training", "item tables", "sessions", "database", "search", "service",
    ]  # fmt: skip
    assert found["size"]["requests"] == pytest.approx(1e9 / 86_400)
    assert found["constants"]["log_bytes"] > 0
    assert all(part["formula"] for part in found["parts"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": 0.0},
        {"items": -1.0},
        {"events": float("inf")},
        {"dim": 0},
        {"replicas": 0},
        {"requests": 1e19},
        {"active": 1.5},
        {"prices": (1.0, 1.0, 1.0, float("nan"))},
    ],
)
def test_a_size_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SetupError, match=rf"{next(iter(wrong))} .*: expected [01] to (1|1e\+18)$"):
        plan(Size(**{"users": 1.0, "items": 1.0, "events": 1.0} | wrong))  # type: ignore[arg-type]


def test_the_largest_size_is_still_a_plan() -> None:
    most = plan(Size(1e18, 1e18, 1e18, dim=10**18, requests=1e18, replicas=10**18, ranks=10**18, prices=(1e18,) * 4))
    json.dumps(most.as_json(), allow_nan=False)


def test_prices_are_four_numbers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert say(monkeypatch, "--users", "1", "--items", "1", "--events", "1", "--prices", "1,2") == 2
    assert "--prices '1,2': expected four numbers" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_option_takes_what_is_no_number(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bounds of options do not keep NaN out: of tune, it would be trials without an end."""
    monkeypatch.setattr(sys, "argv", ["what-next", "gate", "a.txt", "b.txt", "--log", "c.parquet", "--margin", value])
    assert app.main() == 2
    assert f"--margin {float(value)}: expected a finite number" in capsys.readouterr().err
