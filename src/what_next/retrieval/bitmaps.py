"""A range-encoded bitmap index of the items that may lie in a box."""

import numpy as np
from jaxtyping import Float32, Float64, UInt64

from what_next.retrieval import bits

Points = Float64[np.ndarray, "rows dim"]

FEWEST_EDGES = 64
"""Edges per attribute of a large catalogue: 8 bytes for every attribute of every item."""
TABLE_BYTES = 32 * 2**20
"""A small catalogue has more edges, up to this size of all tables: with one value per bin the index is exact."""


_Edges = Float64[np.ndarray, "edges"]
_Table = UInt64[np.ndarray, "edges_plus_1 words"]  # the empty set, then the set at or below each edge

CACHED_WORDS = 2**16
"""Words of the sets in work at a time: few enough for the processor's cache."""


class RangeBitmaps:
    """For each attribute, the set of items at or below each of its edges, as bits (Chan and Ioannidis 1998).

    The items between two edges are the exclusive or of two such sets, and a box is the intersection over its
    attributes: a few passes over `items / 64` words per proposal, whatever the box. (A k-d tree would visit nearly
    every leaf, because proposals lie near the middle, where all its cuts are.)
    """

    def __init__(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        items, dim = vectors.shape
        most = max(FEWEST_EDGES, TABLE_BYTES * 8 // max(1, items * dim))
        self.edges: list[_Edges] = []
        self.tables: list[_Table] = []
        self.exact = np.zeros(dim, np.bool_)
        for attribute in range(dim):
            values = np.sort(vectors[:, attribute])
            edges = np.unique(values)
            self.exact[attribute] = len(edges) <= most
            if not self.exact[attribute]:  # equal shares of the items; the last edge is the greatest value
                edges = np.unique(values[np.linspace(0, items - 1, most + 1).astype(np.int64)[1:]])
            self.edges.append(edges.astype(np.float64))
            codes = np.searchsorted(edges, vectors[:, attribute])
            # Row 0: no item. Row `e + 1`: the items whose value is at most edge `e`.
            self.tables.append(np.stack([bits.pack(codes < edge) for edge in range(len(edges) + 1)]))

    def between(
        self, attribute: int, lower: Float64[np.ndarray, "rows"], upper: Float64[np.ndarray, "rows"]
    ) -> UInt64[np.ndarray, "rows words"]:
        """The items with `lower <= value <= upper` if the attribute is `exact`; else all items of the bins it cuts."""
        edges, table = self.edges[attribute], self.tables[attribute]
        first = np.searchsorted(edges, lower, "left")
        last = np.searchsorted(edges, upper, "right")
        if not self.exact[attribute]:
            last = np.minimum(np.searchsorted(edges, upper, "left") + 1, len(edges))
        found = table[last]
        found ^= table[first]  # the first is a subset of the last
        return found

    def box(
        self, points: Points, radii: Points, reach: float, permitted: UInt64[np.ndarray, "#rows words"]
    ) -> UInt64[np.ndarray, "rows words"]:
        """The permitted items in a box around each point; any one attribute may lie within `reach` instead.

        Args:
            points: the centres; `radii`: half the sides.
            reach: half the side of the relaxed attribute; 0 for no relaxation.
            permitted: the items to choose from.

        Returns:
            A superset of the matches; exactly the matches if every attribute is `exact`.
        """
        found = np.empty((len(points), permitted.shape[1]), np.uint64)
        step = max(1, CACHED_WORDS // permitted.shape[1])
        for start in range(0, len(points), step):
            part = slice(start, start + step)
            found[part] = permitted if len(permitted) == 1 else permitted[part]
            self._narrow(found[part], points[part], radii[part], reach)
        return found

    def _narrow(self, found: UInt64[np.ndarray, "rows words"], points: Points, radii: Points, reach: float) -> None:
        """Intersect sets with the boxes, in place."""
        strict = found.copy() if reach else found  # in the box so far; `found` tolerates one attribute outside it
        for attribute in range(points.shape[1]):
            point, radius = points[:, attribute], radii[:, attribute]
            within = self.between(attribute, point - radius, point + radius)
            found &= within
            if reach:
                found |= strict & self.between(attribute, point - reach, point + reach)
                strict &= within
