"""The sum of rewards that algorithms learn from, and the log as rewards read it: what training may know."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64, Shaped
from torch import Tensor

from what_next.data import Dataset
from what_next.data.batches import ranges
from what_next.data.space import item_counts
from what_next.errors import SetupError, TrainingError
from what_next.rewards.base import NEVER, Events, Reward
from what_next.rewards.logged import Logged
from what_next.rewards.promises import check_promises, earned
from what_next.types import History


@dataclass(frozen=True, eq=False)
class RewardLog:
    """The part of a data set that training may know, as the source of `events`.

    Attributes:
        items, times, offsets: as in the data set.
        known: how many of each user's events are known, counted from the first.
        rewards: the logged reward of every event.
        vectors: standardised attributes of the items, on the device that computes rewards.
        popularity: each item's share of the events that training may know, on the same device; None if not needed.
        profiles: whether a reward needs profiles.
    """

    items: Int32[np.ndarray, "events"]
    times: Int64[np.ndarray, "events"] | None
    offsets: Int64[np.ndarray, "users_plus_1"]
    known: Int64[np.ndarray, "users"]
    rewards: Float32[np.ndarray, "events"]
    vectors: Float32[Tensor, "items attributes"]
    popularity: Float[Tensor, "items"] | None
    profiles: bool

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        known: Int[np.ndarray, "users"],
        vectors: Float32[np.ndarray, "items attributes"],
        logged: Logged,
        terms: Sequence[Reward],
        device: torch.device | str = "cpu",
    ) -> "RewardLog":
        """Gather it from a data set.

        Args:
            dataset: all events.
            known: how many of each user's events training may know (`Split.known`). For a user set aside whole (0), all
                events count as the user's own, but none enters the item statistics.
            vectors: standardised attributes of the catalogue.
            logged: converts events to numbers, even if its own weight is 0.
            terms: the rewards that count.
            device: device that computes rewards.

        Raises:
            SetupError: an event word of the data has no number.
        """
        popularity = None
        if any("popularity" in term.needs for term in terms):
            counts = item_counts(dataset, known)
            popularity = torch.from_numpy(counts / max(1, counts.sum())).to(device)
        return cls(
            items=dataset.items,
            times=dataset.timestamps,
            offsets=dataset.offsets,
            known=np.where(known > 0, known, dataset.lengths).astype(np.int64),
            rewards=logged.of_events(dataset),
            vectors=torch.from_numpy(vectors).to(device),
            popularity=popularity,
            profiles=any("profile" in term.needs for term in terms),
        )

    def events(self, history: History) -> Events:
        """The input of rewards for some histories, whose users must be in the data set."""
        users, before = history.users, np.zeros_like(history.lengths) if history.before is None else history.before
        assert (users >= 0).all(), "rewards are of users that the log holds"
        first, follows = self.offsets[users] + before, before + history.lengths < self.known[users]
        real = np.arange(history.items.shape[1]) < history.lengths[:, None]
        events = np.where(real, first[:, None] + np.arange(history.items.shape[1]), 0)
        times = after = None
        if self.times is not None:
            times = self._tensor(self.times[events])
            after = self._tensor(np.where(follows, self.times[np.where(follows, first + history.lengths, 0)], NEVER))
        return Events(
            items=self._tensor(history.items).long(),
            rewards=self._tensor(np.where(real, self.rewards[events], np.float32(0))),
            times=times,
            vectors=self.vectors,
            popularity=self.popularity,
            sigma=self._tensor(history.sigma),
            profile=self.profile_of(users) if self.profiles else None,
            after=after,
        )

    def profile_of(self, users: Int[np.ndarray, "batch"]) -> Float[Tensor, "batch attributes"]:
        """The mean vector of all known events of each user."""
        counts = self.known[users]
        vectors = self.vectors[self._tensor(self.items[ranges(self.offsets[users], counts)]).long()].double()
        return torch.segment_reduce(vectors, "mean", lengths=self._tensor(counts)).float()

    def _tensor(self, values: Shaped[np.ndarray, "*shape"]) -> Shaped[Tensor, "*shape"]:
        return torch.from_numpy(values).to(self.vectors.device)


def weighted(rewards: Iterable[Reward]) -> tuple[Reward, ...]:
    """The rewards that count, each with its weight.

    The logged reward also counts, with weight 1, if a word has a number, or if no reward has a weight.
    """
    rewards = tuple(rewards)
    alone = all(reward.weight is None for reward in rewards)
    filled = (
        reward.model_copy(update={"weight": 1.0})
        if isinstance(reward, Logged) and reward.weight is None and (alone or reward.numbers)
        else reward
        for reward in rewards
    )
    return tuple(reward for reward in filled if reward.weight)


def check(terms: Sequence[Reward], dataset: Dataset) -> None:
    """Raise a `SetupError` if no reward counts, one breaks its contract, or the data lack what one needs."""
    if not terms:
        raise SetupError("every reward has weight 0; give one another weight, such as reward.logged.weight, 1")
    for term in terms:
        check_promises(term)
        term.check(dataset)


def total(terms: Sequence[Reward], events: Events) -> Float[Tensor, "batch time"]:
    """The weighted sum of some rewards (see `weighted`) for each event; 0 at padding.

    Raises:
        SetupError: a custom reward fails, or does not return a number for each event.
        TrainingError: a reward is not finite for some item.
    """
    found, each = torch.zeros_like(events.rewards), [earned(term, events) for term in terms]
    for term, one in zip(terms, each, strict=True):
        found = found + one * (term.weight or 0.0)
    if not found.isfinite().all():
        for term, one in zip(terms, each, strict=True):
            if (strange := ~one.isfinite()).any():
                raise TrainingError(
                    f"{term.key}: gives {one[strange][0]:g} for an event of item {events.items[strange][0] + 1} of the "
                    "catalogue; expected a finite number, as for every event"
                )
    return found
