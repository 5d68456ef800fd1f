"""The founding algorithm."""

from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from what_next.algorithms.base import Algorithm, LossContext, Networks, Points, Rng, Updates
from what_next.models import AgentModel, CriticModel, spread_out
from what_next.models.actor_critic import Sizes
from what_next.rewards.spread import LEAST_EVENTS
from what_next.types import BanditSteps

BOLD = 10.0
"""Initial log-odds of the policy per unit of the critic's prior: it prefers what suits the typical user, and still
learns otherwise (at 30 it does not, if the typical user misleads)."""


class WhatNext(Algorithm):
    """An LSTM actor proposes a point in attribute space and ascends an LSTM critic, which learns the reward.

    A one-step critic: the log has no state after an item that was not played, so there is nothing to discount. A point
    that freely follows the critic's gradient leaves the region of the items, where the estimate diverges; a point that
    is regressed onto the best of several items ends up between them. So the actor's policy is a distribution over
    prototypes, points of the catalogue spread over it: a proto-action in the sense of Dulac-Arnold et al. 2015 (arXiv
    1512.07679), chosen as in a discrete actor-critic. Its loss is minus the critic's value expected under that policy,
    exactly, over all prototypes (the all-action gradient: Allen et al. 2017, arXiv 1709.00503, equation 4), with an
    entropy bonus so that no prototype is given up early.

    The effect of an item on the typical user's spread is known beforehand. With a log, values and policy start from it,
    and the networks learn the difference (residual policy learning: Silver et al. 2018, arXiv 1812.06298).

    In a world the reward is the world's own, and the step after an item is known. So the critic learns, from a replay
    of play, the reward plus its value of the next step, expected under the current policy in the same way (expected
    Sarsa: Sutton and Barto 2018, equation 6.9); with `discount, 0` the reward alone.
    """

    name: Literal["whatnext"] = "whatnext"
    prototypes: int = Field(default=64, gt=1, description="number of points that the actor chooses from")
    entropy: float = Field(default=0.01, ge=0, description="weight of the policy's entropy (nats) in the actor's loss")
    random_items: int = Field(default=32, ge=0, description="random items, per history, that the critic also learns")
    tau: float = Field(default=0.02, gt=0, le=1, description="in a world: how far the target critic follows each step")
    updates: ClassVar[Updates] = {"actor": ("actor",), "critic": ("critic",)}
    source: ClassVar[str] = "bandit"
    replays: ClassVar[bool] = True
    by_attributes: ClassVar[bool] = True
    one_step: ClassVar[bool] = True
    least_events: ClassVar[int] = LEAST_EVENTS
    monitors: ClassVar[tuple[str, ...]] = ("spread",)
    encoders: ClassVar[tuple[str, ...]] = ("lstm",)
    ignores: ClassVar[frozenset[str]] = frozenset({"loss", "batch_targets"})

    @classmethod
    def defaults(cls) -> dict[str, object]:
        """Empty: the settings' own defaults are this algorithm's."""
        return {}

    @property
    def explore(self) -> int:
        """See `Algorithm.explore`."""
        return self.random_items

    def networks(self, sizes: Sizes, vectors: Float32[np.ndarray, "items dim"], rng: np.random.Generator) -> Networks:
        """An actor with its prototypes, and a critic."""
        prototypes = torch.from_numpy(vectors[spread_out(vectors, self.prototypes, rng)])
        bold = replace(sizes, prior=sizes.prior * BOLD)
        return {"actor": AgentModel(bold, prototypes), "critic": CriticModel(sizes)}

    def losses(self, context: LossContext[BanditSteps]) -> dict[str, Tensor]:  # type: ignore[override]
        """The actor's: minus the expected value of its policy; the critic's: squared error of its estimates."""
        critic, actor, batch = context.nets["critic"], context.nets["actor"], context.batch
        assert isinstance(actor, AgentModel)
        assert isinstance(critic, CriticModel)
        state = critic.encoder(batch.factors)
        estimates = critic.head(state, batch.points, batch.prospects)
        with torch.no_grad():
            values = critic.head(state, actor.prototypes, batch.actor_prospects)
        log_policy = actor(batch.actor_factors, batch.actor_prospects).log_softmax(-1)
        policy = log_policy.exp()
        expected = (policy * (values - self.entropy * log_policy)).sum(-1)
        targets = batch.targets
        if batch.discounts is not None:
            targets = targets + (batch.discounts * self.following(context, actor.prototypes, policy))[..., None]
        mask, count = batch.mask, batch.mask.sum().clamp(min=1)  # a batch of which no step counts has loss 0
        context.metrics.update(_explained(estimates.detach()[..., 0][mask], targets[..., 0][mask]))
        return {
            "actor": -expected[mask].sum() / count,
            "critic": (estimates - targets).square().mean(-1)[mask].sum() / count,
        }

    @torch.no_grad()
    def following(
        self,
        context: LossContext[BanditSteps],
        prototypes: Float[Tensor, "choices dim"],
        policy: Float[Tensor, "batch time choices"],
    ) -> Float[Tensor, "batch time"]:
        """The target critic's value of the policy after the next event; 0 after the last one."""
        critic, batch = context.targets["critic"], context.batch
        values = critic(batch.factors, prototypes, batch.actor_prospects)
        return pad((policy * values).sum(-1)[:, 1:], (0, 1))

    def propose(self, nets: Networks, states: Any, rng: Rng = None) -> Points:
        """A prototype: drawn by the Gumbel-max trick, or the likeliest. `states`: factors and prospects."""
        actor = nets["actor"]
        assert isinstance(actor, AgentModel)
        logits = actor(*states)
        if rng is not None:
            noise = rng.gumbel(size=tuple(logits.shape)).astype(np.float32)
            logits = logits + torch.from_numpy(noise).to(logits.device)
        return actor.prototypes[logits.argmax(-1)]


def _explained(values: Float[Tensor, "steps"], targets: Float[Tensor, "steps"]) -> dict[str, float]:
    """The mean estimate of the selected items, and the share of their targets' variance that it explains."""
    if not len(values):
        return {}
    spread, found = targets.var(correction=0), {"value": float(values.mean())}
    if spread > 0:
        found["explained"] = 1 - float((targets - values).var(correction=0) / spread)
    return found
