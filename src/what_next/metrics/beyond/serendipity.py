"""Serendipity: hits that nobody needs a recommender for do not count."""

import numpy as np
from jaxtyping import Float64, Int, Int32

from what_next.metrics.beyond.rows import parts
from what_next.metrics.places import Places


def serendipity(
    places: Places, relevant: Int[np.ndarray, "rows relevant"], popular: Int32[np.ndarray, "rows k"]
) -> Float64[np.ndarray, "rows"]:
    """The hits of a slate that the popular slate does not hold, as a share of all the hits that it could have.

    Ge et al. 2010 ("Beyond accuracy: evaluating recommender systems by coverage and serendipity"), with popularity as
    the primitive recommender whose items are expected. They divide by the length of the slate; here it is by the number
    of relevant items, `k` at most. So with one relevant item this is the hit rate of what is not popular, to be read
    beside HR@k, which it never exceeds. Ties count by their expectation, as in `accuracy`.

    Args:
        places: where the relevant items stand in the ranking that is judged.
        relevant: the items themselves, in the same columns; -1 pads, and is nowhere.
        popular: the first `k` items by popularity, under the same exclusions; -1 is no item.

    Returns:
        From 0 to 1, higher is better; not a number for a row without a relevant item.
    """
    slots, chances = popular.shape[1], np.zeros(len(relevant))
    hits = np.clip(slots - places.above, 0, places.tied) / places.tied
    for part in parts(len(relevant), relevant.shape[1] * slots):
        expected = (relevant[part, :, None] == popular[part, None]).any(axis=2)
        chances[part] = np.where(expected, 0.0, hits[part]).sum(axis=1)
    return np.where(places.counts, chances / np.maximum(np.minimum(places.counts, slots), 1), np.nan)
