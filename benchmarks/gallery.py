"""Pictures of docs/gallery.md that no other benchmark draws: a fitted world's calibration, boredom, repeated looks.

python benchmarks/gallery.py calibration    # one of them, in seconds; without a name: all
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from what_next.data.decisions.log import Roles
from what_next.data.decisions.reader import read_log
from what_next.off_policy.behaviour import plot_calibration
from what_next.off_policy.confidence_sequences import contrast
from what_next.worlds import Boredom, preset
from what_next.worlds.fitting import fit

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLUE, ORANGE, GREEN, GREY = "#0b5fb5", "#b8450b", "#00735f", "#64748b"


def calibration(to: Path) -> None:
    """A world fitted to 20,000 clicks and skips of a known world predicts held-out rows."""
    world, rng = Boredom(items=60, topics=8, slots=1, threshold=11, slope=6.0, seed=1), np.random.default_rng(0)
    users, rows = 1000, 20
    state = world.reset(users, rng)
    clicks = world.relevance(state.tastes @ world.item_vectors.T)
    who, item = np.repeat(np.arange(users), rows), rng.integers(world.items, size=users * rows)
    log = pl.DataFrame(
        {
            "user_id": [f"u{one}" for one in who],
            "item_id": [f"i{one}" for one in item],
            "timestamp": np.tile(np.arange(rows), users) + 1_700_000_000,
            "reward": (rng.random(len(who)) < clicks[who, item]).astype(float),
            "propensity": 1 / world.items,
            **{f"likes_{topic}": state.tastes[who, topic] for topic in range(world.topics)},
        }
    )
    items = pl.DataFrame(world.item_vectors, [f"topic_{one}" for one in range(world.topics)], orient="row")
    with tempfile.TemporaryDirectory() as folder:
        path, table = Path(folder) / "shown.parquet", Path(folder) / "items.parquet"
        log.write_parquet(path)
        items.with_columns(pl.Series("item_id", [f"i{one}" for one in range(world.items)])).write_parquet(table)
        _, told = fit(read_log(path, Roles(context=tuple(name for name in log.columns if "likes" in name)), table))
    plot_calibration({**told, "given": "users and items"}, to, "Clicks predicted by a fitted world")


def boredom(to: Path) -> None:
    """The reward of each reference of `boredom`, slate by slate, and the share of bored users."""
    world, users, steps = preset("boredom:SlateTopK-Bored-v0"), 500, 60
    figure, (above, below) = _figure(5.0, rows=2)
    for (name, policy), colour in zip(world.references().items(), (GREY, GREEN, ORANGE, BLUE), strict=True):
        rng = np.random.default_rng(0)
        state, clicks, bored = world.reset(users, rng), [], []
        for _ in range(steps):
            state, feedback = world.step(state, policy(state, rng), rng)
            clicks.append(feedback.rewards.mean())
            bored.append((state.rest > 0).any(1).mean())
        above.plot(clicks, color=colour, label=f"{name}, {np.sum(clicks):.0f} clicks")
        below.plot(bored, color=colour)
    above.set(ylabel="clicks on a slate of ten", title="In the world boredom greed loses")
    below.set(xlabel="slate", ylabel="share of users who are bored", ylim=(0, 1))
    above.legend(frameon=False, ncols=4, loc="upper right")
    _write(figure, to)


def looks(to: Path) -> None:
    """Two policies share users who come one by one: the mean difference, and two kinds of intervals at each look."""
    rng, users = np.random.default_rng(4), 6000
    ours = rng.random(users) < 0.5
    rewards = (rng.random(users) < np.where(ours, 0.34, 0.3)).astype(float)
    at = np.unique(np.geomspace(60, users, 120).astype(int))
    found = [contrast(np.arange(n), ours[:n], rewards[:n]) for n in at]
    arms = [(rewards[:n][ours[:n]], rewards[:n][~ours[:n]]) for n in at]
    fixed = [1.96 * np.hypot(*(arm.std(ddof=1) / np.sqrt(len(arm)) for arm in two)) for two in arms]
    mean = np.array([one.mean for one in found])
    figure, axis = _figure(3.6)
    axis.fill_between(at, [one.low for one in found], [one.high for one in found], color=BLUE, alpha=0.15, linewidth=0)
    axis.plot(at, [one.low for one in found], color=BLUE, linewidth=1, label="any number of looks, 95 %")
    axis.plot(at, [one.high for one in found], color=BLUE, linewidth=1)
    axis.plot(at, mean - fixed, color=ORANGE, linestyle=":", label="one look alone, 95 %")
    axis.plot(at, mean + fixed, color=ORANGE, linestyle=":")
    axis.plot(at, mean, color=BLUE, linewidth=2, label="difference so far")
    axis.axhline(0.04, color=GREY, linestyle="--", linewidth=1, label="truth")
    axis.axhline(0, color="0.3", linewidth=1)
    axis.set(xscale="log", xlabel="users so far", ylabel="more clicks an answer", ylim=(-0.3, 0.3))
    axis.set_title("An experiment may be looked at as often as one likes")
    axis.legend(frameon=False, ncols=2, loc="lower right")
    _write(figure, to)


def _figure(height: float, rows: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8.8, height), layout="constrained")
    axes = figure.subplots(rows, sharex=rows > 1)
    for axis in np.atleast_1d(axes):
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _write(figure: Figure, to: Path) -> None:
    with mpl.rc_context({"svg.hashsalt": "what-next", "svg.fonttype": "none"}):
        figure.savefig(to, format="svg", metadata={"Date": None})


PICTURES: dict[str, Callable[[Path], None]] = {"calibration": calibration, "boredom": boredom, "looks": looks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", choices=[*PICTURES, []], help="default: all")
    parser.add_argument("--to", type=Path, default=DOCS, help="folder of the pictures")
    given = parser.parse_args()
    for name in given.pictures or PICTURES:
        PICTURES[name](given.to / f"{name}.svg")


if __name__ == "__main__":
    main()
