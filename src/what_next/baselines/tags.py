"""Predicting the next item from tags, such as an artist or a brand that items share."""

import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int32, Int64

from what_next.baselines.counts import TIE, Known, Rows, events_after, parts
from what_next.baselines.rules import Ranking
from what_next.data import Catalogue, Dataset
from what_next.data.batches import ranges
from what_next.data.catalogue import kinds_of
from what_next.types import History

PRIOR = 10.0
"""Pseudo-count, in steps of the log: shrinks the rate of a rare tag towards the mean rate of its kind."""
EVENTS = (10.0, 1000.0)
"""Candidate pseudo-counts, in steps of the log from each item, for its tags' prediction: with many, tags decide
alone."""
NEIGHBOURS, LEAST = 128, 1e-6
"""Most neighbours of a new item among those that share its tags; and the lowest probability that a tag is kept."""
STEPS = 2**20
"""Most pairs of consecutive items that are read."""
WORK = 2**22
"""Item pairs computed at a time: about 200 MB."""


@dataclass(frozen=True, eq=False)
class Tagged:
    """The tags of items, without tags that only one item has.

    Attributes:
        offsets: the tags of item `i` are `tags[offsets[i]:offsets[i + 1]]`.
        kinds: for each tag, the index in `Catalogue.kinds` of its kind, such as artist.
    """

    offsets: Int64[np.ndarray, "items_plus_1"]
    tags: Int64[np.ndarray, "pairs"]
    kinds: Int64[np.ndarray, "tags"]

    @classmethod
    def of(cls, catalogue: Catalogue) -> "Tagged":
        """The tags of a catalogue."""
        several = _each(catalogue).filter(pl.len().over("tag") > 1).sort("item", "tag")
        codes = several["tag"].rank("dense").cast(pl.Int64).to_numpy() - 1
        kinds = _kinds(several["tag"].unique().sort(), catalogue)
        return cls(np.searchsorted(several["item"].to_numpy(), np.arange(len(catalogue) + 1)), codes, kinds)

    @cached_property
    def items(self) -> Int64[np.ndarray, "pairs"]:
        """The item of each entry of `tags`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def kept(self, followers: Rows) -> Float64[np.ndarray, "tags"]:
        """For each tag, how likely a different next item has it, given that the item before it has it."""
        before = followers.rows
        others = np.flatnonzero(before != followers.columns)
        others = others[:: 1 + len(others) // STEPS]
        before, after, times = before[others], followers.columns[others], followers.values[others]
        sizes = np.diff(self.offsets)[before]
        tags = self.tags[ranges(self.offsets[before], sizes)]
        width = len(self.kinds)
        wanted = np.repeat(after.astype(np.int64), sizes) * width + tags
        there = self.items * width + self.tags  # ascending
        same = there[np.minimum(np.searchsorted(there, wanted), len(there) - 1)] == wanted
        weights = np.repeat(times, sizes)
        steps, stayed = (np.bincount(tags, one, width) for one in (weights, weights * same))
        of_kind = np.bincount(self.kinds, stayed) / np.maximum(np.bincount(self.kinds, steps), 1)
        return np.asarray((stayed + PRIOR * of_kind[self.kinds]) / (steps + PRIOR))

    def of_kinds(self, kept: Float64[np.ndarray, "tags"], kinds: int) -> Float64[np.ndarray, "kinds"]:
        """The mean of `kept` over the tags of each kind; 0 for a kind of which no two items share a tag."""
        counts = np.bincount(self.kinds, minlength=kinds)
        return np.asarray(np.bincount(self.kinds, kept, kinds) / np.maximum(counts, 1))

    def foretold(self, chances: Float64[np.ndarray, "tags"], events: Int64[np.ndarray, "items"], most: int) -> Rows:
        """The probability of each next item as predicted from the tags of each item, for at most `most` next items.

        The probability that a tag is kept (`kept`) is divided equally among the other items that have it, of which
        those `most` with the most `events` are returned. If an item's tags sum to more than 1, they are scaled to sum
        to 1.
        """
        count = len(self.offsets) - 1
        order = np.lexsort((self.items, -events[self.items], self.tags))  # each tag's items, the most popular first
        members, sizes = self.items[order], np.bincount(self.tags, minlength=len(self.kinds))
        starts, shown = np.append(0, sizes.cumsum()), np.minimum(sizes, most + 1)
        each = chances / (sizes - 1)
        work = np.bincount(self.items, shown[self.tags], count).astype(np.int64)
        found = []
        for part in parts(work, WORK):
            tags = self.tags[self.offsets[part.start] : self.offsets[part.stop]]
            first = np.repeat(self.items[self.offsets[part.start] : self.offsets[part.stop]], shown[tags])
            second, values = members[ranges(starts[tags], shown[tags])], np.repeat(each[tags], shown[tags])
            pairs, places = np.unique((first * count + second)[first != second], return_inverse=True)
            sums, rows = np.bincount(places, values[first != second]), pairs // count
            best = np.lexsort((-events[pairs % count], -sums, rows))
            best = best[np.arange(len(best)) - np.searchsorted(rows, rows) < most]
            found.append((pairs[best], sums[best]))
        pairs, sums = (np.concatenate(one) for one in zip(*found, strict=True))
        first, whole = pairs // count, np.maximum(np.bincount(self.items, chances[self.tags], count), 1)
        offsets = np.searchsorted(first, np.arange(count + 1))
        return Rows(offsets, (pairs % count).astype(np.int32), (sums / whole[first]).astype(np.float32))


def neighbours(
    catalogue: Catalogue,
    seen: Int32[np.ndarray, "seen"],
    new: Int64[np.ndarray, "new"],
    chances: Float64[np.ndarray, "kinds"],
    events: Float64[np.ndarray, "items"],
) -> Rows:
    """The items that share tags with each new item, and the probability that each comes next, in descending order:
    as `Tagged.foretold` would return it if the catalogue of the training had also held this one new item.

    Args:
        seen: the items that may be neighbours: those known in training.
        new: positions of the new items, ascending, none of them `seen`; the result has a row for each.
        chances: how often a tag of each of `Catalogue.kinds` is kept.
        events: where more than `NEIGHBOURS` items have a tag, those with the most of these are taken.
    """
    each = _each(catalogue)
    own = each.filter(pl.col("item").is_in(new)).select("tag", new="item")
    known = each.join(own.select("tag").unique(), on="tag", how="semi")
    known = known.join(pl.DataFrame({"item": seen.astype(np.uint32), "events": events[seen]}), on="item")
    own = own.join(known.group_by("tag").len("others"), on="tag")
    own = own.with_columns(chance=np.maximum(chances, LEAST)[_kinds(own["tag"], catalogue)])
    whole = pl.col("chance").sum().over("new").clip(lower_bound=1)
    own = own.with_columns(pl.col("chance") / pl.col("others") / whole)
    known = known.filter(pl.struct(-pl.col("events"), "item").rank("ordinal").over("tag") <= NEIGHBOURS)
    pairs = own.join(known, on="tag").group_by("new", "item", "events").agg(pl.col("chance").sum())
    pairs = pairs.sort("new", -pl.col("chance"), -pl.col("events"), "item")
    pairs = pairs.filter(pl.int_range(pl.len()).over("new") < NEIGHBOURS)
    offsets = np.append(np.searchsorted(pairs["new"].to_numpy(), new), len(pairs))
    return Rows(offsets, pairs["item"].to_numpy().astype(np.int32), pairs["chance"].to_numpy().astype(np.float32))


def _each(catalogue: Catalogue) -> pl.DataFrame:
    """Distinct pairs of `item` and `tag`."""
    tags = catalogue.tags
    table = pl.DataFrame({"tag": [] if tags is None else tags}, {"tag": pl.List(pl.String)})
    return table.with_row_index("item").explode("tag").drop_nulls().unique()


def _kinds(tags: pl.Series, catalogue: Catalogue) -> Int64[np.ndarray, "tags"]:
    """The index in `Catalogue.kinds` of each tag's kind."""
    return kinds_of(tags).cast(pl.Enum(catalogue.kinds)).to_physical().cast(pl.Int64).to_numpy()


class Content(Ranking):
    """The items that share tags with those of the history. Each tag weighs as much as the log says that it is kept,
    divided among all items that have it; popularity breaks ties."""

    def __init__(
        self,
        tagged: Tagged,
        kept: Float64[np.ndarray, "tags"],
        shares: Float64[np.ndarray, "items"],
        *,
        decay: float,
    ) -> None:
        """`kept`: the probability that each tag is kept; `shares` of all events; `decay` as for `fit`."""
        self.tagged, self.kept, self.shares, self.decay, self.items = tagged, kept, shares, decay, len(shares)
        values = kept / (np.bincount(tagged.tags, minlength=len(kept)) - 1)
        places = torch.from_numpy(np.stack([tagged.items, tagged.tags]))
        each, size = torch.from_numpy(values[tagged.tags]), (len(shares), len(kept))
        self.matrix = torch.sparse_coo_tensor(places, each, size, is_coalesced=True, check_invariants=True)

    @classmethod
    def fit(cls, dataset: Dataset, known: Int64[np.ndarray, "users"], *, decay: float = 0.8) -> "Content":
        """Count; see `baselines.Fit`.

        Args:
            decay: an event of the history weighs `decay` to the power of how many events follow it; above 0, up to 1.
        """
        events, tagged = Known.of(dataset, known), Tagged.of(dataset.catalogue)
        return cls(tagged, tagged.kept(events.followers), events.shares, decay=decay)

    def decayed(self, decay: float) -> "Content":
        """The same counts with another decay."""
        other = copy.copy(self)
        other.decay = decay
        return other

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """The sum of the weights of the tags that each item shares with the history's events."""
        real, after = events_after(history.items)
        rows, columns = np.nonzero(real)
        items, weights = history.items[rows, columns], self.decay ** after[rows, columns].astype(np.float64)
        sizes = np.diff(self.tagged.offsets)[items]
        had = np.zeros((len(self.kept), len(real)))
        tags = self.tagged.tags[ranges(self.tagged.offsets[items], sizes)]
        np.add.at(had, (tags, np.repeat(rows, sizes)), np.repeat(weights, sizes))
        scores = torch.sparse.mm(self.matrix, torch.from_numpy(had)).T.numpy()
        return np.asarray(scores + TIE * self.shares)
