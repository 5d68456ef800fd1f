"""LensKit's pipelines and metrics run our models."""

from typing import Any

import pandas as pd
import pytest

import what_next as wn
from what_next.errors import CatalogueError

lenskit = pytest.importorskip("lenskit", reason="LensKit is not installed; it asks for a pandas below 3")


def shopping() -> pd.DataFrame:
    """Everybody takes one item after the other, in their number's order."""
    rows = [(user, (3 * user + step) % 30, 1_600_000_000 + step, 1.0) for user in range(40) for step in range(12)]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "rating"])


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from lenskit.data import from_interactions_df
    from lenskit.pipeline import topn_pipeline

    log = shopping()
    made = topn_pipeline(wn.LensKitScorer(passes=60, patience=None, dim=16, threads=1))
    made.train(from_interactions_df(log.drop(log.groupby("user_id").tail(1).index)))
    return made


def test_its_batches_and_metrics_judge_it(pipeline: Any) -> None:
    from lenskit.batch import recommend
    from lenskit.data import ItemListCollection
    from lenskit.metrics import NDCG, RunAnalysis

    truth = ItemListCollection.from_df(shopping().groupby("user_id").tail(1), ["user_id"])
    judged = RunAnalysis()
    judged.add_metric(NDCG(n=5))
    found = judged.measure(recommend(pipeline, range(40), n=5, n_jobs=1), truth).list_summary()
    assert found.loc["NDCG@5", "mean"] > 0.6  # by chance, .16: 5 of 19 items, at .59 each


def test_it_knows_the_order_and_answers_whom_it_does_not_know_by_what_they_had(pipeline: Any) -> None:
    from lenskit.data import ItemList, RecQuery

    scorer = pipeline.node("scorer").component
    first = 0
    for user in range(40):  # whose next item is this, before the one half a round on
        after = (3 * user + 11) % 30
        scores = scorer(RecQuery(user_id=user), ItemList(item_ids=[(after + 15) % 30, after, 999])).scores()
        assert pd.isna(scores[2])
        first += scores[1] > scores[0]
    assert first > 30
    items = ItemList(item_ids=[11, 12, 999])
    scores = scorer(RecQuery(user_id=77, history_items=ItemList(item_ids=[8, 9, 10])), items).scores()
    assert sorted(scores[:2]) == [-2, -1]
    assert pd.isna(scorer(RecQuery(user_id=77), items).scores()).all()


def test_before_training_it_says_so() -> None:
    from lenskit.data import ItemList, RecQuery

    with pytest.raises(CatalogueError, match="train the pipeline first"):
        wn.LensKitScorer()(RecQuery(user_id=1), ItemList(item_ids=[1]))
