"""Retrieval: from a point in item space to items. The backends are `Matching`, `Exact` and `Approximate`."""

from what_next.retrieval.box import Box, Matching, smallest_tolerance
from what_next.retrieval.exact import ByScore, Exact, Rescored, Table
from what_next.retrieval.slots import Priced, SlotBySlot

__all__ = ["Box", "ByScore", "Exact", "Matching", "Priced", "Rescored", "SlotBySlot", "Table", "smallest_tolerance"]
