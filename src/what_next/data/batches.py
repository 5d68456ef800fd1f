"""Cuts complete histories into windows and batches them by length: all events but a user's first are targets."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Int32, Int64

FINEST = 16
"""Up to this length every length is a batch width."""
GROWTH = 1.02
"""Above `FINEST`, ratio of successive widths; it bounds the padding and the number of shapes."""
FEW = 8
"""Events of padding that any window of a batch may have."""
LEAST = 64
"""Least batches in a pass if their size follows from the targets; otherwise a small log would give too few steps."""
SHARE, TIMES = 0.01, 20
"""A user with more than this share of all events, and more than `TIMES` times the mean, is cut to that many events."""
JITTER = 0.01
"""Relative random change of lengths before sorting, so that batches differ between passes."""


def capped(known: Int[np.ndarray, "users"]) -> Int64[np.ndarray, "users"]:
    """How many events of each user are learned from: all, or only the latest of a user with a large part of the log.

    Such users are shops, bots or broken ids. On a synthetic log of 1,500 users with 2 to 5 events each, and one with
    40,000, `next_item` reached a test NDCG@10 of .293 with all events and of .396 with this cap; `item_knn` .364.
    """
    most = max(SHARE * float(known.sum()), TIMES * float(known.mean())) if len(known) else 0.0
    return np.asarray(np.minimum(known, int(np.ceil(most))), np.int64)


def ranges(starts: Int[np.ndarray, "rows"] | int, counts: Int[np.ndarray, "rows"]) -> Int64[np.ndarray, "places"]:
    """`start, start + 1, ...`, `count` numbers for each row, concatenated: the indices of some users' events."""
    places = np.repeat(starts - counts.cumsum() + counts, counts)
    places += np.arange(len(places))
    return places


class Batches:
    """The windows of all training users, and their order in each pass over them.

    A window has up to `max_length` targets, and starts with the event before the first of them, so neighbouring windows
    share one event. A user's last window is full and the first one takes the remainder, because it starts without any
    history. A user with far too many events has only the latest windows (`capped`). A batch holds windows of similar
    length, with about as many events as `batch_size` average windows.

    Attributes:
        users, starts, lengths: of each window, in events.
        batch_size: the number of average windows in a batch.
        cuts: the index of each batch's first window in a pass, and the end.
    """

    def __init__(
        self,
        users: Int32[np.ndarray, "users"],
        known: Int64[np.ndarray, "users"],
        *,
        max_length: int,
        batch_size: int | None,
        batch_targets: int = 0,
        seed: int,
    ) -> None:
        """For users with at least two known events; `batch_size` None: as many windows as hold `batch_targets`."""
        counts = -(-(capped(known) - 1) // max_length)
        owner = np.repeat(np.arange(len(users)), counts)
        last = known[owner] - 1 - (counts[owner] - 1 - ranges(0, counts)) * max_length  # the window's last event
        self.users, self.seed = users[owner], seed
        self.starts = np.maximum(last - max_length, 0)
        self.lengths = last - self.starts + 1
        targets = float((self.lengths - 1).mean())
        # As many windows as hold the targets, but no more than a share of 1 / LEAST of all windows.
        self.batch_size = batch_size or max(1, round(min(batch_targets / targets, len(self.lengths) / LEAST)))
        self.cuts = _cut(np.sort(self.lengths), round(self.batch_size * float(self.lengths.mean())))
        self._pass = -1

    def __len__(self) -> int:
        """The number of batches in a pass."""
        return len(self.cuts) - 1

    def batch(self, step: int) -> Int64[np.ndarray, "windows"]:
        """The windows of a step, counted from the start of training; deterministic for a seed."""
        passed, index = divmod(step, len(self))
        if passed != self._pass:
            rng = np.random.default_rng([self.seed, passed])
            self._order = np.argsort(self.lengths * rng.normal(1, JITTER, len(self.lengths)), kind="stable")
            self._turns, self._pass = rng.permutation(len(self)), passed
        turn = self._turns[index]
        return self._order[self.cuts[turn] : self.cuts[turn + 1]]


def by_length(
    lengths: Int[np.ndarray, "rows"], most_events: int, most_rows: int
) -> Iterator[Int64[np.ndarray, "some"]]:
    """Indices of rows with similar lengths, the longest first, so that little padding is read.

    Args:
        lengths: of the rows' histories.
        most_events: read at a time, including padding; a single longer row may exceed it.
        most_rows: read at a time.
    """
    order, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(order):
        count = max(1, min(most_rows, most_events // max(1, int(lengths[order[start]]))))
        yield order[start : start + count]
        start += count


def width_of(longest: int) -> int:
    """The padded width of a batch: one of few widths, so that kernels are not built for every length."""
    if longest <= FINEST:
        return longest
    step = np.ceil(np.log(longest / FINEST) / np.log(GROWTH) - 1e-9)
    return max(longest, round(FINEST * float(GROWTH**step)))


def _cut(lengths: Int[np.ndarray, "windows"], events: int) -> Int64[np.ndarray, "cuts"]:
    """The starts of batches of at most `events` events, shortest first; a pass is cut evenly, the longest batch
    first."""
    cuts, end = [len(lengths)], len(lengths)
    while end > 0:
        rows = max(1, events // int(lengths[end - 1]))
        # A batch reaches down to 0.9 of its width, because padding costs as much as events do, and `FEW` events
        # further, because a batch of one short window would be a step with one or two targets.
        # The bound is an integer, so that millions of lengths need not be converted to floats.
        least = int(np.searchsorted(lengths, math.ceil(0.9 * lengths[end - 1] - FEW)))
        end = max(end - rows, min(least, end - 1), 0)
        cuts.append(end)
    return np.array(cuts[::-1])
