"""What networks are built for and scaled by: the item space of a data set, as training may know it."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Int32

from what_next.data.catalogue import Catalogue


@dataclass(frozen=True, eq=False)
class Space:
    """The catalogue, and what training may know of the log as a whole. It is stored with a model.

    Attributes:
        catalogue: standardised on the items that have a training event.
        seen: positions of those items; empty in a space that comes from a model file.
        tolerance: how far each attribute of a matching item may be from a proposal, in standard deviations.
        typical: the mean spread (sigma) of the training users, in standard deviations.
        event_names: the numbers that are known of an event besides its item: `reward` first where the log has one.
        counts: training events of each item; None in a space that comes from a model file.
        cold: share of the validation targets whose item has no training event; 0 in a space of a model file.
        events_per_user: mean training events of those users that have two or more; 0 in a space of a model file.
        event_center, event_scale: mean and standard deviation of each over the training events.
    """

    catalogue: Catalogue
    seen: Int32[np.ndarray, "seen"]
    tolerance: float
    typical: float
    event_names: tuple[str, ...]
    event_center: Float32[np.ndarray, "numbers"]
    event_scale: Float32[np.ndarray, "numbers"]
    counts: Int32[np.ndarray, "items"] | None = None
    events_per_user: float = 0.0
    cold: float = 0.0

    @property
    def events(self) -> int:
        """How many training events there are; 0 in a space of a model file."""
        return 0 if self.counts is None else int(self.counts.sum(dtype=np.int64))

    @property
    def events_per_item(self) -> float:
        """Mean training events of those items that have any; 0 in a space of a model file."""
        return 0.0 if self.counts is None else self.events / max(1, int((self.counts > 0).sum()))

    def with_tolerance(self, tolerance: float | None) -> "Space":
        """This space with the tolerance of a setup, which goes before its own where there is one."""
        return replace(self, tolerance=tolerance or self.tolerance)

    def measured(self, space: "Space") -> "Space":
        """This space with what another one has counted in its training part; no model file holds that."""
        return replace(
            self, seen=space.seen, counts=space.counts, events_per_user=space.events_per_user, cold=space.cold
        )
