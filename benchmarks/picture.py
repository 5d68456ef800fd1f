"""docs/picture.svg: how well each algorithm names the next item, beside baselines, drawn from docs/results.json."""

import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CELLS, PICTURE = ROOT / "docs/results.json", ROOT / "docs/picture.svg"

SETS = {"ml-100k": "films: ml-100k", "lastfm-s3rec": "artists: lastfm-s3rec"}
BASELINES = ("ease", "item_knn", "markov", "popular_recent", "popular", "random")
METRIC = "ndcg@10"

WIDTH, MARGIN, LEFT, RIGHT, GAP = 880, 18, 186, 22, 36
ROW, HEADING, TOP = 15, 22, 78
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
    learned = [row for row in rows if row not in (*BASELINES, "next_item", "whatnext")]
    return {
        "supervised": ("supervised", ["next_item"]),
        "reinforcement learning": ("rl", learned),
        "another reward: spread": ("rl", ["whatnext"]),
        "baselines": ("baseline", [row for row in rows if row in BASELINES]),
    }


def draw(cells: Cells) -> str:
    """The picture as the text of an SVG file."""
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
    size = f'width="{WIDTH}" height="{bottom + 30}" viewBox="0 0 {WIDTH} {bottom + 30}"'
    title = "NDCG@10 of every algorithm and baseline on two public data sets, with intervals"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n  <title>{title}</title>\n'
    paper = '  <rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return "\n".join([f"{head}  <style>{STYLE}  </style>", paper, *(f"  {part}" for part in parts), "</svg>"]) + "\n"


def _measured(cells: Cells) -> str:
    users = " and ".join(f"{cells[name]['next_item']['split']['users']:,}" for name in SETS)
    seeds = {len(cell["seeds"]) for name in SETS for cell in cells[name].values() if "runs" in cell}
    seconds = {round(cell["limit"]) for name in SETS for cell in cells[name].values() if "runs" in cell}
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
    low, mean, high = (across(found[key]) for key in ("low", "mean", "high"))
    shapes = {
        "rl": f'<circle class="rl" cx="{mean:.1f}" cy="{y}" r="3.5"/>',
        "supervised": f'<path class="supervised" d="M{mean:.1f} {y - 5}l5 5l-5 5l-5 -5z"/>',
        "baseline": f'<rect class="baseline" x="{mean - 3:.1f}" y="{y - 3}" width="6" height="6"/>',
    }
    return [f'<path class="{kind} interval" d="M{low:.1f} {y}H{high:.1f}"/>', shapes[kind]]


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(words)}</text>'


def main() -> None:
    PICTURE.write_text(draw(json.loads(CELLS.read_text())))
    print(PICTURE)


if __name__ == "__main__":
    main()
