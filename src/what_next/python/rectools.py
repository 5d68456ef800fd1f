"""`fit` and `recommend` as RecTools calls them: its `cross_validate` compares our models with others.

Nothing of RecTools is imported: its evaluation asks no more of a model than what is here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from what_next.algorithms import Algorithm
from what_next.errors import CatalogueError
from what_next.python.fitting import fit
from what_next.python.model import Model

EVERYTHING: Mapping[str, Any] = {"split": "users", "split_test": 0.0, "verbose": False}
"""RecTools has set aside whom it judges on; validation users are ours still, for the end of training."""
COLUMNS: Mapping[str, Any] = {"user": "user_id", "item": "item_id", "time": "datetime", "reward": "weight"}
"""RecTools' names (`rectools.Columns`)."""


class RecToolsModel:
    """A model for `rectools.model_selection.cross_validate`, beside RecTools' own.

    Attributes:
        algorithm, settings: what `fit` is given; the rest of its arguments by name.
        model: the trained one; None before `fit`.
    """

    require_recommend_context = False

    def __init__(self, algorithm: str | Algorithm = "next_item", **settings: Any) -> None:
        self.algorithm, self.settings = algorithm, settings
        self.model: Model | None = None

    def __repr__(self) -> str:
        return f"RecToolsModel({self.algorithm!r}, {self.settings!r})"

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
        """What comes next after the interactions of some users, as a pandas frame `user_id, item_id, rank`.

        Args:
            users: external ids; `dataset`: holds their interactions.
            k: number of items for each; `filter_viewed`: leave out those that they had.
            items_to_recommend: external ids of the items that may be recommended; None for all.
            add_rank_col: with the column `rank`.
            on_unsupported_targets: users without interactions get no row, unless it is "raise".
            context: is not read.

        Raises:
            CatalogueError: a user has no interactions, or the model is not trained yet.
        """
        if self.model is None:
            raise CatalogueError("the model is not trained yet; call fit(dataset) first")
        users, log = list(users), dataset.get_raw_interactions()
        known = log[log["user_id"].isin(users)]
        missing = set(users) - set(known["user_id"])
        if missing and on_unsupported_targets == "raise":
            raise CatalogueError(
                f"{len(missing)} users have no interactions, such as {next(iter(missing))!r}; leave them out, or set "
                "on_unsupported_targets to 'ignore'"
            )
        found = self.model.recommend(
            known[["user_id", "item_id", "datetime"]], k, seen=not filter_viewed, allowed=items_to_recommend
        )
        return found[["user_id", "item_id", *(["rank"] if add_rank_col else [])]]
