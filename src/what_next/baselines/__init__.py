"""Recommenders that learn by counting: the reference for every claim about a trained model.

Libraries with such models (implicit, RecTools, LensKit) need SciPy and compiled parts, and score users by their number
in the training data. These few files score any history that they are given, with the base install alone.
"""

from collections.abc import Callable, Mapping

from what_next.baselines.classic import ItemKnn, Markov, PopularPersonal, PopularRecent
from what_next.baselines.ease import Ease
from what_next.baselines.rules import Ranking
from what_next.baselines.slim import Slim
from what_next.baselines.tags import Content

__all__ = ["BASELINES", "Content", "Ease", "Fit", "ItemKnn", "Markov", "PopularPersonal", "PopularRecent", "Slim"]

Fit = Callable[..., Ranking]
"""`fit(dataset, known, **settings)` makes a policy from the log; `known` is how many leading events of each user
training may know."""

BASELINES: Mapping[str, Fit] = {
    "popular_recent": PopularRecent.fit,
    "popular_personal": PopularPersonal.fit,
    "content": Content.fit,
    "markov": Markov.fit,
    "item_knn": ItemKnn.fit,
    "ease": Ease.fit,
    "slim": Slim.fit,
}
"""The baselines by name, in the order in which they are shown: the simplest first."""
