"""Networks that learn by acting: as `EncoderLearner`, with slates as events and choices whose chance is known."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from what_next.algorithms.base import LossContext, Networks, Root
from what_next.models.encoders import Encoder
from what_next.models.encoders import State as Carried
from what_next.training.encoder_learner import EncoderLearner
from what_next.types import Batch, Choices, Events, Transitions


class PlayLearner(EncoderLearner):
    """An encoder's states after slates; each transition comes with the chance of its choice."""

    @property
    def known_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """See `EncoderLearner.known_vectors`: no column where the encoder reads no attributes."""
        known = super().known_vectors
        return known[:, :0] if self.item_inputs == "learned" else known

    def context(
        self, nets: Networks, targets: Networks, batch: Batch, step: int, rng: np.random.Generator
    ) -> LossContext[Any]:
        """One choice for each step that counts."""
        if batch.shown is None:  # a log: its items stand for slates
            context = super().context(nets, targets, batch, step, rng)
            rows, columns = np.nonzero(batch.mask)
            return replace(context, batch=self._choices(context.batch, batch, rows, columns))
        encoder = nets["encoder"]
        assert isinstance(encoder, Encoder)
        assert batch.begins is not None
        assert batch.carried is not None
        events, carried = self.seen(batch), unflattened(encoder, self.tensor(batch.carried))
        states = encoder.resume(events, carried, self.tensor(batch.begins)).flatten(0, 1)
        rows, columns = np.nonzero(batch.mask)
        flat = states if batch.mask.all() else states[self.tensor(rows * batch.mask.shape[1] + columns)]
        transitions = self._transitions(batch, flat, rows, columns)
        vectors = encoder.items()
        table = vectors.detach().requires_grad_()
        roots = [Root(flat, transitions.states), Root(vectors, table)]
        items = self.space_of_items(table, targets.get("encoder"), rng, sparse=False)
        return LossContext(nets, targets, transitions, items, step, rng, {"encoder": roots})

    def seen(self, batch: Batch) -> Events:
        """What the encoder reads of a batch of play."""
        assert batch.shown is not None
        assert batch.clicks is not None
        events = self.events(batch.items, batch.factors)
        return replace(
            events, shown=self.tensor(batch.shown).long(), clicks=self.tensor(batch.clicks.astype(np.float32))
        )

    def _transitions(self, batch: Batch, states: Float[Tensor, "steps dim"], *places: np.ndarray) -> Choices:
        """The choices of some places of a batch of play; no algorithm reads what followed."""
        leaf = states.detach().requires_grad_()
        nothing = torch.zeros(len(leaf), device=leaf.device)
        steps = Transitions(
            states=leaf,
            actions=self.tensor(batch.actions[places]).long(),
            rewards=self.tensor(batch.rewards[places]),
            next_states=leaf.detach(),
            target_states=leaf.detach(),
            next_actions=torch.full_like(nothing, -1, dtype=torch.int64),
            discounts=nothing,
            returns=nothing if batch.returns is None else self.tensor(batch.returns[places]),
            step_discounts=nothing,
        )
        return self._choices(steps, batch, *places)

    def _choices(self, steps: Transitions, batch: Batch, *places: np.ndarray) -> Choices:
        """Transitions with what whoever chose knew, and what was seen afterwards."""
        rows, columns = places
        count, slates = len(rows), batch.actions[..., None] if batch.slates is None else batch.slates
        chosen, numbers = slates[places], batch.factors.actor
        following = np.minimum(columns + 1, batch.mask.shape[1] - 1)
        answered = np.zeros(count, np.bool_)
        clicks = np.zeros(chosen.shape, np.float32)
        if batch.clicks is not None and batch.begins is not None:
            answered = (following > columns) & ~batch.begins[rows, following]
            clicks = np.where(answered[:, None], batch.clicks[rows, following], False).astype(np.float32)
        chances = np.ones(count) if batch.propensities is None else batch.propensities[places]
        known = {one.name: getattr(steps, one.name) for one in fields(Transitions)}
        return Choices(
            **known,
            slates=self.tensor(chosen).long(),
            propensities=self.tensor(np.log(chances).astype(np.float32)),
            expected=self.tensor(np.zeros(count, np.float32) if batch.values is None else batch.values[places]),
            points=self.tensor(np.zeros((count, 0), np.float32) if batch.points is None else batch.points[places]),
            numbers=self.tensor(numbers[places]),
            next_numbers=self.tensor(numbers[rows, following]),
            clicks=self.tensor(clicks),
            answered=self.tensor(answered),
        )

    def metrics(self, context: LossContext[Any], batch: Batch) -> tuple[float, float]:
        """Rewards as the batch has them, and the values that whoever acted expected."""
        steps = context.batch
        variance = steps.returns.var(correction=0) if len(steps.returns) else torch.zeros(())
        if float(variance) > 0:
            left = (steps.returns - steps.expected).var(correction=0)
            context.metrics["explained"] = 1 - float(left / variance)
        return float(steps.rewards.mean()) if len(steps.rewards) else 0.0, float(steps.expected.mean())


def flattened(carried: Carried) -> Float32[np.ndarray, "batch carried"]:
    """What an encoder carries, as one array."""
    found: Float32[np.ndarray, "batch carried"] = torch.cat([part.flatten(1) for part in carried], 1).cpu().numpy()
    return found


def unflattened(encoder: Encoder, carried: Float[Tensor, "batch carried"]) -> Carried:
    """The same as the encoder takes it."""
    parts = encoder.start(len(carried))
    several = torch.split(carried, [part[0].numel() for part in parts], 1)
    return tuple(one.reshape(part.shape) for one, part in zip(several, parts, strict=True))
