"""Recurrent encoders: LSTM and GRU. All that they know of the past is the state itself."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from what_next.models.encoders.base import Encoder, EncoderSizes, State
from what_next.models.items import ItemVectors
from what_next.types import Events


class LstmEncoder(Encoder):
    """An LSTM (Hochreiter and Schmidhuber 1997), of one layer or more; dropout before, between and after them.

    The bias of the forget gate starts at 1, so that the past is kept until learning says otherwise (Jozefowicz et al.
    2015, section 2.2).
    """

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        between = sizes.dropout if sizes.layers > 1 else 0.0
        self.cells = nn.LSTM(sizes.dim, sizes.dim, sizes.layers, batch_first=True, dropout=between)
        forget = slice(sizes.dim, 2 * sizes.dim)  # the gates are stacked: input, forget, cell, output
        with torch.no_grad():
            for name, bias in self.cells.named_parameters():
                if name.startswith("bias_"):  # there are two for each layer, and they are added
                    bias[forget] = 0.5

    def encode(self, inputs: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        """The state after every input."""
        states, _ = self.cells(inputs)
        dropped: Tensor = self.dropout(states)
        return dropped

    def replay(
        self, events: Events, lengths: Int64[Tensor, "batch"] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """See `Encoder.replay`: one batch pass."""
        states, (outputs, cells) = passed(self.cells, self.inputs(events), lengths)
        return self.dropout(states), (outputs.transpose(0, 1), cells.transpose(0, 1))

    def start(self, batch: int) -> State:
        """Outputs and cells of each layer: [batch layers dim], zeros."""
        zeros = self._zeros(batch, self.sizes.layers, self.sizes.dim)
        return zeros, zeros

    def advance(self, state: State, inputs: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one input more."""
        outputs, cells = (part.transpose(0, 1).contiguous() for part in state)
        states, (outputs, cells) = self.cells(inputs.unsqueeze(1), (outputs, cells))
        return self.dropout(states.squeeze(1)), (outputs.transpose(0, 1), cells.transpose(0, 1))


class GruEncoder(Encoder):
    """A GRU (Cho et al. 2014), as in GRU4Rec (Hidasi et al. 2016); dropout before, between and after its layers."""

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        between = sizes.dropout if sizes.layers > 1 else 0.0
        self.cells = nn.GRU(sizes.dim, sizes.dim, sizes.layers, batch_first=True, dropout=between)

    def encode(self, inputs: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        """The state after every input."""
        states, _ = self.cells(inputs)
        dropped: Tensor = self.dropout(states)
        return dropped

    def replay(
        self, events: Events, lengths: Int64[Tensor, "batch"] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """See `Encoder.replay`: one batch pass."""
        states, outputs = passed(self.cells, self.inputs(events), lengths)
        return self.dropout(states), (outputs.transpose(0, 1),)

    def start(self, batch: int) -> State:
        """Outputs of each layer: [batch layers dim], zeros."""
        return (self._zeros(batch, self.sizes.layers, self.sizes.dim),)

    def advance(self, state: State, inputs: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one input more."""
        states, outputs = self.cells(inputs.unsqueeze(1), state[0].transpose(0, 1).contiguous())
        return self.dropout(states.squeeze(1)), (outputs.transpose(0, 1),)


def passed(
    cells: nn.RNNBase, inputs: Float[Tensor, "batch time dim"], lengths: Int64[Tensor, "batch"] | None
) -> tuple[Float[Tensor, "batch time dim"], Any]:
    """The states after every input, and the last ones of each layer: of each history at its own end."""
    if lengths is None:
        states, last = cells(inputs)
        return states, last
    packed, last = cells(pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(packed, batch_first=True, total_length=inputs.shape[1])[0], last
