"""Calibration: whether a slate holds the categories in the proportions of the history."""

import numpy as np
from jaxtyping import Float64, Int32

from what_next.metrics.beyond.background import Background
from what_next.metrics.beyond.profile import Profile
from what_next.metrics.beyond.rows import parts

SMOOTHING = 0.01
"""The share of the history in what the slate is taken for: alpha of the paper, and its value there."""
LEAST = float(np.finfo(np.float64).tiny)
"""Below every share that there can be: what a logarithm takes 0 for."""


def calibration(
    slates: Int32[np.ndarray, "rows k"], profile: Profile, background: Background
) -> Float64[np.ndarray, "rows"]:
    """The Kullback-Leibler divergence, in nats, of the history's categories from those of the slate.

    Steck 2018 ("Calibrated recommendations", RecSys), with all weights 1: the sum of p log(p / q') over the categories,
    where p is the share of a category in the history, q in the slate, and q' = (1 - alpha) q + alpha p, so that a
    category which the slate lacks costs a finite amount.

    Returns:
        From 0 (the same proportions) to log(1 / alpha) = 4.6 (no category in common), lower is better; not a number
        where history or slate hold no item with a category, and where the catalogue has fewer than two categories.
    """
    values = np.full(len(slates), np.nan)
    if background.categories is None:
        return values
    for part in parts(len(slates), max(slates.shape[1], background.categories.shape[1])):
        values[part] = _divergence(profile.shares[part], background.shares(slates[part]))
    return values


def _divergence(
    wanted: Float64[np.ndarray, "rows categories"], given: Float64[np.ndarray, "rows categories"]
) -> Float64[np.ndarray, "rows"]:
    """The divergence of the first from the second, which is smoothed."""
    smoothed = (1 - SMOOTHING) * given + SMOOTHING * wanted
    # Where p is 0, its term is; q' is above 0 where p is.
    terms = wanted * (np.log(np.maximum(wanted, LEAST)) - np.log(np.maximum(smoothed, LEAST)))
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0))  # rounding may leave it below
