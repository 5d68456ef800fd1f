"""Learner with an encoder: one pass gives the state after every event; items score by inner product with a point."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor, nn

from what_next.algorithms.base import Algorithm, LossContext, Networks, Part, Root
from what_next.errors import SetupError
from what_next.losses.chunked import Precision
from what_next.losses.sampled import Draws
from what_next.models.actor_critic import Sizes
from what_next.models.encoders import ENCODERS, Encoder, EncoderSizes
from what_next.models.encoders.base import check as check_encoder
from what_next.models.encoders.base import made
from what_next.models.item_space import ItemSpace
from what_next.models.items import ItemVectors
from what_next.models.linear import LinearTerm, Past
from what_next.models.shards import Exchange
from what_next.settings import known_encoders
from what_next.training.learner import Learner
from what_next.training.transitions import Steps
from what_next.types import Batch, Boosts, Events, Factors, History, Impressions, Proposal, Ranked, Shown, Transitions

States = Float[Tensor, "grid dim"]
Numbers = Float32[np.ndarray, "batch time"]

DIAGNOSED = 5
"""The policy is diagnosed for the alarms every this many steps."""
LOOKED_AT = 2**18
"""Most items to diagnose over; of twice as many, every second is taken, and so on."""
SPARSE = 50_000
"""From this many items on, a sampled loss updates the drawn rows of the item vectors alone."""
GAP = 20.0
"""Divisor of the logarithm of a gap in seconds: 20 is the logarithm of fifteen years."""
VARIES = 0.01
"""If the variance of the returns is below this share of their mean square, a critic has nothing to explain."""


class EncoderLearner(Learner):
    """Learner of an encoder, of heads on its states, and of item vectors."""

    kept: tuple[list[tuple[int, int, int]], list[Tensor], tuple[Tensor, Tensor, Tensor | None]] | None = None
    remembered: dict[tuple[bool, bytes], Tensor] | None = None

    def networks(self, rng: np.random.Generator) -> dict[str, nn.Module]:
        """See `Learner.networks`."""
        setup, inputs, catalogue = self.setup, self.setup.inputs, self.space.catalogue
        context = len(self.space.event_names) if inputs.context else 0
        numbers = inputs.rewards + inputs.gaps + context + self.algorithm.extra_features
        attributes = None if self.item_inputs == "learned" else catalogue.vectors
        learned, seen = self.item_inputs != "attributes", self.space.seen.astype(np.int64)
        width, layers, dropout, length = setup.width, setup.layers, setup.dropped(self.space), setup.max_length
        sparse, ranks = self.by_row, self.shards
        items = ItemVectors(len(catalogue), width, attributes, learned, seen=seen, sparse=sparse, ranks=ranks)
        skip, unknown = setup.skips(self.space), setup.unknown(self.space.events_per_user)
        sizes = EncoderSizes(width, layers, dropout, numbers, length, skip, inputs.slates, self.linear, unknown)
        widths = Sizes(context, width, 0, width, layers, dropout, setup.acts)
        heads = self.algorithm.networks(widths, self.known_vectors, rng)  # before the encoder, for the order of draws
        kind = ENCODERS.get(setup.model) or known_encoders().get(setup.model)
        if kind is None:  # an entry point names it, but its package cannot be imported
            raise SetupError(f"model is {setup.model!r}, whose package cannot be loaded, as a warning says; mend that")
        return {"encoder": made(kind, items, sizes), **heads}

    def check(self, nets: Networks) -> None:
        """See `Learner.check`; also refuse an encoder of another package that breaks its contract, and points whose
        columns do not match the item vectors'."""
        super().check(nets)
        encoder, algorithm = nets["encoder"], self.algorithm
        if not isinstance(encoder, Encoder):
            raise SetupError(f"the algorithm {algorithm.name}: networks gives an 'encoder', which the setup's model is")
        if self.setup.model not in ENCODERS:
            check_encoder(encoder)
        some = torch.zeros(1, self.setup.width, device=self.device)
        with torch.no_grad(), torch.random.fork_rng([]):
            try:
                points = algorithm.propose(nets, some)
            except KeyError as error:
                raise SetupError(
                    f"the algorithm {algorithm.name}: propose reads the network {error}, and networks gives "
                    f"{', '.join(nets)}"
                ) from None
        if type(algorithm).columns is not Algorithm.columns:  # `columns` may compute over all items: too slow here
            return
        if points.shape != (columns := algorithm.vectors(some)).shape:
            raise SetupError(
                f"the algorithm {algorithm.name}: propose gives points of {points.shape[-1]} columns, and items have "
                f"{columns.shape[-1]}; an actor makes points of dim columns (Point(sizes.dim))"
            )

    @property
    def linear(self) -> bool:
        """Whether the linear model is used beside the encoder."""
        return self.setup.linear == "yes" and self.algorithm.linear

    @property
    def item_inputs(self) -> str:
        """What item vectors are made of: `learned`, `attributes` or both, as the setup or the data decide."""
        return self.setup.item_inputs(self.space)

    @property
    def known_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """Attributes of the items that have a training event."""
        return np.asarray(self.space.catalogue.vectors[self.space.seen])

    @property
    def by_row(self) -> bool:
        """Whether a step updates only the rows of the item vectors that it drew."""
        big = len(self.space.catalogue) >= SPARSE or self.setup.cluster.items == "sharded"
        return big and self.sampled and self.item_inputs == "learned"

    @property
    def sampled(self) -> bool:
        """Whether the losses give gradients to the vectors of some items only."""
        return self.setup.loss.over(len(self.space.catalogue)) != "softmax" and not self.algorithm.whole_catalogue

    def shard(self, ranks: Exchange) -> None:
        """See `Learner.shard`."""
        setup, name = self.setup, self.algorithm.name
        reasons = {
            f"{name} has a target network with vectors of its own; take next_item": "encoder" in self.algorithm.targets,
            "the loss looks at all items; set loss=sampled_softmax": not self.sampled,
            "vectors are made of attributes; set inputs.items=learned": self.item_inputs != "learned",
            "the linear model beside the encoder has a table of its own; set linear=no": self.linear,
            "torch.compile cannot fetch rows; set compile=no": setup.compile,
        }
        if reason := next((text for text, holds in reasons.items() if holds), None):
            raise SetupError(f"cluster.items is sharded, and {reason} (or cluster.items=whole)")
        self.shards = ranks

    def factorize(self, nets: Networks, history: History) -> Factors:
        """Each event's input numbers: reward, gap and context, as far as the setup asks for them."""
        columns = []
        if self.setup.inputs.rewards:
            center, scale = (self.space.event_center[0], self.space.event_scale[0])
            known = "reward" in self.space.event_names
            columns.append((history.rewards - center) / scale if known else history.rewards)
        if self.setup.inputs.gaps:
            columns.append(gaps(history))
        if self.setup.inputs.context:
            columns.extend(np.moveaxis(self.standardised(history), -1, 0))  # `+=` would add to each array
        numbers = np.stack(columns, -1) if columns else np.zeros((*history.items.shape, 0), np.float32)
        numbers = numbers.astype(np.float32)
        return Factors(numbers, np.zeros((*history.items.shape, 0, 0), np.float32), numbers)

    def predict(
        self, nets: Networks, history: History, factors: Factors, rng: np.random.Generator | None, grid: bool
    ) -> Proposal:
        """The points that items are ranked by."""
        with torch.no_grad():
            states = self._states(nets, history, factors, grid)
            past = self.past(nets, history, grid)
        made = self.proposal(nets, states.flatten(0, -2), past=past)
        return replace(made, points=made.points.reshape(*states.shape[:-1], -1), factors=factors)

    def _states(
        self, nets: Networks, history: History, factors: Factors, grid: bool
    ) -> Float[Tensor, "batch dim"] | Float[Tensor, "batch time dim"]:
        """The encoder's states after the last event of each history; on a `grid`, after every event."""
        if self.remembered is not None:
            read = b"".join(one.tobytes() for one in (history.items, history.lengths, factors.actor))
            key = (grid, hashlib.sha256(read).digest())
            if key in self.remembered:
                return self.remembered[key]
        states: Tensor = nets["encoder"](self.algorithm.inputs(self.events(history.items, factors), None))
        if not grid:
            states = states[torch.arange(len(states), device=self.device), self.tensor(history.lengths - 1)]
        if self.remembered is not None:
            self.remembered[key] = states
        return states

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within this context, the states of a batch of histories are computed once; the weights must not change."""
        self.remembered = {}
        try:
            yield
        finally:
            self.remembered = None

    def past(self, nets: Networks, history: History, grid: bool) -> Past | None:
        """What the linear model reads of some histories; None if there is no linear model, or if it does not count."""
        linear = linear_of(nets)
        if linear is None:
            return None
        items = self.tensor(history.items).long()
        if grid:
            past = linear.past_on_grid(items)
            return Past(past.foretold.flatten(0, 1), None if past.recent is None else past.recent.flatten(0, 1))
        return linear.past(items[items >= 0], self.tensor(history.lengths).long())

    def events(self, items: Int32[np.ndarray, "batch time"], factors: Factors) -> Events:
        """The encoder's input for some events."""
        return Events(self.tensor(items).long(), self.tensor(factors.actor))

    def proposal(
        self,
        nets: Networks,
        states: Float[Tensor, "batch dim"],
        rng: np.random.Generator | None = None,
        past: Past | None = None,
    ) -> Proposal:
        """The points for some states of the encoder; with `rng`, an algorithm that samples its points draws them.

        `past`: what the linear model reads of the histories; None if there is none that counts (`linear_of`).
        """
        with torch.no_grad():
            vectors, columns, traits = self.catalogue_of(nets)
            points = self.algorithm.propose(nets, states, rng)
            linear, boosts = linear_of(nets), None
            if linear is not None and past is not None:
                points = linear.extended(points, past.foretold)
                if past.recent is not None:
                    boosts = Boosts(*(one.cpu().numpy() for one in linear.boosts(past.recent)))

            @torch.no_grad()
            def rescore(
                candidates: Int64[Tensor, "rows candidates"], rows: Int64[Tensor, "rows"]
            ) -> Float[Tensor, "rows candidates"]:
                return self.algorithm.rescore(nets, states[rows], vectors[candidates])

            count = self.algorithm.rescored
            rescored = len(vectors) if count < 0 else count
            ranked = Ranked(columns, rescored, rescore, traits, self.algorithm.priced, boosts)
        return Proposal(points.cpu().numpy(), ranked=ranked, encoded=states)

    @torch.no_grad()
    def catalogue_of(self, nets: Networks) -> tuple[Tensor, Tensor, Tensor | None]:
        """The item vectors, the columns that points are multiplied with, and the traits; recomputed only when a weight
        has changed."""
        encoder = nets["encoder"]
        assert isinstance(encoder, Encoder)
        linear = linear_of(nets)
        made_of = [*encoder.items.parameters(), *encoder.items.buffers(), *(linear.buffers() if linear else ())]
        if type(self.algorithm).columns is not Algorithm.columns:
            made_of += [*nets["actor"].parameters(), *nets["actor"].buffers()]
        state = [(id(one), one.data_ptr(), one._version) for one in made_of]  # `_version` counts in-place changes
        if self.kept is None or self.kept[0] != state:
            made = encoder.items().detach()  # a new tensor, so that caches keyed by it see the change
            columns = self.algorithm.columns(nets, made)
            columns = linear.columns(columns) if linear else columns
            self.kept = state, made_of, (made, columns, self.algorithm.traits(nets, made))
        return self.kept[2]

    def encode(self, encoder: nn.Module, events: Events) -> Float[Tensor, "batch time dim"]:
        """The states, with matrix products in the setup's precision."""
        if self.setup.compile:
            if encoder not in self.compiled:
                self.compiled[encoder] = torch.compile(encoder, dynamic=True)
            encoder = self.compiled[encoder]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            states: Tensor = encoder(events)
        return states.float()

    @property
    def precision(self) -> Precision:
        """`fp32` or `bf16`; auto is bf16 on a graphics card, and on processors on which bf16 is faster."""
        if self.setup.precision != "auto":
            return self.setup.precision
        return "bf16" if self.device.type == "cuda" or has_fast_bf16() else "fp32"

    def context(
        self,
        nets: Networks,
        targets: Networks,
        batch: Batch,
        step: int,
        rng: np.random.Generator,
        part: Part | None = None,
    ) -> LossContext[Any]:
        """The transitions of the steps that count, with rewards and next states over `n_step` events, and item vectors.

        The losses' backward pass ends at the states and the vectors. From there the encoder's backward pass runs once
        for all losses.
        """
        encoder = nets["encoder"]
        assert isinstance(encoder, Encoder)
        returns = np.zeros_like(batch.rewards) if batch.returns is None else batch.returns
        events = self.algorithm.inputs(self.events(batch.items, batch.factors), self.tensor(returns))
        if part is not None:
            batch, returns = batch.rows(part.rows), returns[part.rows]
            events = replace(events, items=events.items[part.rows], numbers=events.numbers[part.rows])
        states = self.encode(encoder, events).flatten(0, 1)
        later, target = states.detach(), targets.get("encoder")
        if target is not None:
            with torch.no_grad():
                later = self.encode(target, events).flatten(0, 1)
        flat, transitions = self._steps(batch, returns, states, later)
        roots = [Root(flat, transitions.states)]
        table = encoder.items.learned
        if not encoder.items.sparse:
            vectors = encoder.items()
            table = vectors.detach().requires_grad_()
            roots.append(Root(vectors, table))
        assert table is not None, "sparse vectors are learned ones"
        gather = None if encoder.items.shards is None else encoder.items.rows
        items = self.space_of_items(table, target, rng, sparse=encoder.items.sparse, gather=gather)
        return LossContext(nets, targets, transitions, items, step, rng, {"encoder": roots}, part=part)

    def rows_of_steps(self, batch: Batch) -> Int64[np.ndarray, "steps"]:
        """See `Learner.rows_of_steps`."""
        places = Steps.of(batch, 1).places if batch.impressions is None else batch.impressions.places
        return np.asarray(places // batch.items.shape[1])

    def _steps(
        self, batch: Batch, returns: Numbers, states: States, later: States
    ) -> tuple[Float[Tensor, "steps dim"], Transitions]:
        """The states in which the steps of a batch start, and the transitions, which hold detached copies of them."""
        if batch.impressions is not None:
            return self._shown(batch.impressions, states, later)
        steps = Steps.of(batch, self.setup.n_step)
        places, following = self.tensor(steps.places), self.tensor(steps.following)
        actions, flat = self.tensor(batch.actions).long().flatten(), states[places]
        return flat, Transitions(
            states=flat.detach().requires_grad_(),
            actions=actions[places],
            rewards=self.tensor(steps.summed(batch)),
            next_states=later[following],
            target_states=later[places],
            next_actions=torch.where(self.tensor(steps.known), actions[following], -1),
            discounts=self.tensor(steps.discounts),
            returns=self.tensor(returns.ravel()[steps.places]),
            step_discounts=self.tensor(batch.discounts.ravel()[steps.places]),
        )

    def _shown(self, shown: Impressions, states: States, later: States) -> tuple[Float[Tensor, "steps dim"], Shown]:
        """The same for items that were shown."""
        places = self.tensor(shown.places)
        flat = states[places]
        return flat, Shown(
            states=flat.detach().requires_grad_(),
            actions=self.tensor(shown.actions).long(),
            rewards=self.tensor(shown.rewards),
            next_states=later[self.tensor(shown.following)],
            target_states=later[places],
            next_actions=self.tensor(shown.next_actions).long(),
            discounts=self.tensor(shown.discounts),
            returns=self.tensor(shown.returns),
            step_discounts=self.tensor(shown.step_discounts),
            log_propensities=self.tensor(np.log(shown.propensities).astype(np.float32)),
            inverse=self.tensor(shown.inverse),
            weights=self.tensor(shown.weights),
        )

    def space_of_items(
        self,
        table: Tensor,
        target: nn.Module | None,
        rng: np.random.Generator,
        *,
        sparse: bool,
        gather: Callable[[Tensor], Tensor] | None = None,
    ) -> ItemSpace:
        """The item vectors, and the loss over them that the setup names."""
        loss = self.setup.loss
        name = loss.over(len(self.space.catalogue))
        return ItemSpace.of(
            table,
            target=target.items() if isinstance(target, Encoder) else None,
            loss=name,
            negatives=loss.negatives,
            draws=Draws(len(self.space.catalogue), device=self.device) if name == "gbce" else self.draws,
            precision=self.precision,
            gbce_t=loss.calibration,
            rng=rng,
            sparse=sparse,
            gather=gather,
        )

    def metrics(self, context: LossContext[Any], batch: Batch) -> float:
        """The mean of the critic's estimates for the chosen items; every `DIAGNOSED` steps, also the diagnoses."""
        steps = context.batch
        with torch.no_grad():
            values = self.algorithm.estimates(context.nets, steps, context.items)
        if context.step % DIAGNOSED == 0 and len(steps.actions):
            context.metrics.update(self._diagnosed(context, values))
            context.metrics["largest_reward"] = float(np.abs(batch.rewards).max())
        return 0.0 if values is None or not len(values) else float(values.mean())

    @torch.no_grad()
    def _diagnosed(self, context: LossContext[Transitions], values: Float[Tensor, "steps"] | None) -> dict[str, float]:
        """Diagnoses for the alarms, on some steps of a batch, over the item vectors of this process or some of them."""
        batch, here = context.batch, context.items.vectors
        stride = -(-len(here) // LOOKED_AT)
        vectors = self.algorithm.vectors(here[::stride])
        # Evenly spaced, because the first states are those of a few users.
        some = batch.states[:: -(-len(batch.states) // max(32, min(256, 2**21 // len(vectors))))]
        logits = self.algorithm.propose(context.nets, some) @ vectors.T
        firsts = torch.bincount(logits.argmax(1))
        row, shares = int(firsts.argmax()) * stride, torch.softmax(logits, 1, out=logits)
        found = {
            "entropy_share": float(torch.special.entr(shares, out=shares).sum(1).mean()) / np.log(len(vectors)),
            "top_item": float(row if self.shards is None else self.shards.rank + row * self.shards.count),
            "top_share": float(firsts.max()) / len(some),
        }
        return found if values is None else found | {"explained": explained(batch.returns, values)}

    @cached_property
    def compiled(self) -> dict[nn.Module, Any]:
        """The compiled encoder of each encoder."""
        return {}

    @cached_property
    def draws(self) -> Draws:
        """Negatives drawn by their share of the training events; items without an event count as having half of one."""
        counts = self.space.counts
        if counts is None:
            return Draws(len(self.space.catalogue), device=self.device)
        return Draws.of(counts, least=0.5, device=self.device)


def explained(returns: Float[Tensor, "steps"], values: Float[Tensor, "steps"]) -> float:
    """The share of the variance of the returns that a critic explains; 1 if the returns hardly vary, because then
    there is nothing to explain."""
    variance = float(returns.var(correction=0)) if len(returns) else 0.0
    if not variance or variance < VARIES * float(returns.square().mean()):
        return 1.0
    return 1 - float((returns - values).var(correction=0)) / variance


def linear_of(nets: Networks) -> LinearTerm | None:
    """The linear model beside the encoder; None if there is none, or if it does not count."""
    linear = getattr(nets["encoder"], "ridge", None)
    return linear if isinstance(linear, LinearTerm) and linear.counts else None


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bfloat16 faster than fp32: with AMX, or with AVX512-BF16 if it is not Intel's.

    With AVX512-BF16, an LSTM of dim 128 under a softmax over 3,600 items trained 1.6 times as fast as in fp32 on an AMD
    EPYC, and .57 times as fast on an Intel Xeon without AMX (one thread).
    """
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and "Intel" not in str(has.get("cpu_name"))))


def gaps(history: History) -> Numbers:
    """The time since the previous event: log(1 + seconds), scaled to about 1; 0 where unknown."""
    found = np.zeros(history.items.shape, np.float32)
    if history.times is not None:
        seconds = np.maximum(np.diff(history.times, axis=1), 0) / 1e6
        found[:, 1:] = np.where(history.items[:, 1:] >= 0, np.log1p(seconds) / GAP, 0)
    return found
