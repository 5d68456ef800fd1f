"""The metrics that judge policies: pure functions of what was recommended, and a description of each."""

from collections.abc import Mapping
from types import MappingProxyType

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "hr": "hr@10: the chance that a relevant item stands in the slate of 10; 0 to 1, higher is better",
        "ndcg": "ndcg@10: hits of which rank r counts 1 / log2(1 + r), over the most that could be; 0 to 1, higher is "
        "better",
        "window_hr": "window_hr@10: the same for the item after a random window of 20 events, for a policy that "
        "reads no more; 0 to 1, higher is better",
        "window_ndcg": "window_ndcg@10: likewise; 0 to 1, higher is better",
        "mrr": "mrr@10: one over the rank of the first relevant item in the slate, else 0; 0 to 1, higher is better",
        "recall": "recall@10: the share of the relevant items that stand in the slate; 0 to 1, higher is better",
        "precision": "precision@10: the share of the slate that is relevant; 0 to 1, higher is better",
        "map": "map@10: the mean over relevant items of the precision at their ranks, 0 for those outside of the "
        "slate; 0 to 1, higher is better",
        "reward": "reward@1: the logged reward of the next item where it is the top of the slate, else 0; in the log's "
        "own unit, higher is better",
        "coverage": "coverage@10: the share of the catalogue that is recommended to anybody; 0 to 1, higher is broader",
        "gini": "gini@10: how unequally recommendations fall on the catalogue; from 0, on all items equally, to 1, all "
        "on one; lower is broader",
        "novelty": "novelty@10: the mean of -log2 of each recommended item's share of the training events; 0 bits or "
        "more, higher is less well known",
        "diversity": "diversity@10: the mean distance of two items of the slate, 1 being typical of the catalogue; 0 "
        "or more, higher is more varied",
        "serendipity": "serendipity@10: hits that the slate of the most popular items lacks, over the most that could "
        "be; 0 to 1, higher is better",
        "calibration": "calibration@10: the divergence of the history's categories from the slate's; from 0, the same "
        "shares, to 4.6, none in common; lower is better",
        "popularity_lift": "popularity_lift@10: how much more popular the slate is than the history, as a share of the "
        "history's popularity; -1 or more, nearer to 0 is truer to the user",
        "spread": "spread@20: the spread reward of the top item after the last 20 events, in the user's own sigma; any "
        "number, higher is better",
        "followed": "followed@10: the mean spread reward of ten recommendations after a window of 10 events, each "
        "taken before the next is asked for; any number, higher is better",
        "repeats": "repeats: the share of recommended items that the user's whole history holds; 0 to 1, 0 is all new",
        "fallbacks": "fallbacks: the share of items that were taken though none matched the proposal; 0 to 1, lower is "
        "better",
    }
)
"""Descriptions by name, without the `@k`."""
