"""A multilayer perceptron on the last event alone: enough if the last event holds all that matters of the past."""

from jaxtyping import Float
from torch import Tensor, nn

from what_next.models.encoders.base import Encoder, EncoderSizes, State
from what_next.models.items import ItemVectors


class MlpEncoder(Encoder):
    """Two or more tanh layers, as in Schulman et al. (2017, section 6.1); nothing is carried from event to event.

    The first layer is the map of the inputs themselves; `sizes.layers` counts the layers after it.
    """

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        layers = [part for _ in range(sizes.layers) for part in (nn.Linear(sizes.dim, sizes.dim), nn.Tanh())]
        self.layers = nn.Sequential(nn.Tanh(), *layers)

    def encode(self, inputs: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        """The state after every input."""
        states: Tensor = self.dropout(self.layers(inputs))
        return states

    def start(self, batch: int) -> State:
        """An empty state; its one column only tells the number of rows."""
        return (self._zeros(batch, 1),)

    def advance(self, state: State, inputs: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one more input, and the carried state."""
        states: Tensor = self.dropout(self.layers(inputs))
        return states, state

    def proceed(
        self, state: State, inputs: Float[Tensor, "batch time dim"]
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """See `Encoder.proceed`: one batch pass."""
        return self.encode(inputs), state
