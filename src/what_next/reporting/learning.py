"""Learning curves from the JSON lines that training writes beside its models."""

import json
from collections.abc import Iterable, Iterator
from itertools import starmap
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from what_next.errors import ModelError
from what_next.reporting.drawing import HEX, Chart, Key, drawn
from what_next.reporting.view import View, number
from what_next.settings import Setup
from what_next.training.artefacts import read_manifest

POINTS = 120
"""Points of a curve, each the mean over several steps."""
SMOOTH = 0.08
"""Window of the moving mean, as a share of the run."""
MOST = 6

Curve = tuple[Float64[np.ndarray, "steps"], Float64[np.ndarray, "steps"]]
"""Positions in passes over the training users, and the values there."""


def read_log(path: Path) -> dict[str, Curve]:
    """The curve of every number in a training log; empty where there is no log.

    Invalid lines are skipped, because a crash may have truncated one.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            values = json.loads(line)
            passes = float(values["passes"])
        except (ValueError, KeyError, TypeError):
            continue
        for name, value in values.items():
            if isinstance(value, int | float) and np.isfinite(value):
                found.setdefault(name, []).append((passes, float(value)))
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in found.items()}


def curves(view: View) -> list[Chart]:
    """A chart of every loss and of the other numbers that vary; the seeds of a policy share its charts."""
    logs = {name: [read_log(setup.log_path) for setup in view.comparison.setups[name]] for name in view.learned}
    tried = any(setup.algorithm.source != "log" for setups in view.comparison.setups.values() for setup in setups)
    kinds = dict.fromkeys(kind for several in logs.values() for log in several for kind in log)
    chosen = [kind for kind in kinds if kind.startswith(("loss_", "valid"))]
    # An algorithm that does not try items sees the log's reward, whatever the agent does.
    chosen += [kind for kind in ("reward",) if tried and kind in kinds]
    chosen += [kind for kind in ("value",) if kind in kinds]
    charts = []
    for kind in chosen:
        found = {name: [log[kind] for log in some if kind in log] for name, some in logs.items()}
        moving = {name: some for name, some in found.items() if any(np.any(values) for _, values in some)}
        charts += [_chart(view, kind, moving)] if moving else []  # without a critic, its expectation is 0 throughout
    return charts[:MOST]


def _chart(view: View, kind: str, found: dict[str, list[Curve]]) -> Chart:
    """The curves of one number."""
    lines = [(name, x, raw, smoothed(raw)) for name, some in found.items() for x, raw in starmap(binned, some)]

    def draw(axes: Axes) -> None:
        for name, x, raw, mean in lines:
            axes.plot(x, raw, color=HEX[view.colour(name)], lw=0.8, alpha=0.3)
            axes.plot(x, mean, color=HEX[view.colour(name)], lw=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.grid(True)
        axes.margins(x=0.01)
        axes.set_xlabel("passes over the training users")

    ends = "; ".join(f"{name} from {number(mean[0])} to {number(mean[-1])}" for name, _, _, mean in lines)
    svg = drawn(draw, f"curve-{kind.replace('@', '-')}", f"{_title(kind)} over training: {ends}", height=2.1)
    legend = tuple(Key(view.colour(name), "line", name) for name in found)
    return Chart(svg, _title(kind), "", legend if len(found) > 1 else ())


def _title(kind: str) -> str:
    if kind == "value":
        return "What the critic expects of the next item"
    if kind == "reward":
        return "Reward"
    if kind.startswith("loss_"):
        return f"Loss of the {kind.removeprefix('loss_')}"
    return f"On validation users: {kind.removeprefix('valid').strip('_')}"


def binned(
    passes: Float64[np.ndarray, "steps"], values: Float64[np.ndarray, "steps"]
) -> tuple[Float64[np.ndarray, "points"], Float64[np.ndarray, "points"]]:
    """Means over bins of about equally many consecutive steps."""
    parts = np.array_split(np.arange(len(values)), min(POINTS, len(values)))
    return np.array([passes[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def smoothed(values: Float64[np.ndarray, "points"]) -> Float64[np.ndarray, "points"]:
    """The moving mean, with shorter windows at the ends."""
    points = 2 * round(SMOOTH * len(values) / 2) + 1
    return pl.Series(values).rolling_mean(points, min_samples=1, center=True).to_numpy()


def measured(setups: Iterable[Setup]) -> Iterator[tuple[int, dict[str, float]]]:
    """For each seed, the metrics of the validation users in its model file, if there are any."""
    for setup in setups:
        try:
            valid = read_manifest(setup.model_agent_path, "agent").metrics.get("valid")
        except ModelError:
            continue
        if valid:
            yield setup.seed, {name: value for name, value in valid.items() if name != "users"}
