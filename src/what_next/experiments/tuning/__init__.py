"""The search for better settings (`what-next tune`)."""

from what_next.experiments.tuning.search import Trial, Tuned, monitor, tune
from what_next.experiments.tuning.space import Range, search_space, with_settings

__all__ = ["Range", "Trial", "Tuned", "monitor", "search_space", "tune", "with_settings"]
