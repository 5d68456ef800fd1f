"""Popularity of late: each event counts the less, the longer it is past."""

import numpy as np
from jaxtyping import Float64, Int64

from what_next.baselines.counts import TIE, Known
from what_next.baselines.rules import Ranking
from what_next.data import Dataset
from what_next.data.space import DAY
from what_next.types import History


class PopularRecent(Ranking):
    """The items with the most training events, of which each counts half as much after every half-life."""

    def __init__(self, weights: Float64[np.ndarray, "items"]) -> None:
        """`weights`: what the events of each item come to."""
        self.weights, self.items = weights, len(weights)

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        known: Int64[np.ndarray, "users"],
        *,
        half_life_days: float = 30.0,
        half_life_events: float = 10.0,
    ) -> "PopularRecent":
        """Count.

        Args:
            dataset: the log.
            known: how many leading events of each user training may know.
            half_life_days: before the last of those events of all users; for a log with times.
            half_life_events: before the last of the user's own; for a log without.
        """
        events = Known.of(dataset, known)
        weights = events.of_late(half_life_events if events.times is None else half_life_days * DAY)
        return cls(weights + TIE * events.shares)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """Their weight, for everybody."""
        return np.broadcast_to(self.weights, (len(history.items), self.items))
