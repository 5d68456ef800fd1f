"""The settings that belong together: groups of dotted keys."""

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
"""Lengths of slates that may be judged."""
AFFORDABLE = 10_000
"""Items up to which a softmax over all of them is the default: beyond, it takes most of a step's time."""
UNKNOWN = 0.1
"""The share of items read as unknown where histories are short (validation NDCG@10 of amazon-beauty-s3rec .0744
without, .0747 with it, and with .25). In long ones it costs: ml-1m-part, 14 passes, .1917 and .1891 (one seed each)."""
SHORT = 20
"""Events of a training user, on average, up to which the last item goes straight into an encoder's state. Validation
NDCG@10 of `next_item` with an LSTM of dim 128 (one seed), without and with it: .043 and .061 at 9 events a user
(amazon-beauty-s3rec, 8 passes), .061 and .050 at 48 (lastfm-s3rec, 20 passes), .136 and .120 at 106 (ml-100k, 20
passes)."""
LARGE = 200_000
"""Training events from which it does so in long histories, too: a small log is learned by heart sooner.
Test NDCG@10 of the same, without and with it (one seed): ml-1m-part .170 and .181 after 5 passes, .199 and .198 at the
end; of 1,600 of its users (256,160 events) .176 and .184, of 900 (144,013) .166 and .166; on ml-100k (98,114) .134 and
.125."""
DROPOUT = (0.5, 0.3)
"""Share of activations dropped in most logs, and in those of `LARGE` training events or more and `OFTEN` of an item,
which are harder to learn by heart. NDCG@10 of the validation (test) users with .5, .3 and .2, one seed, until
validation ends it: words of 68,824 descriptions in their order .2582 (.2710), .2839 (.2835), .2889 (.2794); ml-1m-part
.2171 (.1986), .2188 (.2019), .2160 (.2037), after 29, 25 and 17 passes (test, three seeds: .1987 after 24.3, .1995
after 21.3). Where items are rare it costs: 130,000 made-up sessions over 60,000 items, 400 s, .1407 (.1310), .1397
(.1278)."""
OFTEN = 10
"""Training events of an item, on average."""
RARE = 5
"""Training events of an item, on average, up to which its attributes tell more of it than what can be learned for it.
Test NDCG@10 of an LSTM on spotify-playlists (1.1 events an item; 20 passes, one seed): .002 learned, .0075 both."""
COLD = 0.5
"""Share of the validation targets whose item has no training event, beyond which item vectors are made of attributes
alone: what is learned for other items only tells them apart from these. Validation NDCG@10, learned, both, attributes:
.020, .020, .033 on a made-up log (a share of .75), .013 and .026 on another (.60; both, attributes), and .0105, .0101
on spotify-playlists (.80; two seeds), where attributes take a third of the time; .0079 and .0094 on test users."""
SHARE = 0.5
"""Of the training histories that are of decisions: what was tried and what people do by themselves count alike."""


class Group(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True):
    """Settings that belong together: dotted keys in a setup file. A word alone is the group's `name`."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data


class SplitSettings(Group):
    """What training may know, and whom the model is judged on."""

    name: Literal["users", "leave_last_out", "time"] = "users"
    """users: some users are set aside whole; leave_last_out: the last event of each user is; time: all events after one
    moment are"""
    test: float = Field(default=0.2, ge=0, lt=1, description="split users: the share of users set aside for the test")
    validation: float = Field(default=0.1, ge=0, lt=1, description="split users: the share set aside for validation")
    quantile: float = Field(default=0.9, gt=0.5, lt=1, description="split time: the share of events before the moment")
    date: str | None = None
    """split time: the moment itself, such as 2000-11-30 or 2000-11-30T12:00 (UTC)"""
    seed: int = Field(default=0, ge=0, lt=2**63, description="which users are set aside; it stays while `seed` varies")

    @property
    def moment(self) -> datetime | None:
        """The date as a time."""
        return None if self.date is None else datetime.fromisoformat(self.date)

    @property
    def more(self) -> str:
        """What to do for more events to train on."""
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
    """How next items are judged."""

    k: tuple[int, ...] = Field(default=(10,), description="lengths of the slates that are judged; the first leads")
    targets: Literal["last", "random", "successive", "all"] = "last"
    """of a user's events in the part that is judged. last: the last one; random: one of them; successive: each, after
    all before it; all: the set of them, after what came before the part"""
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
    """How one item is taken from those that match a proposal."""

    name: Literal["random", "critic"] = "random"
    """random: any matching item with equal chance; critic: the one that the critic values most among some drawn so"""
    candidates: int = Field(default=64, gt=0, description="selection critic: how many matching items the critic sees")


class RewardSettings(Group):
    """What earns how much: spread for the critic of the founding algorithm, a weighted sum for all others.

    Where no reward has a weight, the others earn the log's own (logged).
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
        """Those that count in the sum, each with its weight (see `rewards.total`)."""
        return rewards.weighted(getattr(self, name) for name in type(self).model_fields)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (dict(self),)  # a class that is made at run time has no place from which another process has it


REWARD_GROUP = "what_next.rewards"


def reward_group() -> type[RewardSettings]:
    """The group of all rewards: those above, and those of installed packages under their own names."""
    found = installed(REWARD_GROUP, rewards.Reward, rewards.REWARDS, lambda _, part: part().key.partition(".")[2])
    return _grown(tuple(found.items()))


@cache
def _grown(kinds: tuple[tuple[str, type[rewards.Reward]], ...]) -> type[RewardSettings]:
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in kinds}
    return create_model("RewardSettings", __base__=RewardSettings, **fields) if fields else RewardSettings


def _again(values: dict[str, Any]) -> RewardSettings:
    return reward_group().model_construct(**values)


class Inputs(Group):
    """What the encoder reads of an event, and what item vectors are made of."""

    items: Literal["auto", "learned", "attributes", "both"] = Field(
        default="auto",
        description="vectors of the items: learned for each; a linear map of its attributes, so that an item that "
        "comes later can be recommended; or the sum of both. auto, where items have attributes: attributes where "
        "most validation targets have no training event, both where items have at most "
        f"{RARE} training events on average; else learned",
    )
    start: Literal["cooccurrence", "random"] = "cooccurrence"
    """where learned vectors of items start. cooccurrence: near those of items that stand beside them in the log;
    random: anywhere"""
    rewards: bool = Field(default=False, description="whether the encoder reads the log's reward of each event")
    gaps: bool = Field(default=False, description="whether the encoder reads the time since the event before")
    context: bool = False
    """whether the encoder reads all numbers of each event; in a world: what else is seen"""
    slates: bool = False
    """whether an event is a slate that was shown and what was clicked of it: in a world"""


class WorldSettings(Group):
    """A world to act in, and how an agent learns and is judged there."""

    name: str | None = None
    """simulate: the world, and a preset of it: boredom:SlateTopK-Bored-v0"""
    ideal: bool = Field(default=False, description="simulate: whether the agent sees what is hidden of the users")
    users: int | None = Field(
        default=None,
        gt=0,
        description="simulate: users who are acted on at once in training; none: 32 to 1,024, as many as leave the run "
        "750 steps of learning",
    )
    window: int = Field(default=20, gt=0, description="simulate: slates of each of them that make one experience")
    steps: int = Field(default=2_000_000, gt=0, description="simulate: slates to learn from in all")
    explore: int = Field(default=100_000, ge=0)
    """simulate: slates of random items, of those to learn from, whose clicks tell where learned vectors of items start
    (`inputs.start`)"""
    replay: int = Field(default=300_000, gt=0, description="simulate: slates that are kept to be learned from again")
    reuse: float = Field(default=4.0, gt=0, description="simulate: how often each of those is learned from, on average")
    batch: int = Field(default=2000, gt=0, description="simulate: slates of a step that learns from those")
    epsilon: float = Field(default=0.1, ge=0, le=1)
    """simulate: chance of any item while values are learned; it falls from 1"""
    episodes: int = Field(default=500, gt=1, description="simulate: users who are played to judge a policy")


class Loss(Group):
    """How the next item is set apart from all others."""

    name: Literal["auto", "softmax", "sampled_softmax", "gbce"] = Field(
        default="auto",
        description="softmax: over all items; sampled_softmax: over some drawn by popularity, corrected for it; gbce: "
        "binary cross entropy over some drawn uniformly, calibrated; auto: softmax where the catalogue has at most "
        f"{AFFORDABLE:,} items, else sampled_softmax",
    )
    negatives: int = Field(default=4096, gt=0, description="how many items a sampled loss draws for each batch")
    calibration: float = Field(default=0.75, ge=0, le=1, description="loss gbce: its t; 1 is fully calibrated")

    def over(self, items: int) -> Literal["softmax", "sampled_softmax", "gbce"]:
        """The loss for a catalogue of so many items."""
        if self.name != "auto":
            return self.name
        return "softmax" if items <= AFFORDABLE else "sampled_softmax"


class DecisionSettings(Group):
    """Learning from what a service showed, and what that brought."""

    share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of the training histories that are of decisions; the others are of events up to the first "
        f"decision about their user. 0: events alone, all of them; none: {SHARE:g} where the log holds decisions that "
        "the algorithm can learn from, else 0",
    )
    log: Path | None = None
    """the exported log of a service that holds the decisions; none: data, if it is one"""
    weight_cap: float = Field(default=10.0, ge=1)
    """largest inverse chance of a shown item in a loss that imitates, over the mean of its batch: less variance for
    some bias"""


class Cluster(Group):
    """Several processes that train together."""

    name: Literal["ray"] | None = None
    """train: who starts the processes; none: torchrun, or nobody, and there is one"""
    processes: int = Field(default=2, gt=0, description="train: how many of them ray starts")
    restarts: int = Field(default=3, ge=0)
    """train: how often ray starts them anew from the last save, when one is lost"""
    items: Literal["whole", "sharded"] = "whole"
    """train: whether each process has the vectors of all items, or its share of them: for a catalogue that does not
    fit, with a sampled loss over learned vectors"""
