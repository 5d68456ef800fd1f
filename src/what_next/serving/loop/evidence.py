"""Rewards of live answers, of the deployed and of the second version, and the detection of drift in them."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64
from sqlalchemy import Executable, func, select, text

from what_next.errors import MissingExtraError
from what_next.off_policy.confidence_sequences import FEW, Contrast, asymptotic, contrast, effect_of
from what_next.off_policy.weighting import Terms, mean_of
from what_next.serving.store import Store, rewards, tables

SHOWN, EVENTS = tables.impressions.c, tables.events.c
HIGHEST = {
    True: text("SELECT max(seq) FROM sqlite_sequence WHERE name = 'impressions'"),
    False: text("SELECT pg_sequence_last_value(pg_get_serial_sequence('impressions', 'number')::regclass)"),
}
"""By whether the store is SQLite: query of the highest number that an answer ever had; NULL before the first."""


def _number(store: Store, statement: Executable) -> int:
    """The single number that a statement returns; 0 for NULL."""
    return int(store.fetch(statement)[0][0] or 0)


def last_answer(store: Store) -> int:
    """The number of the store's last answer."""
    return _number(store, select(func.max(SHOWN.number)))


def highest_number(store: Store) -> int:
    """The highest number that an answer of the store ever had: it decreases if an earlier store is restored, but not if
    users are erased."""
    return _number(store, HIGHEST[store.backend.sqlite])


def happened(store: Store) -> int:
    """The number of events in the store plus that of all feedback ever sent."""
    events, feedback = select(func.sum(tables.users.c.events)), select(func.max(tables.feedback.c.number))
    return _number(store, events) + _number(store, feedback)


def last_erasure(store: Store) -> int:
    """The time of the last erasure by the store's clock; 0 if there was none."""
    return _number(store, select(func.max(tables.erased_users.c.time)))


def unseen(store: Store, version: str, since: int) -> int:
    """The number of a version's shadow answers after the answer number `since`."""
    unseen = select(func.count()).where(SHOWN.number > since, SHOWN.shown.is_(False), SHOWN.version == version)
    return _number(store, unseen)


def recent_items(store: Store, since: int, most: int) -> list[str]:
    """The items of the latest `most` events that arrived after the time `since`, oldest first."""
    latest = select(EVENTS.item_id).order_by(EVENTS.arrived.desc(), EVENTS.number.desc()).limit(most)
    return [item for (item,) in reversed(store.fetch(latest.where(EVENTS.arrived > since)))]


def answers(store: Store, since: int) -> pl.DataFrame:
    """The answers to named users after the answer number `since`: `number`, `user_id`, `version`, `fallback`, `chance`
    (1 - the mean propensity of its items), `reward` (the sum over its items)."""
    found = rewards.answers(store, since, ("version", "fallback", "propensities"), SHOWN.policy == "trained")
    chance = 1 - pl.col("propensities").str.json_decode(pl.List(pl.Float64)).list.mean()  # of known propensities
    return found.select("number", "user_id", "version", "fallback", chance.fill_null(0.0).alias("chance"), "reward")


class Mean(NamedTuple):
    """The mean reward of an answer, with bounds that hold at any number of looks.

    Attributes:
        value: the mean; `low`, `high`: bounds at 95 %, infinite for too few users.
        users, answers: their numbers.
    """

    value: float
    low: float
    high: float
    users: int
    answers: int

    @classmethod
    def of(cls, found: pl.DataFrame) -> "Mean":
        """From some answers. The units are users, because the answers of one user are correlated."""
        each = found.group_by("user_id").agg(pl.col("reward").sum(), pl.len().cast(pl.Float64))
        terms, bounds = Terms(each["reward"].to_numpy(), each["len"].to_numpy()), None
        if len(each) >= FEW:
            effect = effect_of(found["reward"].to_numpy(), float(len(found)))
            bounds = asymptotic(terms, mean_of(np.zeros(len(each))), effect)
        low, high = bounds or (-math.inf, math.inf)
        return cls(terms.value, low, high, len(each), len(found))


def between(found: pl.DataFrame, ours: str, theirs: str) -> Contrast:
    """How much more an answer of one version earned than one of another, to different users in the same period."""
    both = found.filter(pl.col("version").is_in([ours, theirs]))
    users = both["user_id"].cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
    mine = (both["version"] == ours).to_numpy()
    return contrast(users, mine, both["reward"].to_numpy())


def exploration(found: pl.DataFrame) -> float:
    """The mean chance, over a model's answers, of another item than the shown one; 0 without answers."""
    own = found.filter(pl.col("fallback").is_null())["chance"]
    return float(own.mean()) if len(own) else 0.0  # type: ignore[arg-type]


# Drift

MOST = 0.99
"""Quantile of the positive rewards, and of the negative ones, at which values are clipped: on the scale of a rare large
reward, all others would look alike."""


def adwin(delta: float) -> Any:
    """A new ADWIN detector.

    Raises:
        MissingExtraError: river is not installed.
    """
    try:
        from river.drift import ADWIN
    except ImportError:
        raise MissingExtraError("river", "loop", "the alarm at a drift (loop.drift, 0 does without)") from None
    return ADWIN(delta=delta)  # type: ignore[no-untyped-call]


def change(values: Sequence[float], delta: float) -> tuple[int, float, float] | None:
    """The last change of the mean of a stream of numbers that ADWIN detects (Bifet and Gavaldà 2007).

    ADWIN compares each recent part of its window with the part before, and shortens the window if they differ by more
    than a bound that is corrected for the many comparisons. So no window length has to be chosen, and `delta` bounds
    the false alarms of each comparison. The whole stream is read at each look, so that no state has to be kept.

    The bound is for numbers from 0 to 1. So the values are clipped at the `MOST` quantiles and scaled to this range:
    neither their unit nor a rare large value matters.

    Args:
        values: in time order, in any unit.
        delta: a smaller value gives fewer false alarms, but later true ones.

    Returns:
        How many numbers had been read at the detection, and the means of the window before and after it, of the clipped
        values in their unit; None: no change.

    Raises:
        MissingExtraError: river is not installed.
    """
    stream = np.asarray(values, np.float64)
    low, high = -_usual(-stream), _usual(stream)
    width = high - low or 1.0
    detector, found, before = adwin(delta), None, 0.0
    for place, value in enumerate(((stream.clip(low, high) - low) / width).tolist(), 1):
        before = float(detector.estimation)
        detector.update(value)
        if detector.drift_detected:
            found = place, low + width * before, low + width * float(detector.estimation)
    return found


def _usual(values: Float64[np.ndarray, "n"]) -> float:
    """The `MOST` quantile of the positive values; 0 if there are none."""
    above = values[values > 0]
    return float(np.quantile(above, MOST)) if len(above) else 0.0
