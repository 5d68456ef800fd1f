"""Retrieval: from a point in item space to items."""

from what_next.retrieval.box import Box
from what_next.retrieval.choice import Selection
from what_next.retrieval.ranking import chances_ranked, forbid, scored, select_ranked
from what_next.retrieval.tolerance import smallest_tolerance

__all__ = ["Box", "Selection", "chances_ranked", "forbid", "scored", "select_ranked", "smallest_tolerance"]
