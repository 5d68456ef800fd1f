"""One transaction: writes of all kinds, put into the database together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from what_next.serving.store import loading, scrubbing, tables
from what_next.serving.store.answers import Answers
from what_next.serving.store.backend import Backend, Link, alone
from what_next.serving.store.fitness import unfit
from what_next.serving.store.histories import Histories
from what_next.serving.store.items import Items
from what_next.serving.store.writes import (
    AddEvents,
    AddFeedback,
    AddImpression,
    AddItems,
    Conflict,
    Deploy,
    Erased,
    EraseUser,
    EventsAdded,
    MarkShown,
    Outcome,
    WithdrawItem,
    Write,
)

Results = list[Outcome | Exception]


class Transaction:
    """What one transaction writes; the caller begins and commits it.

    Locks are taken in one order (users by id, then items, withdrawn ones, answers, deployments; before all of them an
    erasure's on the filling of the store), so that two processes seldom wait for one another in a circle; where they
    do, PostgreSQL ends one of them, which is then tried anew.
    """

    def __init__(self, backend: Backend, link: Link, now: int) -> None:
        self.backend, self.link, self.now = backend, link, now
        self.histories = Histories(backend, link, now)
        self.answers = Answers(backend, link, now)
        self.items = Items(backend, link, now)
        self.put: dict[type[Any], Callable[[list[Any]], Sequence[Outcome | Exception]]] = {
            AddEvents: self.add_events,
            AddItems: self.items.add,
            WithdrawItem: self.items.withdraw,
            AddImpression: self.answers.add,
            MarkShown: self.answers.mark_shown,
            AddFeedback: self.answers.add_feedback,
            Deploy: self.deploy,
        }

    def apply(self, writes: Sequence[Write]) -> Results:
        """Put all writes in; an outcome is an exception where that write alone is refused."""
        results: Results = [unfit(write, self.now) for write in writes]
        start = 0
        for place, write in enumerate(writes):
            # Writes of the other kinds may change places with one another; an erasure parts before from after.
            if isinstance(write, EraseUser) and results[place] is None:
                self._together(writes, results, range(start, place))
                results[place] = self.erase(write.user_id)
                start = place + 1
        self._together(writes, results, range(start, len(writes)))
        return results

    def _together(self, writes: Sequence[Write], results: Results, places: range) -> None:
        groups: dict[type[Any], list[int]] = {}
        for place in places:
            if results[place] is None:
                groups.setdefault(type(writes[place]), []).append(place)
        for kind, function in self.put.items():
            if chosen := groups.get(kind):
                for place, outcome in zip(chosen, function([writes[place] for place in chosen]), strict=True):
                    results[place] = outcome

    def erase(self, user_id: str) -> Erased:
        """Remove a person."""
        loading.hold(self.backend, self.link)
        events = self.histories.erase(user_id)
        impressions, feedback = self.answers.erase(user_id)
        if self.backend.sqlite and (events is not None or impressions):
            scrubbing.mark(self.backend, self.link)
        return Erased(events or 0, impressions, feedback)

    def add_events(self, writes: list[AddEvents]) -> Sequence[EventsAdded | Conflict]:
        """Events; those that name an answer are held against it, and the others cost nothing more."""
        results = self.histories.add(writes)
        named = [[row for row in write.events if row.recommendation_id is not None] for write in writes]
        if not any(named):
            return results
        unmatched = self.answers.unmatched([row for rows in named for row in rows])
        return [
            replace(one, unmatched=tuple(row.event_id for row in rows if row.event_id in unmatched - {*one.erased}))
            if isinstance(one, EventsAdded)
            else one
            for one, rows in zip(results, named, strict=True)
        ]

    def deploy(self, writes: list[Deploy]) -> list[int]:
        """Versions of the model, numbered on; what answers already keeps its number."""
        alone(self.backend, self.link, "deployments")
        newest = "SELECT number, version FROM deployments ORDER BY number DESC LIMIT 1"
        number, version = self.link.execute(newest).fetchone() or (0, None)
        numbers, rows = list[int](), list[tuple[object, ...]]()
        for one in writes:
            if one.version != version:
                number, version = number + 1, one.version
                rows.append((number, version, one.kind, self.now, _json(dict(one.note))))
            numbers.append(number)
        self.backend.insert(self.link, tables.deployments, rows)
        return numbers


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
