"""The classic baselines: popularity with a half-life, Markov chains, and item neighbours."""

import numpy as np
from jaxtyping import Float64, Int64

from what_next.baselines.counts import TIE, Known, Rows, events_after, last_heard, strongest, together
from what_next.baselines.rules import Ranking
from what_next.data import Dataset
from what_next.data.space import DAY
from what_next.types import History

LAST = 10
"""A Markov chain looks at no more than this many of the last events."""
LEAST = 1e-6
"""An item of the history whose weight is lower is left out."""


class PopularRecent(Ranking):
    """The items with the most training events, weighted by exponential decay: a half-life halves an event's weight."""

    def __init__(self, weights: Float64[np.ndarray, "items"]) -> None:
        """`weights`: the sum of the weights of each item's events."""
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
        """Count; see `baselines.Fit`.

        Args:
            half_life_days: counted back from the last known event of all users; for a log with times.
            half_life_events: counted back from the user's own last event; for a log without times.
        """
        events = Known.of(dataset, known)
        weights = events.of_late(half_life_events if events.times is None else half_life_days * DAY)
        return cls(weights + TIE * events.shares)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The items' weights, the same for every history."""
        return np.broadcast_to(self.weights, (len(history.items), self.items))


class PopularPersonal(Ranking):
    """The items that the user had most often, later events weighing more; then the most popular items.

    Hard to beat where people come back to the same products (GP-TopFreq: Li, Jullien, Ariannezhad and de Rijke 2023, "A
    Next Basket Recommendation Reality Check"), and no more than popularity where nothing is recommended twice.
    """

    def __init__(self, shares: Float64[np.ndarray, "items"], *, decay: float) -> None:
        """`shares` of all events; `decay` as for `fit`."""
        self.shares, self.decay, self.items = shares, decay, len(shares)

    @classmethod
    def fit(cls, dataset: Dataset, known: Int64[np.ndarray, "users"], *, decay: float = 1.0) -> "PopularPersonal":
        """Count; see `baselines.Fit`.

        Args:
            decay: an event of the history weighs `decay` to the power of how many events follow it; above 0, up to 1.
        """
        return cls(Known.of(dataset, known).shares, decay=decay)

    def decayed(self, decay: float) -> "PopularPersonal":
        """The same counts with another decay."""
        return PopularPersonal(self.shares, decay=decay)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """For each item, the sum of the weights of its events in the history."""
        real, after = events_after(history.items)
        rows, columns = np.nonzero(real)
        scores = np.tile(TIE * self.shares, (len(real), 1))
        np.add.at(scores, (rows, history.items[rows, columns]), self.decay ** after[rows, columns].astype(np.float64))
        return scores


class Markov(Ranking):
    """The items that most likely follow the last items of the history; earlier ones weigh less.

    Transition counts `c(i, j)` from item `i` to the next are smoothed towards popularity, as words of a document are
    (Zhai and Lafferty 2001, Dirichlet prior): `P(j | i) = (c(i, j) + smoothing * share(j)) / (c(i) + smoothing)`.
    """

    def __init__(self, counts: Rows, shares: Float64[np.ndarray, "items"], *, smoothing: float, decay: float) -> None:
        """`counts` of transitions, `shares` of all events; `smoothing` and `decay` as for `fit`."""
        self.counts, self.shares, self.items = counts, shares, len(shares)
        self.smoothing, self.decay = smoothing, decay
        sums = np.append(0, counts.values.cumsum(dtype=np.float64))
        self.leaving = np.diff(sums[counts.offsets])

    @classmethod
    def fit(
        cls, dataset: Dataset, known: Int64[np.ndarray, "users"], *, smoothing: float = 10.0, decay: float = 0.4
    ) -> "Markov":
        """Count; see `baselines.Fit`.

        Args:
            smoothing: how many transitions popularity counts for; above 0.
            decay: the weight of each of the last events relative to the one after it, 0 to 1; with 0 only the last
                event counts.
        """
        events = Known.of(dataset, known)
        return cls(events.followers, events.shares, smoothing=smoothing, decay=decay)

    def decayed(self, decay: float) -> "Markov":
        """The same counts with another decay."""
        return Markov(self.counts, self.shares, smoothing=self.smoothing, decay=decay)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The probability that each item is next; the items' shares of all events where the history is empty."""
        real, after = events_after(history.items)
        decays = self.decay ** after.astype(np.float64)
        rows, columns = np.nonzero(real & (after < LAST) & (decays > 0))
        items, weights = history.items[rows, columns], decays[rows, columns]
        total = np.bincount(rows, weights, len(real))
        weights /= total[rows] * (self.leaving[items] + self.smoothing)
        backed_off = np.where(total > 0, self.smoothing * np.bincount(rows, weights, len(real)), 1.0)
        scores: Float64[np.ndarray, "batch items"] = backed_off[:, None] * self.shares
        scores += self.counts.summed(rows, items, weights, len(real))
        return scores


class ItemToItem(Ranking):
    """Each item of the history adds its weights for other items to their scores; popularity ranks items without any."""

    def __init__(self, weights: Rows, shares: Float64[np.ndarray, "items"], *, decay: float) -> None:
        """`weights`: from each item of a history (row) to the score of each item (column); `shares` of all events.

        `decay`: an item of the history weighs `decay` to the power of how many events follow it; above 0, up to 1.
        """
        self.weights, self.shares, self.decay, self.items = weights, shares, decay, len(shares)

    def decayed(self, decay: float) -> "ItemToItem":
        """The same weights with another decay."""
        return type(self)(self.weights, self.shares, decay=decay)

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The sum of the weights from the history's distinct items."""
        rows, items, after = last_heard(history.items)
        decays = self.decay ** after.astype(np.float64)
        heard = decays > LEAST
        scores = self.weights.summed(rows[heard], items[heard], decays[heard], len(history.items))
        scores += TIE * self.shares
        return scores


class ItemKnn(ItemToItem):
    """The items most similar to those of the history (Sarwar et al. 2001; Deshpande and Karypis 2004).

    The similarity of two items is the cosine of their users, `n(i, j) / (sqrt(n(i) n(j)) + shrinkage)`. Each item of
    the history votes for its nearest neighbours by their similarity.
    """

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        known: Int64[np.ndarray, "users"],
        *,
        shrinkage: float = 10.0,
        neighbours: float = 100,
        decay: float = 0.8,
        events: Known | None = None,
    ) -> "ItemKnn":
        """Count; see `baselines.Fit`.

        Args:
            shrinkage: lowers the similarity of items with few users; 0 or more.
            neighbours: how many each item keeps; among equal similarities the lower item number wins.
            decay: as for `ItemToItem`.
            events: the same known events, already counted for another fit, so that item pairs are counted once.
        """
        events = events or Known.of(dataset, known)
        norms = np.sqrt(np.bincount(events.pairs[1], minlength=events.catalogue))
        sizes = np.zeros(events.catalogue, np.int64)
        columns, values = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for items, others, users in together(events):
            apart = items != others
            items, others, users = items[apart], others[apart], users[apart]
            similar = (users / (norms[items] * norms[others] + shrinkage)).astype(np.float32)
            kept = strongest(items, similar, int(neighbours))
            sizes += np.bincount(items[kept], minlength=events.catalogue)
            columns.append(others[kept].astype(np.int32))
            values.append(similar[kept])
        rows = Rows(np.append(0, sizes.cumsum()), np.concatenate(columns), np.concatenate(values))
        return cls(rows, events.shares, decay=decay)

    def nearest(self, neighbours: float) -> "ItemKnn":
        """The same similarities with fewer neighbours for each item."""
        return ItemKnn(self.weights.first(int(neighbours)), self.shares, decay=self.decay)
