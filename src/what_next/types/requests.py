"""Requests for items, slates, and the policies between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64
from torch import Tensor
from typing_extensions import TypeVar  # of Python 3.13: with a default

from what_next.types.histories import Factors, History

Score = Callable[[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]], Float[np.ndarray, "pairs"]]
"""Values of pairs (row of the flattened grid of proposals, item): higher is better."""


@dataclass(frozen=True)
class Greedy:
    """The best items; ties go to the lower position in the catalogue."""


@dataclass(frozen=True)
class Softmax:
    """Items drawn one after the other, without replacement, from the softmax of their scores over the temperature.

    A policy without scores draws uniformly among the items that match, at any temperature.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"the temperature is {self.temperature}; it is a finite number above 0 (else: Greedy)")


@dataclass(frozen=True)
class EpsilonGreedy:
    """At each slot the best item that is left or, with probability epsilon, a uniformly drawn one that is left."""

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}; it lies between 0 and 1")


Sampler = Greedy | Softmax | EpsilonGreedy
Random = np.random.Generator | Sequence[np.random.Generator] | None
"""Source of draws: one generator for a batch, or one for each row; None if nothing is drawn."""


@dataclass(frozen=True, eq=False)
class ItemSet:
    """Some items of a catalogue."""

    mask: Bool[np.ndarray, "items"]

    @cached_property
    def places(self) -> Int32[np.ndarray, "members"]:
        """Positions of the members, ascending."""
        return np.flatnonzero(self.mask).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Permitted:
    """Which items may be chosen for each row of a batch: those of its set, minus some excluded ones.

    Attributes:
        sets: one for each row, or a single one for all; None, or no set at all, is the whole catalogue.
        without: excluded items of each row, -1 pads; None: none are excluded.
    """

    sets: tuple[ItemSet | None, ...] = ()
    without: Int32[np.ndarray, "batch width"] | None = None

    @classmethod
    def of(
        cls,
        mask: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None = None,
        without: Int32[np.ndarray, "batch width"] | None = None,
    ) -> "Permitted":
        """From one mask for all rows, or one for each row."""
        if mask is None:
            return cls((), without)
        return cls(tuple(ItemSet(row) for row in (mask[None] if mask.ndim == 1 else mask)), without)

    def set_of(self, row: int) -> ItemSet | None:
        """The set of a row; None: the whole catalogue."""
        return self.sets[row if len(self.sets) > 1 else 0] if self.sets else None

    def rows(self, rows: Int[np.ndarray, "some"]) -> "Permitted":
        """Only some rows."""
        sets = tuple(self.sets[row] for row in rows) if len(self.sets) > 1 else self.sets
        return Permitted(sets, None if self.without is None else self.without[rows])

    def but(self, items: Int32[np.ndarray, "batch more"]) -> "Permitted":
        """With further excluded items; -1 pads."""
        return Permitted(self.sets, items if self.without is None else np.concatenate([self.without, items], axis=1))

    def masks(self) -> list[tuple[int | slice, Bool[np.ndarray, "items"]]]:
        """The masks of the sets, each with the row or rows that it applies to."""
        shared = len(self.sets) == 1
        return [(slice(None) if shared else row, one.mask) for row, one in enumerate(self.sets) if one is not None]

    def mask(self, batch: int, items: int) -> Bool[np.ndarray, "batch items"]:
        """Whether each item may be chosen for each row."""
        found = np.ones((batch, items), np.bool_)
        for those, mask in self.masks():
            found[those] = mask
        if self.without is not None:
            rows, columns = np.nonzero(self.without >= 0)
            found[rows, self.without[rows, columns]] = False
        return found

    def of_row(self, row: int, items: int) -> Bool[np.ndarray, "items"]:
        """The mask of one row."""
        return np.asarray(self.rows(np.array([row])).mask(1, items)[0])

    def allow(self, items: Int[np.ndarray, "batch slots"]) -> Bool[np.ndarray, "batch slots"]:
        """Whether each of some items is permitted for its row."""
        found = items >= 0
        for rows, mask in self.masks():
            found[rows] &= mask[items[rows]]
        if self.without is not None:
            found &= (items[:, :, None] != self.without[:, None]).all(2)
        return found

    def forbid(self, scores: Float[Tensor, "batch items"]) -> None:
        """Set the scores of items that may not be chosen to minus infinity."""
        for those, mask in self.masks():
            scores[those].masked_fill_(torch.from_numpy(~mask).to(scores.device), -torch.inf)
        if self.without is not None:
            rows, places = np.nonzero(self.without >= 0)
            columns = self.without[rows, places].astype(np.int64)
            scores[torch.from_numpy(rows).to(scores.device), torch.from_numpy(columns).to(scores.device)] = -torch.inf


@dataclass(frozen=True, eq=False)
class Request:
    """The number, choice and permitted set of items for a batch of users; each row may differ.

    Attributes:
        slots: number of items, for all rows or for each.
        sampler: how items are chosen, for all rows or for each.
        permitted: which items may be chosen.
        propensities: whether they are needed; a policy may return them anyway if that costs nothing.
    """

    slots: int | Sequence[int] = 1
    sampler: Sampler | Sequence[Sampler] = Greedy()
    permitted: Permitted = Permitted()
    propensities: bool = True

    @property
    def width(self) -> int:
        """The largest number of slots of a row."""
        return self.slots if isinstance(self.slots, int) else max(self.slots, default=1)

    def counts(self, rows: Int[np.ndarray, "some"]) -> Int64[np.ndarray, "some"]:
        """The numbers of items of some rows."""
        return np.full(len(rows), self.slots) if isinstance(self.slots, int) else np.asarray(self.slots, np.int64)[rows]

    def sampler_of(self, row: int) -> Sampler:
        """The sampler of a row."""
        return self.sampler[row] if isinstance(self.sampler, Sequence) else self.sampler

    def drawn(self, rows: Int[np.ndarray, "some"]) -> Bool[np.ndarray, "some"]:
        """Which of some rows are drawn from a softmax."""
        if not isinstance(self.sampler, Sequence):
            return np.full(len(rows), isinstance(self.sampler, Softmax))
        return np.array([isinstance(self.sampler[row], Softmax) for row in rows.tolist()], np.bool_)

    def rows(self, rows: Int[np.ndarray, "some"]) -> "Request":
        """Only some rows."""
        slots = self.slots if isinstance(self.slots, int) else [self.slots[row] for row in rows]
        sampler = [self.sampler[row] for row in rows] if isinstance(self.sampler, Sequence) else self.sampler
        return replace(self, slots=slots, sampler=sampler, permitted=self.permitted.rows(rows))

    def but(self, items: Int32[np.ndarray, "batch more"]) -> "Request":
        """With further excluded items; -1 pads."""
        return replace(self, permitted=self.permitted.but(items))


@dataclass(frozen=True, eq=False)
class Slate:
    """A policy's recommendations, a row for each user or step of a batch.

    Attributes:
        items: positions in the catalogue, best first; -1 if no further item is permitted or asked for.
        propensities: exact probability with which each was chosen, given those before it; None if not asked for.
        scores: the scores by which they were chosen; None for a policy without scores.
        fallback: whether nothing matched the proposal, so that a nearest item was taken; None: not applicable.
        candidates: for each row, the items that approximate search found, ascending; None: all were scored.
    """

    items: Int32[np.ndarray, "*grid slots"]
    propensities: Float64[np.ndarray, "*grid slots"] | None = None
    scores: Float[np.ndarray, "*grid slots"] | None = None
    fallback: Bool[np.ndarray, "*grid slots"] | None = None
    candidates: Sequence[Int32[np.ndarray, "..."] | None] | None = None

    def each(self) -> list["Slate"]:
        """The slates of a batch, row by row, without padding."""
        found, parts = [], (self.propensities, self.scores, self.fallback)
        for row, count in enumerate((self.items >= 0).sum(1).tolist()):
            chances, scores, fallback = (None if part is None else part[row, :count] for part in parts)
            looked_at = self.candidates and self.candidates[row : row + 1]
            found.append(Slate(self.items[row, :count], chances, scores, fallback, looked_at))
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Slate):
    """The items that `State.produce` selected for proposals.

    Attributes:
        matches: how many items matched, at each slot.
        fallback: whether nothing matched, so that a nearest item was taken or there is no item.
    """

    matches: Int64[np.ndarray, "*grid slots"]
    fallback: Bool[np.ndarray, "*grid slots"]


@dataclass(frozen=True, eq=False)
class Boosts:
    """Amounts added to the scores of some items, for each row of a batch.

    Attributes:
        items: -1 for none; the amounts of an item that occurs twice are summed.
        amounts: one for each item.
    """

    items: Int[np.ndarray, "batch some"]
    amounts: Float32[np.ndarray, "batch some"]

    def rows(self, rows: Int64[np.ndarray, "some"]) -> "Boosts":
        """Only some rows."""
        return Boosts(self.items[rows], self.amounts[rows])

    def among(self, row: int, items: Int32[np.ndarray, "some"]) -> Float32[np.ndarray, "some"]:
        """The amounts of some items of a row, given in ascending order."""
        found = np.zeros(len(items), np.float32)
        places = np.searchsorted(items, self.items[row])
        inside = places < len(items)
        inside[inside] = items[places[inside]] == self.items[row, inside]
        np.add.at(found, places[inside], self.amounts[row, inside])
        return found

    def of(self, items: Int[np.ndarray, "batch slots"]) -> Float32[np.ndarray, "batch slots"]:
        """The amounts of some items of each row; those of -1 have no meaning."""
        found = np.zeros(items.shape, np.float32)
        for row, some in enumerate(items):
            found[row] = (some[:, None] == self.items[row]) @ self.amounts[row]
        return found


@dataclass(frozen=True, eq=False)
class Ranked:
    """How a proposal becomes items if every item has a score: `<point, item>` plus its boost.

    Attributes:
        vectors: the items' vectors, with as many columns as the points.
        rescored: how many of the best items by that score `rescore` reorders; 0 for none.
        rescore: scores of some items for some rows of the proposals; they replace the order by vectors.
        traits: traits by which a chosen item keeps similar items out of the slate: scores fall by the point's last
            entry times `<traits, traits of the chosen item>`; None: a chosen item does not affect the next slots.
        priced: with `traits`, scores are log odds of clicks; before the last entry, points hold the price per unit of
            each trait (`retrieval.slots.Priced`).
        boosts: boosts of each row of the proposals; not with `traits`.
    """

    vectors: Float[Tensor, "items dim"]
    rescored: int = 0
    rescore: Callable[[Int64[Tensor, "rows candidates"], Int64[Tensor, "rows"]], Float[Tensor, "rows candidates"]] | (
        None
    ) = None
    traits: Float[Tensor, "items traits"] | None = None
    priced: bool = False
    boosts: Boosts | None = None


@dataclass(frozen=True, eq=False)
class Proposal:
    """The actor's points, after each event of a history or after the last one: a policy's states.

    Attributes:
        points: in the standardised attribute space, or in the space of the vectors of `ranked`.
        score: the critic's values at each point, for selecting items; None if the selection does not use them.
        ranked: how items are taken by score; None: from a box around the point.
        values: the critic's values at each point, whatever the selection uses; None if there is no such critic.
        encoded: the encoder's states from which the points were computed, if any.
        factors: the networks' inputs for the history, for the batch to learn from.
    """

    points: Float32[np.ndarray, "*grid dim"]
    score: Score | None = None
    ranked: Ranked | None = None
    values: Score | None = None
    encoded: Float[Tensor, "batch width"] | None = None
    factors: Factors | None = None

    def __len__(self) -> int:
        return len(self.points)


States = TypeVar("States", default=Any)
"""A policy's states of a batch of users: arrays with a batch axis."""


@runtime_checkable
class Policy(Protocol[States]):
    """Anything that recommends: a trained agent, a rule, chance."""

    @property
    def sampler(self) -> Sampler:
        """The default sampler."""
        ...

    def states(self, history: History) -> States:
        """The states of some users after their histories."""
        ...

    def act(self, states: States, request: Request, rng: Random = None) -> Slate:
        """A slate for each state."""
        ...

    def propensities(
        self, states: States, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Float64[np.ndarray, "batch slots"]:
        """The probability with which `act` chooses each item of some slates, given those above it; NaN for -1."""
        ...
