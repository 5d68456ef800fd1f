"""What tags tell of what comes next: items that share an artist, say, or a brand."""

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
"""Steps of the log that the kind of a tag counts as, where the steps from items with that very tag are few."""
EVENTS = (10.0, 1000.0)
"""Steps of the log from each item that what its tags tell may count as: many have it alone decide."""
NEIGHBOURS, LEAST = 128, 1e-6
"""Items with the same tags by which a new one is known, at most; and how often a tag is kept, at least."""
STEPS = 2**20
"""Pairs of one item and the next that are looked at, at most."""
WORK = 2**22
"""Pairs of items at work at a time: about 200 MB."""


@dataclass(frozen=True, eq=False)
class Tagged:
    """Which items have which tags, of those that several items have.

    Attributes:
        offsets: the tags of item `i` are `tags[offsets[i]:offsets[i + 1]]`.
        kinds: of each tag, where what it is stands in `Catalogue.kinds`, such as an artist.
    """

    offsets: Int64[np.ndarray, "items_plus_1"]
    tags: Int64[np.ndarray, "pairs"]
    kinds: Int64[np.ndarray, "tags"]

    @classmethod
    def of(cls, catalogue: Catalogue) -> "Tagged":
        """Of all items."""
        several = _each(catalogue).filter(pl.len().over("tag") > 1).sort("item", "tag")
        codes = several["tag"].rank("dense").cast(pl.Int64).to_numpy() - 1
        kinds = _kinds(several["tag"].unique().sort(), catalogue)
        return cls(np.searchsorted(several["item"].to_numpy(), np.arange(len(catalogue) + 1)), codes, kinds)

    @cached_property
    def items(self) -> Int64[np.ndarray, "pairs"]:
        """Whose the tags are."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def kept(self, followers: Rows) -> Float64[np.ndarray, "tags"]:
        """How often another item with the same tag comes next, where one with that tag was last."""
        before = followers.rows
        others = np.flatnonzero(before != followers.columns)
        others = others[:: 1 + len(others) // STEPS]
        before, after, times = before[others], followers.columns[others], followers.values[others]
        sizes = np.diff(self.offsets)[before]
        tags = self.tags[ranges(self.offsets[before], sizes)]
        width = len(self.kinds)
        wanted = np.repeat(after.astype(np.int64), sizes) * width + tags
        there = self.items * width + self.tags  # which ascends
        same = there[np.minimum(np.searchsorted(there, wanted), len(there) - 1)] == wanted
        weights = np.repeat(times, sizes)
        steps, stayed = (np.bincount(tags, one, width) for one in (weights, weights * same))
        of_kind = np.bincount(self.kinds, stayed) / np.maximum(np.bincount(self.kinds, steps), 1)
        return np.asarray((stayed + PRIOR * of_kind[self.kinds]) / (steps + PRIOR))

    def of_kinds(self, kept: Float64[np.ndarray, "tags"], kinds: int) -> Float64[np.ndarray, "kinds"]:
        """How often a tag of each kind is kept, on average; 0 where no two items share one."""
        counts = np.bincount(self.kinds, minlength=kinds)
        return np.asarray(np.bincount(self.kinds, kept, kinds) / np.maximum(counts, 1))

    def foretold(self, chances: Float64[np.ndarray, "tags"], events: Int64[np.ndarray, "items"], most: int) -> Rows:
        """The chances of what comes next after each item, as far as its tags tell; of `most` items, or fewer.

        The chance that a tag is kept (`kept`) is shared among the other items that have it; those `most` that have the
        most `events` are told. Where the chances of all tags of an item come to more than 1, they are made to be 1.
        """
        count = len(self.offsets) - 1
        order = np.lexsort((self.items, -events[self.items], self.tags))  # the members of each tag
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
    """The items that share tags with each new one, and the chance that each comes next after it, the likely ones first:
    what `Tagged.foretold` would say if the training had known this new item, too, and no other.

    Args:
        seen: the items that may be neighbours: those of the training.
        new: positions of the new items, ascending, none of them `seen`; the result has a row for each.
        chances: how often a tag of each of `Catalogue.kinds` is kept.
        events: by which the items of each tag are chosen, where more than `NEIGHBOURS` have it.
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
    """Which `item` has which `tag`, each pair once."""
    tags = catalogue.tags
    table = pl.DataFrame({"tag": [] if tags is None else tags}, {"tag": pl.List(pl.String)})
    return table.with_row_index("item").explode("tag").drop_nulls().unique()


def _kinds(tags: pl.Series, catalogue: Catalogue) -> Int64[np.ndarray, "tags"]:
    """Where in `Catalogue.kinds` stands what tags are."""
    return kinds_of(tags).cast(pl.Enum(catalogue.kinds)).to_physical().cast(pl.Int64).to_numpy()


class Content(Ranking):
    """The items that share tags with those of the history: each tag counts as often as the log says that it is kept,
    shared among all that have it; popularity decides among equals."""

    def __init__(
        self,
        tagged: Tagged,
        kept: Float64[np.ndarray, "tags"],
        shares: Float64[np.ndarray, "items"],
        *,
        decay: float,
    ) -> None:
        """`kept`: the chance that each tag is; `shares` of all events; `decay` as for `fit`."""
        self.tagged, self.kept, self.shares, self.decay, self.items = tagged, kept, shares, decay, len(shares)
        values = kept / (np.bincount(tagged.tags, minlength=len(kept)) - 1)
        places = torch.from_numpy(np.stack([tagged.items, tagged.tags]))
        each, size = torch.from_numpy(values[tagged.tags]), (len(shares), len(kept))
        self.matrix = torch.sparse_coo_tensor(places, each, size, is_coalesced=True, check_invariants=True)

    @classmethod
    def fit(cls, dataset: Dataset, known: Int64[np.ndarray, "users"], *, decay: float = 0.8) -> "Content":
        """Count; see `baselines.Fit`.

        Args:
            decay: how much an event of the history counts for each one that came after it, above 0, to 1: all alike.
        """
        events, tagged = Known.of(dataset, known), Tagged.of(dataset.catalogue)
        return cls(tagged, tagged.kept(events.followers), events.shares, decay=decay)

    def decayed(self, decay: float) -> "Content":
        """The same with another decay."""
        other = copy.copy(self)
        other.decay = decay
        return other

    def worth(self, history: History) -> Float64[np.ndarray, "batch items"]:
        """What the tags of the history's events count."""
        real, after = events_after(history.items)
        rows, columns = np.nonzero(real)
        items, weights = history.items[rows, columns], self.decay ** after[rows, columns].astype(np.float64)
        sizes = np.diff(self.tagged.offsets)[items]
        had = np.zeros((len(self.kept), len(real)))
        tags = self.tagged.tags[ranges(self.tagged.offsets[items], sizes)]
        np.add.at(had, (tags, np.repeat(rows, sizes)), np.repeat(weights, sizes))
        scores = torch.sparse.mm(self.matrix, torch.from_numpy(had)).T.numpy()
        return np.asarray(scores + TIE * self.shares)
