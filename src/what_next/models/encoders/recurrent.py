"""Recurrent encoders: LSTM and GRU. Their hidden state is all that they carry."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from what_next.models.encoders.base import Encoder, EncoderSizes, Grid, State
from what_next.models.items import ItemVectors
from what_next.types import Events

SKIPPED = 0.5
"""Initial weight of the last input in the skip connection."""


class RecurrentEncoder(Encoder):
    """Base of both: the output of the cells, and with `sizes.skip` a linear map of the last input.

    In short histories the last item predicts most of the next one, as in a Markov chain. A cell learns only slowly to
    pass it through its gates; the map passes it on from the first step.
    """

    cells: nn.RNNBase
    parts: ClassVar[int]
    """Number of tensors in a state: the hidden state of each layer, and for an LSTM its cell state."""

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        self.between = sizes.dropout if sizes.layers > 1 else 0.0
        self.skip = nn.Linear(sizes.dim, sizes.dim, bias=False) if sizes.skip else None
        if self.skip is not None:
            with torch.no_grad():
                self.skip.weight.copy_(SKIPPED * torch.eye(sizes.dim))

    def output(
        self, states: Float[Tensor, "batch *time dim"], inputs: Float[Tensor, "batch *time dim"]
    ) -> Float[Tensor, "batch *time dim"]:
        """The encoder's states, from the cells' outputs and their inputs."""
        dropped: Tensor = self.dropout(states)
        return dropped if self.skip is None else dropped + self.skip(inputs)

    def encode(self, inputs: Grid) -> Grid:
        """The state after every input."""
        states, _ = self.cells(inputs)
        return self.output(states, inputs)

    def replay(self, events: Events, lengths: Int64[Tensor, "batch"] | None = None) -> tuple[Grid, State]:
        """See `Encoder.replay`: one batch pass."""
        states, last = passed(self.cells, inputs := self.inputs(events), lengths)
        return self.output(states, inputs), _carried(last)

    def start(self, batch: int) -> State:
        """Hidden state of each layer, and for an LSTM its cell state: [batch layers dim], zeros."""
        return (self._zeros(batch, self.sizes.layers, self.sizes.dim),) * self.parts

    def advance(self, state: State, inputs: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one more input, and the carried state."""
        states, last = self.cells(inputs.unsqueeze(1), _hidden(state))
        return self.output(states.squeeze(1), inputs), _carried(last)

    def proceed(self, state: State, inputs: Grid) -> tuple[Grid, State]:
        """See `Encoder.proceed`: one batch pass."""
        states, last = self.cells(inputs, _hidden(state))
        return self.output(states, inputs), _carried(last)


class LstmEncoder(RecurrentEncoder):
    """An LSTM (Hochreiter and Schmidhuber 1997) of one or more layers; dropout before, between and after them.

    The bias of the forget gate starts at 1, so that the past is kept at first (Jozefowicz et al. 2015, section 2.2).
    """

    parts = 2

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        self.cells = nn.LSTM(sizes.dim, sizes.dim, sizes.layers, batch_first=True, dropout=self.between)
        forget = slice(sizes.dim, 2 * sizes.dim)  # the gates are stacked: input, forget, cell, output
        with torch.no_grad():
            for name, bias in self.cells.named_parameters():
                if name.startswith("bias_"):  # each layer has two, which are added
                    bias[forget] = 0.5


class GruEncoder(RecurrentEncoder):
    """A GRU (Cho et al. 2014), as in GRU4Rec (Hidasi et al. 2016); dropout before, between and after its layers."""

    parts = 1

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        self.cells = nn.GRU(sizes.dim, sizes.dim, sizes.layers, batch_first=True, dropout=self.between)


def _carried(last: Tensor | tuple[Tensor, ...]) -> State:
    """The library's last hidden states as a state whose first axis is the batch."""
    return tuple(part.transpose(0, 1) for part in (last if isinstance(last, tuple) else (last,)))


def _hidden(state: State) -> Any:
    """A state in the library's form: a pair for an LSTM, one tensor for a GRU."""
    parts = tuple(part.transpose(0, 1).contiguous() for part in state)
    return parts if len(parts) > 1 else parts[0]


def passed(cells: nn.RNNBase, inputs: Grid, lengths: Int64[Tensor, "batch"] | None) -> tuple[Grid, Any]:
    """The states after every input, and the last hidden states of each layer, at each history's own end."""
    if lengths is None:
        states, last = cells(inputs)
        return states, last
    packed, last = cells(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(packed, batch_first=True, total_length=inputs.shape[1])[0], last
