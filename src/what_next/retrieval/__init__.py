"""Retrieval: from a point in item space to items."""

from what_next.retrieval.box import Box
from what_next.retrieval.choice import Selection
from what_next.retrieval.ranking import select_ranked
from what_next.retrieval.tolerance import smallest_tolerance

__all__ = ["Box", "Selection", "select_ranked", "smallest_tolerance"]
