"""Ranking metrics for one target: was what really followed among the first k?

With a single relevant item the ideal DCG is 1, so NDCG is 1 / log2(1 + rank) in closed form (Järvelin and Kekäläinen,
2002, with binary gain).
"""

import numpy as np
from jaxtyping import Bool, Float64, Int32


def hit_rate(
    slates: Int32[np.ndarray, "batch slots"], targets: Int32[np.ndarray, "batch"]
) -> Float64[np.ndarray, "batch"]:
    """HR@k, k being the number of slots: 1 where the slate holds the target, else 0."""
    return np.where(_hits(slates, targets).any(axis=1), 1.0, 0.0)


def ndcg(slates: Int32[np.ndarray, "batch slots"], targets: Int32[np.ndarray, "batch"]) -> Float64[np.ndarray, "batch"]:
    """NDCG@k, k being the number of slots: 1 / log2(1 + rank) where the slate holds the target, else 0."""
    hits = _hits(slates, targets)
    # An item stands in a slate once, so the first hit is the only one; the best rank is 1.
    return np.where(hits.any(axis=1), 1 / np.log2(2 + hits.argmax(axis=1)), 0.0)


def _hits(
    slates: Int32[np.ndarray, "batch slots"], targets: Int32[np.ndarray, "batch"]
) -> Bool[np.ndarray, "batch slots"]:
    """Where the target stands; -1 is no item and no target."""
    hits: Bool[np.ndarray, "batch slots"] = (slates == targets[:, None]) & (slates >= 0)
    return hits
