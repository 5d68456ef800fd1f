"""RecTools' evaluation runs our models."""

from typing import Any

import pandas as pd
import pytest

from what_next.errors import CatalogueError
from what_next.python.others import RecToolsModel

from .test_fit import shopping

SETTINGS = {"passes": 4, "dim": 16, "threads": 1}


def interactions() -> pd.DataFrame:
    log = pd.DataFrame(shopping().to_dict(as_series=False))
    log.columns = pd.Index(["user_id", "item_id", "datetime", "weight"])
    log["datetime"] = pd.to_datetime(log["datetime"], unit="s")
    return log


class Interactions:
    """What of RecTools' data set is asked for."""

    def get_raw_interactions(self) -> pd.DataFrame:
        return interactions()


@pytest.fixture(scope="module")
def model() -> RecToolsModel:
    return RecToolsModel(**SETTINGS).fit(Interactions())


def test_it_answers_in_rectools_columns_for_the_users_that_it_is_asked(model: RecToolsModel) -> None:
    found = model.recommend([1003, 1001], Interactions(), k=3, filter_viewed=True)
    assert list(found.columns) == ["user_id", "item_id", "rank"]
    assert set(found["user_id"]) == {1001, 1003}
    assert found.groupby("user_id")["rank"].apply(list).tolist() == [[1, 2, 3], [1, 2, 3]]
    log = interactions()
    for user, rows in found.groupby("user_id"):
        had = log[log["user_id"] == user].sort_values("datetime")["item_id"]
        assert not set(rows["item_id"]) & set(had)
        assert rows["item_id"].iloc[0] == (had.iloc[-1] + 1) % 30


def test_it_trains_on_all_that_it_is_given(model: RecToolsModel) -> None:
    assert model.model is not None
    assert not len(model.model.state.split.test)


def test_items_that_may_be_recommended_and_users_without_interactions(model: RecToolsModel) -> None:
    found = model.recommend(
        [1003, 7], Interactions(), 2, False, items_to_recommend=[4, 9], on_unsupported_targets="warn"
    )
    assert set(found["item_id"]) == {4, 9}
    assert set(found["user_id"]) == {1003}
    with pytest.raises(CatalogueError, match="1 users have no interactions, such as 7"):
        model.recommend([1003, 7], Interactions(), 2, False)


def test_rectools_cross_validation_runs_it_and_finds_what_it_learned() -> None:
    rectools: Any = pytest.importorskip("rectools", reason="RecTools is not installed (it wants an older NumPy)")
    from rectools.dataset import Dataset
    from rectools.metrics import HitRate
    from rectools.model_selection import LastNSplitter, cross_validate

    log = interactions().rename(columns={"datetime": rectools.Columns.Datetime})
    found = cross_validate(
        Dataset.construct(log),
        LastNSplitter(n=1, n_splits=1),
        {"hit": HitRate(k=1)},
        {"next_item": RecToolsModel(**SETTINGS)},
        k=1,
        filter_viewed=True,
    )
    assert found["metrics"][0]["hit"] > 0.9  # who buys n buys n + 1 next
