"""Click probabilities of a user from the slates shown to that user alone: Bayesian logistic regression."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from what_next.data.clicks import ClickFactors

THERE = 0.8
"""Prior probability that a user looks at a slate and wants anything at all."""
STEP = 4.0
"""Largest change of any item's log odds in a step of Newton's method; `STEPS`: number of steps."""
STEPS = 2
LEAST = 1e-4
"""Smallest curvature of an observation."""
RESHAPED = 0.5
"""Factor of the standard deviations in draws."""
FLOOR = 0.05
"""Added to the variances of the prior."""


class Belief(nn.Module):
    """Users' weights have a normal prior; the chance of a click in slot k is `decay ** k * sigmoid(<weights, item>)`.

    The prior is estimated from users who were shown random items (`data.clicks`; empirical Bayes).

    Attributes:
        items: item vectors, whose last column is 1; `mean`, `precision`: of the prior.
    """

    items: Tensor
    mean: Tensor
    precision: Tensor
    decay: Tensor

    def __init__(self, count: int, width: int) -> None:
        """For `count` items with vectors of `width` columns; it needs `learn` before use."""
        super().__init__()
        self.width = width
        self.register_buffer("items", torch.ones(count, width + 1))
        self.register_buffer("mean", torch.zeros(width + 1))
        self.register_buffer("precision", torch.eye(width + 1))
        self.register_buffer("decay", torch.ones(()))

    @torch.no_grad()
    def learn(self, factors: ClickFactors) -> None:
        """Set item vectors and prior."""
        self.items[:, :-1] = torch.from_numpy(factors.items)
        users = torch.from_numpy(factors.users).double()
        self.mean.copy_(users.mean(0))
        covariance = torch.cov(users.T) + FLOOR * torch.eye(self.width + 1, dtype=torch.float64)
        self.precision.copy_(torch.linalg.inv(covariance))
        self.decay.fill_(factors.decay)


class Beliefs:
    """The most likely weights of some users, from each user's latest slates (Laplace's approximation; MacKay 1992).

    A slate without a click may not have been looked at, so it is weighted by the probability that it was.

    Attributes:
        weights: of each user; `factor`: Cholesky factor of their precision.
    """

    def __init__(self, belief: Belief, users: int, slots: int, memory: int) -> None:
        """`memory`: number of slates kept per user."""
        self.belief, self.place = belief, 0
        width, device = belief.width + 1, belief.items.device
        self.shown = torch.zeros(users, memory, slots, width, device=device)
        self.clicks = torch.zeros(users, memory, slots, dtype=torch.bool, device=device)
        self.there = torch.zeros(users, memory, 1, device=device)
        self.spread = torch.linalg.inv(belief.precision).diagonal().sqrt()
        self.prior = torch.linalg.cholesky(belief.precision)
        self.weights, self.factor = belief.mean.repeat(users, 1), self.prior.repeat(users, 1, 1)
        self.looked = belief.decay ** torch.arange(slots, device=device)

    def forget(self, rows: Int[np.ndarray, "some"]) -> None:
        """Replace the users in some rows by new ones."""
        places = torch.from_numpy(rows)
        self.there[places], self.weights[places] = 0, self.belief.mean
        self.factor[places] = self.prior

    def keep(self, rows: Int[np.ndarray, "some"]) -> None:
        """Keep only some users."""
        places = torch.from_numpy(rows)
        for name in ("shown", "clicks", "there", "weights", "factor"):
            setattr(self, name, getattr(self, name)[places])

    @property
    def standardised(self) -> Float[Tensor, "users weights"]:
        """The weights in standard deviations from the mean of the prior."""
        found: Tensor = (self.weights - self.belief.mean) / self.spread
        return found

    def drawn(self, rng: np.random.Generator) -> Float[Tensor, "users weights"]:
        """Weights drawn from the posterior (Thompson 1933): users of whom little is known get more varied items.

        The deviations are halved, which explores less (Chapelle and Li 2011, section 4, "posterior reshaping").
        """
        noise = torch.from_numpy(rng.standard_normal(self.weights.shape, np.float32)).to(self.weights)
        far = torch.linalg.solve_triangular(self.factor.mT, noise[..., None], upper=True)
        found: Tensor = self.weights + RESHAPED * far.squeeze(-1)
        return found

    @torch.no_grad()
    def watch(self, slates: Int[np.ndarray, "users slots"], clicks: Bool[np.ndarray, "users slots"]) -> None:
        """Learn from one more slate of each user; -1: no slate."""
        known, clicked = torch.from_numpy(slates.astype(np.int64)), torch.from_numpy(clicks)
        vectors = self.belief.items[known.clamp(min=0)]
        missed = (1 - self.looked * torch.sigmoid((vectors @ self.weights[..., None]).squeeze(-1))).prod(-1)
        there = torch.where(clicked.any(-1), 1.0, THERE * missed / (THERE * missed + 1 - THERE))
        memory = self.there.shape[1]
        slot = self.place % memory
        self.shown[:, slot], self.clicks[:, slot] = vectors, clicked
        self.there[:, slot, 0] = there * (known[:, 0] >= 0)
        self.place += 1
        some = min(memory, self.place)
        seen = self.shown[:, :some].flatten(1, 2)
        trust = self.there[:, :some].expand(-1, -1, slates.shape[1]).flatten(1)
        looked = self.looked.repeat(some)
        for _ in range(STEPS):
            self._newton(seen, self.clicks[:, :some].flatten(1), trust, looked)

    def _newton(
        self,
        seen: Float[Tensor, "users shown weights"],
        clicks: Bool[Tensor, "users shown"],
        trust: Float[Tensor, "users shown"],
        looked: Float[Tensor, "shown"],
    ) -> None:
        """A Newton step to the mode of the posterior; items without a click enter by their Fisher information."""
        belief, weights = self.belief, self.weights
        chance = torch.sigmoid((seen @ weights[..., None]).squeeze(-1))
        refused = looked * chance * (1 - chance) / (1 - looked * chance + 1e-6)
        slope = torch.where(clicks, 1 - chance, -refused) * trust
        bend = torch.where(clicks, chance * (1 - chance), refused * (1 - chance)) * trust + LEAST
        curvature = belief.precision + (seen * bend[..., None]).transpose(1, 2) @ seen
        gradient = (slope[:, None] @ seen).squeeze(1) - (weights - belief.mean) @ belief.precision
        self.factor = torch.linalg.cholesky(curvature)
        step = torch.cholesky_solve(gradient[..., None], self.factor).squeeze(-1)
        farthest = (step @ belief.items.T).abs().amax(1, keepdim=True)
        self.weights = weights + step * (STEP / (farthest + 1e-6)).clamp(max=1)
