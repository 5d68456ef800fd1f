"""What passes between State, Agent and Environment. Axes: batch, time, slots, choices, items, dim (see the design).

Everything here is frozen: a step of the loop makes new values and changes none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64
from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class Ranked:
    """How a proposal becomes items where every item has a score: `<point, item>`.

    Attributes:
        vectors: of the items; they have the points' number of columns.
        temperature: of the softmax over scores that items are drawn from; 0 takes the best ones.
        rescored: how many of the best by that score are put in order anew by `rescore`; 0 for none.
        rescore: scores of some items for each of a slice of the proposals, which go before those by the vectors.
    """

    vectors: Float[Tensor, "items dim"]
    temperature: float = 1.0
    rescored: int = 0
    rescore: Callable[[Int64[Tensor, "rows candidates"], slice], Float[Tensor, "rows candidates"]] | None = None


@dataclass(frozen=True, eq=False)
class Proposal:
    """Where the actor points to, after each event of a history or after the last one.

    Attributes:
        points: in the standardised attribute space, or in the space of the vectors of `ranked`.
        score: the critic's value of items at each point; None where the selection does not ask for it.
        ranked: how items are taken by score; None: from a box around the point.
        factors: what the networks read of the history, for the batch that is learned from.
    """

    points: Float32[np.ndarray, "*grid dim"]
    score: Score | None = None
    ranked: Ranked | None = None
    factors: Factors | None = None


@dataclass(frozen=True, eq=False)
class Product:
    """The items that `State.produce` selected for proposals.

    Attributes:
        items: positions in the catalogue; -1 where no item is permitted any more.
        matches: how many items matched, at each step of the slate.
        fallback: nothing matched, and a nearest item was taken.
        repeat: the item is in the history already.
        propensities: exact probability of each step's choice; None where it was not asked for.
    """

    items: Int32[np.ndarray, "*grid slots"]
    matches: Int64[np.ndarray, "*grid slots"]
    fallback: Bool[np.ndarray, "*grid slots"]
    repeat: Bool[np.ndarray, "*grid slots"]
    propensities: Float64[np.ndarray, "*grid slots"] | None = None


@dataclass(frozen=True, eq=False)
class Events:
    """What an encoder reads: one row for each history, oldest event first.

    Attributes:
        items: positions in the catalogue; -1 is padding, at the end of a row.
        numbers: what else is known of each event, standardised: its reward, the time since the one before.
    """

    items: Int64[Tensor, "batch time"]
    numbers: Float[Tensor, "batch time numbers"]


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
        propensities: the chance with which whoever chose it took the action.
        values: what whoever chose it expected of the action.
        others: items whose reward at every step of a row is known as well (bandit feedback), and `other_rewards`.
        matches, fallback: of the selected items, as in `Product`.

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

    @property
    def lengths(self) -> Int64[np.ndarray, "batch"]:
        """Events of each row."""
        return np.asarray((self.items >= 0).sum(1), np.int64)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays, as safetensors and shared memory hold them; `of_arrays` reads them back."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "factors"}
        found |= {f"factors.{one.name}": getattr(self.factors, one.name) for one in fields(Factors)}
        return {name: np.ascontiguousarray(value) for name, value in found.items() if value is not None}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Batch":
        """The batch of some `arrays`."""
        values: dict[str, Any] = {name: value for name, value in arrays.items() if "." not in name}
        factors = Factors(**{one.name: arrays[f"factors.{one.name}"] for one in fields(Factors)})
        return cls(**values | {"factors": factors, "histories": int(values["histories"].item())})


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
class BanditSteps:
    """A batch as the founding algorithm reads it, on the grid: after the events up to step t, items are judged.

    Attributes:
        factors: of each event, for the critic.
        actor_factors: of each event, for the actor; `actor_prospects`: of the points that it chooses from.
        points: vectors of the judged items; the selected one first.
        prospects: what each judged item would do to the sample (`rewards.spread.prospects`).
        targets: their rewards, scaled for learning. Labels.
        mask: the steps that count.
    """

    actor_factors: Float[Tensor, "batch time factors"]
    actor_prospects: Float[Tensor, "batch time choices_of_actor prospects"]
    factors: Float[Tensor, "batch time factors"]
    points: Float[Tensor, "batch time choices dim"]
    prospects: Float[Tensor, "batch time choices prospects"]
    targets: Float[Tensor, "batch time choices"]
    mask: Bool[Tensor, "batch time"]


@dataclass(frozen=True, eq=False)
class Slate:
    """What a policy recommends to each user of a batch.

    Attributes:
        items: positions in the catalogue, best first; -1 where no further item is permitted.
        propensities: exact probability with which each was chosen, given those before it; None where not asked for.
        fallback: chosen as a nearest item, since none matched the proposal.
        points: the proposals behind the slate, and `product` what was selected for them; None for a policy that makes
            none.
    """

    items: Int32[np.ndarray, "batch slots"]
    propensities: Float64[np.ndarray, "batch slots"] | None = None
    fallback: Bool[np.ndarray, "batch slots"] | None = None
    points: Float32[np.ndarray, "batch dim"] | None = None
    product: Product | None = None


@runtime_checkable
class Policy(Protocol):
    """Whatever recommends: a trained agent, a rule, chance."""

    def act(
        self,
        history: History,
        slots: int = 1,
        rng: np.random.Generator | None = None,
        *,
        allowed: Bool[np.ndarray, "items"] | Bool[np.ndarray, "batch items"] | None = None,
        exclude: Int32[np.ndarray, "batch width"] | None = None,
        propensities: bool = False,
    ) -> Slate:
        """A slate for each history; greedy without `rng`. `exclude` names further items per row, -1 is padding."""
        ...
