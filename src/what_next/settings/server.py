"""The settings of the service: `what-next serve`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from what_next.settings.groups import Group

LEAST_TEMPERATURE = 1e-3
"""Below, scores over the temperature are more than numbers can hold; 0 takes the best."""
HISTORY = 1000
"""Item ids of the history that a request brings, at most."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that nobody reaches from another machine."""


class Server(Group):
    """The service: where it listens, what it keeps, and how it answers."""

    host: str = Field(default="127.0.0.1", description="serve: the address to listen on; any other needs API keys")
    port: int = Field(default=8000, ge=0, lt=2**16, description="serve: the port to listen on; 0 takes a free one")
    store: Path | None = Field(
        default=None,
        description="serve: the SQLite file with events and impressions; none: beside the agent's file. The "
        "environment variable WHAT_NEXT_STORE, a database's URL, goes before it",
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
        description="serve: milliseconds that the model has for a question, before popular items are the answer; one "
        "that would wait for more than half of that is refused",
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
        if self.store is not None and ":/" in self.store.as_posix():
            raise ValueError(
                "server.store is a URL; allowed: the path of a SQLite file. The URL of a database, which may hold a "
                "password, goes into the environment variable WHAT_NEXT_STORE"
            )
        return self

    @property
    def needs_keys(self) -> bool:
        """Whether a request needs an API key."""
        return self.keys == "yes" or self.host not in LOOPBACK
