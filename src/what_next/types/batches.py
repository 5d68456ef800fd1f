"""Experience to learn from, as sources make it and as the losses of algorithms read it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64
from torch import Tensor

from what_next.errors import DataError
from what_next.types.histories import Factors, History


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

    def check(self, items: int) -> None:
        """Raises a `DataError` where a batch of histories cannot be learned from; `items`: of the catalogue."""
        shape = self.items.shape
        if not self.items.size:
            raise DataError(f"a batch has items of shape {shape}, which are no events; expected a row for each history")
        for name in ("actions", "rewards", "mask", "discounts"):
            if (found := getattr(self, name)).shape != shape:
                raise DataError(f"a batch has items of shape {shape}, and {name} of {found.shape}")
        there, chosen = self.items >= 0, self.actions[self.mask]
        wrong = {
            "items has a number that is no place in the catalogue": bool((self.items >= items).any()),
            "items has padding (-1) before an event": bool((there[:, 1:] & ~there[:, :-1]).any()),
            "mask counts a step without an event": bool((self.mask & ~there).any()),
            "actions has no item of the catalogue at a step that mask counts": bool(
                ((chosen < 0) | (chosen >= items)).any()
            ),
            "rewards has what is no finite number": not np.isfinite(self.rewards).all(),
            "discounts is below 0 or above 1": bool(((self.discounts < 0) | (self.discounts > 1)).any()),
        }
        if told := [what for what, holds in wrong.items() if holds]:
            raise DataError(f"of a batch, {told[0]}; see what_next.types.Batch, and Batch.following")

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
        shown, width = self.impressions, self.items.shape[1]
        if shown is not None:
            first, end = rows.start * width, rows.stop * width
            within = (shown.places >= first) & (shown.places < end)
            parts = {name: values[within] for name, values in vars(shown).items()}
            parts |= {"places": parts["places"] - first, "following": parts["following"] - first}
            shown = Impressions(**parts)
        arrays = replace(self, impressions=None).arrays()
        found = {name: values if name == "histories" else values[rows] for name, values in arrays.items()}
        return replace(Batch.of_arrays(found), impressions=shown)

    @classmethod
    def following(
        cls,
        history: History,
        factors: Factors,
        earned: Float32[np.ndarray, "batch time"],
        discount: float,
        over: Bool[np.ndarray, "batch"] | None = None,
        later: Float32[np.ndarray, "batch"] | None = None,
    ) -> "Batch":
        """Of histories in which each event was chosen after those before it.

        Args:
            factors: of the histories (`Agent.factorize`).
            earned: what each event earned.
            discount: per event.
            over: the rows after whose last event nothing follows; None: all.
            later: what their users earned after the last event, discounted to it; None: nothing that is known.
        """
        items, rewards = history.items, np.zeros_like(earned)
        actions = np.full_like(items, -1)
        actions[:, :-1], rewards[:, :-1] = items[:, 1:], earned[:, 1:]
        mask = actions >= 0
        ends = np.arange(items.shape[1]) == (history.lengths - 2)[:, None]
        if over is not None:
            ends &= over[:, None]
        return cls(
            items=items,
            factors=factors,
            actions=actions,
            rewards=rewards,
            mask=mask,
            discounts=np.where(ends, 0, discount).astype(np.float32),
            histories=len(items),
            returns=returns(earned, history.lengths, discount, later),
        )

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


def returns(
    rewards: Float32[np.ndarray, "batch time"],
    lengths: Int[np.ndarray, "batch"],
    discount: float,
    later: Float32[np.ndarray, "batch"] | None = None,
) -> Float32[np.ndarray, "batch time"]:
    """After each event, the discounted sum of the rewards of all later ones (Sutton and Barto 2018, equation 3.8).

    `later` is that of the last event of each row: of what the row does not hold. 0 at padding.
    """
    rows, width = rewards.shape
    ahead = np.zeros((width + 1, rows))  # by event, what it earned; then what the row does not hold
    ahead[:width] = np.where(np.arange(width)[:, None] < lengths, rewards.T, 0)
    ahead[lengths, np.arange(rows)] = 0 if later is None else later
    found = np.zeros_like(ahead)
    for step in range(width - 1, -1, -1):
        found[step] = ahead[step + 1] + discount * found[step + 1]
    return np.ascontiguousarray(found[:width].T, np.float32)
