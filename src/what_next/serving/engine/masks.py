"""Which items a question permits: ids that are allowed or blocked, and ranges of attributes."""

import threading
from dataclasses import dataclass

import numpy as np
from cachetools import LRUCache
from jaxtyping import Bool

from what_next.data.decisions.rule import Rule, within
from what_next.errors import some
from what_next.serving.bodies import Question
from what_next.serving.engine.served import Served
from what_next.serving.request import Refused
from what_next.types import ItemSet

Ranges = dict[str, tuple[float, float]]
KEPT = 64
"""Masks that are remembered: a page asks again and again with the same one."""


@dataclass(frozen=True, eq=False)
class Mask(ItemSet):
    """The permitted items; `rule` says which they are of any catalogue."""

    rule: Rule


class Masks:
    """The masks of one catalogue; safe for threads."""

    def __init__(self, served: Served) -> None:
        self.served, self.places = served, served.places
        self._kept: LRUCache[object, Mask] = LRUCache(KEPT)
        self._lock = threading.Lock()

    def of(self, request: Question) -> Mask | None:
        """The items that a question permits; None: all of them.

        Ids that the catalogue does not hold are passed over; bounds of ranges are inclusive, in the attributes' own
        units.

        Raises:
            Refused: an attribute is not known, a range has no inside, or no item is left.
        """
        if request.allowed is None and not request.blocked and not request.ranges:
            return None
        ranges = {name: one.ends for name, one in sorted((request.ranges or {}).items())}
        key = request.allowed, request.blocked, tuple(ranges.items())
        with self._lock:
            found = self._kept.get(key)
        if found is None:
            found = self._made(request, ranges)
            with self._lock:
                self._kept[key] = found
        return found

    def _made(self, request: Question, ranges: Ranges) -> Mask:
        if request.allowed == ():
            raise Refused("allowed", "is empty, so that no item may be recommended; name ids, or leave it out")
        permitted = np.full(len(self.served.ids), request.allowed is None)
        permitted[self._known(request.allowed or ())] = True
        if not permitted.any():
            raise Refused(
                "allowed", f"none of these {len(request.allowed or ()):,} ids is in the catalogue; name others"
            )
        for name, (low, high) in ranges.items():
            permitted &= self._within(name, low, high)
        if not permitted.any():
            raise Refused("ranges", "no item that is allowed lies within them; widen them")
        permitted[self._known(request.blocked or ())] = False
        if not permitted.any():
            raise Refused("blocked", "no item is left that is not blocked; block fewer")
        return Mask(permitted, Rule(request.allowed, request.blocked or (), ranges))

    def _known(self, ids: tuple[str, ...]) -> list[int]:
        return [place for place in (self.places.get(one) for one in ids) if place is not None]

    def _within(self, name: str, low: float, high: float) -> Bool[np.ndarray, "items"]:
        catalogue, names = self.served.catalogue, self.served.catalogue.names
        if name not in names:
            raise Refused("ranges", f"{name!r} is no attribute; there are {some(names) or 'none'}")
        if low > high:
            raise Refused("ranges", f"of {name!r}, min is {low:g} and above max, which is {high:g}; swap them")
        return within(catalogue, name, low, high)
