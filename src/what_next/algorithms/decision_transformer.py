"""Return-conditioned imitation."""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field
from torch import Tensor

from what_next.algorithms.base import REWARDED, Search
from what_next.algorithms.next_item import NextItem
from what_next.types import Events

SPREAD = 12**-0.5
"""The standard deviation of a uniform number between 0 and 1."""


class DecisionTransformer(NextItem):
    """Imitation of the next item given the return that followed; recommendations ask for a high return.

    Chen et al. 2021 (arXiv 2106.01345). With each event the encoder reads the return of what follows it: in training
    the true one, when recommending the desired one, the same at every event. The return is given as its quantile among
    the batch's, so that one setting fits rewards of any scale and never asks for an unseen return. Since a quantile is
    no sum, past rewards are not subtracted from it. Any encoder will do; the default is the paper's.

    It learns no values, so it cannot combine the good parts of two histories, and it mistakes luck for merit if rewards
    are random (Brandfonbrener et al. 2022, arXiv 2206.01079).
    """

    name: Literal["decision_transformer"] = "decision_transformer"  # type: ignore[assignment]
    monitors: ClassVar[tuple[str, ...]] = REWARDED
    search: ClassVar[Search] = {"desired": (0.5, 1.0)}
    desired: float = Field(default=0.9, ge=0, le=1, description="the return to ask for, as a quantile of all returns")
    preset: ClassVar[Mapping[str, object]] = {"model": "transformer"}
    extra_features: ClassVar[int] = 1
    reads_returns: ClassVar[bool] = True

    def inputs(self, events: Events, returns: Float[Tensor, "batch time"] | None) -> Events:
        """The events, each with the standardised quantile of the return of what follows it; see the class."""
        if returns is None:
            wanted = torch.full_like(events.items, self.desired, dtype=events.numbers.dtype)
        else:
            wanted = quantiles(returns, followed(events.items)).to(events.numbers.dtype)
        return replace(events, numbers=torch.cat([events.numbers, ((wanted - 0.5) / SPREAD)[..., None]], -1))


def followed(items: Int64[Tensor, "batch time"]) -> Bool[Tensor, "batch time"]:
    """Which events are followed by another one; the others have no return."""
    follow = torch.zeros_like(items, dtype=torch.bool)
    follow[:, :-1] = items[:, 1:] >= 0
    return follow


def quantiles(returns: Float[Tensor, "batch time"], known: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """The share of the known returns that are smaller than each return; equal ones count half."""
    ordered = returns[known].sort().values
    if not len(ordered):
        return torch.full_like(returns, 0.5)
    flat = returns.contiguous()
    smaller, larger = torch.searchsorted(ordered, flat), torch.searchsorted(ordered, flat, right=True)
    return (smaller + larger) / (2 * len(ordered))
