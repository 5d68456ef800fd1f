"""What is known of the items before any slate is seen."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from what_next.data import Catalogue
from what_next.metrics.beyond.rows import mean_over, parts


@dataclass(frozen=True, eq=False)
class Background:
    """The items, as training may know them.

    Attributes:
        counts: training events of each item.
        vectors: standardised attributes; no columns where the catalogue has none.
        categories: how each item's weight of 1 is spread over its categories; a row of zeros for an item without any.
            None where the catalogue has fewer than two categories.
    """

    counts: Int64[np.ndarray, "items"]
    vectors: Float32[np.ndarray, "items attributes"]
    categories: Float32[np.ndarray, "items categories"] | None

    @classmethod
    def of(cls, catalogue: Catalogue, counts: Int64[np.ndarray, "items"]) -> "Background":
        """Of a standardised catalogue (`Space.catalogue`, `Space.counts`).

        Its categories are the attributes that are 0 or 1 for every item, and not 0 for all (genres, say). An item
        belongs equally to each that it has.
        """
        raw = catalogue.attributes
        binary = ((raw == 0) | (raw == 1)).all(axis=0) & raw.any(axis=0)
        categories = None
        if binary.sum() > 1:
            held = raw[:, binary]
            categories = held / np.maximum(held.sum(axis=1, keepdims=True), np.float32(1))
        return cls(counts, catalogue.vectors, categories)

    @cached_property
    def information(self) -> Float64[np.ndarray, "items"]:
        """The self-information of each item in bits; an item without a training event has that of one with one."""
        events = self.counts.sum()
        return np.log2(events / np.maximum(self.counts, 1)) if events else np.full(len(self.counts), np.nan)

    def popularity(self, items: Int32[np.ndarray, "rows width"]) -> Float64[np.ndarray, "rows"]:
        """The mean number of training events of the items of each row; not a number for a row without any."""
        return mean_over(self.counts.astype(np.float64), items)

    def shares(self, items: Int32[np.ndarray, "rows width"]) -> Float64[np.ndarray, "rows categories"]:
        """The share of each category in the items of each row; not a number where no item has a category.

        There are no columns where the catalogue has no categories.
        """
        shares = np.full((len(items), 0 if self.categories is None else self.categories.shape[1]), np.nan)
        if not shares.shape[1] or not items.shape[1]:
            return shares
        for part in parts(len(items), max(items.shape[1], shares.shape[1])):
            places = np.where(items[part] < 0, np.int32(len(self._padded) - 1), items[part])
            sums = torch.nn.functional.embedding_bag(torch.from_numpy(places), self._padded, mode="sum").double()
            shares[part] = (sums / sums.sum(1, keepdim=True)).numpy()  # 0 / 0 is not a number
        return shares

    @cached_property
    def _padded(self) -> Float32[Tensor, "items_plus_1 categories"]:
        """The categories, and a row of zeros for what is no item."""
        assert self.categories is not None
        return torch.from_numpy(np.pad(self.categories, ((0, 1), (0, 0))))
