"""Learner for algorithms that act: an `EncoderLearner` whose events are slates and whose choices have propensities."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from what_next.algorithms.base import LossContext, Networks, Part, Root
from what_next.models.encoders import Encoder
from what_next.models.encoders import State as Carried
from what_next.training.encoder_learner import EncoderLearner, explained
from what_next.types import Batch, Choices, Events, Transitions


class PlayLearner(EncoderLearner):
    """An encoder's states after slates; each transition comes with the propensity of its choice."""

    @property
    def known_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """See `EncoderLearner.known_vectors`: no columns if the encoder reads no attributes."""
        known = super().known_vectors
        return known[:, :0] if self.item_inputs == "learned" else known

    @property
    def by_row(self) -> bool:
        """See `EncoderLearner.by_row`: never, because a slate's propensity depends on the vectors of all items."""
        return False

    def context(
        self,
        nets: Networks,
        targets: Networks,
        batch: Batch,
        step: int,
        rng: np.random.Generator,
        part: Part | None = None,
    ) -> LossContext[Any]:
        """One choice for each step that counts."""
        if batch.shown is None:  # a log: each item is a slate of one
            context = super().context(nets, targets, batch, step, rng, part)
            rows, columns = np.nonzero(batch.mask)
            return replace(context, batch=self._choices(context.batch, batch, rows, columns))
        encoder = nets["encoder"]
        assert isinstance(encoder, Encoder)
        assert batch.begins is not None
        assert batch.carried is not None
        events, carried = self.seen(batch), unflattened(encoder, self.tensor(batch.carried))
        begins, target = self.tensor(batch.begins), targets.get("encoder")
        states = encoder.resume(events, carried, begins).flatten(0, 1)
        later = states.detach()
        if isinstance(target, Encoder):
            with torch.no_grad():
                later = target.resume(events, carried, begins).flatten(0, 1)
        rows, columns = np.nonzero(batch.mask)
        flat = counted(states, batch.mask)
        transitions = self._transitions(batch, flat, later, rows, columns)
        vectors = encoder.items()
        table = vectors.detach().requires_grad_()
        roots = [Root(flat, transitions.states), Root(vectors, table)]
        items = self.space_of_items(table, target, rng, sparse=False)
        return LossContext(nets, targets, transitions, items, step, rng, {"encoder": roots})

    def seen(self, batch: Batch) -> Events:
        """The encoder's input for a batch of play."""
        assert batch.shown is not None
        assert batch.clicks is not None
        events = self.events(batch.items, batch.factors)
        return replace(
            events, shown=self.tensor(batch.shown).long(), clicks=self.tensor(batch.clicks.astype(np.float32))
        )

    def _transitions(
        self, batch: Batch, states: Float[Tensor, "steps dim"], later: Float[Tensor, "grid dim"], *places: np.ndarray
    ) -> Choices:
        """The choices at some places of a batch of play; `later`: the target network's states on the whole grid. The
        step after the last column is unknown, so a source whose losses need it masks the last column."""
        rows, columns = places
        leaf, width = states.detach().requires_grad_(), batch.mask.shape[1]
        nothing = torch.zeros(len(leaf), device=leaf.device)
        following = self.tensor(rows * width + np.minimum(columns + 1, width - 1))
        discounts = self.tensor(counted(batch.discounts, batch.mask))
        steps = Transitions(
            states=leaf,
            actions=self.tensor(counted(batch.actions, batch.mask)).long(),
            rewards=self.tensor(counted(batch.rewards, batch.mask)) * (1 - self.setup.discount),
            next_states=later[following],
            target_states=counted(later, batch.mask),
            next_actions=torch.full_like(nothing, -1, dtype=torch.int64),
            discounts=discounts,
            returns=nothing if batch.returns is None else self.tensor(counted(batch.returns, batch.mask)),
            step_discounts=discounts,
        )
        return self._choices(steps, batch, *places)

    def _choices(self, steps: Transitions, batch: Batch, *places: np.ndarray) -> Choices:
        """Transitions with what the acting policy knew, and with the answers that followed."""
        rows, columns = places
        count, slates = len(rows), batch.actions[..., None] if batch.slates is None else batch.slates
        chosen, numbers = counted(slates, batch.mask), batch.factors.actor
        following = np.minimum(columns + 1, batch.mask.shape[1] - 1)
        answered, clicks = np.ones(count, np.bool_), (chosen >= 0).astype(np.float32)  # in a log, the item came next
        if batch.clicks is not None and batch.begins is not None:
            answered = (following > columns) & ~batch.begins[rows, following]
            clicks = np.where(answered[:, None], batch.clicks[rows, following], False).astype(np.float32)
        clicks_known = answered
        if batch.slate_clicks is not None:  # also of slates after which the user left
            clicks_known, clicks = np.ones(count, np.bool_), batch.slate_clicks[rows, columns].astype(np.float32)
        nothing = np.zeros((count, 0), np.float32)
        chances = np.ones(count) if batch.propensities is None else counted(batch.propensities, batch.mask)
        expected = np.zeros(count, np.float32) if batch.values is None else counted(batch.values, batch.mask)
        known = {one.name: getattr(steps, one.name) for one in fields(Transitions)}
        return Choices(
            **known,
            slates=self.tensor(chosen).long(),
            propensities=self.tensor(np.log(chances).astype(np.float32)),
            expected=self.tensor(expected),
            points=self.tensor(nothing if batch.points is None else counted(batch.points, batch.mask)),
            numbers=self.tensor(counted(numbers, batch.mask)),
            next_numbers=self.tensor(numbers[rows, following]),
            clicks=self.tensor(clicks),
            clicks_known=self.tensor(clicks_known),
            answered=self.tensor(answered),
        )

    def metrics(self, context: LossContext[Any], batch: Batch) -> float:
        """The mean of the values that the acting policy expected, or else of the critic's estimates."""
        steps = context.batch
        expected: Tensor | None = steps.expected
        if batch.values is None:
            with torch.no_grad():
                expected = self.algorithm.estimates(context.nets, steps, context.items)
        if expected is not None:
            context.metrics["explained"] = explained(steps.returns, expected)
        return float(expected.mean()) if expected is not None and len(expected) else 0.0


def counted(values: Any, mask: Bool[np.ndarray, "batch time"]) -> Any:
    """The values of the steps that count, one after the other; no copy if all count.

    Args:
        values: an array on the grid, or a tensor on the flattened one.
    """
    if isinstance(values, Tensor):
        return values if mask.all() else values[torch.from_numpy(np.flatnonzero(mask)).to(values.device)]
    return values.reshape(mask.size, *values.shape[2:]) if mask.all() else values[mask]


def flattened(carried: Carried) -> Float32[np.ndarray, "batch carried"]:
    """An encoder's carried state as one array."""
    return np.asarray(torch.cat([part.flatten(1) for part in carried], 1).cpu().numpy())


def unflattened(encoder: Encoder, carried: Float[Tensor, "batch carried"]) -> Carried:
    """The carried state in the encoder's own form; inverse of `flattened`."""
    parts = encoder.start(len(carried))
    several = torch.split(carried, [part[0].numel() for part in parts], 1)
    return tuple(one.reshape(part.shape) for one, part in zip(several, parts, strict=True))
