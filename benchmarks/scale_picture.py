"""The constants of `what-next plan` from the lines of `bench_scale.py`; docs/scale.svg and the tables of docs/scale.md.

python benchmarks/scale_picture.py    # draws from the stored lines
"""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from picture import ROOT, WIDTH, _svg, _text

from what_next.data.files import write_files
from what_next.experiments.plan import ANSWER, DIM, KEPT, Plan, Size, cells, kept, plan

PICTURE, PAGE = ROOT / "docs/scale.svg", ROOT / "docs/scale.md"
MARK, END = "<!-- what-next plan -->\n", "<!-- end -->"
CASES = [Size(users, items, 100 * users, requests=users / 86_400) for users in (1e6, 1e8, 1e9) for items in (1e5, 1e7)]
"""The plans of docs/scale.md: 100 events and a visit a day for each user."""
Row = Mapping[str, Any]

PANELS = (
    ("events", "log of events", [
        ("import", "cpu_s", "import, s", {}),
        ("import on disk", "cpu_s", "import on the disk, s", {}),
        ("import", "peak_bytes", "import, memory", {}),
        ("import", "file_bytes", "file", {}),
        ("training", "peak_bytes", "training, memory", {"items": 10**4, "dim": DIM}),
    ]),
    ("items", "items of the catalogue", [
        ("training", "cpu_s_per_target", "training, s for a target", {"events": 10**6, "dim": DIM}),
        ("training", "peak_bytes", "training, memory", {"events": 10**6, "dim": DIM}),
        ("search", "exact_cpu_s", "exact search, s", {}),
        ("search", "approximate_cpu_s", "approximate search, s", {}),
    ]),
    ("users", "users", [
        ("sessions", "bytes", "sessions, memory", {"dim": DIM}),
        ("database", "event_cpu_s", "an event stored, s", {"database": "SQLite"}),
        ("database", "bytes", "database, disk", {"database": "SQLite"}),
    ]),
)  # fmt: skip
"""Panels of the picture: the growing size, and for each curve its part, value, name and the fixed sizes."""
COLOURS = ("#1a7f37", "#0969da", "#bc4c00", "#8250df", "#bf3989")
TOP, HIGH, LEFT = 76, 250, 46


def markdown(plans: Sequence[Plan]) -> str:
    """Several plans as Markdown tables: the needs of each part, and the part that fails first."""
    head = ["users", "items", "part", "memory", "disk", "network", "processors", "cost a month"]
    rows = [[_round(one.size.users), _round(one.size.items), *cells(one, part)] for one in plans for part in one.parts]
    ends = [[_round(one.size.users), _round(one.size.items), one.verdict] for one in plans]
    formulas = {part.formula: part.name for one in plans for part in one.parts}
    tables = [(head, rows), (["users", "items", "where it breaks first"], ends)]
    tables.append((["part", "formula"], [[name, f"`{formula}`"] for formula, name in formulas.items()]))
    return "\n".join(line for one in tables for line in [*_table(*one), ""])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _round(number: float) -> str:
    return f"{number:,.0f}"


def points(rows: Sequence[Row], part: str, along: str, value: str, same: Row) -> list[tuple[float, float]]:
    """The points of one curve; values per user are multiplied by the number of users."""
    found = {}
    for row in rows:
        if row["part"] == part and all(row[name] == one for name, one in same.items()):
            known = dict(row)
            if part == "sessions":
                known["bytes"] = row["users"] * row["bytes_per_session"]
            if part == "database":
                known["bytes"] = row["users"] * (row["events_of_a_user"] * row["event_bytes"] + row["answer_bytes"])
            found[row[along]] = known[value]
    return sorted(found.items())


def growth(some: Sequence[tuple[float, float]]) -> float:
    """The exponent of a power law between the last two points."""
    (x, y), (further, more) = some[-2:]
    return math.log(more / y) / math.log(further / x)


def slope(some: Sequence[tuple[float, float]]) -> float:
    """The cost of one more, between the last two points."""
    (x, y), (further, more) = some[-2:]
    return (more - y) / (further - x)


def constants(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The constants, each with its value, unit and the lines that it was computed from."""

    def along(part: str, name: str, value: str, **same: Any) -> list[tuple[float, float]]:
        return points(rows, part, name, value, same)

    by_dim = along("training", "dim", "cpu_s_per_target", items=10**4, events=10**6)
    targets = along("training", "items", "cpu_s_per_target", events=10**6, dim=DIM)
    memory = slope(along("training", "events", "peak_bytes", items=10**4, dim=DIM))
    tables = slope(along("training", "items", "peak_bytes", events=10**6, dim=DIM)) / DIM
    (base,) = [row for row in rows if row["part"] == "training" and (row["items"], row["events"], row["dim"]) == (
        10**4, 10**6, DIM)]  # fmt: skip
    imports = {name: along("import", "events", name) for name in ("cpu_s", "peak_bytes", "file_bytes")}
    approximate = along("search", "items", "approximate_cpu_s")
    session, heard = slope(along("sessions", "users", "bytes", dim=DIM, events_of_a_user=20)), 20
    stored = [row for row in rows if row["part"] == "database"][-1]  # PostgreSQL, if it was measured
    quick = [row for row in rows if row["part"] == "database" and row["database"] == "SQLite"][-1]
    answers = along("service", "items", "cpu_s")
    resident = along("service", "items", "resident_bytes")
    (http,) = {row["http_bytes"] for row in rows if row["part"] == "service" and row["items"] == 10**4}
    found = {
        "log_bytes": (imports["file_bytes"][-1][1] / imports["file_bytes"][-1][0], "bytes an event", "import"),
        "import_memory": (slope(imports["peak_bytes"]), "bytes an event", "import"),
        "import_cpu": (slope(imports["cpu_s"]), "s an event", "import"),
        "target_cpu": (targets[0][1], "s a target, dim 64, 10^4 items", "training"),
        "target_by_dim": (math.log(by_dim[-1][1] / by_dim[0][1]) / math.log(by_dim[-1][0] / by_dim[0][0]),
                          "exponent", "training"),
        "target_by_items": (math.log(targets[-1][1] / targets[0][1]) / math.log(targets[-1][0] / targets[0][0]),
                            "exponent", "training"),
        "targets_per_step": (base["targets_per_step"], "targets", "training"),
        "dense_parameters": (base["dense_parameters"], "numbers, dim 64", "training"),
        "training_memory": (memory, "bytes an event", "training"),
        "training_base": (base["peak_bytes"] - 10**6 * memory - 10**4 * DIM * tables, "bytes", "training"),
        "table_memory": (tables, "bytes for a number of an item's vector", "training"),
        "session_memory": (session - 4 * heard, "bytes, dim 64", "sessions"),
        "fold_cpu": (along("sessions", "users", "fold_cpu_s", dim=DIM)[-1][1], "s an event", "sessions"),
        "event_bytes": (stored["event_bytes"], f"bytes an event, {stored['database']}", "database"),
        "answer_bytes": (stored["answer_bytes"], f"bytes an answer of {ANSWER}, {stored['database']}", "database"),
        "event_cpu": (quick["event_cpu_s"], "s an event, SQLite", "database"),
        "answer_cpu": (quick["answer_cpu_s"], "s an answer, SQLite", "database"),
        "exact_cpu": (slope(answers), "s an item, dim 64, softmax and draw in it", "service"),
        "approximate_cpu": (dict(approximate)[10**6], "s a query of 10^6 items, dim 64", "search"),
        "approximate_by_items": (growth(approximate), "exponent", "search"),
        "index_memory": (slope(along("search", "items", "index_bytes")),
                         "bytes an item, dim 64", "search"),
        "service_base": (resident[0][1], "bytes", "service"),
        "service_memory": (max(slope(resident) - 4 * DIM, 0.0), "bytes an item beside its vector", "service"),
        "answer_http_cpu": (answers[0][1] - answers[0][0] * slope(answers), "s an answer", "service"),
        "http_bytes": (http, "bytes a request and its answer", "service"),
    }  # fmt: skip
    return {
        name: {"value": float(f"{value:.4g}"), "unit": unit, "command": f"benchmarks/bench_scale.py --only {part}"}
        for name, (value, unit, part) in found.items()
    }


def keep(new: Sequence[Row], machine: str) -> None:
    """Replace stored lines by new ones of the same sizes, and compute the constants again."""
    sizes = ("part", "events", "items", "users", "dim", "events_of_a_user", "database")

    def key(row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in sizes)

    before = json.loads(KEPT.read_text())["rows"] if KEPT.exists() else []
    rows = list({key(row): row for row in [*before, *new]}.values())
    largest = {name: max(row[name] for row in rows if name in row) for name in ("users", "items", "events", "dim")}
    told = {
        "measured": {"machine": machine, "torch": torch.__version__, "on": datetime.date.today().isoformat(),
                     "how": "one thread; seconds of the processor, while other work ran on the machine"},
        "largest": largest,
        "constants": constants(rows),
        "rows": rows,
    }  # fmt: skip
    lines = [
        f" {json.dumps(name)}: {json.dumps(one)}" for name, one in told.items() if name not in ("constants", "rows")
    ]
    lines += [' "constants": {\n' + ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in
                                             told["constants"].items()) + "\n }"]  # fmt: skip
    lines += [' "rows": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]"]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_files({KEPT: lambda file: file.write(text.encode())})
    kept.cache_clear()


def draw(rows: Sequence[Row]) -> str:
    """The picture as the text of an SVG file: how cost grows with events, items and users."""
    parts = [_text(18, 26, "How cost grows", "title")]
    told = "Both axes by powers of ten, each curve as many times its first point; dotted: in proportion"
    parts += [_text(18, 46, told, "dim")]
    for place, (along, title, curves) in enumerate(PANELS):
        found = [(name, points(rows, part, along, value, same)) for part, value, name, same in curves]
        parts += _panel(place, title, [(name, some) for name, some in found if len(some) > 1])
    return _svg(parts, TOP + HIGH + 127, "How cost grows with events, items and users, as measured")


def _panel(place: int, title: str, curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> list[str]:
    wide = (WIDTH - 30) / len(PANELS)
    start, end, floor = LEFT + place * wide, (place + 1) * wide - 10, TOP + HIGH
    least = math.log10(min(some[0][0] for _, some in curves))
    most = math.ceil(max(math.log10(some[-1][0]) for _, some in curves))
    highest = max(most - least, *(math.log10(y / some[0][1]) for _, some in curves for _, y in some))

    def across(value: float) -> float:
        return start + (end - start) * (math.log10(value) - least) / (most - least)

    def up(times: float) -> float:
        return floor - 24 - (HIGH - 34) * max(math.log10(times), -0.3) / highest

    parts = [_text(start, TOP - 8, title, "bold"), f'<path class="grid" d="M{start} {TOP}V{floor}H{end}" fill="none"/>']
    for power in range(math.ceil(least), most + 1):
        parts.append(_text(across(10**power), floor + 16, f"1e{power}", "dim middle"))
    for power in range(int(most - least) + 1):
        parts.append(_text(start - 4, up(10**power) + 4, f"1e{power}", "dim end"))
    whole = f'd="M{across(10**least):.1f} {up(1):.1f}L{across(10**most):.1f} {up(10 ** (most - least)):.1f}"'
    parts.append(f'<path class="grid" stroke-dasharray="2 4" fill="none" {whole}/>')
    for number, ((name, some), colour) in enumerate(zip(curves, COLOURS, strict=False)):
        line = "L".join(f"{across(x):.1f} {up(y / some[0][1]):.1f}" for x, y in some)
        parts.append(f'<path class="curve" style="fill: none; stroke: {colour}" stroke-width="2" d="M{line}"/>')
        below = floor + 36 + 17 * number
        parts.append(f'<path style="stroke: {colour}" stroke-width="3" d="M{start} {below - 4}h12"/>')
        parts.append(_text(start + 18, below, f"{name}: grows by {growth(some):.2f}", ""))
    return parts


def write() -> None:
    """Write the picture and the tables from the stored lines."""
    before, _, rest = PAGE.read_text().partition(MARK)
    text = before + MARK + markdown([plan(size) for size in CASES]) + END + rest.partition(END)[2]
    write_files({PICTURE: lambda file: file.write(draw(kept()["rows"]).encode()),
                 PAGE: lambda file: file.write(text.encode())})  # fmt: skip
    print(PICTURE, PAGE, sep="\n")


if __name__ == "__main__":
    write()
