"""The vectors of the items: learned, computed from the attributes, or the sum of both."""

from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional

from what_next.models.shards import BLOCK, Exchange, Shards


class ItemVectors(nn.Module):
    """A vector for each item of a catalogue: a learned row, a linear map of its attributes, or their sum.

    A vector's entries start with the standard deviation `dim ** -0.5`, so that its length is about 1: the score
    `<point, item>` of a point with entries of about 1 then starts with a variance of about 1, where a softmax is
    neither flat nor saturated. With attributes, the learned rows start at 0: they learn only what the attributes do not
    explain, and an item without a learned row (row 0) differs from the others in nothing else.

    The attributes are not saved with the model, because the catalogue is saved beside it; nor is `seen`.
    """

    attributes: Tensor | None
    trained: Tensor | None
    learned: nn.Parameter | None
    map: nn.Parameter | None

    def __init__(
        self,
        count: int,
        dim: int,
        attributes: Float32[ndarray, "items attributes"] | None = None,
        learned: bool = True,
        *,
        seen: Int64[ndarray, "seen"] | None = None,
        sparse: bool = False,
        ranks: Exchange | None = None,
    ) -> None:
        """Vectors of `count` items.

        Args:
            count: number of items; `dim`: entries of a vector.
            attributes: standardised, finite; None: every vector is a learned row.
            learned: whether each item has a learned row.
            seen: positions of the items with a training event; None: all. With attributes, only these items' rows are
                learned, because a loss over the whole catalogue would train all others only as negatives.
            sparse: whether the gradient of the learned rows holds only the rows read (for `torch.optim.SparseAdam`).
                Only `rows` gives such a gradient; that of `forward` is dense.
            ranks: the processes that share the learned rows (`models.shards`); only without attributes.
        """
        super().__init__()
        assert learned or attributes is not None, "vectors are made of learned rows, of attributes, or of both"
        assert attributes is None or len(attributes) == count, "one row of attributes for each item"
        self.count, self.dim, self.sparse = count, dim, sparse
        self.register_buffer("attributes", None if attributes is None else torch.tensor(attributes), persistent=False)
        self.register_buffer("trained", None, persistent=False)
        self.shards = None if ranks is None else Shards(count, ranks)
        self.learned = self.map = None
        if attributes is not None:
            width = attributes.shape[1]
            self.map = nn.Parameter(torch.randn(dim, width) * (dim * max(width, 1)) ** -0.5)
        if learned and attributes is None:
            self.learned = nn.Parameter(self._drawn())
        elif learned:
            self.learned = nn.Parameter(torch.zeros(count, dim))
            if seen is not None and len(seen) < count:
                self.trained = torch.zeros(count, 1).index_fill_(0, torch.as_tensor(seen), 1.0)

    def _drawn(self) -> Float[Tensor, "own dim"]:
        """Initial values of the rows on this process: the same as if it held all rows."""
        first, step = (0, 1) if self.shards is None else (self.shards.own.start, self.shards.own.step)
        kept = torch.empty(len(range(first, self.count, step)), self.dim)
        for start in range(0, self.count, BLOCK):
            drawn = torch.randn(min(BLOCK, self.count - start), self.dim)[(first - start) % step :: step]
            place = -(-(start - first) // step)
            kept[place : place + len(drawn)] = drawn
        return kept.mul_(self.dim**-0.5)

    def forward(self) -> Float[Tensor, "items dim"]:
        """The vectors of all items."""
        mapped = None if self.attributes is None else functional.linear(self.attributes, self._map())
        if self.learned is None:
            assert mapped is not None
            return mapped
        learned = self.learned if self.trained is None else self.learned * self.trained
        return learned if mapped is None else mapped + learned

    def rows(self, ids: Int64[Tensor, "*grid"]) -> Float[Tensor, "*grid dim"]:
        """The vectors of some items, without computing the others; 0 for -1."""
        missing, known = (ids < 0).unsqueeze(-1), ids.clamp(min=0)
        total: Tensor | None = None
        if self.attributes is not None:
            total = functional.linear(self.attributes[known], self._map())
        if self.learned is not None:
            if self.shards is None:
                learned = functional.embedding(known, self.learned, sparse=self.sparse)
            else:
                learned = self.shards.look_up(self.learned, known)
            if self.trained is not None:
                learned = learned * self.trained[known]
            total = learned if total is None else total + learned
        assert total is not None
        return total.masked_fill_(missing, 0.0)  # in place: the backward pass does not need the old values

    def sums(self, ids: Int64[Tensor, "rows slots"], weights: Float[Tensor, "rows slots"]) -> Float[Tensor, "rows dim"]:
        """The weighted sum of the vectors of some items, computed without each item's vector; -1 adds nothing."""
        weights, known = weights.masked_fill(ids < 0, 0.0), ids.clamp(min=0)
        total: Tensor | None = None
        if self.attributes is not None:
            bags = functional.embedding_bag(known, self.attributes, mode="sum", per_sample_weights=weights)
            total = functional.linear(bags, self._map())
        if self.learned is not None:
            table = self.learned if self.trained is None else self.learned * self.trained
            learned = functional.embedding_bag(known, table, mode="sum", per_sample_weights=weights)
            total = learned if total is None else total + learned
        assert total is not None
        return total

    def gather_gradient(self) -> None:
        """If rows are sharded, give this process's rows the gradients of all look-ups since the last call."""
        if self.shards is not None and self.learned is not None:
            self.shards.gradient(self.learned)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        """Of a whole table, load only this process's rows."""
        key = f"{prefix}learned"
        if self.shards is not None and key in state_dict and len(state_dict[key]) == self.count:
            state_dict[key] = state_dict[key][self.shards.own]
        super()._load_from_state_dict(state_dict, prefix, *more)

    def _map(self) -> Tensor:
        assert self.map is not None
        return self.map
