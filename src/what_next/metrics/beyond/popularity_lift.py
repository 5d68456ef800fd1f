"""Popularity lift: whether people are led to what is more popular than what they hear."""

import numpy as np
from jaxtyping import Float64, Int32

from what_next.metrics.beyond.background import Background
from what_next.metrics.beyond.profile import Profile


def popularity_lift(
    slates: Int32[np.ndarray, "rows k"], profile: Profile, background: Background
) -> Float64[np.ndarray, "rows"]:
    """By how much the mean popularity of a slate exceeds that of the history, in units of the history's.

    Abdollahpouri et al. 2019 ("The unfairness of popularity bias in recommendation") and 2020 ("The connection between
    popularity bias, calibration, and fairness in recommendation"), who average popularity over a group of users before
    they divide; here each row is its own group. Popularity is the number of training events.

    Returns:
        -1 or more: 0 for a slate as popular as the history, above it for a more popular one; not a number for an empty
        slate, and for a history without any training event.
    """
    known = profile.popularity > 0
    ratio = background.popularity(slates) / np.where(known, profile.popularity, 1.0)
    return np.where(known, ratio - 1, np.nan)
