"""The logged reward: the log's own number for an event."""

from math import inf
from typing import Annotated

import numpy as np
from jaxtyping import Float, Float32, Int
from pydantic import Field, model_validator
from torch import Tensor

from what_next.data import Dataset
from what_next.errors import SetupError, some
from what_next.rewards.base import Events, Reward


class Logged(Reward, extra="allow"):
    """The log's reward column, or a number for each word of its event column, such as -1 for skip and 1 for play.

    If the log has no event column, the words are the values of the reward column. Without numbers and without a reward
    column, every event earns 1.
    """

    __pydantic_extra__: dict[
        str,
        Annotated[
            float | None,
            Field(
                description="the reward of an event of the kind WORD, in place of the log's: a key for every word of "
                "the event column (of the reward column, if there is none)"
            ),
        ],
    ]
    weight: float | None = Field(
        default=None,
        description="weight of the log's own reward in the sum that an algorithm which learns from the log earns; "
        "none: 1 if no other reward has a weight, or if some word has a number; otherwise it does not count",
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: object) -> object:
        """Drop words whose number is None."""
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data

    @property
    def numbers(self) -> dict[str, float]:
        """The number of each word; words without white space and in lower case, like all keys."""
        return {_plain(word): number for word, number in (self.__pydantic_extra__ or {}).items() if number is not None}

    @property
    def range(self) -> tuple[float, float]:
        """From the lowest number of a word to the highest; unbounded without numbers."""
        return (min(self.numbers.values()), max(self.numbers.values())) if self.numbers else (-inf, inf)

    def of(self, events: Events) -> Float[Tensor, "batch time"]:
        """See `Reward.of`."""
        return events.rewards * events.real

    def check(self, dataset: Dataset) -> None:
        """Raise a `SetupError` if an event word of the data has no number."""
        if self.numbers:
            words, _ = _words(dataset)
            self._refuse(words, dataset.name)

    def of_events(self, dataset: Dataset) -> Float32[np.ndarray, "events"]:
        """The logged reward of every event of a data set.

        Raises:
            SetupError: an event word of the data has no number.
        """
        if not self.numbers:
            # Ones that take no memory.
            one = np.broadcast_to(np.float32(1), dataset.events)
            return one if dataset.rewards is None else dataset.rewards
        words, codes = _words(dataset)
        self._refuse(words, dataset.name)
        return np.take(np.array([self.numbers[_plain(word)] for word in words], np.float32), codes)

    def _refuse(self, words: tuple[str, ...], name: str) -> None:
        if not words:
            raise SetupError(
                f"reward.logged has numbers for {', '.join(self.numbers)}, and {name} has no column of words; import "
                "the data with --event COLUMN"
            )
        if missing := [word for word in words if _plain(word) not in self.numbers]:
            raise SetupError(
                f"reward.logged has no number for {missing[0]!r}; the events of {name} are "
                f"{some(words)}; add reward.logged.{_plain(missing[0])}, or leave all words out"
            )


def _words(dataset: Dataset) -> tuple[tuple[str, ...], Int[np.ndarray, "events"]]:
    """The words of the events, and for each event the position of its word."""
    if dataset.event_codes is not None:
        return dataset.event_words, dataset.event_codes
    if dataset.rewards is None:
        return (), np.empty(0, np.int64)
    values, codes = np.unique(dataset.rewards, return_inverse=True)
    return tuple(f"{value:g}" for value in values), codes


def _plain(word: str) -> str:
    return "".join(word.split()).lower()
