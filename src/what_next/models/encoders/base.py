"""Base of all encoders: a batch pass over histories, and the same result event by event."""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from what_next.errors import SetupError, told_of
from what_next.models.items import ItemVectors
from what_next.models.linear import LinearTerm
from what_next.types import Events

Grid = Float[Tensor, "batch time dim"]

State = tuple[Tensor, ...]
"""What an encoder carries from event to event. The first axis of each tensor is `batch`, so users can be sliced."""


@dataclass(frozen=True)
class EncoderSizes:
    """Widths of an encoder.

    Attributes:
        dim: width of the states and of the item vectors.
        layers: number of layers; `dropout`: share of entries that is dropped in training.
        numbers: further input numbers per event.
        max_length: number of events that a layer of the transformer reads; the other encoders have no such bound.
        skip: whether a recurrent encoder adds a linear map of the last input to its state.
        slates: whether an event is a slate with its clicks instead of an item.
        linear: whether a linear model of items on items is beside it.
        item_dropout: share of the input items that are masked as unknown in training.
    """

    dim: int
    layers: int = 1
    dropout: float = 0.0
    numbers: int = 0
    max_length: int = 200
    skip: bool = False
    slates: bool = False
    linear: bool = False
    item_dropout: float = 0.0


class SharedDropout(nn.Module):
    """Drops the same entries at every step of a history (Gal and Ghahramani 2016, arXiv 1512.05287, section 4).

    It also draws fewer random numbers: one per entry of a history, not one per entry and step. One call of the
    generator took a seventh of a training step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, inputs: Float[Tensor, "batch *time dim"]) -> Float[Tensor, "batch *time dim"]:
        """The inputs, with some entries 0 and the others scaled up; unchanged outside of training."""
        if not self.training or self.share == 0:
            return inputs
        shape = (len(inputs), *[1] * (inputs.ndim - 2), inputs.shape[-1])
        kept = inputs.new_empty(shape).bernoulli_(1 - self.share)
        return inputs * (kept / (1 - self.share))


class Encoder(nn.Module):
    """The state after every event of a history, which depends on no later event.

    The input of a step is the item's vector, scaled to entries of about 1 (as in Vaswani et al. 2017, section 3.4; an
    item vector has a length of about 1), plus a linear map of the event's numbers. For a slate, it is a linear map of
    the mean of the items shown and of the sum of the items clicked. An encoder class defines `encode`, `start` and
    `advance`, so that one more step gives the same as a batch pass over one more event.

    The vector of an unknown item is read as zeros. With `sizes.item_dropout`, items are masked as unknown at random in
    training, as words are in Iyyer et al. 2015 ("Deep Unordered Composition Rivals Syntactic Methods", section 2.2), so
    that the encoder learns to cope with them. An item that nothing followed in training is unknown, because its vector
    was never read as an input.

    Attributes:
        followed: [items], whether an item is known; None without `sizes.item_dropout`, when all are.
    """

    followed: Tensor | None

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        """An encoder that reads `items`; their vectors are part of it, and are learned with it."""
        super().__init__()
        if not isinstance(sizes, EncoderSizes):
            raise SetupError(
                f"the encoder {type(self).__name__} is made of item vectors and EncoderSizes; check_encoder takes the "
                "class, and makes it"
            )
        assert items.dim == sizes.dim, "states and item vectors have one width"
        self.items, self.sizes = items, sizes
        self.numbers = nn.Linear(sizes.numbers, sizes.dim) if sizes.numbers else None
        self.slate = nn.Linear(2 * sizes.dim, sizes.dim) if sizes.slates else None
        self.dropout = SharedDropout(sizes.dropout)
        self.ridge = LinearTerm(items.count) if sizes.linear else None
        self.register_buffer("followed", torch.ones(items.count, dtype=torch.bool) if sizes.item_dropout else None)

    def forward(self, events: Events) -> Grid:
        """The state after every event; the states at padding have no meaning."""
        return self.encode(self.inputs(events))

    def step(self, state: State, events: Events) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one more event: `events` has one column. Rows of padding keep their state."""
        states, after = self.advance(state, self.inputs(events).squeeze(1))
        return states, where(events.items[:, 0] >= 0, after, state)

    def replay(self, events: Events, lengths: Int64[Tensor, "batch"] | None = None) -> tuple[Grid, State]:
        """The state after every event, and the carried state after the last one, equal to that of single steps.

        Args:
            events: read step by step here; encoders that can carry their state out of one batch pass override it.
            lengths: length of each history, at least 1; later events are padding. None: no padding.
        """
        state, states = self.start(len(events.items)), []
        for place in range(events.items.shape[1]):
            column = slice(place, place + 1)
            one, state = self.step(state, Events(events.items[:, column], events.numbers[:, column]))
            states.append(one)
        return torch.stack(states, 1), state

    def resume(self, events: Events, state: State, begins: Bool[Tensor, "batch time"]) -> Grid:
        """The state after every event, starting from a carried state.

        Args:
            events: without padding; `state`: the carried state before them.
            begins: the events before which the row starts anew.
        """
        inputs, states = self.inputs(events), list[Tensor]()
        places = torch.nonzero(begins.any(0))[:, 0].tolist()
        for first, end in pairwise(sorted({0, *places, inputs.shape[1]})):
            fresh = begins[:, first]
            if fresh.any():
                state = where(fresh, self.start(len(inputs)), state)
            several, state = self.proceed(state, inputs[:, first:end])
            states.append(several)
        return torch.cat(states, 1)

    def proceed(self, state: State, inputs: Grid) -> tuple[Grid, State]:
        """The states after several more inputs; encoders that can do it in one pass override it."""
        states = list[Tensor]()
        for one in inputs.unbind(1):
            after, state = self.advance(state, one)
            states.append(after)
        return torch.stack(states, 1), state

    def inputs(self, events: Events) -> Grid:
        """The input of each event."""
        vectors: Tensor | float = 0.0
        if self.slate is not None and events.shown is not None and events.clicks is not None:
            vectors = self.slate(self._of_slates(events.shown, events.clicks))
        elif self.numbers is None or events.shown is None:  # otherwise slates are not read: only the numbers count
            vectors = self.items.rows(events.items).mul_(self.sizes.dim**0.5)
            if self.followed is not None:
                vectors = vectors.masked_fill(self.unknown(events.items).unsqueeze(-1), 0.0)
        if self.numbers is not None:
            vectors = vectors + self.numbers(events.numbers)
        dropped: Tensor = self.dropout(vectors)
        return dropped

    def unknown(self, items: Int64[Tensor, "*grid"]) -> Bool[Tensor, "*grid"]:
        """Which items are read as unknown: those that nothing followed, and in training also random ones."""
        if self.followed is None:
            return torch.zeros_like(items, dtype=torch.bool)
        found = ~self.followed[items.clamp(min=0)]
        if self.training:
            found |= torch.rand(items.shape, device=items.device) < self.sizes.item_dropout
        return found

    def _of_slates(
        self, shown: Int64[Tensor, "batch time slots"], clicks: Float[Tensor, "batch time slots"]
    ) -> Float[Tensor, "batch time twice_dim"]:
        """The mean of the items shown, and the sum of the items clicked."""
        flat, some = shown.flatten(0, 1), clicks.flatten(0, 1)
        alike = torch.full_like(some, 1 / some.shape[1])
        both = torch.cat([self.items.sums(flat, alike), self.items.sums(flat, some)], -1)
        scaled: Tensor = both * self.sizes.dim**0.5
        return scaled.view(*shown.shape[:2], -1)

    @abstractmethod
    def encode(self, inputs: Grid) -> Grid:
        """The state after every input."""

    @abstractmethod
    def start(self, batch: int) -> State:
        """The carried state before any event."""

    @abstractmethod
    def advance(self, state: State, inputs: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one more input, and the carried state."""

    def _zeros(self, *shape: int) -> Tensor:
        """Zeros on the parameters' device and of their type."""
        return next(self.parameters()).new_zeros(shape)


def where(rows: Bool[Tensor, "batch"], state: State, other: State) -> State:
    """The one state in some rows, and the other in all other rows."""
    masks = (rows.view(-1, *[1] * (part.ndim - 1)) for part in state)
    return tuple(torch.where(mask, one, two) for mask, one, two in zip(masks, state, other, strict=True))


def made(kind: type[Encoder], items: ItemVectors, sizes: EncoderSizes) -> Encoder:
    """An encoder of a class, which may be a custom one.

    Raises:
        SetupError: the class cannot be constructed from these arguments.
    """
    try:
        encoder = kind(items, sizes)
        if encoder.sizes.dim != sizes.dim:
            raise TypeError("its states are of another width than it was given")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SetupError(
            f"the encoder {kind.__name__} cannot be made ({error}); its __init__ takes (items, sizes), and begins with "
            "super().__init__(items, sizes)"
        ) from error
    return encoder


@torch.no_grad()
@torch.backends.cudnn.flags(enabled=False)  # its TF32 makes pass and step differ
def check(encoder: Encoder, steps: int = 40) -> None:
    """Check the contract of every encoder on made-up inputs: shapes, no look-ahead, and single steps equal to the pass.

    Raises:
        SetupError: the encoder breaks it.
    """
    kind, dim, training = type(encoder).__name__, encoder.sizes.dim, encoder.training
    if missing := [name for name in ("encode", "start", "advance") if _abstract(getattr(encoder, name))]:
        raise SetupError(f"the encoder {kind} defines no {' and no '.join(missing)}")
    encoder.eval()
    inputs = torch.arange(3.0 * steps * dim, device=encoder._zeros(1).device).sin().view(3, steps, dim)
    ahead = inputs.clone()
    states = _tried(encoder, "encode", inputs)
    if not torch.equal(inputs, ahead):
        raise SetupError(f"the encoder {kind}: encode changes the inputs that it is given; change a copy (`clone`)")
    _shaped(states, inputs, f"the encoder {kind}: encode")
    if not _alike(_tried(encoder, "encode", inputs), states):
        raise SetupError(
            f"the encoder {kind}: encode gives the same inputs other states the second time; dropout must end with "
            "eval(), as that of torch.nn.Dropout does"
        )
    ahead[:, steps // 2 :] += 1
    ahead[1:] += 1
    if not _alike(_tried(encoder, "encode", ahead)[0, : steps // 2], states[0, : steps // 2]):
        raise SetupError(f"the encoder {kind}: the state after an event changes with later events, or other histories")
    state = _tried(encoder, "start", 3)
    for place, one in enumerate(inputs.unbind(1)):
        if not (isinstance(state, tuple) and state and all(isinstance(part, Tensor) for part in state)) or any(
            part.shape[:1] != (3,) for part in state
        ):
            raise SetupError(
                f"the encoder {kind}: a state is a tuple of tensors whose first axis is the batch, and of one at least "
                "(self._zeros(batch, 1), where nothing is carried)"
            )
        before = [part.clone() for part in (*state, one)]
        streamed, after = _tried(encoder, "advance", state, one)
        if not all(map(torch.equal, before, (*state, one))):
            raise SetupError(
                f"the encoder {kind}: advance changes the state or the inputs that it is given; change a copy (`clone`)"
            )
        state = after
        _shaped(streamed, one, f"the encoder {kind}: advance")
        if not _alike(streamed, states[:, place]):
            raise SetupError(
                f"the encoder {kind}: after {place + 1} events, advance has come to another state than encode, so the "
                "service would not recommend what was judged"
            )
    encoder.train(training)


def _tried(encoder: Encoder, method: str, *given: Any) -> Any:
    """What a method returns; a `SetupError` if a custom one fails."""
    what = f"the encoder {type(encoder).__name__}: {method} fails where states have {encoder.sizes.dim} columns"
    with told_of(encoder, what, SetupError):
        return getattr(encoder, method)(*given)


def _abstract(method: object) -> bool:
    return bool(getattr(method, "__isabstractmethod__", False))


def _alike(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def _shaped(found: object, like: Tensor, who: str) -> None:
    """Raise a `SetupError` if an encoder's output has not the shape and type of its input."""
    if not isinstance(found, Tensor) or found.shape != like.shape:
        shape = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise SetupError(f"{who} gives {shape}; expected a tensor of shape {tuple(like.shape)}, as what it read")
    if found.dtype != like.dtype:
        raise SetupError(f"{who} gives {found.dtype}; expected {like.dtype}, as what it read")
