"""What users heard before they are judged, as far as slates are compared with it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32

from what_next.metrics.beyond.background import Background


@dataclass(frozen=True, eq=False)
class Profile:
    """What the history of each row is like. It is taken once, whatever is compared with it.

    Attributes:
        popularity: the mean number of training events of its items, each event of the history counting; not a number
            for an empty one.
        shares: the share of each category in it (see `Background.shares`).
    """

    popularity: Float64[np.ndarray, "rows"]
    shares: Float64[np.ndarray, "rows categories"]

    @classmethod
    def of(cls, histories: Int32[np.ndarray, "rows time"], background: Background) -> "Profile":
        """Of the items that each row's user heard before the target; -1 is padding."""
        return cls(background.popularity(histories), background.shares(histories))
