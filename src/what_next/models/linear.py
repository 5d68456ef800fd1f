"""A linear model of items by items beside an encoder: what people who had the items of a history had, too; and how
popular each item is."""

from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional

RANK = 64
"""Directions of the linear model: with 64 as with 128, test NDCG@10 on lastfm-s3rec rose from .041 to .056 and .057."""
PENALTY = 100.0
"""Of the ridge regression. 30 and 300 did as well on lastfm-s3rec, ml-100k and spotify-playlists."""


class LinearTerm(nn.Module):
    """A ridge regression of items on items, of reduced rank, as so many more columns of points and item vectors.

    With `X` the matrix of who had what, and `V`, `s` the right singular vectors and the singular values of its first
    directions, items are foretold from a history by `h V diag(s^2 / (s^2 + PENALTY)) V'` (Jin et al. 2021, "Towards a
    Better Understanding of Linear Models for Recommendation": EASE without its diagonal). In `h` an event
    counts `decay` to the power of how many came after it. The product up to the last `V'` is made as long as `weight`,
    and goes into the point; `V` goes into the item vectors: the score stays one inner product. One column more is how
    popular each item is, times `bias`: where a log holds nothing else, what a network makes of it falls short of that.

    Weight, decay, bias and temperature are chosen on the validation users once the networks are trained
    (`training.weighing`). Until then weight and bias are 0, and nothing is added.

    Attributes:
        directions: [items rank], `V`; `gains`: [rank], `s^2 / (s^2 + PENALTY)`.
        popularity: [items], the logarithm of one plus the users who had each, less its mean; 0 for what comes later.
        weight, decay, bias: as above.
        temperature: what all scores are divided by, so that their softmax gives the chances of what comes next.
    """

    directions: Tensor
    gains: Tensor
    popularity: Tensor
    weight: Tensor
    decay: Tensor
    bias: Tensor
    temperature: Tensor

    def __init__(self, count: int) -> None:
        """Of `count` items, about which it knows nothing yet."""
        super().__init__()
        self.register_buffer("directions", torch.zeros(count, RANK))
        self.register_buffer("gains", torch.zeros(RANK))
        self.register_buffer("popularity", torch.zeros(count))
        self.choose()

    @property
    def counts(self) -> bool:
        """Whether anything is added."""
        return bool(self.weight) or bool(self.bias)

    def choose(self, weight: float = 0.0, decay: float = 1.0, bias: float = 0.0, temperature: float = 1.0) -> None:
        """Set the four numbers."""
        for name, value in {"weight": weight, "decay": decay, "bias": bias, "temperature": temperature}.items():
            self.register_buffer(name, torch.tensor(value, device=self.directions.device))

    def learn(
        self,
        directions: Float32[ndarray, "items some"],
        strengths: Float32[ndarray, "some"],
        users: Int64[ndarray, "items"],
    ) -> None:
        """Take the directions of a log, the squares of their singular values, and how many users had each item.

        There may be fewer directions than `RANK`.
        """
        popularity = torch.from_numpy(users).log1p()
        self.popularity.copy_(popularity - popularity.mean())
        squares = torch.from_numpy(strengths)
        self.directions.zero_()[:, : directions.shape[1]] = torch.from_numpy(directions)
        self.gains.zero_()[: len(squares)] = squares / (squares + PENALTY)

    def grow(self, count: int) -> None:
        """Be of `count` items, about the last of which nothing is known."""
        self.popularity = functional.pad(self.popularity, (0, count - len(self.directions)))
        self.directions = functional.pad(self.directions, (0, 0, 0, count - len(self.directions)))

    def extended(
        self, points: Float[Tensor, "batch columns"], past: Float[Tensor, "batch rank"]
    ) -> Float[Tensor, "batch more"]:
        """Points that have the columns of the linear model, too."""
        ones = torch.ones_like(points[:, :1])
        return torch.cat([points, self.weight * past, self.bias * ones], 1) / self.temperature

    def columns(self, vectors: Float[Tensor, "items columns"]) -> Float[Tensor, "items more"]:
        """Item vectors to go with them."""
        return torch.cat([vectors, self.directions, self.popularity[:, None]], 1)

    def past(self, items: Int64[Tensor, "events"], lengths: Int64[Tensor, "batch"]) -> Float[Tensor, "batch rank"]:
        """What some histories point to, of length 1; `items` are those of the first, then of the second, and so on."""
        ends = lengths.cumsum(0)
        after = ends.repeat_interleave(lengths) - 1 - torch.arange(len(items), device=items.device)
        sums = functional.embedding_bag(
            items, self.directions, ends - lengths, mode="sum", per_sample_weights=self.decay**after
        )
        return self.pointed(sums)

    def past_on_grid(self, items: Int64[Tensor, "batch time"]) -> Float[Tensor, "batch time rank"]:
        """The same after every event; -1 is padding at the end."""
        total, found = self.directions.new_zeros(len(items), self.directions.shape[1]), []
        for column in items.unbind(1):
            total = self.decay * total + self.vectors(column)
            found.append(self.pointed(total))
        return torch.stack(found, 1)

    def vectors(self, items: Int64[Tensor, "*grid"]) -> Float[Tensor, "*grid rank"]:
        """The directions of some items; 0 for -1."""
        rows = functional.embedding(items.clamp(min=0), self.directions)
        return rows.masked_fill((items < 0).unsqueeze(-1), 0.0)

    def pointed(self, sums: Float[Tensor, "*grid rank"]) -> Float[Tensor, "*grid rank"]:
        """From the sum of a history's directions to what it foretells, of length 1."""
        return functional.normalize(sums * self.gains, dim=-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """What was saved before there was a bias has none."""
        for name in ("popularity", "bias"):
            state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *others)
