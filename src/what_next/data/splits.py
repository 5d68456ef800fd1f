"""Splits: which events training may know, and on which users and events an agent is judged."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32, Int64

from what_next.data.batches import ranges
from what_next.data.dataset import Dataset
from what_next.errors import DataError

Kind = Literal["users", "leave_last_out", "time"]
Part = Literal["validation", "test"]
More = Literal["validation", "all"]
"""The events that a second training adds: those of validation, or all that are left."""
ON: Mapping[More, str] = {"validation": "the events of validation, too", "all": "every event of the log"}
"""The events that a model has learned from after that, in words."""
CHUNK = 2**22
"""Events processed at a time."""


@dataclass(frozen=True, eq=False)
class Split:
    """Each user's events in three parts, in order: training, validation, test; any of them may be empty.

    The targets of validation are the events `known[u]:until[u]` of its users; those of the test, `until[u]:` of its.

    Attributes:
        kind: the method of the split.
        known: for each user, the number of leading events that training may know.
        until: for each user, the number of leading events in training or validation.
        validation: the users with validation targets, ascending; likewise `test`.
        hash: short SHA-256 over the kind and every target (part, user, position, item): same hash, same targets.
    """

    kind: Kind
    known: Int64[np.ndarray, "users"]
    until: Int64[np.ndarray, "users"]
    validation: Int32[np.ndarray, "n"]
    test: Int32[np.ndarray, "m"]
    hash: str

    def cold(self, part: Part) -> Bool[np.ndarray, "judged"]:
        """Which users of a part have no training event; none if the split holds out whole users."""
        users = self.validation if part == "validation" else self.test
        return np.asarray((self.known[users] == 0) & (self.kind != "users"))

    def targets(self, part: Part) -> tuple[Int64[np.ndarray, "users"], Int64[np.ndarray, "users"] | None]:
        """For each user, the start and the end of a part's targets among their events; None: to the last event."""
        return (self.known, self.until) if part == "validation" else (self.until, None)

    def with_more(self, dataset: Dataset, more: More) -> "Split":
        """The same split, but training may know the validation events too, or all events; nothing validates then."""
        nobody = self.validation[:0]
        if more == "validation":
            return _split(dataset, self.kind, self.until, self.until, nobody, self.test)
        return _split(dataset, self.kind, dataset.lengths, dataset.lengths, nobody, nobody)


def split_users(dataset: Dataset, test: float = 0.2, validation: float = 0.1, seed: int = 0) -> Split:
    """Hold out whole users: training knows none of their events, and all of their events are targets.

    Args:
        test: the share of users for the test, between 0 and 1; at least one user.
        validation: the share for validation; at least one user, or none at 0.
        seed: of the draw of users.

    Raises:
        DataError: no user would be left for training.
    """
    counts = [max(1, round(share * dataset.users)) if share else 0 for share in (test, validation)]
    if min(test, validation) < 0 or sum(counts) >= max(1, dataset.users):
        raise DataError(
            f"{dataset.name}: {dataset.users} users cannot be split into {test:g} for the test, {validation:g} for "
            "validation and the rest for training; take smaller shares"
        )
    shuffled = np.random.default_rng(seed).permutation(dataset.users).astype(np.int32)
    tested, validated = np.sort(shuffled[: counts[0]]), np.sort(shuffled[counts[0] : sum(counts)])
    known, until = dataset.lengths.copy(), dataset.lengths.copy()
    known[tested] = known[validated] = until[tested] = 0
    return _split(dataset, "users", known, until, validated, tested)


def split_leave_last_out(dataset: Dataset) -> Split:
    """Each user's last event is for the test and the one before for validation; users with fewer than 3 only train.

    Raises:
        DataError: no user has three events.
    """
    judged = np.flatnonzero(dataset.lengths >= 3).astype(np.int32)
    if not len(judged):
        raise DataError(
            f"{dataset.name}: no user has three events, so none can be left out; "
            + advised(dataset, "split by users (`split, users`)")
        )
    known, until = dataset.lengths.copy(), dataset.lengths.copy()
    known[judged] -= 2
    until[judged] -= 1
    return _split(dataset, "leave_last_out", known, until, judged, judged)


def advised(dataset: Dataset, advice: str) -> str:
    """Advice about histories that are too short; `advice`, unless every user has a single event."""
    if dataset.events > dataset.users:
        return advice
    return "every user has one, so nothing came next: name another column as the user (--user), such as the session"


def split_time(dataset: Dataset, quantile: float = 0.9, moment: datetime | None = None) -> Split:
    """Events after one moment are for the test, and as many before it for validation, so that no model sees the future.

    Users whose first event came later are judged, too: `cold` returns them.

    Args:
        quantile: the share of all events before the test begins, in (0.5, 1); events at its very time are in the test.
        moment: when the test begins, instead (UTC if it has no time zone).

    Raises:
        DataError: there are no times, too many or no events come after the moment, no test user has two events, or no
            event comes before validation.
    """
    times, cut = dataset.timestamps, None if moment is None else _microseconds(moment)
    if times is None:
        raise DataError(f"{dataset.name}: a split by time needs times; set `split, users` or `split, leave_last_out`")
    share = quantile if cut is None else _below(times, cut) / len(times)
    if not 0.5 < share < 1:
        told = f"the split's quantile is {quantile:g}; it must lie between 0.5 and 1"
        if moment is not None:
            told = (
                f"{share:.0%} of the events come before {moment:%Y-%m-%d %H:%M}; the test must begin after more than "
                "half of them, and before the last; take another date"
            )
        raise DataError(f"{dataset.name}: {told}")
    second = int(share * dataset.events + 1e-9)  # guards against rounding: .7 of ten events are seven
    first = _smallest(times, max(0, 2 * second - dataset.events))
    known, until = (_before(dataset, times, one) for one in (first, _smallest(times, second) if cut is None else cut))
    validated = np.flatnonzero(until > known).astype(np.int32)
    tested = np.flatnonzero(dataset.lengths > until).astype(np.int32)
    if not (dataset.lengths[tested] > 1).any():
        raise DataError(
            f"{dataset.name}: who has an event after the cut has no other one, so nothing came next; set an earlier "
            "`split.date` or a smaller `split.quantile`"
        )
    if not known.any():
        raise DataError(
            f"{dataset.name}: no event comes before validation, so nothing can be learned; set a later `split.date` or "
            "a larger `split.quantile`"
        )
    return _split(dataset, "time", known, until, validated, tested)


def _microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1e6)


def _below(times: Int64[np.ndarray, "events"], cut: int) -> int:
    """The number of times before `cut`."""
    return sum(int(np.count_nonzero(times[start : start + CHUNK] < cut)) for start in range(0, len(times), CHUNK))


def _smallest(times: Int64[np.ndarray, "events"], place: int) -> int:
    """`np.sort(times)[place]` by bisection, because a log may be larger than memory."""
    low, high = int(times.min()), int(times.max())
    while low < high:  # finds the largest cut with at most `place` times before it
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _below(times, middle) <= place else (low, middle - 1)
    return low


def _before(dataset: Dataset, times: Int64[np.ndarray, "events"], cut: int) -> Int64[np.ndarray, "users"]:
    """The number of each user's events before `cut`; each user's times ascend."""
    low, high = dataset.offsets[:-1].copy(), dataset.offsets[1:].copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        early = open_.copy()
        early[open_] = times[middle[open_]] < cut
        low, high = np.where(early, middle + 1, low), np.where(open_ & ~early, middle, high)
    return np.asarray(low - dataset.offsets[:-1])


def _split(
    dataset: Dataset,
    kind: Kind,
    known: Int64[np.ndarray, "users"],
    until: Int64[np.ndarray, "users"],
    validation: Int32[np.ndarray, "n"],
    test: Int32[np.ndarray, "m"],
) -> Split:
    digest = hashlib.sha256(kind.encode())
    for users, start, stop in ((validation, known, until), (test, until, dataset.lengths)):
        counts = (stop - start)[users]
        digest.update(int(counts.sum()).to_bytes(8, "little"))
        # Hashes all users, then all positions, then all items; a part of the users at a time.
        parts = np.array_split(np.arange(len(users)), int(counts.sum()) // CHUNK + 1)
        for column in range(3):
            for part in parts:
                owners = np.repeat(users[part].astype(np.int64), counts[part])
                places = ranges(start[users[part]], counts[part])
                items = dataset.items[dataset.offsets[owners] + places]
                digest.update((owners, places, items)[column].astype("<i8").tobytes())
    return Split(kind, known, until, validation, test, digest.hexdigest()[:16])
