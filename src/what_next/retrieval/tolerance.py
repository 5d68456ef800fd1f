"""How wide a box must be to hold an item."""

import numpy as np
from jaxtyping import Float32

from what_next.retrieval.box import Box


def smallest_tolerance(
    vectors: Float32[np.ndarray, "items dim"], points: Float32[np.ndarray, "points dim"], share: float = 0.1
) -> float:
    """The smallest tolerance at which at most `share` of the points match no item.

    An order statistic of the Chebyshev distances from each point to its nearest item: no interpolation, so that a
    point lies exactly on its border.

    Raises:
        ValueError: no points, or `share` is not in [0, 1).
    """
    if not len(points) or not 0 <= share < 1:
        raise ValueError(f"a tolerance needs points ({len(points)} given) and a share in [0, 1) ({share} given)")
    count = len(points)
    unmatched = max(number for number in range(count) if number / count <= share)
    return float(np.sort(Box(vectors).tolerances(points))[count - 1 - unmatched])
