"""The graphs of an agent for another runtime: one for whole histories, one for a single further event."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from what_next.agent import Agent
from what_next.models.encoders import Encoder, MeanEncoder, TransformerEncoder
from what_next.models.encoders.transformer import Layer, attend, banded
from what_next.models.linear import Past
from what_next.training.encoder_learner import GAP, EncoderLearner, linear_of
from what_next.types import Events


class Read(nn.Module):
    """Shared by both graphs: events become the encoder's inputs, and states become points and scores.

    Item vectors are computed once and stored as a table.
    """

    item_vectors: Tensor
    score_vectors: Tensor | None

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        encoder, learner = agent.nets["encoder"], agent.learner
        assert isinstance(encoder, Encoder)
        assert isinstance(learner, EncoderLearner)
        # A copy, because tracing sets attributes of recurrent layers. The item vectors are shared.
        self.encoder = copy.deepcopy(encoder, {id(encoder.items): encoder.items})
        self.algorithm, self.nets = agent.setup.algorithm, agent.nets
        self.ridge = linear_of(agent.nets)
        self.recalled = 0 if self.ridge is None else self.ridge.recalled
        self.heads = nn.ModuleList(net for name, net in agent.nets.items() if name != "encoder")
        inputs, space = agent.setup.inputs, agent.space
        self.rewards, self.gaps = inputs.rewards, inputs.gaps
        self.center, self.scale = 0.0, 1.0
        if inputs.rewards and "reward" in space.event_names:
            self.center, self.scale = float(space.event_center[0]), float(space.event_scale[0])
        vectors = encoder.items().detach().clone()
        scored = self.algorithm.columns(agent.nets, vectors)
        scored = self.ridge.columns(scored) if self.ridge else scored
        self.register_buffer("item_vectors", vectors)
        self.register_buffer("score_vectors", None if scored is vectors else scored.detach().clone())

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the inputs besides the items."""
        return (*["rewards"] * self.rewards, *["seconds"] * self.gaps)

    @property
    def has_scores(self) -> bool:
        """Whether the agent ranks by a point's inner products."""
        return self.algorithm.rescored == 0 and self.algorithm.traits(self.nets, self.item_vectors) is None

    def read(self, items: Int64[Tensor, "batch time"], numbers: Sequence[Tensor]) -> Float[Tensor, "batch time dim"]:
        """The encoder's input for each event, as in `Encoder.inputs`."""
        columns = list(numbers)
        if self.rewards:
            columns[0] = (columns[0] - self.center) / self.scale
        if self.gaps:
            columns[-1] = torch.log1p(columns[-1].clamp(min=0)) / GAP
        empty = self.item_vectors.new_zeros(*items.shape, 0)
        events = Events(items, torch.stack(columns, -1) if columns else empty)
        read = self.algorithm.inputs(events, None)
        vectors = functional.embedding(items.clamp(min=0), self.item_vectors)
        unread = (items < 0) | self.encoder.unknown(items)
        vectors = vectors.masked_fill(unread.unsqueeze(-1), 0.0) * float(self.encoder.sizes.dim**0.5)
        if self.encoder.numbers is not None:
            vectors = vectors + self.encoder.numbers(read.numbers)
        return vectors

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """The state before any event: the encoder's, the linear model's decayed sum and, if the model recalls items,
        the last ones as position + 1 (0: no item)."""
        state = self.encoder.start(batch)
        if self.ridge is None:
            return state
        sums = self.ridge.directions.new_zeros(batch, self.ridge.rank)
        recent = [sums.new_zeros(batch, self.recalled, dtype=torch.int64)] if self.recalled else []
        return (*state, sums, *recent)

    def answers(self, states: Float[Tensor, "batch dim"], past: Past | None) -> tuple[Tensor, ...]:
        """The points and, if the graph has them, the scores of all items; `past`: the linear model's input, if any."""
        points = self.algorithm.propose(self.nets, states)
        if self.ridge is not None and past is not None:
            points = self.ridge.extended(points, past.foretold)
        if not self.has_scores:
            return (points,)
        vectors = self.item_vectors if self.score_vectors is None else self.score_vectors
        scores = functional.linear(points, vectors)  # needs no transposed copy
        if self.ridge is not None and past is not None and past.recent is not None:
            items, amounts = self.ridge.boosts(past.recent)
            scores = scores.scatter_add(1, items.clamp(min=0), amounts)  # the amount of item -1 is 0
        return points, scores


class ReadHistory(Read):
    """The point after the last event of each history; each has at least one event and is padded at the end with -1."""

    def forward(self, items: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
        """Points [batch columns] and scores [batch items] from items [batch time] and numbers of the same shape."""
        last = (items >= 0).sum(1) - 1
        inputs, past = self.read(items, numbers), None
        if self.ridge is not None:
            lags = (last[:, None] - torch.arange(items.shape[1], device=items.device)).clamp(min=0)
            sums = (self.ridge.decay ** lags[..., None] * self.ridge.vectors(items)).sum(1)
            places = last[:, None] + torch.arange(1 - self.recalled, 1, device=items.device)
            recent = items.gather(1, places.clamp(min=0)).where(places >= 0, -1) if self.recalled else None
            past = Past(self.ridge.foretold(sums), recent)
        if isinstance(self.encoder, MeanEncoder):
            return self.answers(_mean(self.encoder, inputs, last), past)
        if isinstance(self.encoder, TransformerEncoder):
            states = _banded_pass(self.encoder, inputs)
        else:
            states = self.encoder.encode(inputs)
        place = last.clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        return self.answers(states.gather(1, place).squeeze(1), past)


class ReadStep(Read):
    """The point after one more event, with the carried state as input and output. Item -1 does not change the state."""

    def forward(self, items: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Points, scores and the new state, from items [batch], numbers [batch] and the state."""
        count = len(self.numbers)
        numbers, state, past = [one[:, None] for one in rest[:count]], rest[count:], None
        own = len(self.encoder.start(1))
        states, after = self.encoder.advance(state[:own], self.read(items[:, None], numbers).squeeze(1))
        if self.ridge is not None:
            sums, *recent = state[own:]
            sums = self.ridge.decay * sums + self.ridge.vectors(items)
            recent = [torch.cat([one[:, 1:], items[:, None] + 1], 1) for one in recent]
            past = Past(self.ridge.foretold(sums), recent[0] - 1 if recent else None)
            after = (*after, sums, *recent)
        there, kept = items >= 0, []
        for new, old in zip(after, state, strict=True):
            known = there.view(-1, *[1] * (old.ndim - 1))
            # ONNX Runtime has no Where for booleans.
            mask = old.dtype == torch.bool
            kept.append((known & new) | (~known & old) if mask else torch.where(known, new, old))
        return (*self.answers(states, past), *kept)


def _mean(
    encoder: MeanEncoder, inputs: Float[Tensor, "batch time dim"], last: Int64[Tensor, "batch"]
) -> Float[Tensor, "batch dim"]:
    """Only the state after the last event, by one weighted sum; the encoder's fixed-size blocks would fix the time."""
    lags = last[:, None] - torch.arange(inputs.shape[1], device=inputs.device)
    weights = torch.exp(functional.logsigmoid(encoder.logit) * lags.clamp(min=0)) * (lags >= 0)
    means = (weights.unsqueeze(1) @ inputs).squeeze(1) / weights.sum(1, keepdim=True)
    states: Tensor = encoder.linear(means)
    return states


def _banded_pass(encoder: TransformerEncoder, inputs: Float[Tensor, "batch time dim"]) -> Tensor:
    """`encode` with the band's mask at every length; the encoder itself has another code path for short histories."""
    mask = banded(inputs.shape[1], 0, encoder.sizes.max_length, inputs.device)
    states = inputs
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        queries, keys, values = layer._project(states)
        states = layer._finish(states, attend(queries, keys, values, mask))
    normed: Tensor = encoder.norm(states)
    return normed
