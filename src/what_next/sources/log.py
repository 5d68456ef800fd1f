"""Learning from the log: one pass of the encoder gives the state after every event, and what came next is known."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from what_next.algorithms.base import Networks
from what_next.losses import Draws, Precision
from what_next.models.actor_critic import Sizes
from what_next.models.encoders import ENCODERS, Encoder, EncoderSizes
from what_next.models.item_space import ItemSpace
from what_next.models.items import ItemVectors
from what_next.sources.base import Experience, Told
from what_next.sources.steps import Steps, gaps, returns, summed
from what_next.training.step import Root
from what_next.types import Events, Factors, History, Product, Proposal, Ranked, Trajectories, Trials

DIAGNOSED = 5
"""Every so many batches the policy is looked at for the alarms."""
SPARSE = 50_000
"""From this many items on, a sampled loss moves the drawn rows of the item vectors alone."""


class LogExperience(Experience):
    """Transitions of the log; states of the encoder; items by their inner product with a point."""

    batches = 0
    kept: tuple[list[tuple[int, int, int]], list[Tensor], tuple[Tensor, Tensor]] | None = None

    def networks(self, rng: np.random.Generator) -> dict[str, nn.Module]:
        """See `Experience.networks`."""
        setup, catalogue = self.setup, self.space.catalogue
        numbers = setup.inputs.rewards + setup.inputs.gaps + self.algorithm.numbers
        items = ItemVectors(
            len(catalogue),
            setup.dim,
            None if setup.inputs.items == "learned" else catalogue.vectors,
            setup.inputs.items != "attributes",
            seen=self.space.seen.astype(np.int64),
            sparse=self.by_row,
        )
        sizes = EncoderSizes(setup.dim, setup.layers, setup.dropout, numbers, setup.max_length)
        heads = self.algorithm.networks(
            Sizes(0, setup.dim, 0, setup.dim, setup.layers, setup.dropout),
            catalogue.vectors[self.space.seen],
            rng,
        )
        return {"encoder": ENCODERS[setup.model](items, sizes), **heads}

    @property
    def by_row(self) -> bool:
        """Whether a step moves the rows of the item vectors that it drew alone."""
        setup, items = self.setup, len(self.space.catalogue)
        sampled = setup.loss.over(items) != "softmax" and not self.algorithm.whole_catalogue
        return sampled and setup.inputs.items == "learned" and items >= SPARSE

    def window(self, history: History) -> History:
        """All of it."""
        return history

    def factorize(self, nets: Networks, history: History) -> Factors:
        """The numbers of each event: reward and gap, where they are asked for."""
        columns = []
        if self.setup.inputs.rewards:
            center, scale = (self.space.event_center[0], self.space.event_scale[0])
            columns.append(
                (history.rewards - center) / scale if "reward" in self.space.event_names else history.rewards
            )
        if self.setup.inputs.gaps:
            columns.append(gaps(history))
        numbers = np.stack(columns, -1) if columns else np.zeros((*history.items.shape, 0), np.float32)
        numbers = numbers.astype(np.float32)
        return Factors(numbers, np.zeros((*history.items.shape, 0, 0), np.float32), numbers)

    def predict(
        self, nets: Networks, history: History, factors: Factors, rng: np.random.Generator | None, grid: bool
    ) -> Proposal:
        """The point that items are ranked by. On the grid, in training, the states alone: the losses propose."""
        events = Events(self.tensor(history.items).long(), self.tensor(factors.actor))
        if grid:
            assert history.earned is not None, "State.get_batch tells what events earned"
            self.rewards = history.earned
            self.returns = returns(self.rewards, history.lengths, self.setup.discount, history.later)
            self.events = self.algorithm.inputs(events, self.tensor(self.returns))
            self.states = self.encode(nets["encoder"], self.events)
            return Proposal(self.states.detach().cpu().numpy())
        with torch.no_grad():
            states = nets["encoder"](self.algorithm.inputs(events, None))
            last = states[torch.arange(len(states), device=self.device), self.tensor(history.lengths - 1)]
            return self.proposal(nets, last)

    def proposal(self, nets: Networks, states: Float[Tensor, "batch dim"]) -> Proposal:
        """What the agent would like in some states of the encoder."""
        encoder = nets["encoder"]
        assert isinstance(encoder, Encoder)
        with torch.no_grad():
            vectors, columns = self.catalogue_of(encoder)
            points = self.algorithm.propose(nets, states)

            @torch.no_grad()
            def rescore(
                candidates: Int64[Tensor, "rows candidates"], rows: Int64[Tensor, "rows"]
            ) -> Float[Tensor, "rows candidates"]:
                return self.algorithm.rescore(nets, states[rows], vectors[candidates])

            count = self.algorithm.rescored
            ranked = Ranked(columns, rescored=len(vectors) if count < 0 else count, rescore=rescore)
        return Proposal(points.cpu().numpy(), ranked=ranked, encoded=states)

    @torch.no_grad()
    def catalogue_of(self, encoder: Encoder) -> tuple[Float[Tensor, "items dim"], Float[Tensor, "items columns"]]:
        """The item vectors, and what points are multiplied with. Of a frozen agent they are kept until weights move."""
        if not self.frozen:
            vectors = encoder.items()
            return vectors, self.algorithm.vectors(vectors)
        made_of = [*encoder.items.parameters(), *encoder.items.buffers()]
        state = [(id(one), one.data_ptr(), one._version) for one in made_of]  # a version counts changes in place
        if self.kept is None or self.kept[0] != state:
            made = encoder.items().detach()
            self.kept = state, made_of, (made, self.algorithm.vectors(made))
        return self.kept[2]

    def encode(self, encoder: nn.Module, events: Events) -> Float[Tensor, "batch time dim"]:
        """The states, with matrix products in the precision of the setup."""
        if self.setup.compile:
            if encoder not in self.compiled:
                self.compiled[encoder] = torch.compile(encoder, dynamic=True)
            encoder = self.compiled[encoder]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            states: Tensor = encoder(events)
        return states.float()

    @property
    def precision(self) -> Precision:
        """`fp32` or `bf16`; auto is bf16 where the processor multiplies it by instructions of its own."""
        if self.setup.precision != "auto":
            return self.setup.precision
        return "bf16" if self.device.type == "cuda" or has_bf16() else "fp32"

    def batch(
        self, nets: Networks, slow: Networks, history: History, product: Product, rng: np.random.Generator | None
    ) -> Trajectories:
        """One transition for each event that another followed, rewards and states `n_step` events on."""
        states = self.states.flatten(0, 1)
        later = states.detach()
        if "encoder" in slow:
            with torch.no_grad():
                later = self.encode(slow["encoder"], self.events).flatten(0, 1)
        discount, chosen = self.setup.discount, product.items[..., 0]
        steps = Steps.of(history, chosen >= 0, self.setup.n_step)
        places, following = self.tensor(steps.places), self.tensor(steps.following)
        actions = self.tensor(chosen).long().flatten()
        self.flat = states[places]
        self.mask = np.zeros(chosen.shape, np.bool_)
        self.mask.ravel()[steps.places] = True
        return Trajectories(
            states=self.flat.detach().requires_grad_(),
            actions=actions[places],
            rewards=self.tensor(summed(self.rewards, steps, discount)),
            next_states=later[following],
            slow_states=later[places],
            next_actions=torch.where(self.tensor(steps.known), actions[following], -1),
            discounts=self.tensor(np.where(steps.ends, 0, discount**steps.counts).astype(np.float32)),
            returns=self.tensor(self.returns.ravel()[steps.places]),
            step_discounts=self.tensor(np.where(steps.ends & (steps.counts == 1), 0, discount).astype(np.float32)),
        )

    def losses(
        self, nets: Networks, slow: Networks, batch: Trajectories | Trials, step: int, rng: np.random.Generator | None
    ) -> dict[str, Tensor]:
        """See `Experience.losses`."""
        assert isinstance(batch, Trajectories)
        rng = rng or np.random.default_rng(step)
        encoder = nets["encoder"]
        assert isinstance(encoder, Encoder)
        self.encoder, self.batched = encoder, batch
        self.vectors = None if encoder.items.sparse else encoder.items()
        self.leaf = None if self.vectors is None else self.vectors.detach().requires_grad_()
        self.items = self.space_of_items(slow, rng)
        return self.algorithm.losses(nets, slow, batch, self.items, step, rng)

    def roots(self) -> Mapping[str, list[Root]]:
        """States and item vectors: the encoder's backward pass starts there, once for all losses."""
        roots = [Root(self.flat, self.batched.states)]
        if self.vectors is not None and self.leaf is not None:
            roots.append(Root(self.vectors, self.leaf))
        return {"encoder": roots}

    def space_of_items(self, slow: Networks, rng: np.random.Generator) -> ItemSpace:
        """The item vectors, and what is computed over them, as the setup's loss says."""
        loss, later = self.setup.loss, slow.get("encoder")
        name = loss.over(len(self.space.catalogue))
        table = self.encoder.items.learned if self.leaf is None else self.leaf
        assert table is not None, "sparse vectors are learned ones"
        return ItemSpace.of(
            table,
            slow=later.items() if isinstance(later, Encoder) else None,
            loss=name,
            negatives=loss.negatives,
            log_q=None if name == "gbce" else self.draws,
            precision=self.precision,
            gbce_t=loss.calibration,
            rng=rng,
            sparse=self.leaf is None,
        )

    def told(self, nets: Networks, batch: Trajectories | Trials) -> Told:
        """Rewards as the setup weighs them; the critic's estimates of the items that came next."""
        assert isinstance(batch, Trajectories)
        with torch.no_grad():
            values = self.algorithm.estimates(nets, batch, self.items)
        if self.batches % DIAGNOSED == 0 and len(batch.actions):
            batch.notes.update(self._diagnosed(nets, batch, values))
        self.batches += 1
        return Told(
            self.mask,
            reward=float(batch.rewards.mean()) if len(batch.rewards) else 0.0,
            value=0.0 if values is None or not len(values) else float(values.mean()),
            notes=batch.notes,
        )

    @torch.no_grad()
    def _diagnosed(
        self, nets: Networks, batch: Trajectories, values: Float[Tensor, "steps"] | None
    ) -> dict[str, float]:
        """What the alarms look at, on some steps of a batch."""
        vectors = self.algorithm.vectors(self.items.vectors)
        some = batch.states[: max(8, min(256, 2**22 // len(vectors)))]
        logits = self.algorithm.propose(nets, some) @ vectors.T
        logs, first = logits.log_softmax(1), logits.argmax(1)
        notes = {
            "largest_reward": float(np.abs(self.rewards).max()),
            "entropy_share": float(-(logs.exp() * logs).sum(1).mean()) / np.log(len(vectors)),
            "top_share": float(torch.bincount(first).max()) / len(first),
        }
        if values is not None and float(batch.returns.var(correction=0)) > 0:
            left = (batch.returns - values).var(correction=0) / batch.returns.var(correction=0)
            notes["explained"] = 1 - float(left)
        return notes

    @cached_property
    def compiled(self) -> dict[nn.Module, Any]:
        """What torch.compile made of the encoders."""
        return {}

    @cached_property
    def draws(self) -> Draws:
        """Negatives by their share of the training events; items without one count as having half of one."""
        counts = self.space.counts if self.space.counts is not None else np.ones(len(self.space.catalogue))
        shares = np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum()
        return Draws.of(self.tensor(np.log(shares).astype(np.float32)))


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
