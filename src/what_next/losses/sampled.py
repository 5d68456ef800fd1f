"""Losses for catalogues too large for a softmax over all items: the target against negatives that the batch shares.

They take the values of the targets and the vectors of the negatives, both gathered already, so that only those rows
of the item table have a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Float64, Int64, Real
from torch import Tensor

from what_next.losses.chunked import Kernel, Precision, chunked_loss, softmax_

SUMS = 2**18
"""Sums of weights that are kept, at most: of more items, of every second, and so on; a draw makes those between."""


@dataclass(frozen=True, eq=False)
class Negatives:
    """Items drawn with replacement.

    Attributes:
        ids: the distinct ones, in order.
        counts: how often each was drawn.
        log_q: log of the probability of each, at one draw.
        drawn: the number of draws.
    """

    ids: Int64[Tensor, "distinct"]
    counts: Int64[Tensor, "distinct"]
    log_q: Float[Tensor, "distinct"]
    drawn: int

    @classmethod
    def of(
        cls,
        drawn: Int64[Tensor, "draws"],
        log_q: Callable[[Int64[Tensor, "distinct"]], Float[Tensor, "distinct"]],
        device: torch.device | None = None,
    ) -> "Negatives":
        """From the draws, and what tells the distribution that they come from."""
        ids, counts = torch.unique(drawn, return_counts=True)
        return cls(ids.to(device), counts.to(device), log_q(ids).to(device), len(drawn))

    def without(self, actions: Int64[Tensor, "steps"]) -> "Hits":
        """Where the step's own action is among the negatives: there it is no negative."""
        places = torch.searchsorted(self.ids, actions.contiguous()).clamp_(max=len(self.ids) - 1)
        return Hits(places[:, None], (self.ids[places] == actions)[:, None])


@dataclass(frozen=True, eq=False)
class Hits:
    """Accidental hits: the column of each step's own action among the negatives, where `hit`."""

    places: Int64[Tensor, "steps 1"]
    hit: Tensor

    def remove_(self, logits: Tensor, rows: slice) -> None:
        """Make them so unlikely that they count for nothing (but finite: all negatives of a step may be hits)."""
        places = self.places[rows]
        nothing = torch.finfo(logits.dtype).min / 4
        logits.scatter_(1, places, logits.gather(1, places).masked_fill_(self.hit[rows], nothing))


@dataclass(frozen=True, eq=False)
class Draws:
    """A distribution over items that negatives are drawn from. Nothing is kept of an item but its weight.

    Attributes:
        items: how many there are.
        weights: what the probabilities are in proportion to, where that is more than `least`; None: all are equal.
        edges: the sum of the weights before every `run` items, and of all.
        device: where the negatives go.
    """

    items: int
    weights: Real[np.ndarray, "items"] | None = None
    least: float = 0.0
    edges: Float64[np.ndarray, "runs_plus_1"] | None = None
    device: torch.device | None = None

    @classmethod
    def of(cls, weights: Real[np.ndarray, "items"], least: float = 0.0, device: torch.device | None = None) -> "Draws":
        """By weights, which are kept as they are. Make it once, not for each batch."""
        starts = np.arange(0, len(weights), cls(len(weights)).run)
        sums = np.add.reduceat(np.maximum(weights, least), starts, dtype=np.float64)
        return cls(len(weights), weights, least, np.append(0.0, np.cumsum(sums, out=sums)), device)

    @property
    def run(self) -> int:
        """Items between two sums."""
        return -(-self.items // SUMS)

    def log_q(self, ids: Int64[Tensor, "some"]) -> Float[Tensor, "some"]:
        """The logarithm of the probability of some items, at one draw."""
        if self.weights is None or self.edges is None:
            return torch.full(ids.shape, -log(self.items))
        weights = np.maximum(self.weights[ids.numpy()], self.least)
        return torch.from_numpy(np.log(weights / self.edges[-1]).astype(np.float32))

    def draw(self, count: int, rng: np.random.Generator) -> Negatives:
        """`count` draws with replacement."""
        if self.weights is None or self.edges is None:
            drawn = rng.integers(self.items, size=count)
        else:
            places = rng.random(count) * self.edges[-1]
            runs = np.minimum(np.searchsorted(self.edges, places, side="right"), len(self.edges) - 1) - 1
            near = np.minimum(runs[:, None] * self.run + np.arange(self.run), self.items - 1)
            within = np.maximum(self.weights[near], self.least).cumsum(1, dtype=np.float64)
            passed = (within <= (places - self.edges[runs])[:, None]).sum(1)
            drawn = near[np.arange(count), np.minimum(passed, self.run - 1)]
        return Negatives.of(torch.from_numpy(drawn), self.log_q, self.device)


def sampled_softmax(
    points: Float[Tensor, "steps dim"],
    values: Float[Tensor, "steps"],
    vectors: Float[Tensor, "distinct dim"],
    actions: Int64[Tensor, "steps"],
    negatives: Negatives,
    weights: Float[Tensor, "steps"] | None = None,
    precision: Precision = "fp32",
) -> Float[Tensor, ""]:
    """Softmax cross entropy whose sum over all items is estimated from drawn ones: -s(a) + log Z, with
    Z = exp s(a) + sum over draws j other than a of exp(s(j)) / (draws * q(j)).

    The correction by log q is that of Bengio and Senecal (2008), as in Jean et al. (2015, equation 8). The target
    stands outside the draws, so it takes no correction, and draws that hit it are left out: the expectation of Z is
    the full sum whatever q (to correct the target too would bias it: Khrylchenko et al. 2025, "Correcting the LogQ
    Correction"). So every item drawn once at q = 1/items is exactly the full softmax, and more draws approach it; with
    few, log Z is too small in expectation (Jensen), least so where q follows the softmax.

    Args:
        points: one for each step; `values`: <point, vector of the action>, with gradient.
        vectors: of `negatives.ids`, with gradient.
        actions: the item that came, at each step.
        negatives: shared by all steps.
        weights: of the steps; None: all 1.
        precision: of the products with the negatives.
    """
    if not len(negatives.ids):
        return values.sum() * 0
    # Draws of one item are one column, so many times as likely.
    correction = (negatives.counts.to(points.dtype) / negatives.drawn).log() - negatives.log_q.to(points.dtype)
    kernel = _sampled(values.detach(), correction, negatives.without(actions))
    return chunked_loss(points, vectors, kernel, own=values, weights=weights, precision=precision)


def _sampled(values: Tensor, correction: Tensor, hits: Hits) -> Kernel:
    def kernel(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        logits += correction
        hits.remove_(logits, rows)
        others = softmax_(logits) - values[rows]  # log of the odds against the action
        share = others.sigmoid()
        logits *= share[:, None]
        return F.softplus(others, threshold=50.0), -share

    return kernel


def gbce(
    points: Float[Tensor, "steps dim"],
    values: Float[Tensor, "steps"],
    vectors: Float[Tensor, "distinct dim"],
    actions: Int64[Tensor, "steps"],
    negatives: Negatives,
    items: int,
    calibration: float = 0.75,
    weights: Float[Tensor, "steps"] | None = None,
    precision: Precision = "fp32",
    offset: float = 0.0,
) -> Float[Tensor, ""]:
    """Generalised binary cross entropy (Petrov and Macdonald 2023, arXiv 2308.07192):
    -(log sigmoid(s(a))^beta + sum over negatives of log(1 - sigmoid(s))) / (draws + 1).

    beta = alpha (t (1 - 1/alpha) + 1/alpha), with the sampling rate alpha = draws / (items - 1). With t = 1, sigmoid(s)
    is calibrated (negative sampling alone makes it overconfident); with t = 0, beta is 1: plain binary cross entropy.
    Negatives are meant to be drawn uniformly; draws that hit the action are left out. Unlike in the paper all steps
    share them, so draw many more than its 256 (some thousands): too few are pushed down together, step by step.

    The arguments are those of `sampled_softmax`, and:

    Args:
        items: in the catalogue.
        calibration: t, in [0, 1].
        offset: added to every score; it changes no order. See `gbce_offset`.
    """
    assert 0 <= calibration <= 1, f"the calibration t lies in [0, 1], not {calibration}"
    beta = gbce_beta(negatives.drawn, items, calibration)
    losses = beta * F.softplus(-values - offset, threshold=50.0)
    total = (losses if weights is None else losses * weights.detach()).sum() / max(len(values), 1)
    if len(negatives.ids):
        kernel = _binary(negatives.counts.to(points.dtype), negatives.without(actions), offset)
        total = total + chunked_loss(points, vectors, kernel, weights=weights, precision=precision)
    return total / (negatives.drawn + 1)


def gbce_beta(drawn: int, items: int, calibration: float) -> float:
    """The exponent of the positive: alpha (t (1 - 1/alpha) + 1/alpha), or t alpha + 1 - t."""
    return calibration * min(drawn / max(items - 1, 1), 1.0) + 1 - calibration


def gbce_offset(drawn: int, items: int, calibration: float) -> float:
    """Where scores that tell nothing yet may rest at 0: beta sigmoid(-offset) = drawn sigmoid(offset).

    Without it, the positive of a step pulls scores up by beta / 2, and its negatives push them down by drawn / 2, some
    thousand times as hard. So the first that is learnt is one direction for all states that lowers the scores of all
    items, most of all where the batches are large; what lies farthest that way then comes first in every state, and
    with hardly any gradient left there, it stays so.
    """
    return log(gbce_beta(drawn, items, calibration) / drawn)


def _binary(counts: Tensor, hits: Hits, offset: float) -> Kernel:
    def kernel(logits: Tensor, rows: slice) -> tuple[Tensor, None]:
        logits += offset
        hits.remove_(logits, rows)
        losses = F.softplus(logits, threshold=50.0) @ counts
        logits.sigmoid_().mul_(counts)
        return losses, None

    return kernel
