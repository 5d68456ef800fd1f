"""Events of a person as a service hears of them, one by one, in the form that networks are given them in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Int32, Int64

from what_next.data.space import CLOCK, DAY, Space
from what_next.types import History


@dataclass(frozen=True)
class Event:
    """One event of a person.

    Attributes:
        item: its position in the catalogue; an item that the catalogue does not hold is no event here.
        time: in microseconds since 1970 UTC; None where it is not known.
        reward: in the log's unit; None where it is not known: the mean of the training events stands for it.
        context: further numbers by their names in the log; the mean stands for a missing one, others are passed over.
    """

    item: int
    time: int | None = None
    reward: float | None = None
    context: Mapping[str, float] | None = None


def numbers_of(space: Space, events: Sequence[Event]) -> Float32[np.ndarray, "events numbers"]:
    """What is known of events besides their items, as `State.histories` gives it; see `Event` for what is missing."""
    numbers = np.empty((len(events), len(space.event_names)), np.float32)
    for place, (name, default) in enumerate(zip(space.event_names, space.event_center.tolist(), strict=True)):
        numbers[:, place] = [_number(event, name, default) for event in events]
    return numbers


def _number(event: Event, name: str, default: float) -> float:
    if name == "reward":
        return default if event.reward is None else event.reward
    if name in CLOCK:
        angle = None if event.time is None else 2 * math.pi * (event.time % DAY) / DAY
        return default if angle is None else math.sin(angle) if name == CLOCK[0] else math.cos(angle)
    return (event.context or {}).get(name, default)


def elapsed(times: Sequence[int | None]) -> Int64[np.ndarray, "time"]:
    """Times from the first event on, in microseconds; where one of two neighbours has none, no time lies between them.

    So the gaps between them are those of the events, and 0 where they are not known.
    """
    return np.cumsum([0, *(gap(old, new) for old, new in pairwise(times))], dtype=np.int64)


def gap(old: int | None, new: int | None) -> int:
    """Microseconds from one event to the next; 0 where they are not known, or the clock went back."""
    return 0 if old is None or new is None else max(new - old, 0)


def history_of(
    space: Space,
    items: Int32[np.ndarray, "batch time"],
    lengths: Int64[np.ndarray, "batch"],
    numbers: Float32[np.ndarray, "batch time numbers"],
) -> History:
    """Events as the networks are given them, of people whom no data set holds."""
    rewarded = "reward" in space.event_names
    return History(
        users=np.full(len(items), -1, np.int32),
        items=items,
        lengths=lengths,
        rewards=numbers[..., 0] if rewarded else np.zeros(items.shape, np.float32),
        context=numbers[..., 1:] if rewarded else numbers,
        sigma=np.full(len(items), np.nan, np.float32),
    )
