"""Draw two pictures from docs/results.json: docs/picture.svg, the accuracy of algorithms and baselines;
docs/tradeoff.svg, the reward of the first recommended item against accuracy."""

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CELLS, PICTURE, TRADEOFF = ROOT / "docs/results.json", ROOT / "docs/picture.svg", ROOT / "docs/tradeoff.svg"

SETS = {"ml-100k": "films: ml-100k", "lastfm-s3rec": "artists: lastfm-s3rec"}
BASELINES = ("content", "ease", "item_knn", "markov", "slim", "popular_recent", "popular", "random")
METRIC = "ndcg@10"
EARNED = "reward@1"

WIDTH, MARGIN, LEFT, RIGHT, GAP = 880, 18, 186, 22, 36
ROW, HEADING, TOP = 15, 22, 78
BESIDE, END, FLOOR = 70, WIDTH - 190, 458
"""The borders of the plot area of the second picture."""
KEYS = ("low", "mean", "high")
STYLE = """
    svg { --paper: #ffffff; --ink: #1f2328; --dim: #59636e; --line: #d8dee4;
          --supervised: #1a7f37; --rl: #0969da; --baseline: #bc4c00 }
    @media (prefers-color-scheme: dark) {
      svg { --paper: #0d1117; --ink: #e6edf3; --dim: #9198a1; --line: #30363d;
            --supervised: #3fb950; --rl: #58a6ff; --baseline: #f0883e } }
    text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--ink) }
    .title { font-size: 16px; font-weight: 600 } .bold { font-weight: 600 } .dim { fill: var(--dim) }
    .end { text-anchor: end } .middle { text-anchor: middle }
    .grid { stroke: var(--line) } .interval { stroke-width: 2 }
    .supervised { stroke: var(--supervised); fill: var(--supervised) }
    .rl { stroke: var(--rl); fill: var(--rl) } .baseline { stroke: var(--baseline); fill: var(--baseline) }
"""

Rows = Mapping[str, Mapping[str, Any]]
Cells = Mapping[str, Rows]
Groups = Mapping[str, tuple[str, list[str]]]


def groups(cells: Cells) -> Groups:
    """The rows by heading, each group with its class; the best of the first data set on top."""
    first = {row: cell for row, cell in cells[next(iter(SETS))].items() if "metrics" in cell}
    rows = sorted(first, key=lambda row: -first[row]["metrics"][METRIC]["mean"])
    supervised = [row for row in rows if row.partition("-")[0] == "next_item"]  # also several networks in one
    learned = [row for row in rows if row not in (*BASELINES, *supervised, "whatnext")]
    return {
        "supervised": ("supervised", supervised),
        "reinforcement learning": ("rl", learned),
        "another reward: spread": ("rl", ["whatnext"]),
        "baselines": ("baseline", [row for row in rows if row in BASELINES]),
    }


def draw(cells: Cells) -> str:
    """The first picture as the text of an SVG file."""
    grouped = groups(cells)
    bottom = TOP + sum(HEADING + ROW * len(rows) for _, rows in grouped.values()) + 6
    told = f"Mean NDCG@10 with 95 % intervals; higher is better, 1 is first place for all. {_measured(cells)}"
    parts = [
        _text(MARGIN, 26, "How high does the item that came next stand among the ten recommended?", "title"),
        _text(MARGIN, 46, told, "dim"),
    ]
    for column, name in enumerate(SETS):
        parts += _panel(name, cells[name], grouped, column, bottom)
    parts += _labels(grouped)
    return _svg(parts, bottom + 30, "NDCG@10 of every algorithm and baseline on two public data sets, with intervals")


def draw_tradeoff(cells: Cells) -> str:
    """The reward of the first item against NDCG@10, one point for each row of the first data set."""
    name = next(iter(SETS))
    rows = {row: cell["metrics"] for row, cell in cells[name].items() if EARNED in cell.get("metrics", {})}
    kinds = {row: kind for kind, some in groups(cells).values() for row in some}
    most = {metric: max(one[metric]["high"] for one in rows.values()) * 1.05 for metric in (METRIC, EARNED)}

    def place(metric: str, value: float) -> float:
        share = value / most[metric]
        return BESIDE + (END - BESIDE) * share if metric == METRIC else FLOOR - (FLOOR - TOP) * share

    parts = [
        _text(MARGIN, 26, "Who names the next item well, and who earns with the first one?", "title"),
        _text(MARGIN, 46, f"{SETS[name]}; 95 % intervals. {_measured(cells, [name])}", "dim"),
        f'<path class="grid" d="M{BESIDE} {TOP}V{FLOOR}H{END}" fill="none"/>',
        _text(END, FLOOR + 32, f"{METRIC}: how high the item that came next stands", "dim end"),
        _text(
            MARGIN, TOP - 6, f"{EARNED}: the log's reward of the item that came next, where it is named first", "dim"
        ),
    ]
    for metric in (METRIC, EARNED):
        step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if most[metric] / step <= 7)
        for tick in range(1, int(most[metric] / step) + 1):
            at = place(metric, tick * step)
            x, y, kind = (at, FLOOR + 16, "dim middle") if metric == METRIC else (BESIDE - 6, at + 4, "dim end")
            parts.append(_text(x, y, f"{tick * step:.2f}", kind))
    order = sorted(rows, key=lambda row: -rows[row][EARNED]["mean"])
    for line, row in enumerate(order):
        across, up = ([place(metric, rows[row][metric][key]) for key in KEYS] for metric in (METRIC, EARNED))
        parts += _crossed(row, kinds[row], across, up, TOP + 10 + line * (FLOOR - TOP) / len(order))
    return _svg(
        parts, FLOOR + 44, f"{EARNED} against {METRIC} of every algorithm and baseline on {name}, with intervals"
    )


def _crossed(row: str, kind: str, across: Sequence[float], up: Sequence[float], words: float) -> list[str]:
    """A point with both its intervals, and its name beside the plot area, at the height `words`."""
    (low, x, high), (below, y, above) = across, up
    lines = f"M{low:.1f} {y:.1f}H{high:.1f}M{x:.1f} {below:.1f}V{above:.1f}"
    return [
        f'<path class="{kind}" fill="none" opacity="0.6" d="{lines}"/>',
        f'<path class="grid" d="M{x + 5:.1f} {y:.1f}L{END + 14} {words - 4:.1f}"/>',
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>',
        _text(END + 18, words, row, ""),
    ]


def _svg(parts: Sequence[str], height: int, title: str) -> str:
    """The SVG file of the given parts."""
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n  <title>{title}</title>\n'
    paper = '  <rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return "\n".join([f"{head}  <style>{STYLE}  </style>", paper, *(f"  {part}" for part in parts), "</svg>"]) + "\n"


def _measured(cells: Cells, names: Sequence[str] = tuple(SETS)) -> str:
    users = " and ".join(f"{cells[name]['next_item']['split']['users']:,}" for name in names)
    seeds = {len(cell["seeds"]) for name in names for cell in cells[name].values() if "runs" in cell}
    seconds = {round(cell["limit"]) for name in names for cell in cells[name].values() if "runs" in cell}
    told = ["/".join(map(str, sorted(some))) for some in (seeds, seconds)]
    return f"{users} users; {told[0]} seeds of at most {told[1]} s on one thread."


def _labels(grouped: Groups) -> list[str]:
    parts, y = [], TOP
    for heading, (_, rows) in grouped.items():
        parts.append(_text(MARGIN, y + 15, heading, "bold"))
        y += HEADING
        for row in rows:
            parts.append(_text(LEFT - 10, y + 11, row, "end"))
            y += ROW
    return parts


def _panel(name: str, cells: Rows, grouped: Groups, column: int, bottom: int) -> list[str]:
    width = (WIDTH - LEFT - RIGHT - GAP * (len(SETS) - 1)) / len(SETS)
    start = LEFT + column * (width + GAP)
    longest = max(cell["metrics"][METRIC]["high"] for cell in cells.values() if "metrics" in cell)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if longest / step <= 7)
    ticks = [step * tick for tick in range(int(longest / step) + 2)]

    def across(value: float) -> float:
        return start + width * value / ticks[-1]

    parts = [_text(start, TOP - 8, SETS[name], "bold")]
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{across(tick):.1f} {TOP}V{bottom}"/>')
        parts.append(_text(across(tick), bottom + 16, f"{tick:.2f}", "dim middle"))
    y = TOP
    for kind, rows in grouped.values():
        y += HEADING
        for row in rows:
            if "metrics" in cells.get(row, {}):
                parts += _interval(cells[row]["metrics"][METRIC], kind, across, y + 7)
            y += ROW
    return parts


def _interval(found: Mapping[str, float], kind: str, across: Callable[[float], float], y: float) -> list[str]:
    low, mean, high = (across(found[key]) for key in KEYS)
    shapes = {
        "rl": f'<circle class="rl" cx="{mean:.1f}" cy="{y}" r="3.5"/>',
        "supervised": f'<path class="supervised" d="M{mean:.1f} {y - 5}l5 5l-5 5l-5 -5z"/>',
        "baseline": f'<rect class="baseline" x="{mean - 3:.1f}" y="{y - 3}" width="6" height="6"/>',
    }
    return [f'<path class="{kind} interval" d="M{low:.1f} {y}H{high:.1f}"/>', shapes[kind]]


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(words)}</text>'


def main() -> None:
    cells = json.loads(CELLS.read_text())
    for path, text in ((PICTURE, draw(cells)), (TRADEOFF, draw_tradeoff(cells))):
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
