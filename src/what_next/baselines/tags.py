"""What tags tell of what comes next: items that share an artist, say, or a brand."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from what_next.baselines.counts import Rows, parts
from what_next.data.batches import ranges
from what_next.data.catalogue import kinds_of

PRIOR = 10.0
"""Steps of the log that the kind of a tag counts as, where the steps from items with that very tag are few."""
EVENTS = 10.0
"""Steps of the log from each item that what its tags tell counts as."""
STEPS = 2**20
"""Pairs of one item and the next that are looked at, at most."""
WORK = 2**22
"""Pairs of items at work at a time: about 200 MB."""


@dataclass(frozen=True, eq=False)
class Tagged:
    """Which items have which tags, of those that several items have.

    Attributes:
        offsets: the tags of item `i` are `tags[offsets[i]:offsets[i + 1]]`.
        kinds: of each tag, a number for what it is, such as an artist.
    """

    offsets: Int64[np.ndarray, "items_plus_1"]
    tags: Int64[np.ndarray, "pairs"]
    kinds: Int64[np.ndarray, "tags"]

    @classmethod
    def of(cls, tags: pl.Series) -> "Tagged":
        """Of the lists of all items (`Catalogue.tags`)."""
        each = pl.DataFrame({"tag": tags}).with_row_index("item").explode("tag").drop_nulls().unique()
        several = each.filter(pl.len().over("tag") > 1).sort("item", "tag")
        codes = several["tag"].rank("dense").cast(pl.Int64).to_numpy() - 1
        kinds = kinds_of(several["tag"].unique().sort()).rank("dense").cast(pl.Int64).to_numpy() - 1
        return cls(np.searchsorted(several["item"].to_numpy(), np.arange(len(tags) + 1)), codes, kinds)

    @property
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

    def foretold(self, followers: Rows, events: Int64[np.ndarray, "items"], most: int) -> Rows:
        """How often each item comes next after each one, in `EVENTS` steps, as far as tags tell; of `most` items, or
        fewer.

        The chance that a tag is kept is shared among the other items that have it; those `most` that have the most
        `events` are told. Where the chances of all tags of an item come to more than 1, they are made to be 1.
        """
        count, chances = len(self.offsets) - 1, self.kept(followers)
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
        return Rows(offsets, (pairs % count).astype(np.int32), (EVENTS * sums / whole[first]).astype(np.float32))
