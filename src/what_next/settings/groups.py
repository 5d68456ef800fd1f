"""Groups of settings with dotted keys."""

import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model, field_validator, model_validator

from what_next import data, rewards
from what_next.data import Dataset, split_leave_last_out, split_time, split_users
from what_next.rewards import Diversity, Logged, Novelty, ProfileCorrelation, Repeat, ReturnTime, Serendipity, Spread
from what_next.settings.plugins import installed

SLATES = frozenset(range(1, 1001))
"""Slate lengths that may be evaluated."""
AFFORDABLE = 10_000
"""Catalogue size up to which the default loss is a softmax over all items; above, it takes most of a step's time."""
UNKNOWN = 0.1
"""Default share of items read as unknown where histories are short (validation NDCG@10 of amazon-beauty-s3rec: .0744
without, .0747 with it, and with .25). On long histories it hurts: ml-1m-part, 14 passes, .1917 and .1891 (one seed
each)."""
SHORT = 20
"""Events per training user, on average, up to which the last item skips the recurrence, straight into the encoder's
state. Validation NDCG@10 of `next_item` with an LSTM of dim 128 (one seed), without and with it: .043 and .061 at 9
events per user (amazon-beauty-s3rec, 8 passes), .061 and .050 at 48 (lastfm-s3rec, 20 passes), .136 and .120 at 106
(ml-100k, 20 passes)."""
LARGE = 200_000
"""Training events from which the last item skips the recurrence on long histories, too: smaller logs overfit sooner.
Test NDCG@10 in the same setting, without and with it (one seed): ml-1m-part .170 and .181 after 5 passes, .199 and .198
at the end; 1,600 of its users (256,160 events) .176 and .184, 900 of them (144,013) .166 and .166; ml-100k (98,114)
.134 and .125."""
DROPOUT = (0.5, 0.3)
"""Default dropout: in general, and for logs with at least `LARGE` training events and `OFTEN` events per item, which
overfit less. NDCG@10 of the validation (test) users with .5, .3 and .2, one seed, with early stopping: words of 68,824
descriptions in their order .2582 (.2710), .2839 (.2835), .2889 (.2794); ml-1m-part .2171 (.1986), .2188 (.2019), .2160
(.2037), after 29, 25 and 17 passes (test, three seeds: .1987 after 24.3, .1995 after 21.3). Where items are rare less
dropout costs: 130,000 synthetic sessions over 60,000 items, 400 s, .1407 (.1310), .1397 (.1278)."""
OFTEN = 10
"""Training events per item, on average; see `DROPOUT`."""
RARE = 5
"""Training events per item, on average, up to which attributes describe an item better than a learned vector.
Test NDCG@10 of an LSTM on spotify-playlists (1.1 events per item; 20 passes, one seed): .002 learned, .0075 both."""
COLD = 0.5
"""Share of validation targets without a training event (cold start) above which item vectors come from attributes
alone: learned parts only separate the other items from these. Validation NDCG@10, learned, both, attributes: .020,
.020, .033 on a synthetic log (a share of .75), .013 and .026 on another (.60; both, attributes), and .0105, .0101 on
spotify-playlists (.80; two seeds), where attributes take a third of the time; .0079 and .0094 on test users."""
SHARE = 0.5
"""Default share of training histories that come from decisions: logged decisions and ordinary events count equally."""


class Group(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True):
    """Settings that share a prefix, as dotted keys in a setup file. The prefix alone is short for the group's
    `name`."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data


class SplitSettings(Group):
    """Which events are for training, and which users or events are held out to judge the model."""

    name: Literal["users", "leave_last_out", "time"] = "users"
    """users: some users are held out completely; leave_last_out: the last event of each user is held out; time: all
    events after one moment are"""
    test: float = Field(default=0.2, ge=0, lt=1, description="split users: the share of users held out for the test")
    validation: float = Field(default=0.1, ge=0, lt=1, description="split users: the share held out for validation")
    quantile: float = Field(default=0.9, gt=0.5, lt=1, description="split time: the share of events before the moment")
    date: str | None = None
    """split time: the moment itself, such as 2000-11-30 or 2000-11-30T12:00 (UTC)"""
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of the held-out users; independent of `seed`")

    @property
    def moment(self) -> datetime | None:
        """`date` as a datetime."""
        return None if self.date is None else datetime.fromisoformat(self.date)

    @property
    def more(self) -> str:
        """How to get more training events, for messages."""
        held_back = {
            "users": "a smaller split.test",
            "leave_last_out": "`split, users`: of each user the last two events are held back",
            "time": "a later moment (split.quantile or split.date)",
        }
        return held_back[self.name]

    def of(self, dataset: Dataset) -> data.Split:
        """The split of a data set."""
        if self.name == "users":
            return split_users(dataset, self.test, self.validation, self.seed)
        if self.name == "leave_last_out":
            return split_leave_last_out(dataset)
        return split_time(dataset, self.quantile, self.moment)

    @field_validator("date")
    @classmethod
    def _a_date(cls, value: str | None) -> str | None:
        try:
            return value and datetime.fromisoformat(value).isoformat()
        except ValueError:
            raise ValueError(f"split.date is {value!r:.80}; allowed: 2000-11-30, or 2000-11-30T12:00") from None

    @model_validator(mode="after")
    def _leaves_some(self) -> "SplitSettings":
        if self.date is not None and (self.name != "time" or "quantile" in self.model_fields_set):
            raise ValueError(
                f"split.date is {self.date!r}, beside split.quantile or under split {self.name}; allowed: under split "
                "time, instead of split.quantile"
            )
        if self.test + self.validation >= 1:
            raise ValueError(
                f"split.test and split.validation are {self.test:g} and {self.validation:g}, which leaves no user to "
                "train on; allowed: a sum below 1"
            )
        return self


class Evaluation(Group):
    """How next-item recommendations are evaluated."""

    k: tuple[int, ...] = Field(default=(10,), description="lengths of the evaluated slates; the first is the main one")
    targets: Literal["last", "random", "successive", "all"] = "last"
    """which of a user's held-out events are targets. last: the last one; random: a random one; successive: each of
    them, after all events before it; all: the set of them, after the events that are not held out"""
    seen: bool = Field(default=False, description="whether items of the history may be recommended")

    @field_validator("k", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        given = [value] if isinstance(value, int) else value
        words = [one for part in given for one in str(part).split(",")] if isinstance(given, list | tuple) else []
        numbers = [int(one) for one in words if re.fullmatch(r"\s*\d{1,9}\s*", one)]
        if len(numbers) < max(1, len(words)) or len(set(numbers)) < len(numbers) or not set(numbers) <= SLATES:
            raise ValueError(
                f"evaluation.k is {','.join(words)!r:.80}; allowed: different whole numbers of 1 to 1000, such as "
                "5,10,20"
            )
        return numbers


class Selection(Group):
    """How one item is chosen among those that match a proposal."""

    name: Literal["random", "critic"] = "random"
    """random: any matching item with equal chance; critic: the one of highest value among some random matching items"""
    candidates: int = Field(default=64, gt=0, description="selection critic: how many matching items the critic sees")


class RewardSettings(Group):
    """The weights of the rewards. The founding algorithm's critic uses spread; all others use the weighted sum.

    If no reward has a weight, the other algorithms use the log's own reward (logged).
    """

    spread: Spread = Spread()
    logged: Logged = Logged()
    profile_correlation: ProfileCorrelation = ProfileCorrelation()
    diversity: Diversity = Diversity()
    novelty: Novelty = Novelty()
    serendipity: Serendipity = Serendipity()
    repeat: Repeat = Repeat()
    return_time: ReturnTime = ReturnTime()

    @property
    def terms(self) -> tuple[rewards.Reward, ...]:
        """The rewards in the sum, each with its weight (see `rewards.total`)."""
        return rewards.weighted(getattr(self, name) for name in type(self).model_fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (dict(self),)  # pickle cannot look up a class that is made at run time


REWARD_GROUP = "what_next.rewards"


def reward_group() -> type[RewardSettings]:
    """The group of all rewards: the project's own, and those of installed packages under their own names."""
    found = installed(REWARD_GROUP, rewards.Reward, rewards.REWARDS, lambda _, part: part().key.partition(".")[2])
    return _grown(tuple(found.items()))


@cache
def _grown(kinds: tuple[tuple[str, type[rewards.Reward]], ...]) -> type[RewardSettings]:
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in kinds}
    return create_model("RewardSettings", __base__=RewardSettings, **fields) if fields else RewardSettings


def _again(values: dict[str, Any]) -> RewardSettings:
    return reward_group().model_construct(**values)


class Inputs(Group):
    """The encoder's inputs for each event, and what item vectors are made of."""

    items: Literal["auto", "learned", "attributes", "both"] = Field(
        default="auto",
        description="vectors of the items. learned: one for each item; attributes: a linear map of its attributes, so "
        "that items added later can be recommended; both: the sum. auto, where items have attributes: attributes where "
        "most validation targets have no training event, both where items have at most "
        f"{RARE} training events on average; else learned",
    )
    start: Literal["cooccurrence", "random"] = "cooccurrence"
    """how learned item vectors are initialised. cooccurrence: items that occur near each other in the log start close
    together; random: at random"""
    rewards: bool = Field(default=False, description="whether the encoder reads the log's reward of each event")
    gaps: bool = Field(default=False, description="whether the encoder reads the time since the event before")
    context: bool = False
    """whether the encoder reads all context columns of each event; in a world: the other observations"""
    slates: bool = False
    """whether an event is a shown slate with its clicks; in a world"""


class WorldSettings(Group):
    """A world (simulated users), and how an agent learns and is judged in it."""

    name: str | None = None
    """simulate: the world and, after a colon, its preset, such as boredom:SlateTopK-Bored-v0"""
    ideal: bool = Field(default=False, description="simulate: whether the agent sees the users' hidden state")
    users: int | None = Field(
        default=None,
        gt=0,
        description="simulate: users in parallel during training; none: 32 to 1,024, as many as leave the run 750 "
        "training steps",
    )
    window: int = Field(default=20, gt=0, description="simulate: slates of each user in one rollout")
    steps: int = Field(default=2_000_000, gt=0, description="simulate: slates to learn from, in total")
    explore: int = Field(default=100_000, ge=0)
    """simulate: how many of these slates are random at first; their clicks initialise learned item vectors
    (`inputs.start`)"""
    replay: int = Field(default=300_000, gt=0, description="simulate: slates kept in the replay buffer")
    reuse: float = Field(default=4.0, gt=0, description="simulate: how often a slate is replayed, on average")
    batch: int = Field(default=2000, gt=0, description="simulate: slates in a training step from the replay buffer")
    epsilon: float = Field(default=0.1, ge=0, le=1)
    """simulate: chance of a random item while values are learned (epsilon-greedy); it decreases from 1 to this"""
    episodes: int = Field(default=500, gt=1, description="simulate: simulated users with which a policy is judged")


class Loss(Group):
    """The loss of next-item prediction."""

    name: Literal["auto", "softmax", "sampled_softmax", "gbce"] = Field(
        default="auto",
        description="softmax: over all items; sampled_softmax: over negatives drawn by popularity, with a correction; "
        "gbce: binary cross entropy over negatives drawn uniformly, calibrated; auto: softmax where the catalogue has "
        f"at most {AFFORDABLE:,} items, else sampled_softmax",
    )
    negatives: int = Field(default=4096, gt=0, description="negatives that a sampled loss draws for each batch")
    calibration: float = Field(default=0.75, ge=0, le=1, description="loss gbce: its t; 1 is fully calibrated")

    def over(self, items: int) -> Literal["softmax", "sampled_softmax", "gbce"]:
        """The loss for a catalogue of that many items."""
        if self.name != "auto":
            return self.name
        return "softmax" if items <= AFFORDABLE else "sampled_softmax"


class DecisionSettings(Group):
    """Learning from a service's log of decisions: what was shown, and the rewards."""

    share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the training histories that come from decisions; the others hold a user's events up to "
        f"the first decision. 0: only events, all of them; none: {SHARE:g} where the log holds decisions that the "
        "algorithm can learn from, else 0",
    )
    log: Path | None = None
    """the exported log of a service, with its decisions; none: data, if it is such a log"""
    weight_cap: float = Field(default=10.0, ge=1)
    """largest inverse propensity of a shown item in an imitation loss, relative to the mean of its batch: less variance
    for some bias"""


class Cluster(Group):
    """Training in several processes."""

    name: Literal["ray"] | None = None
    """train: the launcher of the processes; none: torchrun, or a single process"""
    processes: int = Field(default=2, gt=0, description="train: how many processes ray starts")
    restarts: int = Field(default=3, ge=0)
    """train: how often ray restarts the processes from the last checkpoint when one is lost"""
    items: Literal["whole", "sharded"] = "whole"
    """train: whether each process holds the vectors of all items or a shard of them, for catalogues that do not fit
    into memory; sharded needs a sampled loss and learned vectors"""
