"""A comparison prepared for the page: colours of policies, the main metric, and numbers as text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Int, Int32, Int64

from what_next.experiments.next_items import Comparison
from what_next.metrics.beyond import ItemStatistics
from what_next.metrics.bootstrap import Interval, means, user_means
from what_next.reporting.terminal import metrics_of

LEARNED = ("one", "two", "three", "four")
"""Colours of learned policies, in order; further ones are muted like the rules."""
UNTRAINED = "untrained"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
MINUS, SPACE = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, eq=False)
class View:
    """A comparison, with what the parts of the page read from it.

    Attributes:
        comparison: the comparison to show.
    """

    comparison: Comparison

    @property
    def result(self) -> Mapping[str, Any]:
        """The comparison as plain values."""
        return self.comparison.result

    @property
    def policies(self) -> Mapping[str, Mapping[str, Interval]]:
        """The metrics of each policy."""
        found: Mapping[str, Mapping[str, Interval]] = self.result["policies"]
        return found

    @property
    def k(self) -> int:
        """The first cutoff."""
        return self.comparison.evaluator.ks[0]

    @property
    def main(self) -> str:
        """The metric by which policies are ranked."""
        return f"ndcg@{self.k}"

    def metric(self, name: str) -> str | None:
        """The full name of a metric at the first cutoff, from its name without cutoff; None if it was not measured."""
        found = [metric for metric in metrics_of(self.result) if metric.partition("@")[0] == name]
        return f"{name}@{self.k}" if f"{name}@{self.k}" in found else next(iter(found), None)

    @cached_property
    def learned(self) -> list[str]:
        """The policies that were trained, in the order given."""
        return [name for name in self.policies if name in self.comparison.setups]

    @cached_property
    def ranked(self) -> list[str]:
        """All policies, the best by the main metric first."""
        return sorted(self.policies, key=lambda name: -self.policies[name][self.main]["mean"])

    @cached_property
    def lead(self) -> str:
        """The best of the learned policies."""
        return next(name for name in self.ranked if name in self.learned)

    @cached_property
    def rival(self) -> str | None:
        """The best untrained policy, by the main metric."""
        return next((name for name in self.ranked if name not in (*self.learned, UNTRAINED)), None)

    @property
    def shown(self) -> list[str]:
        """The learned policies, in the order given, then the best untrained one."""
        return [*self.learned, *([self.rival] if self.rival else [])]

    def colour(self, name: str) -> str:
        """The colour of a policy throughout the page."""
        if name == self.rival:
            return "rival"
        place = self.learned.index(name) if name in self.learned else len(LEARNED)
        return LEARNED[place] if place < len(LEARNED) else "muted"

    def difference(self, one: str, other: str, metric: str) -> Interval:
        """One policy minus another on the same users; from the result, or else computed here."""
        for between in ("-", " - "):
            found: Interval | None = self.result["differences"].get(f"{one}{between}{other}", {}).get(metric)
            if found is not None:
                return found
        mine, theirs = (self.values(name, metric) for name in (one, other))
        people, owners = self.comparison.evaluator.targets.people
        return means({metric: user_means(mine - theirs, owners, len(people))})[metric]

    def values(self, name: str, metric: str) -> Float64[np.ndarray, "rows"]:
        """A policy's metric in each row; NaN without a value."""
        rows = len(self.comparison.evaluator.targets)
        return self.comparison.scores[name].values.get(metric, np.full(rows, np.nan))

    def slates(self, name: str) -> Int32[np.ndarray, "rows k"]:
        """The slates of a policy, by its model of the first seed, at the first cutoff."""
        return self.comparison.scores[name].slates[0, :, : self.k]

    def heard(self, row: int) -> Int32[np.ndarray, "before"]:
        """The items of the history of a row, oldest first."""
        dataset, targets = self.comparison.state.dataset, self.comparison.evaluator.targets
        start = dataset.offsets[targets.users[row]]
        return dataset.items[start : start + targets.before[row]]

    def came(self, row: int) -> Int32[np.ndarray, "relevant"]:
        """The items that came next in a row."""
        items = self.comparison.evaluator.targets.sets[row]
        return np.extract(items >= 0, items)

    @cached_property
    def titles(self) -> list[str]:
        """The titles of the items."""
        return [cleaned(title) for title in self.comparison.state.space.catalogue.titles.cast(pl.String)]

    def user(self, row: int) -> str:
        """The external id of the user of a row."""
        return cleaned(str(self.comparison.state.dataset.user_ids[int(self.comparison.evaluator.targets.users[row])]))

    @property
    def statistics(self) -> ItemStatistics:
        """Popularity, attributes and categories of the items."""
        return self.comparison.evaluator.statistics

    @property
    def counts(self) -> Int[np.ndarray, "items"]:
        """Training events of each item."""
        return self.statistics.counts

    def some_rows(self, most: int = 2000) -> Int64[np.ndarray, "rows"]:
        """All rows, or a sample of `most` with a fixed seed, for charts."""
        rows = len(self.comparison.evaluator.targets)
        return np.arange(rows) if rows <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))

    def histories(self, rows: Int64[np.ndarray, "rows"], most: int = 500) -> Int32[np.ndarray, "rows time"]:
        """The latest items of the histories of some rows, padded with -1."""
        targets = self.comparison.evaluator.targets
        lengths = np.minimum(targets.before[rows], most)
        return self.comparison.state.histories(targets.users[rows], targets.before[rows] - lengths, lengths).items


def cleaned(text: str | None) -> str:
    """A text on one line, without unprintable characters."""
    return re.sub(r"[\x00-\x20\x7f-\xa0\ud800-\udfff\u2028\u2029]+", " ", text or "").strip()


def number(value: float) -> str:
    """A number with three decimals, or fewer if it is large."""
    return number_of(value, _decimals(value))


def number_of(value: float, decimals: int) -> str:
    """A number with this many decimals and a true minus sign, which a rounded zero does not get."""
    return f"{value:z,.{decimals}f}".replace("-", MINUS)


def percent(value: float) -> str:
    """A share, with one decimal."""
    return f"{number_of(100 * value, 1)}{SPACE}%"


def between(interval: Interval, scale: int = 1, decimals: int | None = None) -> str:
    """An interval in brackets, with as many decimals as its mean."""
    decimals = _decimals(interval["mean"]) if decimals is None else decimals
    low, high = (number_of(scale * interval[end], decimals) for end in ("low", "high"))
    return f"[{low},{SPACE}{high}]"


def told(interval: Interval) -> str:
    """A mean, and its interval."""
    return f"{number(interval['mean'])} {between(interval)}"


def _decimals(value: float) -> int:
    return 3 if abs(value) < 100 else 1 if abs(value) < 1000 else 0


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 user`, `1,234 users`."""
    return f"{count:,}{SPACE}{one if count == 1 else many or one + 's'}"


def spelled(count: int) -> str:
    """A number up to twelve as a word."""
    return NUMBERS[count] if count < len(NUMBERS) else f"{count:,}"


def place_word(place: int) -> str:
    """A place on a list, counted from 0, as a word."""
    return PLACES[place] if place < len(PLACES) else f"at place {place + 1}"
