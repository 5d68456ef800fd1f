"""The behaviour policy of a log, estimated from the log itself if it has no propensities."""

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
"""Edges of the calibration table's bins of predicted probability."""
STRENGTHS = (1.0, 10.0, 100.0, 1000.0)
"""Candidate smoothing strengths, in rows, of the frequencies without context; held-out rows choose one."""
KINDS = 100
"""Most distinct values of a numeric context column; a column with more is binned into deciles."""
PAIRS = 2**21
"""Probabilities (contexts times items) computed at a time."""


def estimate_behaviour(log: DecisionLog, seed: int = 0) -> tuple[Rows, dict[str, Any]]:
    """Estimate propensities by smoothed item frequencies, for each half of the units from the other half.

    p(a) = (n(a) + 1) / (n + items), and given a context c, p(a | c) = (n(a, c) + k p(a)) / (n(c) + k): additive
    smoothing towards the frequencies without context. Candidate contexts are: none; the position; the user's previous
    item (a user's first row has none and gets p(a); not tried on slates, whose propensities must be marginal); each
    column that was named as known before the decision; all such columns and the position together. The context and k
    with the highest likelihood on the held-out rows are chosen.

    Returns:
        The propensities of the logged items, each from a model that has not seen its unit; and, as plain values, the
        chosen context and k, the log losses and the calibration table.

    Raises:
        DataError: the log has a single unit.
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
    """Plot the calibration table: predicted probability against observed frequency, on logarithmic axes.

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
    # A fixed salt and no date make the file reproducible.
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
    """The context of each row under each candidate model, as ids from 0; -1 means that the row has no context."""
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
    """The id of each row's value in the column, or of its decile if the column has many distinct numbers."""
    number = numeric(pl.LazyFrame([column]), [column.name]).get(column.name)
    if number is None or column.n_unique() <= KINDS:
        return np.unique(column.cast(pl.String).fill_null("").to_numpy(), return_inverse=True)[1]
    values = pl.DataFrame([column]).select(number).to_series().to_numpy()
    return np.searchsorted(np.quantile(values, np.arange(1, 10) / 10), values)


def _held_out(log: DecisionLog, contexts: Ids, halves: Ids, strength: float) -> Rows:
    """The probability of each logged item by the frequencies of the other half."""
    found = np.empty(len(log))
    for half in (0, 1):
        rows = halves == half
        model = _frequencies(contexts[~rows], log.actions[~rows], len(log.items), strength)
        found[rows] = model(contexts[rows], log.actions[rows])
    return found


def _calibration(log: DecisionLog, contexts: Ids, halves: Ids, strength: float) -> list[dict[str, float]]:
    """Per bin of predicted probability: its mean and the observed frequency, over all held-out (row, item) pairs."""
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
    """A function from contexts and items to probabilities, from the smoothed frequencies of the given rows."""
    overall, known = (np.bincount(actions, minlength=items) + 1.0) / (len(actions) + items), contexts >= 0
    pairs, alone = (np.unique(one[known], return_counts=True) for one in (contexts * items + actions, contexts))

    def chances(given: Ids, wanted: Ids) -> Rows:
        joint, rows = _looked_up(given * items + wanted, *pairs), _looked_up(given, *alone)
        return np.asarray((joint + strength * overall[wanted]) / (rows + strength))

    return chances


def _looked_up(wanted: Ids, keys: Int64[np.ndarray, "keys"], values: Int64[np.ndarray, "keys"]) -> Ids:
    """The value of each wanted key; 0 for a key that is absent."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
