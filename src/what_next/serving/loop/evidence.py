"""What live answers earned: of the deployed version, and of the one beside it; and an alarm where that falls."""

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
"""By whether it is SQLite: the highest number that an answer ever had; NULL before the first."""


def _number(store: Store, statement: Executable) -> int:
    """The number that a statement finds; 0 for NULL."""
    return int(store.fetch(statement)[0][0] or 0)


def last_answer(store: Store) -> int:
    """The number of the store's last answer."""
    return _number(store, select(func.max(SHOWN.number)))


def highest_number(store: Store) -> int:
    """The highest number that an answer of the store ever had: it falls where an earlier store is restored, and stays
    where users are erased."""
    return _number(store, HIGHEST[store.backend.sqlite])


def happened(store: Store) -> int:
    """How much the store holds to learn from: its events, and the feedback that was ever sent."""
    events, feedback = select(func.sum(tables.users.c.events)), select(func.max(tables.feedback.c.number))
    return _number(store, events) + _number(store, feedback)


def last_erasure(store: Store) -> int:
    """When somebody was erased last, by the store's clock; 0: nobody was."""
    return _number(store, select(func.max(tables.erased_users.c.time)))


def unseen(store: Store, version: str, since: int) -> int:
    """How often a version answered in the shadow, after some answer."""
    unseen = select(func.count()).where(SHOWN.number > since, SHOWN.shown.is_(False), SHOWN.version == version)
    return _number(store, unseen)


def recent_items(store: Store, since: int, most: int) -> list[str]:
    """The items of the latest events that arrived after a moment, the oldest of them first."""
    latest = select(EVENTS.item_id).order_by(EVENTS.arrived.desc(), EVENTS.number.desc()).limit(most)
    return [item for (item,) in reversed(store.fetch(latest.where(EVENTS.arrived > since)))]


def answers(store: Store, since: int) -> pl.DataFrame:
    """The answers to users by name after some answer: `number`, `user_id`, `version`, `fallback`, `chance` (the mean
    over its items that another one had), `reward` (the sum over its items)."""
    found = rewards.answers(store, since, ("version", "fallback", "propensities"), SHOWN.policy == "trained")
    chance = 1 - pl.col("propensities").str.json_decode(pl.List(pl.Float64)).list.mean()  # over those that are known
    return found.select("number", "user_id", "version", "fallback", chance.fill_null(0.0).alias("chance"), "reward")


class Mean(NamedTuple):
    """What an answer earned on average, with bounds that hold at any number of looks.

    Attributes:
        value: of the answers; `low`, `high`: bounds at 95 %, infinite for too few users.
        users, answers: how many.
    """

    value: float
    low: float
    high: float
    users: int
    answers: int

    @classmethod
    def of(cls, found: pl.DataFrame) -> "Mean":
        """Of some answers. The users are the units, since one user's answers are alike."""
        each = found.group_by("user_id").agg(pl.col("reward").sum(), pl.len().cast(pl.Float64))
        terms, bounds = Terms(each["reward"].to_numpy(), each["len"].to_numpy()), None
        if len(each) >= FEW:
            effect = effect_of(found["reward"].to_numpy(), float(len(found)))
            bounds = asymptotic(terms, mean_of(np.zeros(len(each))), effect)
        low, high = bounds or (-math.inf, math.inf)
        return cls(terms.value, low, high, len(each), len(found))


def between(found: pl.DataFrame, ours: str, theirs: str) -> Contrast:
    """How much more an answer of one version earned than one of another, who had different users in the same time."""
    both = found.filter(pl.col("version").is_in([ours, theirs]))
    users = both["user_id"].cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
    mine = (both["version"] == ours).to_numpy()
    return contrast(users, mine, both["reward"].to_numpy())


def exploration(found: pl.DataFrame) -> float:
    """The mean chance, over answers of a model, that an item had another one than the shown; 0 for none."""
    own = found.filter(pl.col("fallback").is_null())["chance"]
    return float(own.mean()) if len(own) else 0.0  # type: ignore[arg-type]


# Drift

MOST = 0.99
"""Quantile of the rewards that are not 0, of each sign, at which the detector's range ends: a dear sale says little of
the others, and would make all of them look like nothing."""


def adwin(delta: float) -> Any:
    """The detector, which has read nothing yet.

    Raises:
        MissingExtraError: river is not installed.
    """
    try:
        from river.drift import ADWIN
    except ImportError:
        raise MissingExtraError("river", "loop", "the alarm at a drift (loop.drift, 0 does without)") from None
    return ADWIN(delta=delta)  # type: ignore[no-untyped-call]


def change(values: Sequence[float], delta: float) -> tuple[int, float, float] | None:
    """The last place at which the mean of a stream of numbers changed, as ADWIN saw it (Bifet and Gavaldà 2007).

    ADWIN compares all recent parts of a window with what lies before them, and cuts the window where they differ by
    more than a bound that takes the many comparisons into account: there is no window to choose, and `delta` bounds the
    false alarms of each comparison. It is fed anew at each look, so that nothing of it has to be kept.

    The bound is one for numbers from 0 to 1. So the values are cut at the largest that are usual (`MOST`), and put
    there: neither their unit nor a rare large one changes what is found.

    Args:
        values: in the order of time, in any unit.
        delta: the smaller, the fewer false alarms, and the later the true ones.

    Returns:
        How many numbers ADWIN had read when it noticed, the mean of the window before it, and the mean after it, of
        what was cut, in the unit of the values; None: nothing changed.

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
    """The largest usual one of the values above 0; 0 without any."""
    above = values[values > 0]
    return float(np.quantile(above, MOST)) if len(above) else 0.0
