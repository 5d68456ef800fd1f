"""Retrieval: from a point in item space to items."""

from what_next.retrieval.box import Box
from what_next.retrieval.choice import Selection
from what_next.retrieval.tolerance import smallest_tolerance

__all__ = ["Box", "Selection", "smallest_tolerance"]
