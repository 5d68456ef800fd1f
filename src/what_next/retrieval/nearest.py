"""Exact nearest neighbours with ties and masks: a matrix product finds the few blocks to compare directly."""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int64, UInt64

from what_next.retrieval import bits

Points = Float32[np.ndarray, "rows dim"]

Pairs = tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"], Float64[np.ndarray, "pairs"]]
"""Row, item and squared distance, by row, then item."""

PRODUCT_ROWS = 256
PRODUCT_STEPS = 2**17
"""Proposals and multiplications of one matrix product: few enough for the cache, and too few for the matrix library to
start a second thread, which would cost more than the product."""
DIRECT_PAIRS = 2**18
"""Distances computed directly at a time."""

PROBE_FACTOR = 8
"""If more than this many blocks per probed block remain, the number of probed blocks grows by this factor."""


class Nearest:
    """Euclidean neighbours among the items.

    `|x|^2 - 2 <x, p>` in single precision, minus a bound on its rounding error, gives a lower bound of the distances in
    each block of 64 items. The blocks with the smallest bounds are compared directly, by differences in double
    precision; then all blocks whose bound does not exceed the distances found there.
    """

    def __init__(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        items, dim = vectors.shape
        words = -(-items // bits.WORD)
        self.vectors = vectors
        padded = np.zeros((words * bits.WORD, dim + 1), np.float32)
        padded[:items, :dim] = vectors
        squares = np.square(padded, dtype=np.float64).sum(axis=1)
        with np.errstate(over="ignore"):  # an infinite bound forces a direct comparison
            padded[:, dim] = squares
            self.block_norms = np.sqrt(squares.reshape(words, bits.WORD).max(axis=1)).astype(np.float32)
        padded[items:, dim] = np.inf  # the padding is never near
        self.factors = np.ascontiguousarray(padded.reshape(words, bits.WORD, dim + 1).transpose(1, 2, 0))

    def distances(
        self, points: Points, rows: Int[np.ndarray, "pairs"], items: Int[np.ndarray, "pairs"]
    ) -> Float64[np.ndarray, "pairs"]:
        """Squared distances between rows of `points` and items, computed directly: equal distances compare equal."""
        found = np.empty(len(rows), np.float64)
        for start in range(0, len(rows), DIRECT_PAIRS):
            part = slice(start, start + DIRECT_PAIRS)
            differences = self.vectors[items[part]].astype(np.float64)
            differences -= points[rows[part]]
            found[part] = np.square(differences, out=differences).sum(axis=1)
        return found

    def search(self, points: Points, count: int, permitted: UInt64[np.ndarray, "#rows words"]) -> Pairs:
        """For each row, the `count` nearest permitted items and all that tie with the last of them."""
        permitted = np.broadcast_to(permitted, (len(points), permitted.shape[1]))
        bounds = np.where(permitted == 0, np.inf, self._lower_bounds(points))
        probes = count
        while True:
            blocks = _least(bounds, min(probes, bounds.shape[1]))
            rows, _, distances = self._look(points, blocks, permitted)
            limits = _limits(rows, distances, len(points), count)
            # Written so that NaN from an overflow in the product forces a direct comparison.
            blocks = ~(bounds > limits[:, None]) & (permitted != 0)
            if probes >= bounds.shape[1] or np.count_nonzero(blocks) <= PROBE_FACTOR * probes * len(points):
                break
            probes *= PROBE_FACTOR  # the mask excluded the near items of those blocks
        rows, items, distances = self._look(points, blocks, permitted)
        keep = distances <= _limits(rows, distances, len(points), count)[rows]
        return rows[keep], items[keep], distances[keep]

    def _look(
        self, points: Points, blocks: Bool[np.ndarray, "rows words"], permitted: UInt64[np.ndarray, "rows words"]
    ) -> Pairs:
        """The permitted items of some blocks, with their distances."""
        rows, items = bits.members(np.where(blocks, permitted, np.uint64(0)))
        return rows, items, self.distances(points, rows, items)

    @np.errstate(over="ignore", invalid="ignore")
    def _lower_bounds(self, points: Points) -> Float64[np.ndarray, "rows words"]:
        """A lower bound of the squared distances of all items in each block, permitted or not."""
        squares = np.square(points, dtype=np.float64).sum(axis=1)
        found = np.empty((len(points), len(self.block_norms)))
        factors = np.concatenate([-2 * points, np.ones((len(points), 1), np.float32)], axis=1)
        step = max(1, PRODUCT_STEPS // (factors.shape[1] * min(PRODUCT_ROWS, max(1, len(points)))))
        for top in range(0, len(points), PRODUCT_ROWS):
            part = factors[top : top + PRODUCT_ROWS]
            for left in range(0, found.shape[1], step):
                product = part @ self.factors[:, :, left : left + step]  # [place in the block, row, block]
                found[top : top + PRODUCT_ROWS, left : left + step] = product.min(axis=0)
        # Rounding error of a sum of products: Higham (2002), section 3.1; `|x|^2` counts as one of the products.
        precision = np.finfo(np.float32).eps * (factors.shape[1] + 3)
        norms = np.sqrt(squares)[:, None]
        found -= precision * self.block_norms * (self.block_norms + 2 * norms)
        found += squares[:, None] * (1 - precision)
        return found


def _least(bounds: Float64[np.ndarray, "rows words"], count: int) -> Bool[np.ndarray, "rows words"]:
    """A mask of the `count` smallest bounds of each row."""
    mask = np.zeros(bounds.shape, np.bool_)
    least = bounds.argmin(axis=1)[:, None] if count == 1 else np.argpartition(bounds, count - 1, axis=1)[:, :count]
    np.put_along_axis(mask, least, True, axis=1)
    return mask


def _limits(
    rows: Int64[np.ndarray, "pairs"], distances: Float64[np.ndarray, "pairs"], length: int, count: int
) -> Float64[np.ndarray, "rows"]:
    """The `count`-th smallest distance of each row; infinite if there are fewer."""
    order = np.lexsort((distances, rows))
    offsets = np.searchsorted(rows, np.arange(length + 1))
    limits = np.full(length, np.inf)
    enough = np.diff(offsets) >= count
    limits[enough] = distances[order][offsets[:-1][enough] + count - 1]
    return limits
