"""The mean of the inputs, recent events weighing more: the baseline that an encoder must beat."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from what_next.models.encoders.base import Encoder, EncoderSizes, Grid, State
from what_next.models.items import ItemVectors
from what_next.types import Events

START = 0.9  # averages over about ten events
BLOCK = 128  # events per matrix product


class MeanEncoder(Encoder):
    """Exponentially weighted mean of the inputs, then a linear map: `sum_i d^(t-i) x_i / sum_i d^(t-i)`.

    The decay d is learned as a logit, starting at 0.9. It has one layer, whatever `sizes.layers` says.
    """

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        self.logit = nn.Parameter(torch.tensor(math.log(START / (1 - START))))
        self.linear = nn.Linear(sizes.dim, sizes.dim)

    def encode(self, inputs: Grid) -> Grid:
        """The state after every input."""
        return self._pass(inputs)[0]

    def replay(self, events: Events, lengths: Int64[Tensor, "batch"] | None = None) -> tuple[Grid, State]:
        """See `Encoder.replay`: one batch pass."""
        states, sums, counts = self._pass(self.inputs(events))
        if lengths is None:
            return states, (sums[:, -1], counts[-1:].expand(len(states), 1))
        return states, (sums[torch.arange(len(states)), lengths - 1], counts[lengths - 1])

    def _pass(self, inputs: Grid) -> tuple[Grid, Grid, Float[Tensor, "time 1"]]:
        """States, sums and weights. Only non-negative powers of the decay occur, so no length overflows."""
        time = torch.arange(min(inputs.shape[1], BLOCK), device=inputs.device)
        decay = nn.functional.logsigmoid(self.logit)  # log of the decay
        lags = time[:, None] - time
        weights = torch.exp(decay * lags.clamp(min=0)) * (lags >= 0)
        carried = torch.exp(decay * (time + 1))[:, None]
        total, weight = inputs.new_zeros(len(inputs), 1, inputs.shape[2]), inputs.new_zeros(1, 1)
        all_sums, all_counts = list[Tensor](), list[Tensor]()
        for block in torch.split(inputs, BLOCK, 1):
            width = block.shape[1]
            sums = weights[:width, :width] @ block + carried[:width] * total
            counts = weights[:width, :width].sum(1, keepdim=True) + carried[:width] * weight
            all_sums.append(sums)
            all_counts.append(counts)
            total, weight = sums[:, -1:], counts[-1:]
        sums, counts = torch.cat(all_sums, 1), torch.cat(all_counts)
        states: Tensor = self.linear(sums / counts)
        return states, sums, counts

    def start(self, batch: int) -> State:
        """The weighted sum [batch dim] and the weight [batch 1] of the inputs so far; zeros."""
        return self._zeros(batch, self.sizes.dim), self._zeros(batch, 1)

    def advance(self, state: State, inputs: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one more input, and the carried state."""
        total, weight = state
        decay = torch.sigmoid(self.logit)
        total, weight = decay * total + inputs, decay * weight + 1
        return self.linear(total / weight), (total, weight)
