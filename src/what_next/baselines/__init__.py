"""Recommenders that learn by counting: what any claim is held against.

Libraries that keep such models (implicit, RecTools, LensKit) bring SciPy and compiled parts and score users by their
number in the training data; these few files score whatever history they are shown, with what is installed already.
"""

from collections.abc import Callable, Mapping

from what_next.baselines.classic import ItemKnn, Markov, PopularPersonal, PopularRecent
from what_next.baselines.ease import Ease
from what_next.baselines.rules import Ranking
from what_next.baselines.tags import Content

__all__ = ["BASELINES", "Content", "Ease", "Fit", "ItemKnn", "Markov", "PopularPersonal", "PopularRecent"]

Fit = Callable[..., Ranking]
"""`fit(dataset, known, **settings)`: from the log, and how many leading events of each user training may know, to a
policy."""

BASELINES: Mapping[str, Fit] = {
    "popular_recent": PopularRecent.fit,
    "popular_personal": PopularPersonal.fit,
    "content": Content.fit,
    "markov": Markov.fit,
    "item_knn": ItemKnn.fit,
    "ease": Ease.fit,
}
"""By name, in the order in which they are shown: the plainest first."""
