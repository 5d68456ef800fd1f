"""Losses: pure functions on tensors. Those over a whole catalogue never hold steps times items."""

from what_next.losses.catalogue import best, expectation, log_probs, logsumexp
from what_next.losses.chunked import Precision
from what_next.losses.linear_cross_entropy import linear_cross_entropy
from what_next.losses.rl import (
    advantage_weights,
    clipped_surrogate,
    cql_penalty,
    expectile_loss,
    gae,
    importance_weights,
    mean,
    plackett_luce,
    self_normalised,
    td_loss,
    td_target,
    topk_correction,
)
from what_next.losses.sampled import Draws, Negatives, gbce, gbce_beta, gbce_offset, sampled_softmax

__all__ = [
    "Draws",
    "Negatives",
    "Precision",
    "advantage_weights",
    "best",
    "clipped_surrogate",
    "cql_penalty",
    "expectation",
    "expectile_loss",
    "gae",
    "gbce",
    "gbce_beta",
    "gbce_offset",
    "importance_weights",
    "linear_cross_entropy",
    "log_probs",
    "logsumexp",
    "mean",
    "plackett_luce",
    "sampled_softmax",
    "self_normalised",
    "td_loss",
    "td_target",
    "topk_correction",
]
