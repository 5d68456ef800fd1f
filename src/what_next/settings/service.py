"""The settings of the service and of the loop that retrains from its log."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from what_next.settings.groups import Group

LEAST_TEMPERATURE = 1e-3
"""Lowest positive temperature: below, scores divided by it overflow. 0 takes the best item."""
HISTORY = 1000
"""Most item ids in the history of a request."""
POLICIES = ("trained", "popular", "random")
"""Arms of an experiment that need no second model."""
VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
"""Allowed names of runs and versions of models, and so of arms: they become file names, so path separators are out."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that other machines cannot reach."""


class Server(Group):
    """The service: where it listens, what it keeps, and how it answers."""

    host: str = Field(default="127.0.0.1", description="serve: the address to listen on; any other needs API keys")
    port: int = Field(default=8000, ge=0, lt=2**16, description="serve: the port to listen on; 0 picks a free one")
    store: Path | None = None
    """serve: the SQLite file with events and impressions; none: beside the agent's file. The environment variable
    WHAT_NEXT_STORE, a database's URL, overrides it"""
    versions: Path | None = None
    """serve: the folder of deployed models, shared by all processes; none: beside the store"""
    import_data: bool = True
    """serve: whether an empty store is filled with the histories of data"""
    keys: Literal["auto", "yes"] = "auto"
    """serve: whether requests need an API key; auto: unless the address is this machine's own (loopback)"""
    deadline: float = Field(default=200.0, gt=0)
    """serve: milliseconds that the model has for an answer; after them, popular items are the answer. A request that
    would wait for more than half of that is refused"""
    batch: int = Field(default=64, gt=0, le=1024)
    """serve: most requests that one pass of the model answers"""
    sessions: int = Field(default=100_000, gt=0, description="serve: users whose state is kept in memory")
    search: Literal["exact", "approximate"] = "exact"
    """serve: exact scores all items; approximate scores the candidates that an index finds"""
    candidates: int = Field(default=1000, gt=0, description="serve: number of candidates that the index finds")
    temperature: float = Field(default=0.0, ge=0)
    """serve: temperature of the draw among items, unless a request gives one; 0 takes the best"""
    epsilon: float = Field(default=0.0, ge=0, le=1)
    """serve: chance of a random item, unless a request gives one"""
    candidate: Path | None = None
    """serve: the agent's file of a second model, for canary or shadow"""
    canary: float = Field(default=0.0, ge=0, le=1)
    """serve: share of users for whom the second model answers"""
    shadow: bool = False
    """serve: whether the second model's answers are logged beside the ones that are shown"""
    experiment: str | None = None
    """serve: two policies to compare on two groups of users, such as trained:popular. Each is trained (the deployed
    model), popular, random, candidate (server.candidate), or a version of a model that was deployed before"""
    experiment_share: float = Field(default=0.5, gt=0, lt=1)
    """serve: share of users for whom the second policy of server.experiment answers"""
    popular_every: float = Field(default=600.0, gt=0, description="serve: seconds between recounts of popular items")
    body: int = Field(default=1_048_576, gt=0, description="serve: largest request, in bytes")
    rate: int = Field(default=1000, ge=0)
    """serve: rate limit of one caller, in cost per second: a request for ten items costs 1, an event costs 1; 0: no
    limit"""
    connections: int = Field(default=4096, gt=0, description="serve: most connections open at once")
    loading: float = Field(default=300.0, gt=0, description="serve: seconds allowed to load a version")
    timeout: float = Field(default=10.0, gt=0, description="serve: seconds allowed for a request")
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
        """The two policies of the experiment; None without one."""
        if self.experiment is None:
            return None
        first, _, second = self.experiment.partition(":")
        return first, second

    @property
    def tried(self) -> str | None:
        """The version that the experiment names; None if it names none."""
        return next((arm for arm in self.arms or () if arm not in (*POLICIES, "candidate")), None)

    @property
    def needs_keys(self) -> bool:
        """Whether a request needs an API key."""
        return self.keys == "yes" or self.host not in LOOPBACK


class Loop(Group):
    """Retraining from the service's own log, and deploying the new model if it is better: when, how, and the limits."""

    every: float = Field(default=86_400.0, gt=0)
    """loop: seconds between rounds, if there is anything new"""
    feedback: int = Field(default=100_000, gt=0)
    """loop: this many new events and feedback start a round early"""
    least: int = Field(default=1, gt=0, description="loop: fewest new events and feedback for a round")
    look: float = Field(default=60.0, gt=0, le=1e9)
    """loop: seconds between polls of the store; serve: between polls of an experiment's rewards"""
    fresh: int = Field(default=7, ge=0)
    """loop: every this many rounds training starts from scratch, otherwise from the deployed model; 0: never"""
    passes: int | None = Field(default=None, gt=0)
    """loop: passes over the log when training starts from the deployed model; none: as many as from scratch"""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """loop: share of users held out from training of all models, with whom they are judged"""
    seconds: float = Field(default=3600.0, gt=0, description="loop: longest training in a round")
    threads: int = Field(default=1, gt=0, le=1024, description="loop: processor threads, beside those of the service")
    nice: int = Field(default=10, ge=0, le=19, description="loop: niceness of its process; higher yields more")
    shadow: int = Field(default=100, ge=0)
    """loop: answers of a new model that are computed but not shown, before a canary; 0: none"""
    canary: float = Field(default=0.1, ge=0, lt=1)
    """loop: share of users for whom a new model answers before it is deployed, and the previous model afterwards; 0:
    the log alone decides"""
    answers: int = Field(default=10_000, gt=0)
    """loop: answers after which a canary ends, decided or not"""
    patience: float = Field(default=604_800.0, gt=0)
    """loop: seconds after which shadow and canary end, decided or not"""
    ceiling: float | None = Field(default=None, gt=0)
    """loop: a canary ends when it has cost this much, in the reward's unit, by the means so far; none: no limit"""
    margin: float = Field(default=0.0, ge=0, description="loop: how much more a new model must earn per answer")
    estimator: str | None = None
    """loop: the estimator for judging on the log, such as item_snips; none: cascade_snips, or snips of single items"""
    top: int | None = Field(default=None, gt=0)
    """loop: the estimator reads this many positions from the top of each answer; none: all"""
    exploration: float = Field(default=0.01, ge=0, le=1)
    """loop: least mean probability of showing an item other than the shown one; a log below it teaches nothing"""
    drift: float = Field(default=0.002, ge=0, lt=1)
    """loop: false-alarm probability of each of the many comparisons of the drift detector (ADWIN); 0: no detector"""
    keep: int = Field(default=5, gt=1, description="loop: versions kept on disk, including the deployed one")
