"""What passes between State, Agent and Environment. Axes: batch, time, slots, choices, items, dim (see the design).

Everything here is frozen: a step of the loop makes new values and changes none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64
from torch import Tensor
from typing_extensions import TypeVar  # of Python 3.13: with a default

Score = Callable[[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]], Float[np.ndarray, "pairs"]]
"""Worth of pairs (row of the flattened grid of proposals, item): higher is better."""


@dataclass(frozen=True, eq=False)
class History:
    """What some users heard, oldest first, padded at the end.

    Attributes:
        users: positions in the data set; -1 for a user it does not hold.
        items: positions in the catalogue; -1 is padding.
        lengths: number of events of each row.
        rewards: the log's reward of each event; 0 where it has none.
        context: further columns of the log, and the time of day (see `State`).
        sigma: the spread of all that the user likes, in standard deviations of the catalogue. A label: it may know the
            user's future, and no network may read it. NaN where it is not known.
        times: of each event, in microseconds; None where the log has none.
        before: how many events of the user came before the first of the row.
    """

    users: Int32[np.ndarray, "batch"]
    items: Int32[np.ndarray, "batch time"]
    lengths: Int64[np.ndarray, "batch"]
    rewards: Float32[np.ndarray, "batch time"]
    context: Float32[np.ndarray, "batch time context"]
    sigma: Float32[np.ndarray, "batch"]
    times: Int64[np.ndarray, "batch time"] | None = None
    before: Int64[np.ndarray, "batch"] | None = None

    @classmethod
    def nobody(cls, batch: int) -> "History":
        """Of people of whom nothing is known."""
        empty = np.zeros((batch, 0), np.float32)
        users, nothing = np.full(batch, -1, np.int32), np.full(batch, np.nan, np.float32)
        return cls(users, empty.astype(np.int32), np.zeros(batch, np.int64), empty, empty[..., None], nothing)

    def rows(self, part: slice) -> "History":
        """Some of the histories."""
        parts: dict[str, Any] = {name: None if one is None else one[part] for name, one in vars(self).items()}
        return History(**parts)

    def last(self, window: int) -> "History":
        """The last `window` events of each history (fewer where there are no more)."""
        width = min(window, self.items.shape[1])
        starts = np.maximum(self.lengths - width, 0)
        columns = starts[:, None] + np.arange(width)
        rows = np.arange(len(columns))[:, None]
        return replace(
            self,
            items=self.items[rows, columns],
            lengths=self.lengths - starts,
            rewards=self.rewards[rows, columns],
            context=self.context[rows, columns],
            times=None if self.times is None else self.times[rows, columns],
            before=None if self.before is None else self.before + starts,
        )


def repeats(items: Int[np.ndarray, "*grid slots"], history: History) -> Bool[np.ndarray, "*grid slots"]:
    """Which items stand in the history already: on a grid, up to the step at which they are chosen."""
    if items.ndim == 2:
        known: Bool[np.ndarray, "batch slots"] = (items >= 0) & (items[..., None] == history.items[:, None]).any(-1)
        return known
    same = (items[..., None] >= 0) & (items[..., None] == history.items[:, None, None])
    past = np.tri(items.shape[1], history.items.shape[1], dtype=np.bool_)
    before: Bool[np.ndarray, "batch time slots"] = (same & past[:, None]).any(-1)
    return before


@dataclass(frozen=True, eq=False)
class Factors:
    """What the networks read of a history: one row of factors for each event. NumPy; tensors share its memory.

    The critic's rows are joined by those of the selected item (`Agent.add_prediction`). `prospects` is what each point
    that the actor chooses from would do to the sample.
    """

    actor: Float32[np.ndarray, "batch time factors"]
    prospects: Float32[np.ndarray, "batch time choices prospects"]
    critic: Float32[np.ndarray, "batch time factors"]


# How items are asked for


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

    def mask(self, batch: int, items: int) -> Bool[np.ndarray, "batch items"]:
        """Whether each item may be chosen for each row."""
        found, shared = np.ones((batch, items), np.bool_), len(self.sets) == 1
        for row, some in enumerate(self.sets):
            if some is not None:
                found[slice(None) if shared else row] = some.mask
        if self.without is not None:
            rows, columns = np.nonzero(self.without >= 0)
            found[rows, self.without[rows, columns]] = False
        return found

    def of_row(self, row: int, items: int) -> Bool[np.ndarray, "items"]:
        """The same for one row."""
        found: Bool[np.ndarray, items] = self.rows(np.array([row])).mask(1, items)[0]
        return found

    def allow(self, items: Int[np.ndarray, "batch slots"]) -> Bool[np.ndarray, "batch slots"]:
        """Which of some items each row may be given."""
        found, shared = items >= 0, len(self.sets) == 1
        for row, some in enumerate(self.sets):
            if some is not None:
                rows = slice(None) if shared else row
                found[rows] &= some.mask[items[rows]]
        if self.without is not None:
            found &= (items[:, :, None] != self.without[:, None]).all(2)
        return found

    def forbid(self, scores: Float[Tensor, "batch items"]) -> None:
        """Set the scores of items that may not be chosen to minus infinity."""
        shared = len(self.sets) == 1
        for row, some in enumerate(self.sets):
            if some is not None:
                mask = torch.from_numpy(~some.mask).to(scores.device)
                scores[slice(None) if shared else row].masked_fill_(mask, -torch.inf)
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
        found = []
        for row, count in enumerate((self.items >= 0).sum(1).tolist()):
            there = slice(count)
            found.append(
                Slate(
                    self.items[row, there],
                    None if self.propensities is None else self.propensities[row, there],
                    None if self.scores is None else self.scores[row, there],
                    None if self.fallback is None else self.fallback[row, there],
                    self.candidates and self.candidates[row : row + 1],
                )
            )
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
class Ranked:
    """How a proposal becomes items where every item has a score: `<point, item>`.

    Attributes:
        vectors: of the items; they have the points' number of columns.
        rescored: how many of the best by that score are put in order anew by `rescore`; 0 for none.
        rescore: scores of some items for each of some rows of the proposals, which go before those by the vectors.
        traits: by which an item that was chosen keeps like ones out of the slate: scores fall by the point's last entry
            times `<traits, traits of the chosen>`; None: no item has a say in the next ones.
        priced: with `traits`, scores are log odds of clicks; points hold what a unit of each trait costs, before the
            last entry (`retrieval.slots.Priced`).
    """

    vectors: Float[Tensor, "items dim"]
    rescored: int = 0
    rescore: Callable[[Int64[Tensor, "rows candidates"], Int64[Tensor, "rows"]], Float[Tensor, "rows candidates"]] | (
        None
    ) = None
    traits: Float[Tensor, "items traits"] | None = None
    priced: bool = False


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


@dataclass(frozen=True, eq=False)
class Events:
    """What an encoder reads: one row for each history, oldest event first.

    Attributes:
        items: positions in the catalogue; -1 is padding, at the end of a row.
        numbers: what else is known of each event, standardised: its reward, the time since the one before.
        shown: of events in a world, the slate that was shown; -1 pads. clicks: which of its items were clicked.
    """

    items: Int64[Tensor, "batch time"]
    numbers: Float[Tensor, "batch time numbers"]
    shown: Int64[Tensor, "batch time slots"] | None = None
    clicks: Float[Tensor, "batch time slots"] | None = None


@dataclass(frozen=True, eq=False)
class Impressions:
    """Items that were shown, a row for each: of a slate, every position is a row of its own.

    What an item brings does not hang on the others of its slate, and the slate's items share what follows it (Chen et
    al. 2019, section 4.3; Ie et al. 2019, SlateQ, arXiv 1905.12767, section 4.1). States are places on the flattened
    grid `[batch time]` of a batch's events.

    Attributes:
        places: of the state in which it was shown; `following`: of the state that its slate led to.
        actions: the item.
        rewards: what it brought; with `n_step`, and the discounted sums of the slates that followed.
        discounts: of the value of the following state; 0 where no further slate was shown.
        step_discounts: the same of one step, whatever `n_step` is.
        next_actions: the first item of the slate that was shown in the following state; -1: none was.
        returns: what it brought, and the discounted sum of all that later slates brought. A label.
        propensities: the chance with which it was shown, given the items above it.
        inverse: one over that chance, self-normalised and capped (`sources.decisions.inverse_chances`).
        weights: of an item in a loss that imitates (`sources.decisions.imitated`).
    """

    places: Int64[np.ndarray, "shown"]
    following: Int64[np.ndarray, "shown"]
    actions: Int32[np.ndarray, "shown"]
    rewards: Float32[np.ndarray, "shown"]
    discounts: Float32[np.ndarray, "shown"]
    step_discounts: Float32[np.ndarray, "shown"]
    next_actions: Int32[np.ndarray, "shown"]
    returns: Float32[np.ndarray, "shown"]
    propensities: Float64[np.ndarray, "shown"]
    inverse: Float32[np.ndarray, "shown"]
    weights: Float32[np.ndarray, "shown"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Experience to learn from: at each step the events up to it are known, and an item is chosen.

    A value, wherever it comes from: it may be learned from again, kept, or sent to another process (`arrays`).

    Attributes:
        items: of the events, positions in the catalogue; -1 is padding, at the end of a row.
        factors: what the networks read of each event (`Agent.factorize`).
        actions: the item that was chosen after each event; -1: none.
        rewards: what it earned. A label, as all that follows is.
        mask: the steps that count.
        discounts: worth of the state that the action leads to; 0 where the history ends with it.
        histories: how many user histories the batch counts as.
        returns: discounted sum of all rewards from the step on that training may know of the user, also beyond the row.
        propensities: the chance with which whoever chose it took the action; of a slate, of all its items in this
            order; of a point that was drawn, its density.
        values: what whoever chose it expected of the action, or of the state.
        others: items whose reward at every step of a row is known as well (bandit feedback), and `other_rewards`.
        matches, fallback: of the selected items, as in `Product`.
        shown, clicks: in a world, the slate of each event, and which of its items were clicked.
        slates: in a world, what was chosen after each event; `actions` are the first slots.
        points: where the slates were chosen from, for a policy that draws points.
        begins: in a world, the events with which another user takes the row's place: nothing before them is known.
        carried: what the encoder knew before the first event of each row, flattened.
        impressions: of a log of decisions, all items that were shown; then the grid holds of each state the first item
            that was shown there, and what all of them brought.

    What is None is not known.
    """

    items: Int32[np.ndarray, "batch time"]
    factors: Factors
    actions: Int32[np.ndarray, "batch time"]
    rewards: Float32[np.ndarray, "batch time"]
    mask: Bool[np.ndarray, "batch time"]
    discounts: Float32[np.ndarray, "batch time"]
    histories: int
    returns: Float32[np.ndarray, "batch time"] | None = None
    propensities: Float64[np.ndarray, "batch time"] | None = None
    values: Float32[np.ndarray, "batch time"] | None = None
    others: Int32[np.ndarray, "batch others"] | None = None
    other_rewards: Float32[np.ndarray, "batch time others"] | None = None
    matches: Int64[np.ndarray, "batch time"] | None = None
    fallback: Bool[np.ndarray, "batch time"] | None = None
    shown: Int32[np.ndarray, "batch time slots"] | None = None
    clicks: Bool[np.ndarray, "batch time slots"] | None = None
    slates: Int32[np.ndarray, "batch time slots"] | None = None
    points: Float32[np.ndarray, "batch time dim"] | None = None
    begins: Bool[np.ndarray, "batch time"] | None = None
    carried: Float32[np.ndarray, "batch carried"] | None = None
    impressions: Impressions | None = None

    @property
    def lengths(self) -> Int64[np.ndarray, "batch"]:
        """Events of each row."""
        return np.asarray((self.items >= 0).sum(1), np.int64)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays, as safetensors and shared memory hold them; `of_arrays` reads them back."""
        parts = {"factors": self.factors, "impressions": self.impressions}
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in parts}
        for name, part in parts.items():
            if part is not None:
                found |= {f"{name}.{one.name}": getattr(part, one.name) for one in fields(part)}
        return {name: np.ascontiguousarray(value) for name, value in found.items() if value is not None}

    def rows(self, rows: slice) -> "Batch":
        """Some rows in succession, with the impressions whose states are there; it counts as many histories."""
        arrays, shown, found = self.arrays(), self.impressions, dict[str, np.ndarray]()
        within = np.zeros(0, np.bool_)
        if shown is not None:
            width = self.items.shape[1]
            within = (shown.places >= rows.start * width) & (shown.places < rows.stop * width)
        for name, values in arrays.items():
            if name == "histories":
                found[name] = values
            elif not name.startswith("impressions."):
                found[name] = values[rows]
            elif name in ("impressions.places", "impressions.following"):
                found[name] = values[within] - rows.start * self.items.shape[1]
            else:
                found[name] = values[within]
        return Batch.of_arrays(found)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Batch":
        """The batch of some `arrays`."""
        values: dict[str, Any] = {name: value for name, value in arrays.items() if "." not in name}
        for name, part in (("factors", Factors), ("impressions", Impressions)):
            if any(key.startswith(f"{name}.") for key in arrays):
                values[name] = part(**{one.name: arrays[f"{name}.{one.name}"] for one in fields(part)})
        return cls(**values | {"histories": int(values["histories"].item())})


@dataclass(frozen=True, eq=False)
class Transitions:
    """A batch as the losses of an algorithm with an encoder read it: one row for each step that counts.

    A target of temporal differences is `rewards + discounts * value(next)`.

    Attributes:
        states: of the encoder, after the events so far; they carry the gradient to it.
        actions: the item that was chosen.
        rewards: for it; with `n_step`, the discounted sum of those of as many steps.
        next_states: after those steps, without gradient; of the encoder's target network, without dropout, where the
            algorithm has one.
        target_states: the same for `states`.
        next_actions: the item that came after those; -1 where it is not known.
        discounts: of the value of the next state; 0 where the history ended.
        returns: `Batch.returns`. A label.
        step_discounts: as `discounts`, of one step whatever `n_step` is: for actions that the log does not hold.
    """

    states: Float[Tensor, "steps dim"]
    actions: Int64[Tensor, "steps"]
    rewards: Float[Tensor, "steps"]
    next_states: Float[Tensor, "steps dim"]
    target_states: Float[Tensor, "steps dim"]
    next_actions: Int64[Tensor, "steps"]
    discounts: Float[Tensor, "steps"]
    returns: Float[Tensor, "steps"]
    step_discounts: Float[Tensor, "steps"]


@dataclass(frozen=True, eq=False)
class Shown(Transitions):
    """Transitions of items that were shown, and were perhaps not taken.

    Attributes:
        log_propensities: the logarithm of the chance with which each was shown, given the items above it.
        inverse, weights: of each, as in `Impressions`.
    """

    log_propensities: Float[Tensor, "steps"]
    inverse: Float[Tensor, "steps"]
    weights: Float[Tensor, "steps"]


@dataclass(frozen=True, eq=False)
class Choices(Transitions):
    """Transitions of whom the chance of each choice is known, as algorithms that learn by acting read them.

    Attributes:
        slates: what was chosen, of which `actions` are the first slots; -1 pads.
        propensities: the logarithm of the chance with which whoever chose took the slate, or of the point's density.
        expected: the value of the state at that time. `returns` are what it should have been, estimated.
        points: where the slates were chosen from, for a policy that draws points.
        numbers, next_numbers: what else was seen, before and after the slate.
        clicks: which of the slate's items were clicked.
        answered: where `next_numbers` and `clicks` are known, and of the same user.
    """

    slates: Int64[Tensor, "steps slots"]
    propensities: Float[Tensor, "steps"]
    expected: Float[Tensor, "steps"]
    points: Float[Tensor, "steps columns"]
    numbers: Float[Tensor, "steps numbers"]
    next_numbers: Float[Tensor, "steps numbers"]
    clicks: Float[Tensor, "steps slots"]
    answered: Bool[Tensor, "steps"]


@dataclass(frozen=True, eq=False)
class BanditSteps:
    """A batch as the founding algorithm reads it, on the grid: after the events up to step t, items are judged.

    Attributes:
        factors: of each event, for the critic.
        actor_factors: of each event, for the actor; `actor_prospects`: of the points that it chooses from.
        points: vectors of the judged items; the selected one first.
        prospects: what each judged item would do to the sample (`rewards.spread.prospects`).
        targets: their rewards, scaled for learning. Labels.
        mask: the steps that count.
        discounts: in a world, of the value of the step after the selected item; None: nothing that follows is known.
    """

    actor_factors: Float[Tensor, "batch time factors"]
    actor_prospects: Float[Tensor, "batch time choices_of_actor prospects"]
    factors: Float[Tensor, "batch time factors"]
    points: Float[Tensor, "batch time choices dim"]
    prospects: Float[Tensor, "batch time choices prospects"]
    targets: Float[Tensor, "batch time choices"]
    mask: Bool[Tensor, "batch time"]
    discounts: Float[Tensor, "batch time"] | None = None


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
