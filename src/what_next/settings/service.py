"""The settings of the service, and of the loop that learns from its log."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from what_next.settings.groups import Group

LEAST_TEMPERATURE = 1e-3
"""Below, scores over the temperature are more than numbers can hold; 0 takes the best."""
HISTORY = 1000
"""Item ids of the history that a request brings, at most."""
POLICIES = ("trained", "popular", "random")
"""Arms of an experiment that need no second model."""
VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
"""What a run or a version of a model may be called, and so an arm: a path must not come of it."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that nobody reaches from another machine."""


class Server(Group):
    """The service: where it listens, what it keeps, and how it answers."""

    host: str = Field(default="127.0.0.1", description="serve: the address to listen on; any other needs API keys")
    port: int = Field(default=8000, ge=0, lt=2**16, description="serve: the port to listen on; 0 takes a free one")
    store: Path | None = None
    """serve: the SQLite file with events and impressions; none: beside the agent's file. The environment variable
    WHAT_NEXT_STORE, a database's URL, overrides it"""
    versions: Path | None = None
    """serve: the folder of deployed models, for all processes; none: beside the store"""
    import_data: bool = True
    """serve: whether an empty store is filled with the histories of data"""
    keys: Literal["auto", "yes"] = "auto"
    """serve: whether an API key is needed; auto: on any address but this machine's own"""
    deadline: float = Field(default=200.0, gt=0)
    """serve: milliseconds that the model has for an answer; after them, popular items are the answer; a request that
    would wait for more than half of that is refused"""
    batch: int = Field(default=64, gt=0, le=1024)
    """serve: requests that one pass of the model answers, at most"""
    sessions: int = Field(default=100_000, gt=0, description="serve: users whose state is kept in memory")
    search: Literal["exact", "approximate"] = "exact"
    """serve: whether all items are scored, or those that an index finds"""
    candidates: int = Field(default=1000, gt=0, description="serve: how many items the index finds")
    temperature: float = Field(default=0.0, ge=0)
    """serve: of the draw among items where a request does not say; 0 takes the best"""
    epsilon: float = Field(default=0.0, ge=0, le=1)
    """serve: chance of a random item where a request does not say"""
    candidate: Path | None = None
    """serve: the agent's file of a second model, for canary or shadow"""
    canary: float = Field(default=0.0, ge=0, le=1)
    """serve: share of the users that the second model answers"""
    shadow: bool = False
    """serve: whether the second model's answers are recorded beside those that are shown"""
    experiment: str | None = None
    """serve: two policies that share the users, such as trained:popular. Each is trained (the deployed model), popular,
    random, candidate (server.candidate), or the version of a model that was deployed before"""
    experiment_share: float = Field(default=0.5, gt=0, lt=1)
    """serve: share of the users whom the second one of server.experiment answers"""
    popular_every: float = Field(default=600.0, gt=0, description="serve: seconds until popular items are counted anew")
    body: int = Field(default=1_048_576, gt=0, description="serve: bytes of a request, at most")
    rate: int = Field(default=1000, ge=0)
    """serve: what one caller may ask in a second, at most, by its cost: 1 for a question of ten items or an event; 0:
    no limit"""
    connections: int = Field(default=4096, gt=0, description="serve: connections that are open at once, at most")
    loading: float = Field(default=300.0, gt=0, description="serve: seconds that a version may take to be loaded")
    timeout: float = Field(default=10.0, gt=0, description="serve: seconds that a request may take")
    log_ids: Literal["none", "hashed"] = "none"
    """serve: how log lines name a user: not at all, or by a hash"""

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
        if len(arms) != 2 or arms[0] == arms[1] or not all(VERSION.fullmatch(arm) for arm in arms):
            raise ValueError(
                f"server.experiment is {experiment!r:.80}; allowed: two different ones of trained, popular, random, "
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

    every: float = Field(default=86_400.0, gt=0)
    """loop: seconds from one round to the next, where there is anything new"""
    feedback: int = Field(default=100_000, gt=0)
    """loop: so many new events and feedback begin a round before its time"""
    least: int = Field(default=1, gt=0, description="loop: new events and feedback that a round needs")
    look: float = Field(default=60.0, gt=0, le=1e9)
    """loop: seconds between two looks at the store; serve: at what an experiment earned"""
    fresh: int = Field(default=7, ge=0)
    """loop: each so many rounds training starts from nothing; else from the deployed model; 0: never"""
    passes: int | None = Field(default=None, gt=0)
    """loop: passes over the log where training starts from the deployed model; none: as without"""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """loop: share of the users whom no model learns from, and who judge it"""
    seconds: float = Field(default=3600.0, gt=0, description="loop: of training in a round, at most")
    threads: int = Field(default=1, gt=0, le=1024, description="loop: processor threads, beside those of the service")
    nice: int = Field(default=10, ge=0, le=19, description="loop: how far its process stands back for others")
    shadow: int = Field(default=100, ge=0)
    """loop: answers of a new model that nobody sees, before anybody does; 0: none"""
    canary: float = Field(default=0.1, ge=0, lt=1)
    """loop: share of the users whom a new model answers before it is deployed, and the model before it afterwards; 0:
    the log alone decides"""
    answers: int = Field(default=10_000, gt=0)
    """loop: answers after which a canary is over, whether or not they decide"""
    patience: float = Field(default=604_800.0, gt=0)
    """loop: seconds after which shadow and canary are over in any case"""
    ceiling: float | None = Field(default=None, gt=0)
    """loop: what a canary may have cost, in the reward's unit, by the means until then; none: any"""
    margin: float = Field(default=0.0, ge=0, description="loop: how much more a new model must earn, for an answer")
    estimator: str | None = None
    """loop: the estimate that the log judges by, such as item_snips; none: cascade_snips, or snips of single items"""
    top: int | None = Field(default=None, gt=0)
    """loop: positions of each answer that the log judges by, from above; none: all"""
    exploration: float = Field(default=0.01, ge=0, le=1)
    """loop: mean chance that something else than the shown item had, below which a log teaches nothing"""
    drift: float = Field(default=0.002, ge=0, lt=1)
    """loop: chance of a false alarm in each of the many comparisons of the drift detector (ADWIN); 0: none"""
    keep: int = Field(default=5, gt=1, description="loop: versions that stay on the disk, the deployed one among them")
