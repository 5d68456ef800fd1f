"""Adapters that let RecTools' `cross_validate` and LensKit's pipelines evaluate our models beside their own.

RecTools is not imported: its evaluation only calls the methods defined here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from what_next.algorithms import Algorithm
from what_next.errors import CatalogueError
from what_next.python.fitting import fit
from what_next.python.model import Model

EVERYTHING: Mapping[str, Any] = {"split": "users", "split_test": 0.0, "evaluation_seen": False, "verbose": False}
"""RecTools holds out the test users itself, and says whether known items count; we hold out validation users only, for
early stopping."""
COLUMNS: Mapping[str, Any] = {"user": "user_id", "item": "item_id", "time": "datetime", "reward": "weight"}
"""RecTools' column names (`rectools.Columns`)."""


class _Fitted:
    """A model that is trained by a later call of `fit`.

    Attributes:
        algorithm, settings: the arguments of `fit`; settings by name.
        model: the trained model; None before training.
    """

    def __init__(self, algorithm: str | Algorithm = "next_item", **settings: Any) -> None:
        self.algorithm, self.settings = algorithm, settings
        self.model: Model | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.algorithm!r}, {self.settings!r})"

    def _trained(self, how: str) -> Model:
        if self.model is None:
            raise CatalogueError(f"the model is not trained yet; {how} first")
        return self.model


class RecToolsModel(_Fitted):
    """A model for `rectools.model_selection.cross_validate`, beside RecTools' own; the arguments are those of `fit`."""

    require_recommend_context = False

    def fit(self, dataset: Any) -> "RecToolsModel":
        """Train on all interactions of a `rectools.dataset.Dataset`; returns itself."""
        log = dataset.get_raw_interactions()
        self.model = fit(log, self.algorithm, keep_duplicates=True, **{**COLUMNS, **EVERYTHING, **self.settings})
        return self

    def recommend(
        self,
        users: Iterable[Any],
        dataset: Any,
        k: int,
        filter_viewed: bool,
        items_to_recommend: Iterable[Any] | None = None,
        add_rank_col: bool = True,
        on_unsupported_targets: Literal["raise", "warn", "ignore"] = "raise",
        context: Any = None,
    ) -> Any:
        """The next items after the interactions of some users, as a pandas frame `user_id, item_id, rank`.

        Args:
            users: external ids; `dataset`: holds their interactions.
            k: number of items for each user; `filter_viewed`: leave out items of their interactions.
            items_to_recommend: external ids of the items that may be recommended; None for all.
            add_rank_col: whether to add the column `rank`.
            on_unsupported_targets: "raise": users without interactions are an error; otherwise they get no rows.
            context: ignored.

        Raises:
            CatalogueError: a user has no interactions, or the model is not trained yet.
        """
        model = self._trained("call fit(dataset)")
        users, log = list(users), dataset.get_raw_interactions()
        known = log[log["user_id"].isin(users)]
        missing = set(users) - set(known["user_id"])
        if missing and on_unsupported_targets == "raise":
            raise CatalogueError(
                f"{len(missing)} users have no interactions, such as {next(iter(missing))!r}; leave them out, or set "
                "on_unsupported_targets to 'ignore'"
            )
        found = model.recommend(
            known[["user_id", "item_id", "datetime"]], k, seen=not filter_viewed, allowed=items_to_recommend
        )
        return found[["user_id", "item_id", *(["rank"] if add_rank_col else [])]]


class LensKitScorer(_Fitted):
    """A scorer for `lenskit.pipeline.topn_pipeline`, beside LensKit's own.

    LensKit passes a user's items as an unordered set, so known users are answered from their ordered training events.

    The arguments are those of `fit`.

    Attributes:
        users: the ids of the training users.
    """

    users: frozenset[str] = frozenset()

    def train(self, data: Any, options: Any = None) -> None:
        """Train on all interactions of a `lenskit.data.Dataset`; `options` (`TrainingOptions`) may keep an old
        model."""
        if self.model is not None and not getattr(options, "retrain", True):
            return
        log = data.interaction_table(format="arrow", original_ids=True)
        roles = {"user": "user_id", "item": "item_id", "time": "timestamp", "reward": "rating"}
        named = {role: name if name in log.column_names else "" for role, name in roles.items()}
        how: dict[str, Any] = {"keep_duplicates": True, **named, **EVERYTHING, **self.settings}
        self.model = fit(log, self.algorithm, **how)
        self.users = frozenset(map(str, self.model.state.dataset.user_ids.to_list()))

    def __call__(self, query: Any, items: Any) -> Any:
        """The items of a `lenskit.data.ItemList` with scores: minus the rank; unknown items get none.

        Raises:
            CatalogueError: the model is not trained yet.
        """
        from lenskit.data import ItemList

        model = self._trained("train the pipeline")
        ids = [str(one) for one in items.ids()]
        known = model.catalogue.index(ids) >= 0
        scores = [float("nan")] * len(ids)
        history = self._history(query)
        if known.any() and history:
            allowed = [one for one, there in zip(ids, known, strict=True) if there]
            found = model.recommend(k=len(allowed), seen=True, allowed=allowed, **history)
            ranks = {one.item_id: -float(rank) for rank, one in enumerate(found.items, 1)}
            scores = [ranks.get(one, float("nan")) for one in ids]
        return ItemList(items, scores=scores)

    def _history(self, query: Any) -> dict[str, Any]:
        """The arguments that identify the user: the id, or the items of an unknown user; empty without either."""
        assert self.model is not None, "it is trained"
        user = query.user_id
        if str(user) in self.users:
            return {"user": str(user)}
        had = query.history_items
        ids = [] if had is None else [str(one) for one in had.ids()]
        known = self.model.catalogue.index(ids) >= 0
        return {"history": ids} if known.any() else {}
