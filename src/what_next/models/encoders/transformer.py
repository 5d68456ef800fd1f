"""A transformer whose layers read a bounded number of events back, so that it streams exactly."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from what_next.models.encoders.base import Encoder, EncoderSizes, Grid, State
from what_next.models.items import ItemVectors
from what_next.types import Events

Heads = Float[Tensor, "batch heads time width"]

BLOCK = 256  # queries per attention call, in histories longer than `max_length`
HEAD = 32  # least width of a head
Pair = tuple[Tensor, Tensor]


class TransformerEncoder(Encoder):
    """Causal self-attention over the history (SASRec, Kang and McAuley 2018), pre-norm, with rotary positions.

    Every layer reads the last `max_length` events of its input, in training as in streaming (a band, as in Beltagy et
    al. 2020, section 3.1). So a step needs only the keys and values of the last `max_length - 1` events, however long
    the history is. Only differences of positions enter (Su et al. 2021, equation 14), so that a window may start
    anywhere. The feed-forward part is twice as wide as the state: a layer has as many weights as an LSTM's.
    """

    def __init__(self, items: ItemVectors, sizes: EncoderSizes) -> None:
        super().__init__(items, sizes)
        assert sizes.max_length > 0, "an event is read at least by itself"
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.dim)

    def encode(self, inputs: Grid) -> Grid:
        """The state after every input."""
        states = inputs
        for layer in self.layers:
            states = layer(states)
        normed: Tensor = self.norm(states)
        return normed

    def replay(self, events: Events, lengths: Int64[Tensor, "batch"] | None = None) -> tuple[Grid, State]:
        """See `Encoder.replay`: one batch pass, which keeps the keys and values of the latest events."""
        states = self.inputs(events)
        past, time = self.sizes.max_length - 1, states.shape[1]
        kept: list[Pair] = []
        for layer in self.layers:
            assert isinstance(layer, Layer)
            states, pair = layer.read(states)
            kept.append((newest(pair[0], past, lengths), newest(pair[1], past, lengths)))
        back = torch.arange(past, 0, -1, device=states.device)
        there = back <= (time if lengths is None else lengths[:, None].to(back))
        keys, values = (torch.stack(parts, 1) for parts in zip(*kept, strict=True))
        normed: Tensor = self.norm(states)
        return normed, (keys, values, there.expand(len(states), past))

    def start(self, batch: int) -> State:
        """Keys and values of each layer, newest last: [batch layers heads past width]; and a mask of those present."""
        heads, past = heads_of(self.sizes.dim), self.sizes.max_length - 1
        zeros = self._zeros(batch, self.sizes.layers, heads, past, self.sizes.dim // heads)
        return zeros, zeros, torch.zeros(batch, past, dtype=torch.bool, device=zeros.device)

    def advance(self, state: State, inputs: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], State]:
        """The states after one more input, and the carried state."""
        states, keys, values = inputs.unsqueeze(1), [], []
        there = torch.cat([state[2], state[2].new_ones(inputs.shape[0], 1)], 1)
        for layer, old_keys, old_values in zip(self.layers, state[0].unbind(1), state[1].unbind(1), strict=True):
            assert isinstance(layer, Layer)
            states, (new_keys, new_values) = layer.advance(states, (old_keys, old_values), there)
            keys.append(new_keys)
            values.append(new_values)
        normed: Tensor = self.norm(states.squeeze(1))
        return normed, (torch.stack(keys, 1), torch.stack(values, 1), there[:, 1:])


class Layer(nn.Module):
    """Attention and a feed-forward part, each on the normed states and added to them.

    Dropout is on the added outputs, not on the attention's weights: PyTorch's fused attention on a CPU has none.
    """

    def __init__(self, sizes: EncoderSizes) -> None:
        super().__init__()
        self.heads, self.band = heads_of(sizes.dim), sizes.max_length
        self.attention_norm, self.forward_norm = nn.LayerNorm(sizes.dim), nn.LayerNorm(sizes.dim)
        self.projections = nn.Linear(sizes.dim, 3 * sizes.dim)
        self.joined = nn.Linear(sizes.dim, sizes.dim)
        self.wide, self.narrow = nn.Linear(sizes.dim, 2 * sizes.dim), nn.Linear(2 * sizes.dim, sizes.dim)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, states: Grid) -> Grid:
        """The layer's output for every input."""
        return self.read(states)[0]

    def read(self, states: Grid) -> tuple[Grid, Pair]:
        """Outputs, keys and values, block by block: memory does not grow with the square of the history."""
        queries, keys, values = self._project(states)
        time = states.shape[1]
        if time <= self.band:  # without a mask, a graphics card uses its fastest kernel
            return self._finish(states, attend(queries, keys, values, None)), (keys, values)
        read = []
        for start in range(0, time, BLOCK):
            first, end = max(start - self.band + 1, 0), min(start + BLOCK, time)
            mask = banded(end - start, start - first, self.band, states.device)
            near = slice(first, end)
            read.append(attend(queries[:, :, start:end], keys[:, :, near], values[:, :, near], mask))
        return self._finish(states, torch.cat(read, 2)), (keys, values)

    def advance(
        self, states: Float[Tensor, "batch 1 dim"], past: Pair, there: Bool[Tensor, "batch band"]
    ) -> tuple[Float[Tensor, "batch 1 dim"], Pair]:
        """The output for one more input, and the keys and values that the next one needs."""
        queries, *new = self._project(states)
        keys, values = (torch.cat([old, one], 2) for old, one in zip(past, new, strict=True))
        read = attend(queries, keys, values, there[:, None, None])
        return self._finish(states, read), (keys[:, :, 1:], values[:, :, 1:])

    def _project(self, states: Grid) -> list[Heads]:
        """Queries, keys and values."""
        projected: Tensor = self.projections(self.attention_norm(states))
        return [part.view(*part.shape[:2], self.heads, -1).transpose(1, 2) for part in projected.chunk(3, 2)]

    def _finish(self, states: Grid, read: Heads) -> Grid:
        """Add the attention's output to the states, then that of the feed-forward part."""
        states = states + self.dropout(self.joined(read.transpose(1, 2).flatten(2)))
        wide = self.dropout(functional.gelu(self.wide(self.forward_norm(states))))
        added: Tensor = states + self.dropout(self.narrow(wide))
        return added


def heads_of(dim: int) -> int:
    """Number of heads: each has 32 columns or more, and an even number of them, because rotary positions need pairs."""
    return next(heads for heads in range(max(dim // HEAD, 1), 0, -1) if dim % (2 * heads) == 0)


def newest(
    vectors: Heads, count: int, lengths: Int64[Tensor, "batch"] | None = None
) -> Float[Tensor, "batch heads {count} width"]:
    """The last `count` in time, before each row's padding; preceded by zeros if there are fewer."""
    if lengths is not None:
        places = lengths[:, None].to(vectors.device) - torch.arange(count, 0, -1, device=vectors.device)
        found = vectors.gather(
            2, places.clamp(min=0)[:, None, :, None].expand(*vectors.shape[:2], -1, vectors.shape[3])
        )
        return found * (places >= 0)[:, None, :, None]
    missing = max(count - vectors.shape[2], 0)
    return functional.pad(vectors[:, :, max(vectors.shape[2] - count, 0) :], (0, 0, missing, 0))


def banded(count: int, past: int, band: int, device: torch.device) -> Bool[Tensor, "queries keys"]:
    """Which keys each query reads: its own and the `band - 1` before it; `past` keys come before the first query."""
    own = torch.arange(past, past + count, device=device)[:, None]
    keys = torch.arange(past + count, device=device)
    return (keys <= own) & (keys > own - band)


def attend(
    queries: Float[Tensor, "batch heads queries width"],
    keys: Float[Tensor, "batch heads keys width"],
    values: Float[Tensor, "batch heads keys width"],
    mask: Bool[Tensor, "*#some queries keys"] | None,
) -> Float[Tensor, "batch heads queries width"]:
    """What each query reads: the keys of the mask, or without one its own key and all before; the last query is at the
    last key.

    Positions are counted from the first key given, so that they stay small: only their differences matter.
    """
    turns = rotations(keys.shape[2], keys.shape[3], keys)
    own = [turn[-queries.shape[2] :] for turn in turns]
    queries, keys = rotate(queries, *own), rotate(keys, *turns)
    return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)


def rotations(count: int, width: int, like: Tensor) -> Pair:
    """Cosine and sine of each position's angles: the slowest turns once in about 10,000 * 2 pi positions."""
    frequencies = 10_000 ** -(torch.arange(0, width, 2, device=like.device) / width)
    angles = torch.arange(count, device=like.device)[:, None] * torch.cat([frequencies, frequencies])
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(vectors: Heads, cosines: Float[Tensor, "time width"], sines: Float[Tensor, "time width"]) -> Heads:
    """Each vector turned by the angles of its position: column i of the first half with column i of the second."""
    first, second = vectors.chunk(2, -1)
    return vectors * cosines + torch.cat([-second, first], -1) * sines
