"""Points of a catalogue that stand for all of it."""

import numpy as np
from jaxtyping import Float32, Int64


def spread_out(
    vectors: Float32[np.ndarray, "items dim"], count: int, rng: np.random.Generator
) -> Int64[np.ndarray, "chosen"]:
    """Positions of up to `count` items spread over a catalogue: the seeding of k-means++.

    Each is drawn with probability proportional to the squared distance from those drawn before (Arthur and
    Vassilvitskii 2007, section 2.2). Fewer where the catalogue has fewer distinct vectors.
    """
    chosen = [int(rng.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(vectors - vectors[chosen[-1]]).sum(1, dtype=np.float64))
        if not distance.any():
            break
        chosen.append(int(rng.choice(len(vectors), p=distance / distance.sum())))
    return np.array(chosen)
