"""A scorer as LensKit calls it: its pipelines, batches and metrics compare our models with others."""

from typing import Any

from what_next.algorithms import Algorithm
from what_next.errors import CatalogueError
from what_next.python.fitting import fit
from what_next.python.model import Model
from what_next.python.rectools import EVERYTHING


class LensKitScorer:
    """A scorer for `lenskit.pipeline.topn_pipeline`, beside LensKit's own.

    LensKit hands over what a user had as a set; whoever is known is answered after their training events, in order.

    Attributes:
        algorithm, settings: what `fit` is given; the rest of its arguments by name.
        model: the trained one; None before `train`. `users`: the ids of those whom it was trained on.
    """

    def __init__(self, algorithm: str | Algorithm = "next_item", **settings: Any) -> None:
        self.algorithm, self.settings = algorithm, settings
        self.model: Model | None = None
        self.users: set[str] = set()

    def __repr__(self) -> str:
        return f"LensKitScorer({self.algorithm!r}, {self.settings!r})"

    def train(self, data: Any, options: Any = None) -> None:
        """Train on all interactions of a `lenskit.data.Dataset`; `options` (`TrainingOptions`) may keep an old one."""
        if self.model is not None and not getattr(options, "retrain", True):
            return
        log = data.interaction_table(format="arrow", original_ids=True)
        roles = {"user": "user_id", "item": "item_id", "time": "timestamp", "reward": "rating"}
        named = {role: name if name in log.column_names else "" for role, name in roles.items()}
        how: dict[str, Any] = {"keep_duplicates": True, **named, **EVERYTHING, **self.settings}
        self.model = fit(log, self.algorithm, **how)
        self.users = {str(one) for one in self.model.state.dataset.user_ids.to_list()}

    def __call__(self, query: Any, items: Any) -> Any:
        """The items of a `lenskit.data.ItemList` with scores: minus the rank; what is not known gets none.

        Raises:
            CatalogueError: the model is not trained yet.
        """
        from lenskit.data import ItemList

        if self.model is None:
            raise CatalogueError("the model is not trained yet; train the pipeline first")
        ids = [str(one) for one in items.ids()]
        known = self.model.catalogue.index(ids) >= 0
        scores = [float("nan")] * len(ids)
        history = self._history(query)
        if known.any() and history:
            allowed = [one for one, there in zip(ids, known, strict=True) if there]
            found = self.model.recommend(k=len(allowed), seen=True, allowed=allowed, **history)
            ranks = {one.item_id: -float(rank) for rank, one in enumerate(found.items, 1)}
            scores = [ranks.get(one, float("nan")) for one in ids]
        return ItemList(items, scores=scores)

    def _history(self, query: Any) -> dict[str, Any]:
        """What the model is asked by: the user, or the items of one whom it does not know; nothing for nobody."""
        assert self.model is not None, "it is trained"
        user = query.user_id
        if str(user) in self.users:
            return {"user": str(user)}
        had = query.history_items
        ids = [] if had is None else [str(one) for one in had.ids()]
        known = self.model.catalogue.index(ids) >= 0
        return {"history": ids} if known.any() else {}
