"""What policies are judged by, in words."""

from collections.abc import Mapping
from types import MappingProxyType

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "hr": "hr@10: the share of users in whose slate of 10 the next item stands",
        "ndcg": "ndcg@10: the same, where rank r counts 1 / log2(1 + r)",
        "reward": "reward@1: the logged reward of the next item where it is the top of the slate, else 0",
        "coverage": "the share of the catalogue that is recommended to anybody",
        "spread": "spread@20: the spread reward of the top item after the last 20 events, in the user's own sigma",
        "repeats": "the share of recommended items that the user's whole history holds",
        "fallbacks": "the share of items that were taken though none matched the proposal",
    }
)
"""By the name before the `@`."""
