"""What may be chosen, how, and what was: requests, slates and the policies between them."""

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
"""Worth of pairs (row of the flattened grid of proposals, item): higher is better."""


@dataclass(frozen=True)
class Greedy:
    """The best items, the lower one among equals."""


@dataclass(frozen=True)
class Softmax:
    """Items drawn one after the other, without replacement, from the softmax of their scores over the temperature.

    A policy that has no scores draws uniformly among the items that match, at any temperature.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"the temperature is {self.temperature}; it is a finite number above 0 (else: Greedy)")


@dataclass(frozen=True)
class EpsilonGreedy:
    """At each slot the best item that is left or, with probability epsilon, any that is left, all alike."""

    epsilon: float

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ValueError(f"epsilon is {self.epsilon}; it lies between 0 and 1")


Sampler = Greedy | Softmax | EpsilonGreedy
Random = np.random.Generator | Sequence[np.random.Generator] | None
"""What draws: one generator for a batch, or one for each row; None where nothing is drawn."""


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
    """Which items may be chosen for each row of a batch: those of its set, without some.

    Attributes:
        sets: one for each row, or a single one for all; None there is the whole catalogue, as is no set at all.
        without: items that each row may not be given, -1 pads; None: there are none.
    """

    sets: tuple[ItemSet | None, ...] = ()
    without: Int32[np.ndarray, "batch width"] | None = None

    @classmethod
    def of(
        cls,
        mask: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None = None,
        without: Int32[np.ndarray, "batch width"] | None = None,
    ) -> "Permitted":
        """By a mask of all rows or of each."""
        if mask is None:
            return cls((), without)
        return cls(tuple(ItemSet(row) for row in (mask[None] if mask.ndim == 1 else mask)), without)

    def set_of(self, row: int) -> ItemSet | None:
        """The set of a row; None: the whole catalogue."""
        return self.sets[row if len(self.sets) > 1 else 0] if self.sets else None

    def rows(self, rows: Int[np.ndarray, "some"]) -> "Permitted":
        """The same for some rows."""
        sets = tuple(self.sets[row] for row in rows) if len(self.sets) > 1 else self.sets
        return Permitted(sets, None if self.without is None else self.without[rows])

    def but(self, items: Int32[np.ndarray, "batch more"]) -> "Permitted":
        """The same without further items, -1 pads."""
        return Permitted(self.sets, items if self.without is None else np.concatenate([self.without, items], axis=1))

    def masks(self) -> list[tuple[int | slice, Bool[np.ndarray, "items"]]]:
        """The masks of the sets, and of which row or rows each is."""
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
        """The same for one row."""
        return np.asarray(self.rows(np.array([row])).mask(1, items)[0])

    def allow(self, items: Int[np.ndarray, "batch slots"]) -> Bool[np.ndarray, "batch slots"]:
        """Which of some items each row may be given."""
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
    """What a batch of users is to be given; each row may differ.

    Attributes:
        slots: how many items, of all rows or of each.
        sampler: how they are chosen, likewise.
        permitted: which may be.
        propensities: whether they are asked for; a policy may tell them unasked where that costs nothing.
    """

    slots: int | Sequence[int] = 1
    sampler: Sampler | Sequence[Sampler] = Greedy()
    permitted: Permitted = Permitted()
    propensities: bool = True

    @property
    def width(self) -> int:
        """The most slots of a row."""
        return self.slots if isinstance(self.slots, int) else max(self.slots, default=1)

    def slots_of(self, row: int) -> int:
        """How many items a row is to be given."""
        return self.slots if isinstance(self.slots, int) else self.slots[row]

    def counts(self, rows: Int[np.ndarray, "some"]) -> Int64[np.ndarray, "some"]:
        """How many items some rows are to be given."""
        return np.full(len(rows), self.slots) if isinstance(self.slots, int) else np.asarray(self.slots, np.int64)[rows]

    def sampler_of(self, row: int) -> Sampler:
        """How the items of a row are chosen."""
        return self.sampler[row] if isinstance(self.sampler, Sequence) else self.sampler

    def drawn(self, rows: Int[np.ndarray, "some"]) -> Bool[np.ndarray, "some"]:
        """For which of some rows a softmax is drawn from."""
        if not isinstance(self.sampler, Sequence):
            return np.full(len(rows), isinstance(self.sampler, Softmax))
        return np.array([isinstance(self.sampler[row], Softmax) for row in rows.tolist()], np.bool_)

    def rows(self, rows: Int[np.ndarray, "some"]) -> "Request":
        """The same for some rows."""
        slots = self.slots if isinstance(self.slots, int) else [self.slots[row] for row in rows]
        sampler = [self.sampler[row] for row in rows] if isinstance(self.sampler, Sequence) else self.sampler
        return replace(self, slots=slots, sampler=sampler, permitted=self.permitted.rows(rows))

    def but(self, items: Int32[np.ndarray, "batch more"]) -> "Request":
        """The same without further items, -1 pads."""
        return replace(self, permitted=self.permitted.but(items))


@dataclass(frozen=True, eq=False)
class Slate:
    """What a policy recommends, a row for each user or step of a batch.

    Attributes:
        items: positions in the catalogue, best first; -1 where no further item is permitted or asked for.
        propensities: exact probability with which each was chosen, given those before it; None where not asked for.
        scores: by which they were chosen; None for a policy without scores.
        fallback: nothing matched the proposal, and a nearest item was taken; None: it cannot be.
        candidates: of each row the items that approximate search found, ascending; None: all were looked at.
    """

    items: Int32[np.ndarray, "*grid slots"]
    propensities: Float64[np.ndarray, "*grid slots"] | None = None
    scores: Float[np.ndarray, "*grid slots"] | None = None
    fallback: Bool[np.ndarray, "*grid slots"] | None = None
    candidates: Sequence[Int32[np.ndarray, "..."] | None] | None = None

    def each(self) -> list["Slate"]:
        """The slates of a batch, row by row, each as long as it has items."""
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
        matches: how many items matched, at each step of the slate.
        fallback: nothing matched, and a nearest item was taken; or there is no item.
    """

    matches: Int64[np.ndarray, "*grid slots"]
    fallback: Bool[np.ndarray, "*grid slots"]


@dataclass(frozen=True, eq=False)
class Boosts:
    """What is added to the scores of some items, for each row of a batch.

    Attributes:
        items: -1 for none; one that stands there twice has the sum of both.
        amounts: of each.
    """

    items: Int[np.ndarray, "batch some"]
    amounts: Float32[np.ndarray, "batch some"]

    def rows(self, rows: Int64[np.ndarray, "some"]) -> "Boosts":
        """Those of some rows."""
        return Boosts(self.items[rows], self.amounts[rows])

    def among(self, row: int, items: Int32[np.ndarray, "some"]) -> Float32[np.ndarray, "some"]:
        """What is added to some items of a row, which ascend."""
        found = np.zeros(len(items), np.float32)
        places = np.searchsorted(items, self.items[row])
        inside = places < len(items)
        inside[inside] = items[places[inside]] == self.items[row, inside]
        np.add.at(found, places[inside], self.amounts[row, inside])
        return found

    def of(self, items: Int[np.ndarray, "batch slots"]) -> Float32[np.ndarray, "batch slots"]:
        """What is added to some items of each row; what stands for -1 means nothing."""
        found = np.zeros(items.shape, np.float32)
        for row, some in enumerate(items):
            found[row] = (some[:, None] == self.items[row]) @ self.amounts[row]
        return found


@dataclass(frozen=True, eq=False)
class Ranked:
    """How a proposal becomes items where every item has a score: `<point, item>`, and what some have beside.

    Attributes:
        vectors: of the items; they have the points' number of columns.
        rescored: how many of the best by that score are put in order anew by `rescore`; 0 for none.
        rescore: scores of some items for each of some rows of the proposals, which go before those by the vectors.
        traits: by which an item that was chosen keeps like ones out of the slate: scores fall by the point's last entry
            times `<traits, traits of the chosen>`; None: no item has a say in the next ones.
        priced: with `traits`, scores are log odds of clicks; points hold what a unit of each trait costs, before the
            last entry (`retrieval.slots.Priced`).
        boosts: of each row of the proposals; without `traits`.
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
    """Where the actor points to, after each event of a history or after the last one: a policy's states.

    Attributes:
        points: in the standardised attribute space, or in the space of the vectors of `ranked`.
        score: the critic's value of items at each point; None where the selection does not ask for it.
        ranked: how items are taken by score; None: from a box around the point.
        values: the critic's value likewise, whatever the selection asks for; None where there is no such critic.
        encoded: the encoder's states that the points were made of, if any.
        factors: what the networks read of the history, for the batch that is learned from.
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
"""What a policy knows of a batch of users, a row each: arrays with a batch axis."""


@runtime_checkable
class Policy(Protocol[States]):
    """Whatever recommends: a trained agent, a rule, chance."""

    @property
    def sampler(self) -> Sampler:
        """How it chooses where nobody says."""
        ...

    def states(self, history: History) -> States:
        """What it knows of each user after some histories."""
        ...

    def act(self, states: States, request: Request, rng: Random = None) -> Slate:
        """A slate for each state."""
        ...

    def propensities(
        self, states: States, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Float64[np.ndarray, "batch slots"]:
        """The chance with which `act` chooses each item of some slates, given those above it; NaN for -1."""
        ...
