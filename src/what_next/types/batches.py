"""Batches of experience, as sources make them and as the losses of algorithms read them."""

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
    """Items that were shown, a row for each: every position of a slate is a row of its own.

    An item's reward does not depend on the other items of its slate, and all of them share what follows it (Chen et al.
    2019, section 4.3; Ie et al. 2019, SlateQ, arXiv 1905.12767, section 4.1). States are positions on the flattened
    grid `[batch time]` of a batch's events.

    Attributes:
        places: the state in which it was shown; `following`: the state after its slate.
        actions: the item.
        rewards: its reward; with `n_step`, plus the discounted sums of the following slates.
        discounts: discount of the following state's value; 0 if no further slate was shown.
        step_discounts: the same for one step, whatever `n_step` is.
        next_actions: the first item of the slate shown in the following state; -1: none.
        returns: its reward plus the discounted sum of all later slates' rewards. A label.
        propensities: the probability with which it was shown, given the items above it.
        inverse: the inverse propensity, self-normalised and capped (`sources.decisions.inverse_chances`).
        weights: the item's weight in an imitation loss (`sources.decisions.imitated`).
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

    It is a value, whatever its source: it may be learned from again, kept, or sent to another process (`arrays`). A
    field that is None is unknown.

    Attributes:
        items: items of the events, as positions in the catalogue; -1 is padding, at the end of a row.
        factors: the networks' inputs for each event (`Agent.factorize`).
        actions: the item chosen after each event; -1: none.
        rewards: the reward of the action. A label, like all fields below.
        mask: the steps that count.
        discounts: discount of the value of the state after the action; 0 if the history ends with it.
        histories: how many user histories the batch counts as.
        returns: discounted sum of all of the user's rewards from this step on that training may know, also beyond the
            row.
        propensities: the probability with which the acting policy took the action; for a slate, that of all its items
            in this order; for a drawn point, its density.
        values: the acting policy's value estimate of the action, or of the state.
        others: further items whose reward is known at every step of a row (bandit feedback); `other_rewards`: these.
        matches, fallback: of the selected items, as in `Product`.
        shown, clicks: in a world, the slate of each event, and which of its items were clicked.
        slates: in a world, the slate chosen after each event; `actions` are its first slots.
        slate_clicks: which of the items of `slates` were clicked; None: those that `clicks` tells of later.
        points: the points from which the slates were chosen, for a policy that draws points.
        begins: in a world, the events with which another user takes over the row, without any known past.
        carried: the encoder's carried state before the first event of each row, flattened.
        impressions: for a log of decisions, all items that were shown; the grid then holds, for each state, the first
            item shown there and the sum of the slate's rewards.
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
    slate_clicks: Bool[np.ndarray, "batch time slots"] | None = None
    points: Float32[np.ndarray, "batch time dim"] | None = None
    begins: Bool[np.ndarray, "batch time"] | None = None
    carried: Float32[np.ndarray, "batch carried"] | None = None
    impressions: Impressions | None = None

    @property
    def lengths(self) -> Int64[np.ndarray, "batch"]:
        """Number of events of each row."""
        return np.asarray((self.items >= 0).sum(1), np.int64)

    def check(self, items: int) -> None:
        """Raise a `DataError` if a batch of histories cannot be learned from; `items`: size of the catalogue."""
        shape = self.items.shape
        if not self.items.size:
            raise DataError(f"a batch has items of shape {shape}, which are no events; expected a row for each history")
        for name in ("actions", "rewards", "mask", "discounts"):
            if (found := getattr(self, name)).shape != shape:
                raise DataError(f"a batch has items of shape {shape}, and {name} of {found.shape}")
        if self.mask.dtype != np.bool_:
            raise DataError(f"a batch has a mask of {self.mask.dtype}; expected True or False for each step")
        there, chosen = self.items >= 0, self.actions[self.mask]
        wrong = {
            "items has a number that is no place in the catalogue": bool((self.items >= items).any()),
            "items has padding (-1) before an event": bool((there[:, 1:] & ~there[:, :-1]).any()),
            "mask counts a step without an event": bool((self.mask & ~there).any()),
            "actions has no item of the catalogue at a step that mask counts": bool(
                ((chosen < 0) | (chosen >= items)).any()
            ),
            "rewards has a value that is no finite number": not np.isfinite(self.rewards).all(),
            "discounts is below 0 or above 1": bool(((self.discounts < 0) | (self.discounts > 1)).any()),
        }
        if told := [what for what, holds in wrong.items() if holds]:
            raise DataError(f"of a batch, {told[0]}; see what_next.types.Batch, and Batch.following")

    def arrays(self) -> dict[str, np.ndarray]:
        """The batch as named arrays, for safetensors and shared memory; `of_arrays` reads them back."""
        parts = {"factors": self.factors, "impressions": self.impressions}
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in parts}
        for name, part in parts.items():
            if part is not None:
                found |= {f"{name}.{one.name}": getattr(part, one.name) for one in fields(part)}
        return {name: np.ascontiguousarray(value) for name, value in found.items() if value is not None}

    def rows(self, rows: slice) -> "Batch":
        """Consecutive rows with the impressions whose states they hold; each row counts as one history."""
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
        """A batch from histories in which each event was the choice after the events before it.

        Args:
            factors: factors of the histories (`Agent.factorize`).
            earned: the reward of each event.
            discount: per event.
            over: the rows whose histories end with their last event; None: all.
            later: the users' rewards after the last event, discounted to it; None: none known.
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
        """The inverse of `arrays`."""
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
        states: the encoder's states after the events so far; they carry its gradient.
        actions: the item that was chosen.
        rewards: its reward; with `n_step`, the discounted sum over as many steps.
        next_states: the states after those steps, without gradient; from the target encoder, without dropout, if the
            algorithm has one.
        target_states: the same for `states`.
        next_actions: the item chosen in the next state; -1 if unknown.
        discounts: discount of the next state's value; 0 if the history ended.
        returns: `Batch.returns`. A label.
        step_discounts: `discounts` for one step, whatever `n_step` is: for actions that the log does not hold.
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
    """Transitions of items that were shown, whether taken or not.

    Attributes:
        log_propensities: log probability with which each was shown, given the items above it.
        inverse, weights: as in `Impressions`.
    """

    log_propensities: Float[Tensor, "steps"]
    inverse: Float[Tensor, "steps"]
    weights: Float[Tensor, "steps"]


@dataclass(frozen=True, eq=False)
class Choices(Transitions):
    """Transitions whose propensities are known, for algorithms that learn by acting.

    Attributes:
        slates: the chosen slates; `actions` are their first slots; -1 pads.
        propensities: log probability with which the acting policy chose the slate, or log density of its point.
        expected: the acting policy's value of the state. `returns` are the estimated targets for it.
        points: the points from which the slates were chosen, for a policy that draws points.
        numbers, next_numbers: the user's observed numbers before and after the slate.
        clicks: which of the slate's items were clicked; `clicks_known`: whether that is known.
        answered: whether `next_numbers` is known and of the same user; not of a user who left.
    """

    slates: Int64[Tensor, "steps slots"]
    propensities: Float[Tensor, "steps"]
    expected: Float[Tensor, "steps"]
    points: Float[Tensor, "steps columns"]
    numbers: Float[Tensor, "steps numbers"]
    next_numbers: Float[Tensor, "steps numbers"]
    clicks: Float[Tensor, "steps slots"]
    clicks_known: Bool[Tensor, "steps"]
    answered: Bool[Tensor, "steps"]


@dataclass(frozen=True, eq=False)
class BanditSteps:
    """A batch as the founding algorithm reads it, on the grid: after the events up to step t, items are valued.

    Attributes:
        factors: the critic's factors of each event.
        actor_factors: the actor's factors of each event; `actor_prospects`: prospects of the points that it chooses
            from.
        points: vectors of the valued items; the selected one first.
        prospects: effect of each valued item on the sample (`rewards.spread.prospects`).
        targets: their rewards, scaled for learning. Labels.
        mask: the steps that count.
        discounts: in a world, discount of the value after the selected item; None: the next step is unknown.
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

    `later`: the same for the last event of each row, from beyond the row. 0 at padding.
    """
    rows, width = rewards.shape
    ahead = np.zeros((width + 1, rows))  # each event's reward; after the last one, the return from beyond the row
    ahead[:width] = np.where(np.arange(width)[:, None] < lengths, rewards.T, 0)
    ahead[lengths, np.arange(rows)] = 0 if later is None else later
    found = np.zeros_like(ahead)
    for step in range(width - 1, -1, -1):
        found[step] = ahead[step + 1] + discount * found[step + 1]
    return np.ascontiguousarray(found[:width].T, np.float32)
