"""docs/loop.svg and its table: the reward of answers by day, in each arm of benchmarks/loop.py."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LINES, PICTURE = ROOT / "docs/loop.json", ROOT / "docs/loop.svg"
WIDTH, HEIGHT, TOP, LEFT, RIGHT = 880, 330, 76, 56, 150
COLOURS = {
    "loop rl": "#0969da", "loop next_item": "#1a7f37", "no loop": "#8250df", "popular": "#bc4c00",
    "random": "#8c959f", "greedy": "#bf8700", "aware": "#59636e",
}  # fmt: skip
STYLE = """
    svg { --paper: #ffffff; --ink: #1f2328; --dim: #59636e; --line: #d8dee4 }
    @media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #e6edf3; --dim: #9198a1; --line: #30363d } }
    text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--ink) }
    .title { font-size: 16px; font-weight: 600 } .dim { fill: var(--dim) } .end { text-anchor: end }
    .middle { text-anchor: middle } .grid { stroke: var(--line) } .day { fill: none; stroke-width: 2 }
"""
Lines = Sequence[Mapping[str, Any]]


def by_arm(lines: Lines) -> dict[str, Lines]:
    """The runs of each arm, one for each seed."""
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        found[line["arm"]].append(line)
    return dict(found)


def draw(lines: Lines) -> str:
    """The picture of one world as the text of an SVG file: the reward of an answer by day, the mean over seeds."""
    arms = {arm: np.mean([run["reward"] for run in runs], axis=0) for arm, runs in by_arm(lines).items()}
    days = len(next(iter(arms.values())))
    low, high = min(map(np.min, arms.values())), max(map(np.max, arms.values()))
    step = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if (high - low) / step <= 7)
    low, high = np.floor(low / step) * step, np.ceil(high / step) * step

    def at(day: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * day / max(days - 1, 1)
        return f"{x:.1f} {TOP + (HEIGHT - TOP - 40) * (high - value) / (high - low):.1f}"

    parts = [_text(18, 26, "What an answer earned, day after day", "title"), _text(18, 46, told(lines), "dim")]
    for value in np.arange(low, high + step / 2, step):
        x, y = at(0, value).split()
        parts.append(f'<path class="grid" d="M{x} {y}H{WIDTH - RIGHT}"/>')
        parts.append(_text(LEFT - 8, float(y) + 4, f"{value:.1f}", "dim end"))
    for day in range(0, days, max(1, days // 10)):
        parts.append(_text(float(at(day, low).split()[0]), HEIGHT - 18, str(day + 1), "dim middle"))
    placed: list[float] = []
    for arm, rewards in sorted(arms.items(), key=lambda pair: -pair[1][-1]):
        points = "L".join(at(day, value) for day, value in enumerate(rewards))
        parts.append(f'<path class="day" style="stroke: {COLOURS[arm]}" d="M{points}"/>')
        y = max([float(at(0, rewards[-1]).split()[1]) + 4, *(one + 14 for one in placed[-1:])])
        placed.append(y)
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y:.1f}" style="fill: {COLOURS[arm]}">{escape(arm)}</text>')
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n  <title>Reward of an answer by day</title>\n'
    paper = '  <rect width="100%" height="100%" style="fill: var(--paper)"/>'
    return "\n".join([f"{head}  <style>{STYLE}  </style>", paper, *(f"  {part}" for part in parts), "</svg>"]) + "\n"


def told(lines: Lines) -> str:
    """A description of the simulation."""
    first, seeds = lines[0], sorted({line["seed"] for line in lines})
    shift = "" if first["shift"] is None else f", tastes change on day {first['shift'] + 1}"
    return f"World {first['world']}, {first['users']:,} users, {first['days']} days, seeds {seeds}{shift}"


def table(lines: Lines) -> str:
    """A row for each arm, in Markdown: the last third of the days, with 95 % intervals over users, and the rest."""
    rows = [
        "| arm | reward of an answer, last third of the days | how much more `loop rl` earns | on all days "
        "| visits of a user | coverage, first to last day | Gini, first to last day "
        "| deployments | processor time of the loop |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    arms = by_arm(lines)
    for arm, runs in arms.items():
        whole = np.mean([np.average(run["reward"], weights=run["answers"]) for run in runs])
        visits = _visits(runs)
        ends = [f"{np.mean([r[what][0] for r in runs]):.2f} to {np.mean([r[what][-1] for r in runs]):.2f}"
                for what in ("coverage", "gini")]  # fmt: skip
        deployed = ", ".join(str(max(len(run["deployments"]) - 1, 0)) for run in runs if "deployments" in run) or "-"
        spent = ", ".join(f"{run['processor_seconds']:.0f} s" for run in runs if run.get("processor_seconds")) or "-"
        apart = "" if arm == "loop rl" or "loop rl" not in arms else _interval(*_apart(arms["loop rl"], runs))
        late = _interval(*_mean([_late(run) for run in runs]))
        cells = [arm, late, apart, f"{whole:.3f}", visits, *ends, deployed, spent]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _visits(runs: Lines) -> str:
    """Visits of a user on all days; with an interval over users, if the visits of each are stored."""
    if not all("visits_of_user" in run for run in runs):
        return f"{np.mean([sum(run['visits']) / run['users'] for run in runs]):.2f}"
    each = [np.array(run["visits_of_user"]) for run in runs]
    mean, half = _mean([(one.mean(), one - one.mean()) for one in each])
    return f"{mean:.2f} [{mean - half:.2f}, {mean + half:.2f}]"


def falls(lines: Lines, level: float = 0.95) -> list[str]:
    """Days with significant falls: a row for each run, in Markdown.

    A day is below the one before it if the interval of the change lies below 0. The intervals of all days of a run hold
    simultaneously with probability `level` (Bonferroni, normal approximation, users as units). A fall counts as
    corrected if the loop rolled back a version or a canary on that day or the next.
    """
    rows = ["| arm | seed | days below the day before | of them without a rollback | largest fall |",
            "|---|---:|---|---:|---:|"]  # fmt: skip
    for run in lines:
        if "change_error" not in run:
            continue
        changes, errors = np.diff(run["reward"]), np.array(run["change_error"][1:])
        half = -NormalDist().inv_cdf((1 - level) / 2 / len(changes)) * errors
        below = [day + 2 for day in np.flatnonzero(changes + half < 0).tolist()]  # days count from 1
        back = {int(line.partition(":")[0]) for line in run.get("lines", []) if "rolled back" in line}
        open_ = [day for day in below if not back & {day, day + 1}]
        worst = int(changes.argmin())
        told = f"{changes[worst]:.3f} +/- {half[worst]:.3f} (day {worst + 2})"
        cells = [run["arm"], run["seed"], ", ".join(map(str, below)) or "none", len(open_), told]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return rows if len(rows) > 2 else []


Late = tuple[float, np.ndarray]
"""The mean reward of an answer, and each user's influence on it."""


def _late(run: Mapping[str, Any]) -> Late:
    rewards, answers = np.array(run["late_reward"]), np.array(run["late_answers"])
    value = rewards.sum() / answers.sum()
    return float(value), (rewards - value * answers) / answers.mean()


def _apart(ours: Lines, theirs: Lines) -> tuple[float, float]:
    """The paired difference of runs with the same seeds, which have the same users and random numbers."""
    pairs = [(_late(one), _late(other)) for one in ours for other in theirs if one["seed"] == other["seed"]]
    return _mean([(one[0] - other[0], one[1] - other[1]) for one, other in pairs])


def _mean(found: Sequence[Late]) -> tuple[float, float]:
    """The mean over seeds, and the half-width of its interval."""
    errors = [influence.std(ddof=1) / np.sqrt(len(influence)) for _, influence in found]
    return float(np.mean([value for value, _ in found])), 1.96 * float(np.linalg.norm(errors)) / len(found)


def _interval(mean: float, half: float) -> str:
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(words)}</text>'


def main() -> None:
    """Print the table of the given file; by default, use the stored file and draw its picture, too."""
    lines = [json.loads(line) for line in Path([*sys.argv, LINES][1]).read_text().splitlines()]
    if len(sys.argv) == 1:
        PICTURE.write_text(draw(lines))
    print("\n".join([table(lines), "", *falls(lines)]))


if __name__ == "__main__":
    main()
