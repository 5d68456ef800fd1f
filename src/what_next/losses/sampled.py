"""Losses for catalogues too large for a softmax over all items: the target against negatives that the batch shares.

They take the targets' values and the negatives' vectors, already gathered, so that only those rows of the item table
get a gradient.
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
"""Most partial sums of weights that are kept; with more items, one per several items, and a draw sums the rest."""


@dataclass(frozen=True, eq=False)
class Negatives:
    """Items drawn with replacement.

    Attributes:
        ids: the distinct items, in order.
        counts: how often each was drawn.
        log_q: log probability of each, in one draw.
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
        """From the draws and a function that gives log probabilities."""
        ids, counts = torch.unique(drawn, return_counts=True)
        return cls(ids.to(device), counts.to(device), log_q(ids).to(device), len(drawn))

    def without(self, actions: Int64[Tensor, "steps"]) -> "Hits":
        """The accidental hits: where a step's own action is among the negatives."""
        places = torch.searchsorted(self.ids, actions.contiguous()).clamp_(max=len(self.ids) - 1)
        return Hits(places[:, None], (self.ids[places] == actions)[:, None])


@dataclass(frozen=True, eq=False)
class Hits:
    """Accidental hits: the column of each step's own action among the negatives, where `hit`."""

    places: Int64[Tensor, "steps 1"]
    hit: Tensor

    def remove_(self, logits: Tensor, rows: slice) -> None:
        """Make the hits so unlikely that they do not count (finite, because all negatives of a step may be hits)."""
        places = self.places[rows]
        nothing = torch.finfo(logits.dtype).min / 4
        logits.scatter_(1, places, logits.gather(1, places).masked_fill_(self.hit[rows], nothing))


@dataclass(frozen=True, eq=False)
class Draws:
    """A distribution over items from which negatives are drawn. Only a weight per item is kept.

    Attributes:
        items: number of items.
        weights: the probabilities are proportional to these, or to `least` if that is more; None: uniform.
        edges: the sum of the weights before every `run` items, and of all.
        device: device of the negatives.
    """

    items: int
    weights: Real[np.ndarray, "items"] | None = None
    least: float = 0.0
    edges: Float64[np.ndarray, "runs_plus_1"] | None = None
    device: torch.device | None = None

    @classmethod
    def of(cls, weights: Real[np.ndarray, "items"], least: float = 0.0, device: torch.device | None = None) -> "Draws":
        """From weights, which are not copied. Make it once, not for each batch."""
        starts = np.arange(0, len(weights), cls(len(weights)).run)
        sums = np.add.reduceat(np.maximum(weights, least), starts, dtype=np.float64)
        return cls(len(weights), weights, least, np.append(0.0, np.cumsum(sums, out=sums)), device)

    @property
    def run(self) -> int:
        """Items between two partial sums."""
        return -(-self.items // SUMS)

    def log_q(self, ids: Int64[Tensor, "some"]) -> Float[Tensor, "some"]:
        """The log probability of some items, in one draw."""
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

    The correction by log q is that of Bengio and Senecal (2008), as in Jean et al. (2015, equation 8). The target is
    not a draw, so it gets no correction, and draws that hit it are left out: the expectation of Z is the full sum
    whatever q is (correcting the target too would bias it: Khrylchenko et al. 2025, "Correcting the LogQ Correction").
    Every item drawn once at q = 1/items is exactly the full softmax, and more draws approach it. With few draws, log Z
    is too small in expectation (Jensen), least so if q follows the softmax.

    Args:
        points: one for each step; `values`: <point, vector of the action>, with gradient.
        vectors: vectors of `negatives.ids`, with gradient.
        actions: the item that came next, at each step.
        negatives: shared by all steps.
        weights: one for each step; None: all 1.
        precision: of the products with the negatives.
    """
    if not len(negatives.ids):
        return values.sum() * 0
    # All draws of an item share a column, whose weight is multiplied by their count.
    correction = (negatives.counts.to(points.dtype) / negatives.drawn).log() - negatives.log_q.to(points.dtype)
    kernel = _sampled(values.detach(), correction, negatives.without(actions))
    return chunked_loss(points, vectors, kernel, own=values, weights=weights, precision=precision)


def _sampled(values: Tensor, correction: Tensor, hits: Hits) -> Kernel:
    def kernel(logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        logits += correction
        hits.remove_(logits, rows)
        others = softmax_(logits) - values[rows]  # log odds against the action
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
    Negatives should be drawn uniformly; draws that hit the action are left out. Unlike in the paper, all steps share
    them, so draw many more than its 256 (some thousands): a few items would be pushed down together at every step.

    The arguments are those of `sampled_softmax`, and:

    Args:
        items: number of items in the catalogue.
        calibration: t, in [0, 1].
        offset: added to every score; the order stays the same. See `gbce_offset`.
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
    """Offset at which uninformative scores of 0 are in equilibrium: beta sigmoid(-offset) = drawn sigmoid(offset).

    Without it, the positive of a step pulls scores up by beta / 2, and its negatives push them down by drawn / 2, some
    thousand times as hard. So the first thing learned is one direction, for all states, that lowers the scores of all
    items, most of all with large batches. The item that is farthest against that direction then comes first in every
    state, and stays there, because hardly any gradient is left.
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
