"""The unit sphere as the space of actions: points and item vectors count by their direction alone."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from what_next.models.heads import PairValue
from what_next.models.item_space import ItemSpace

CELLS = 2**24
"""Cosines that are held at once."""


class Critics(nn.Module):
    """One judge of a state and a point, or several that start differently."""

    def __init__(self, dim: int, count: int = 1) -> None:
        super().__init__()
        self.judges = nn.ModuleList(PairValue(dim) for _ in range(count))

    def forward(self, states: Float[Tensor, "*#grid dim"], points: Float[Tensor, "*#grid dim"]) -> Float[Tensor, "..."]:
        """The values by each judge: [critics *grid]."""
        return torch.stack([judge(states, points) for judge in self.judges])


def on_sphere(items: ItemSpace) -> ItemSpace:
    """The same items, each vector of length 1."""
    return replace(
        items,
        vectors=normalize(items.vectors, dim=-1),
        target=normalize(items.target, dim=-1),
        gather=lambda ids: normalize(items.rows(ids), dim=-1),
    )


def closest(
    points: Float[Tensor, "steps dim"], vectors: Float[Tensor, "items dim"], count: int
) -> Float[Tensor, "steps count dim"]:
    """The vectors nearest to each point, all of length 1; few steps at a time, as products with all items are large."""
    rows = max(1, CELLS // len(vectors))
    count = min(count, len(vectors))
    best = [(part @ vectors.T).topk(count).indices for part in torch.split(points, rows)]
    return vectors[torch.cat(best)]
