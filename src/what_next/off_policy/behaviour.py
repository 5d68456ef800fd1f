"""The policy that wrote a log, estimated from the log itself where it does not tell its propensities."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from what_next.data.decisions.features import context_columns
from what_next.data.decisions.log import DecisionLog
from what_next.data.files import write_files
from what_next.data.importing.columns import numeric
from what_next.errors import DataError, MissingExtraError
from what_next.off_policy.weighting import Ids, Rows

EDGES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the bins of the calibration table."""
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""How many rows the frequencies without context are worth; the best on held-out rows is taken."""
KINDS = 100
"""Different numbers of a column of which each is a context; of more, each tenth is one."""
PAIRS = 2**21
"""Chances at work at a time."""


def estimate_behaviour(log: DecisionLog, seed: int = 0) -> tuple[Rows, dict[str, Any]]:
    """Item frequencies, smoothed, each half of the units judged by those of the other half.

    p(a) = (n(a) + 1) / (n + items), and given a context c, p(a | c) = (n(a, c) + k p(a)) / (n(c) + k): additive
    smoothing towards the frequencies without context. The context is nothing, the position, the user's item before (the
    first row has none, and p(a); not tried on slates, where chances are to be marginal), a column that was named as
    known before the decision, or all such columns and the position together; it and k are those with the highest
    likelihood on the held-out rows.

    Returns:
        The propensities of the logged items, each by a model that has not seen its unit; and what they depend on, how
        well they fit, and the calibration table, as plain values.

    Raises:
        DataError: there is but one unit.
    """
    if log.count < 2:
        raise DataError(
            f"{log.source.path}: has one {log.unit} alone, and an estimated behaviour policy needs two halves"
        )
    contexts_tried = _contexts(log)
    halves = (np.random.default_rng(seed).permutation(log.count) % 2)[log.units]
    tried = {
        (name, strength): _held_out(log, contexts, halves, strength)
        for name, contexts in contexts_tried.items()
        for strength in (STRENGTHS if (contexts >= 0).any() else STRENGTHS[:1])
    }
    losses = {one: float(-np.log(found).mean()) for one, found in tried.items()}
    best = min(losses, key=lambda one: losses[one])
    name, strength = best
    table = _calibration(log, contexts_tried[name], halves, strength)
    by_context = {one: min(loss for (other, _), loss in losses.items() if other == one) for one, _ in losses}
    about = {
        "kind": "estimated",
        "given": name,
        "strength": strength,
        "log_loss": by_context,
        "miscalibrated": sum(abs(one["predicted"] - one["observed"]) * one["pairs"] for one in table) / len(log),
        "calibration": table,
    }
    return tried[best], about


def plot_calibration(about: dict[str, Any], path: Path, title: str = "Estimated behaviour policy") -> None:
    """Write the calibration table as a picture: predicted chance against observed frequency, on logarithmic axes.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SaveError: the file cannot be written.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report", "the calibration plot") from None
    table = [one for one in about["calibration"] if one["predicted"] and one["observed"]]
    predicted, observed = ([one[name] for one in table] for name in ("predicted", "observed"))
    # The salt and the missing date keep the file the same for the same table.
    with mpl.rc_context({"svg.hashsalt": "what-next", "svg.fonttype": "none"}):
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        largest = max(predicted + observed, default=0.5)
        ends = [min(predicted + observed, default=0.01) / 2, 2 * largest if largest > 1 else min(1.0, 2 * largest)]
        axes.plot(ends, ends, color="0.6", linewidth=1, label="perfectly calibrated")
        axes.plot(predicted, observed, "o-", color="tab:blue", label=f"given {about['given']}, held-out rows")
        axes.set(xscale="log", yscale="log", xlabel="predicted chance", ylabel="observed frequency", aspect="equal")
        axes.set_title(title)
        axes.legend(frameon=False)
        write_files({path: partial(figure.savefig, format="svg", metadata={"Date": None})})


def _contexts(log: DecisionLog) -> dict[str, Ids]:
    """What a choice may have depended on, as numbers from 0; -1 is nothing."""
    found = {"nothing": np.full(len(log), -1)}
    if log.places is not None:
        found["position"] = log.places
    found |= {one.name: _kinds(one) for one in context_columns(log.source, log.context_columns, log.order, {})}
    if len(told := list(found)[1:]) > 1:
        together = np.unique([found[name] for name in told], axis=1, return_inverse=True)[1]
        found[" and ".join(told)] = together.ravel()
    if log.user_ids is not None and log.slates is None:
        first = np.diff(log.units, prepend=-1) > 0
        found["the item before"] = np.where(first, -1, np.roll(log.actions, 1))
    return found


def _kinds(column: pl.Series) -> Ids:
    """Which of its values each row has; or which tenth of them, where these are many numbers."""
    number = numeric(pl.LazyFrame([column]), [column.name]).get(column.name)
    if number is None or column.n_unique() <= KINDS:
        return np.unique(column.cast(pl.String).fill_null("").to_numpy(), return_inverse=True)[1]
    values = pl.DataFrame([column]).select(number).to_series().to_numpy()
    return np.searchsorted(np.quantile(values, np.arange(1, 10) / 10), values)


def _held_out(log: DecisionLog, contexts: Ids, halves: Ids, strength: float) -> Rows:
    """The chance of each logged item by the frequencies of the other half."""
    found = np.empty(len(log))
    for half in (0, 1):
        rows = halves == half
        model = _frequencies(contexts[~rows], log.actions[~rows], len(log.items), strength)
        found[rows] = model(contexts[rows], log.actions[rows])
    return found


def _calibration(log: DecisionLog, contexts: Ids, halves: Ids, strength: float) -> list[dict[str, float]]:
    """Over all pairs of a held-out row and an item, by bins of the predicted chance: its mean, and the frequency."""
    bins, items = len(EDGES) - 1, len(log.items)
    pairs, predicted, came = np.zeros(bins), np.zeros(bins), np.zeros(bins)
    for half in (0, 1):
        rows = halves == half
        model = _frequencies(contexts[~rows], log.actions[~rows], items, strength)
        kinds, of_rows, counts = np.unique(contexts[rows], return_inverse=True, return_counts=True)
        for start in range(0, len(kinds), step := max(1, PAIRS // items)):
            part = slice(start, start + step)
            width = len(kinds[part])
            chances = model(np.repeat(kinds[part], items), np.tile(np.arange(items), width))
            here = (of_rows >= start) & (of_rows < start + step)
            seen = np.bincount((of_rows[here] - start) * items + log.actions[rows][here], minlength=width * items)
            weights = np.repeat(counts[part], items)
            places = np.clip(np.searchsorted(EDGES, chances, side="left") - 1, 0, bins - 1)
            for total, values in ((pairs, weights), (predicted, weights * chances), (came, seen)):
                total += np.bincount(places, values, bins)
    return [
        {
            "from": EDGES[one],
            "to": EDGES[one + 1],
            "pairs": int(pairs[one]),
            "predicted": float(predicted[one] / pairs[one]),
            "observed": float(came[one] / pairs[one]),
        }
        for one in np.flatnonzero(pairs)
    ]


def _frequencies(contexts: Ids, actions: Ids, items: int, strength: float) -> Callable[[Ids, Ids], Rows]:
    """What tells the chance of items in their contexts, by the smoothed frequencies of some rows."""
    overall, known = (np.bincount(actions, minlength=items) + 1.0) / (len(actions) + items), contexts >= 0
    pairs, alone = (np.unique(one[known], return_counts=True) for one in (contexts * items + actions, contexts))

    def chances(given: Ids, wanted: Ids) -> Rows:
        joint, rows = _looked_up(given * items + wanted, *pairs), _looked_up(given, *alone)
        return np.asarray((joint + strength * overall[wanted]) / (rows + strength))

    return chances


def _looked_up(wanted: Ids, keys: Int64[np.ndarray, "keys"], values: Int64[np.ndarray, "keys"]) -> Ids:
    """The value of each key; 0 where it is not there."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
