"""What no store takes, told before anything is written: the two databases differ in what they let through."""

from collections.abc import Mapping
from math import isfinite

from what_next.serving.store.writes import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    EraseUser,
    EventRow,
    FeedbackRow,
    ItemRow,
    Unfit,
    WithdrawItem,
    Write,
)

AHEAD = 24 * 3600 * 1_000_000
"""Microseconds that a client's time may be ahead of the store's clock. One of next year would stay the latest of its
user for a year: all that really follows would count as older."""


def unfit(write: Write, now: int) -> Unfit | None:
    """Why a write cannot be stored; None: it can.

    Args:
        write: with its rows.
        now: the store's clock, in microseconds since 1970 UTC.
    """
    try:
        if isinstance(write, AddImpression):
            _impression(write)
        elif isinstance(write, AddEvents):
            for place, event in enumerate(write.events):
                _event(place, event, now)
        elif isinstance(write, AddFeedback):
            for place, row in enumerate(write.rows):
                _feedback(place, row, now)
        elif isinstance(write, AddItems):
            for place, item in enumerate(write.items):
                _item(place, item)
        elif isinstance(write, EraseUser):
            _user(0, write.user_id)
        elif isinstance(write, WithdrawItem):
            _text(0, "item_id", write.item_id)
    except Unfit as found:
        return found
    return None


def _impression(write: AddImpression) -> None:
    _text(0, "recommendation_id", write.recommendation_id)
    if write.user_id is not None:
        _user(0, write.user_id)


def _event(place: int, row: EventRow, now: int) -> None:
    _text(place, "event_id", row.event_id)
    _user(place, row.user_id)
    _text(place, "item_id", row.item_id)
    _text(place, "kind", row.kind)
    if row.recommendation_id is not None:
        _text(place, "recommendation_id", row.recommendation_id)
    if row.time is not None:
        _time(place, row.time, now)
    if row.reward is not None:
        _number(place, "reward", row.reward)
    if row.context is not None:
        _numbers(place, "context", row.context)


def _feedback(place: int, row: FeedbackRow, now: int) -> None:
    _text(place, "feedback_id", row.feedback_id)
    _text(place, "recommendation_id", row.recommendation_id)
    _text(place, "item_id", row.item_id)
    _number(place, "reward", row.reward)
    if row.time is not None:
        _time(place, row.time, now)


def _item(place: int, row: ItemRow) -> None:
    _text(place, "item_id", row.item_id)
    if row.title:
        _text(place, "title", row.title)
    _numbers(place, "attributes", row.attributes)


def _user(place: int, user_id: str) -> None:
    _text(place, "user_id", user_id)
    if user_id.isspace():
        raise Unfit(place, "user_id", "is blank")


def _text(place: int, field: str, value: str) -> None:
    if not value:
        raise Unfit(place, field, "is empty")
    if "\0" in value:
        raise Unfit(place, field, "holds the character NUL")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit(place, field, "holds half a character (a lone surrogate)") from None


def _time(place: int, time: int, now: int) -> None:
    if time > now + AHEAD:
        raise Unfit(place, "time", "is more than a day ahead of the clock here")
    if time < -(2**63):
        raise Unfit(place, "time", "is before all times")


def _number(place: int, field: str, value: float) -> None:
    if not isfinite(value):
        raise Unfit(place, field, f"is {value}, not a finite number")


def _numbers(place: int, field: str, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        _number(place, f"{field}.{name}", value)
