"""Beyond accuracy: how well known, how varied, how surprising and how true to a user's taste a slate is."""

from what_next.metrics.beyond.background import Background
from what_next.metrics.beyond.calibration import calibration
from what_next.metrics.beyond.diversity import diversity
from what_next.metrics.beyond.novelty import novelty
from what_next.metrics.beyond.popularity_lift import popularity_lift
from what_next.metrics.beyond.profile import Profile
from what_next.metrics.beyond.serendipity import serendipity

__all__ = ["Background", "Profile", "calibration", "diversity", "novelty", "popularity_lift", "serendipity"]
