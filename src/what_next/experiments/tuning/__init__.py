"""The search for better settings (`what-next tune`)."""

from what_next.experiments.tuning.search import Trial, Tuned, tune
from what_next.experiments.tuning.space import Range, search_space, with_settings

__all__ = ["Range", "Trial", "Tuned", "search_space", "tune", "with_settings"]
