"""The settings that belong together: groups of dotted keys."""

import re
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model, field_validator, model_validator

from what_next import data, rewards
from what_next.data import Dataset, split_leave_last_out, split_time, split_users
from what_next.rewards import (
    Diversity,
    Logged,
    Novelty,
    ProfileCorrelation,
    Repeat,
    ReturnTime,
    Serendipity,
    Spread,
)
from what_next.settings.plugins import installed

SLATES = frozenset(range(1, 1001))
"""Lengths of slates that may be judged."""
AFFORDABLE = 10_000
"""Items up to which a softmax over all of them is the default: beyond, it takes most of a step's time."""
SHORT = 20
"""Events of a training user, on average, up to which the last item goes straight into an encoder's state. Validation
NDCG@10 of `next_item` with an LSTM of dim 128 (one seed), without and with it: .043 and .061 at 9 events a user
(amazon-beauty-s3rec, 8 passes), .061 and .050 at 48 (lastfm-s3rec, 20 passes), .136 and .120 at 106 (ml-100k, 20
passes)."""
RARE = 5
"""Training events of an item, on average, up to which its attributes tell more of it than what can be learned for it.
Test NDCG@10 of an LSTM on spotify-playlists (1.1 events an item; 20 passes, one seed): .002 learned, .0075 both."""
SHARE = 0.5
"""Of the training histories that are of decisions: what was tried and what people do by themselves count alike."""
LEAST_TEMPERATURE = 1e-3
"""Below, scores over the temperature are more than numbers can hold; 0 takes the best."""
HISTORY = 1000
"""Item ids of the history that a request brings, at most."""
POLICIES = ("trained", "popular", "random")
"""Arms of an experiment that need no second model."""
ARM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
"""What an arm may be called: as a version is."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that nobody reaches from another machine."""


class Group(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True):
    """Settings that belong together: dotted keys in a setup file. A word alone is the group's `name`."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data


class SplitSettings(Group):
    """What training may know, and whom the model is judged on."""

    name: Literal["users", "leave_last_out", "time"] = Field(
        default="users",
        description="users: some users are set aside whole; leave_last_out: the last event of each user is; "
        "time: all events after one moment are",
    )
    test: float = Field(default=0.2, ge=0, lt=1, description="split users: the share of users set aside for the test")
    validation: float = Field(default=0.1, ge=0, lt=1, description="split users: the share set aside for validation")
    quantile: float = Field(default=0.9, gt=0.5, lt=1, description="split time: the share of events before the moment")
    date: str | None = Field(
        default=None, description="split time: the moment itself, such as 2000-11-30 or 2000-11-30T12:00 (UTC)"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="which users are set aside; it stays while `seed` varies")

    @property
    def moment(self) -> datetime | None:
        """The date as a time."""
        return None if self.date is None else datetime.fromisoformat(self.date)

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
            raise ValueError(f"split.date is {value!r}; allowed: 2000-11-30, or 2000-11-30T12:00") from None

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
    targets: Literal["last", "random", "successive", "all"] = Field(
        default="last",
        description="of a user's events in the part that is judged. last: the last one; random: one of them; "
        "successive: each, after all before it; all: the set of them, after what came before the part",
    )
    seen: bool = Field(default=False, description="whether items of the history may be recommended")

    @field_validator("k", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        given = [value] if isinstance(value, int) else value
        words = [one for part in given for one in str(part).split(",")] if isinstance(given, list | tuple) else []
        numbers = [int(one) for one in words if one.strip().isdecimal()]
        if len(numbers) < max(1, len(words)) or len(set(numbers)) < len(numbers) or not set(numbers) <= SLATES:
            raise ValueError(
                f"evaluation.k is {','.join(words)!r}; allowed: different whole numbers of 1 to 1000, such as 5,10,20"
            )
        return numbers


class Selection(Group):
    """How one item is taken from those that match a proposal."""

    name: Literal["random", "critic"] = Field(
        default="random",
        description="random: any matching item with equal chance; critic: the one that the critic values most among "
        "some drawn so",
    )
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


REWARD_GROUP = "what_next.rewards"


def reward_group() -> type[RewardSettings]:
    """The group of all rewards: those above, and those of installed packages under their own names."""
    found = installed(REWARD_GROUP, rewards.Reward, rewards.REWARDS, lambda _, part: part().key.partition(".")[2])
    fields: dict[str, Any] = {name: (kind, kind()) for name, kind in found.items()}
    return create_model("RewardSettings", __base__=RewardSettings, **fields) if fields else RewardSettings


class Inputs(Group):
    """What the encoder reads of an event, and what item vectors are made of."""

    items: Literal["auto", "learned", "attributes", "both"] = Field(
        default="auto",
        description="vectors of the items: learned for each; a linear map of its attributes, so that an item that "
        "comes later can be recommended; or the sum of both. auto: both where items have attributes and at most "
        f"{RARE} training events on average, else learned",
    )
    start: Literal["cooccurrence", "random"] = Field(
        default="cooccurrence",
        description="where learned vectors of items start. cooccurrence: near those of items that stand beside them in "
        "the log; random: anywhere",
    )
    rewards: bool = Field(default=False, description="whether the encoder reads the log's reward of each event")
    gaps: bool = Field(default=False, description="whether the encoder reads the time since the event before")
    context: bool = Field(
        default=False, description="whether the encoder reads all numbers of each event; in a world: what else is seen"
    )
    slates: bool = Field(
        default=False, description="whether an event is a slate that was shown and what was clicked of it: in a world"
    )


class WorldSettings(Group):
    """A world to act in, and how an agent learns and is judged there."""

    name: str | None = Field(
        default=None, description="simulate: the world, and a preset of it: boredom:SlateTopK-Bored-v0"
    )
    ideal: bool = Field(default=False, description="simulate: whether the agent sees what is hidden of the users")
    users: int = Field(default=1024, gt=0, description="simulate: users who are acted on at once in training")
    window: int = Field(default=20, gt=0, description="simulate: slates of each of them that make one experience")
    steps: int = Field(default=2_000_000, gt=0, description="simulate: slates to learn from in all")
    explore: int = Field(
        default=100_000,
        ge=0,
        description="simulate: slates of random items, of those to learn from, whose clicks tell where learned vectors "
        "of items start (`inputs.start`)",
    )
    replay: int = Field(default=300_000, gt=0, description="simulate: slates that are kept to be learned from again")
    reuse: float = Field(default=4.0, gt=0, description="simulate: how often each of those is learned from, on average")
    batch: int = Field(default=2000, gt=0, description="simulate: slates of a step that learns from those")
    epsilon: float = Field(
        default=0.1, ge=0, le=1, description="simulate: chance of any item while values are learned; it falls from 1"
    )
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
    log: Path | None = Field(
        default=None, description="the exported log of a service that holds the decisions; none: data, if it is one"
    )
    weight_cap: float = Field(
        default=10.0,
        ge=1,
        description="largest inverse chance of a shown item in a loss that imitates, over the mean of its batch: less "
        "variance for some bias",
    )


class Cluster(Group):
    """Several processes that train together."""

    name: Literal["ray"] | None = Field(
        default=None, description="train: who starts the processes; none: torchrun, or nobody, and there is one"
    )
    processes: int = Field(default=2, gt=0, description="train: how many of them ray starts")
    restarts: int = Field(
        default=3, ge=0, description="train: how often ray starts them anew from the last save, when one is lost"
    )
    items: Literal["whole", "sharded"] = Field(
        default="whole",
        description="train: whether each process has the vectors of all items, or its share of them: for a catalogue "
        "that does not fit, with a sampled loss over learned vectors",
    )


class Server(Group):
    """The service: where it listens, what it keeps, and how it answers."""

    host: str = Field(default="127.0.0.1", description="serve: the address to listen on; any other needs API keys")
    port: int = Field(default=8000, ge=0, lt=2**16, description="serve: the port to listen on; 0 takes a free one")
    store: Path | None = Field(
        default=None,
        description="serve: the SQLite file with events and impressions; none: beside the agent's file. The "
        "environment variable WHAT_NEXT_STORE, a database's URL, overrides it",
    )
    versions: Path | None = Field(
        default=None, description="serve: the folder of deployed models, for all processes; none: beside the store"
    )
    import_data: bool = Field(
        default=True, description="serve: whether an empty store is filled with the histories of data"
    )
    keys: Literal["auto", "yes"] = Field(
        default="auto", description="serve: whether an API key is needed; auto: on any address but this machine's own"
    )
    deadline: float = Field(
        default=200.0,
        gt=0,
        description="serve: milliseconds that the model has for an answer; after them, popular items are the answer; "
        "a request that would wait for more than half of that is refused",
    )
    batch: int = Field(
        default=64, gt=0, le=1024, description="serve: requests that one pass of the model answers, at most"
    )
    sessions: int = Field(default=100_000, gt=0, description="serve: users whose state is kept in memory")
    search: Literal["exact", "approximate"] = Field(
        default="exact", description="serve: whether all items are scored, or those that an index finds"
    )
    candidates: int = Field(default=1000, gt=0, description="serve: how many items the index finds")
    temperature: float = Field(
        default=0.0,
        ge=0,
        description="serve: of the draw among items where a request does not say; 0 takes the best",
    )
    epsilon: float = Field(
        default=0.0, ge=0, le=1, description="serve: chance of a random item where a request does not say"
    )
    candidate: Path | None = Field(
        default=None, description="serve: the agent's file of a second model, for canary or shadow"
    )
    canary: float = Field(
        default=0.0, ge=0, le=1, description="serve: share of the users that the second model answers"
    )
    shadow: bool = Field(
        default=False, description="serve: whether the second model's answers are recorded beside those that are shown"
    )
    experiment: str | None = Field(
        default=None,
        description="serve: two policies that share the users, such as trained:popular. Each is trained (the deployed "
        "model), popular, random, candidate (server.candidate), or the version of a model that was deployed before",
    )
    experiment_share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="serve: share of the users whom the second one of server.experiment answers",
    )
    popular_every: float = Field(default=600.0, gt=0, description="serve: seconds until popular items are counted anew")
    body: int = Field(default=1_048_576, gt=0, description="serve: bytes of a request, at most")
    rate: int = Field(
        default=1000,
        ge=0,
        description="serve: what one caller may ask in a second, at most, by its cost: 1 for a question of ten "
        "items or an event; 0: no limit",
    )
    connections: int = Field(default=4096, gt=0, description="serve: connections that are open at once, at most")
    loading: float = Field(default=300.0, gt=0, description="serve: seconds that a version may take to be loaded")
    timeout: float = Field(default=10.0, gt=0, description="serve: seconds that a request may take")
    log_ids: Literal["none", "hashed"] = Field(
        default="none", description="serve: how log lines name a user: not at all, or by a hash"
    )

    @model_validator(mode="after")
    def _fitting(self) -> "Server":
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"server.temperature is {self.temperature:g}; allowed: 0, which takes the best, or at least "
                f"{LEAST_TEMPERATURE:g}"
            )
        if self.temperature and self.epsilon:
            raise ValueError(
                f"server.temperature and server.epsilon are {self.temperature:g} and {self.epsilon:g}; allowed: one of "
                "them above 0"
            )
        if self.candidate is None and (self.canary or self.shadow):
            raise ValueError(
                "server.canary or server.shadow is set without server.candidate; allowed: with its agent's file"
            )
        if self.experiment is not None:
            self._check_experiment(self.experiment)
        if self.store is not None and ":/" in self.store.as_posix():
            raise ValueError(
                "server.store is a URL; allowed: the path of a SQLite file. The URL of a database, which may hold a "
                "password, goes into the environment variable WHAT_NEXT_STORE"
            )
        return self

    def _check_experiment(self, experiment: str) -> None:
        arms = experiment.split(":")
        if len(arms) != 2 or arms[0] == arms[1] or not all(ARM.fullmatch(arm) for arm in arms):
            raise ValueError(
                f"server.experiment is {experiment!r}; allowed: two different ones of trained, popular, random, "
                "candidate and the names of versions, with a colon between them, as trained:popular"
            )
        if not {*arms} & {*POLICIES}:
            raise ValueError(
                f"server.experiment is {experiment!r}; allowed: one version, or candidate, beside trained, popular or "
                "random, since one model is loaded beside the deployed one"
            )
        if "candidate" in arms and self.candidate is None:
            raise ValueError(
                "server.experiment names candidate without server.candidate; allowed: with its agent's file"
            )
        if self.tried is not None and self.candidate is not None:
            raise ValueError(
                f"server.experiment names the version {self.tried} beside server.candidate; allowed: one of them, "
                "since one model is loaded beside the deployed one"
            )
        if self.canary:
            raise ValueError(
                "server.experiment and server.canary are both set; allowed: one of them, since both share the users"
            )

    @property
    def arms(self) -> tuple[str, str] | None:
        """The two policies of the experiment; None: there is none."""
        if self.experiment is None:
            return None
        first, _, second = self.experiment.partition(":")
        return first, second

    @property
    def tried(self) -> str | None:
        """The version that the experiment names; None: none."""
        return next((arm for arm in self.arms or () if arm not in (*POLICIES, "candidate")), None)

    @property
    def needs_keys(self) -> bool:
        """Whether a request needs an API key."""
        return self.keys == "yes" or self.host not in LOOPBACK


class Loop(Group):
    """Learning from the service's own log, and deploying what is better: when, how, and within which limits."""

    every: float = Field(
        default=86_400.0, gt=0, description="loop: seconds from one round to the next, where there is anything new"
    )
    feedback: int = Field(
        default=100_000, gt=0, description="loop: so many new events and feedback begin a round before its time"
    )
    least: int = Field(default=1, gt=0, description="loop: new events and feedback that a round needs")
    look: float = Field(
        default=60.0,
        gt=0,
        description="loop: seconds between two looks at the store; serve: at what an experiment earned",
    )
    fresh: int = Field(
        default=7,
        ge=0,
        description="loop: each so many rounds training starts from nothing; else from the deployed model; 0: never",
    )
    passes: int | None = Field(
        default=None,
        gt=0,
        description="loop: passes over the log where training starts from the deployed model; none: as without",
    )
    held_out: float = Field(
        default=0.2, gt=0, lt=1, description="loop: share of the users whom no model learns from, and who judge it"
    )
    seconds: float = Field(default=3600.0, gt=0, description="loop: of training in a round, at most")
    threads: int = Field(default=1, gt=0, le=1024, description="loop: processor threads, beside those of the service")
    nice: int = Field(default=10, ge=0, le=19, description="loop: how far its process stands back for others")
    shadow: int = Field(
        default=100, ge=0, description="loop: answers of a new model that nobody sees, before anybody does; 0: none"
    )
    canary: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="loop: share of the users whom a new model answers before it is deployed, and the model before it "
        "afterwards; 0: the log alone decides",
    )
    answers: int = Field(
        default=10_000, gt=0, description="loop: answers after which a canary is over, whether or not they decide"
    )
    patience: float = Field(
        default=604_800.0, gt=0, description="loop: seconds after which shadow and canary are over in any case"
    )
    ceiling: float | None = Field(
        default=None,
        gt=0,
        description="loop: what a canary may have cost, in the reward's unit, by the means until then; none: any",
    )
    margin: float = Field(default=0.0, ge=0, description="loop: how much more a new model must earn, for an answer")
    estimator: str | None = Field(
        default=None,
        description="loop: the estimate that the log judges by, such as item_snips; none: cascade_snips, or snips of "
        "single items",
    )
    top: int | None = Field(
        default=None, gt=0, description="loop: positions of each answer that the log judges by, from above; none: all"
    )
    exploration: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="loop: mean chance that something else than the shown item had, below which a log teaches nothing",
    )
    drift: float = Field(
        default=0.002, ge=0, lt=1, description="loop: chance of a false alarm of the drift detector (ADWIN); 0: none"
    )
    keep: int = Field(default=5, gt=1, description="loop: versions that stay on the disk, the deployed one among them")
