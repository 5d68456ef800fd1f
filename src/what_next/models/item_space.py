"""The space of items: their vectors, and computations over all of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor

from what_next.errors import SetupError
from what_next.losses import catalogue
from what_next.losses.catalogue import linear_cross_entropy
from what_next.losses.chunked import Precision
from what_next.losses.sampled import Draws, gbce, gbce_offset, sampled_softmax

Steps = Float[Tensor, "steps"]
Grid = Float[Tensor, "steps columns"]
Actions = Int64[Tensor, "steps"]

Loss = Literal["softmax", "sampled_softmax", "gbce"]


@dataclass(frozen=True, eq=False)
class ItemSpace:
    """Vectors of all items, as an algorithm's losses read them. Make it with `of`.

    Points have as many columns as the vectors, or one more, which is added to every item's value (Q needs a level; a
    softmax ignores it). No tensor of size steps times items is ever held.

    Attributes:
        vectors: vectors of all items, with gradient to the encoder. target: the target network's, without gradient.
        draws: the distribution of the negatives. rng: for drawing them.
        loss: which loss `cross_entropy` is. negatives: how many a sampled loss draws.
        precision: of the matrix products in `cross_entropy`, `best` and `log_probs`.
        gbce_t: the calibration of gBCE.
        sparse: whether `vectors` is an embedding's weight with a sparse gradient, which only gathered rows have.
        gather: makes the vectors of some items with gradient, instead of rows of `vectors`; None: rows are taken.
    """

    vectors: Float[Tensor, "items dim"]
    target: Float[Tensor, "items dim"]
    draws: Draws
    rng: np.random.Generator = field(repr=False)
    loss: Loss = "softmax"
    negatives: int = 4096
    precision: Precision = "fp32"
    gbce_t: float = 0.75
    sparse: bool = False
    gather: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def of(
        cls,
        vectors: Float[Tensor, "items dim"],
        target: Float[Tensor, "items dim"] | None = None,
        *,
        draws: Draws | None = None,
        rng: np.random.Generator | None = None,
        **how: Any,
    ) -> "ItemSpace":
        """Without `target`, the vectors themselves; without `draws`, uniform negatives. `how`: the other attributes.

        For a million items, use `sparse`, a sampled loss, and an optimiser for sparse gradients; then no gradient is as
        large as the table.
        """
        target = vectors if target is None else target
        draws = draws or Draws(len(vectors), device=vectors.device)
        return cls(vectors, target.detach(), draws, np.random.default_rng() if rng is None else rng, **how)

    @property
    def dim(self) -> int:
        """Columns of the vectors."""
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return self.draws.items

    @property
    def whole(self) -> Float[Tensor, "items dim"]:
        """The vectors of all items; a `SetupError` if this process holds only a part of them."""
        if len(self.vectors) < len(self):
            raise SetupError(
                "cluster.items is sharded, and the algorithm or its loss looks at the vectors of all items at once; "
                "take next_item with a sampled loss, or cluster.items=whole"
            )
        return self.vectors

    def rows(self, ids: Int64[Tensor, "*grid"]) -> Float[Tensor, "*grid dim"]:
        """The vectors of some items, with gradient only to these items."""
        if self.gather is not None:
            return self.gather(ids)
        return F.embedding(ids, self.vectors, sparse=self.sparse)

    def cross_entropy(self, points: Grid, actions: Actions, weights: Steps | None = None) -> Float[Tensor, ""]:
        """The mean over steps of weight * -log pi(action), by the setting `loss`; 0 without steps.

        Weights have no gradient. 'sampled_softmax' estimates 'softmax' from negatives; 'gbce' is another loss with the
        same optimal order of items.
        """
        direction, level = catalogue.split(points, self.dim)
        if self.loss == "softmax":
            return linear_cross_entropy(direction, self.whole, actions, weights, self.precision)
        negatives = self.draws.draw(self.negatives, self.rng)
        vectors = self.rows(negatives.ids)
        if self.loss == "sampled_softmax":
            values = self.values(direction, actions)
            return sampled_softmax(direction, values, vectors, actions, negatives, weights, self.precision)
        values = self.values(points, actions)
        if level is not None:  # a column of ones for the points' level
            vectors = F.pad(vectors, (0, 1), value=1.0)
        offset = gbce_offset(negatives.drawn, len(self), self.gbce_t)
        how = (len(self), self.gbce_t, weights, self.precision, offset)
        return gbce(points, values, vectors, actions, negatives, *how)

    def values(self, points: Grid, actions: Int64[Tensor, "steps *choices"]) -> Float[Tensor, "steps *choices"]:
        """<point, item> (and the level) of one action for each step, or of several."""
        return self._values(points, self.rows(actions))

    def target_values(self, points: Grid, actions: Int64[Tensor, "steps *choices"]) -> Float[Tensor, "steps *choices"]:
        """`values` with the target network's vectors; only the points get a gradient."""
        return self._values(points, F.embedding(actions, self.target))

    def _values(self, points: Tensor, vectors: Tensor) -> Tensor:
        direction, level = catalogue.split(points, self.dim)
        if vectors.dim() == 2:
            found = (direction * vectors).sum(-1)
            return found if level is None else found + level
        found = torch.bmm(vectors, direction[:, :, None]).squeeze(-1)
        return found if level is None else found + level[:, None]

    def log_probs(self, points: Grid, actions: Actions) -> Steps:
        """log softmax(<point, item>) at the action, over all items; no gradient."""
        return catalogue.log_probs(points, self.whole, actions, self.precision)

    def best(
        self, points: Grid, *, within: Float[Tensor, "steps columns_of_behaviour"] | None = None, threshold: float = 0.0
    ) -> tuple[Steps, Actions]:
        """The largest value over all items, and its item; no gradient.

        Only items whose probability under softmax(<within, item>) is at least `threshold` times the largest count.
        """
        return catalogue.best(points, self.whole, within, threshold, self.precision)

    def expectation(
        self, policy_points: Float[Tensor, "steps columns_of_policy"], points: Grid, *, target: bool = False
    ) -> Steps:
        """The mean of <point, item> over items drawn from softmax(<policy, item>); no gradient."""
        return catalogue.expectation(policy_points, points, self.target if target else self.whole)

    def logsumexp(self, points: Grid) -> Steps:
        """log of the sum over items of exp <point, item>, with gradient."""
        return catalogue.logsumexp(points, self.whole)
