"""Every encoder: streaming equals the batch pass, no state knows a later event, padding is harmless."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from what_next.models.encoders import (
    ENCODERS,
    Encoder,
    EncoderSizes,
    GruEncoder,
    LstmEncoder,
    MeanEncoder,
    State,
    TransformerEncoder,
)
from what_next.models.encoders import transformer as transformers
from what_next.models.encoders.base import SharedDropout
from what_next.models.items import ItemVectors
from what_next.types import Events

ITEMS, DIM = 30, 16
KINDS = pytest.mark.parametrize("kind", [*ENCODERS, "lstm with skip", "gru with skip"])


def made(
    kind: str,
    *,
    numbers: int = 0,
    layers: int = 2,
    dropout: float = 0.3,
    max_length: int = 20,
    item_dropout: float = 0.0,
) -> Encoder:
    torch.manual_seed(3)
    name, _, skip = kind.partition(" with ")
    sizes = EncoderSizes(DIM, layers, dropout, numbers, max_length, skip=bool(skip), item_dropout=item_dropout)
    return ENCODERS[name](ItemVectors(ITEMS, DIM), sizes).eval()


def events(batch: int, time: int, numbers: int = 0, seed: int = 0) -> Events:
    generator = torch.Generator().manual_seed(seed)
    items = torch.randint(ITEMS, (batch, time), generator=generator)
    return Events(items, torch.randn(batch, time, numbers, generator=generator))


def part(whole: Events, rows: slice, columns: slice) -> Events:
    return Events(whole.items[rows, columns], whole.numbers[rows, columns])


def streamed(encoder: Encoder, whole: Events) -> tuple[Tensor, State]:
    state, states = encoder.start(len(whole.items)), []
    for column in range(whole.items.shape[1]):
        one, state = encoder.step(state, part(whole, slice(None), slice(column, column + 1)))
        states.append(one)
    return torch.stack(states, 1), state


@KINDS
@pytest.mark.parametrize("numbers", [0, 2])
@pytest.mark.parametrize("time", [1, 7, 50, 300])
@torch.no_grad()
def test_streaming_equals_the_batch_pass(kind: str, numbers: int, time: int) -> None:
    encoder, whole = made(kind, numbers=numbers), events(3, time, numbers)
    torch.testing.assert_close(streamed(encoder, whole)[0], encoder(whole), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@torch.no_grad()
def test_a_skip_starts_as_half_of_the_last_input_on_top_of_the_cells_state(kind: str) -> None:
    encoder, whole = made(f"{kind} with skip"), events(3, 7)
    alone = made(kind)
    alone.load_state_dict({name: one for name, one in encoder.state_dict().items() if name != "skip.weight"})
    torch.testing.assert_close(encoder(whole), alone(whole) + encoder.inputs(whole) / 2, atol=1e-6, rtol=0)


@KINDS
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("time", [1, 19, 20, 21, 300])
@torch.no_grad()
def test_a_replay_carries_what_as_many_steps_would(kind: str, layers: int, time: int) -> None:
    """At a band of 20 events: before it is full, when it is, and long after."""
    encoder, whole = made(kind, numbers=1, layers=layers), events(3, time + 2, 1)
    past, rest = part(whole, slice(None), slice(0, time)), part(whole, slice(None), slice(time, None))
    states, state = encoder.replay(past)
    target_states, slow = Encoder.replay(encoder, past)
    torch.testing.assert_close(states, target_states, atol=1e-5, rtol=0)
    for left, right in zip(state, slow, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=0)
    for place in range(2):
        one, state = encoder.step(state, part(rest, slice(None), slice(place, place + 1)))
        torch.testing.assert_close(one, encoder(whole)[:, time + place], atol=1e-5, rtol=0)


@KINDS
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_histories_of_different_lengths_are_replayed_in_one_pass(kind: str, layers: int) -> None:
    """Each carries what a pass over it alone carries, and goes on as it would."""
    encoder, lengths = made(kind, numbers=1, layers=layers), [1, 19, 20, 21, 300, 7]
    whole, more = events(len(lengths), 300, 1), events(len(lengths), 1, 1)
    padded = whole.items.clone()
    for row, length in enumerate(lengths):
        padded[row, length:] = -1
    states, state = encoder.replay(Events(padded, whole.numbers), torch.tensor(lengths))
    after, _ = encoder.step(state, more)
    for row, length in enumerate(lengths):
        alone, kept = encoder.replay(part(whole, slice(row, row + 1), slice(0, length)))
        torch.testing.assert_close(states[row, :length], alone[0], atol=1e-5, rtol=0)
        next_one, _ = encoder.step(kept, part(more, slice(row, row + 1), slice(None)))
        torch.testing.assert_close(after[row], next_one[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_blocks_and_bands_of_any_width_stream_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers, "BLOCK", 8)
    for band in (1, 2, 5, 30):
        encoder, whole = made("transformer", max_length=band, layers=3), events(2, 41)
        torch.testing.assert_close(streamed(encoder, whole)[0], encoder(whole), atol=1e-5, rtol=0)


@KINDS
@torch.no_grad()
def test_no_state_knows_a_later_event(kind: str) -> None:
    encoder, whole = made(kind, numbers=1), events(2, 300, 1)
    before = encoder(whole)
    for place in (0, 20, 150, 299):
        items, numbers = whole.items.clone(), whole.numbers.clone()
        items[:, place] = (items[:, place] + 1) % ITEMS
        numbers[:, place] += 5
        after = encoder(Events(items, numbers))
        assert torch.equal(after[:, :place], before[:, :place])
        assert not torch.equal(after[:, place], before[:, place])


@KINDS
@torch.no_grad()
def test_padding_changes_no_state_before_it(kind: str) -> None:
    encoder, whole = made(kind, numbers=1), events(2, 33, 1)
    padded = Events(functional.pad(whole.items, (0, 9), value=-1), functional.pad(whole.numbers, (0, 0, 0, 9)))
    states = encoder(padded)
    assert torch.isfinite(states).all()
    torch.testing.assert_close(states[:, :33], encoder(whole), atol=1e-5, rtol=0)


@KINDS
def test_padding_teaches_nothing(kind: str) -> None:
    encoder, whole = made(kind), events(2, 6)
    gradients = []
    for extra in (0, 5):
        encoder.zero_grad()
        padded = Events(functional.pad(whole.items, (0, extra), value=-1), torch.zeros(2, 6 + extra, 0))
        encoder(padded)[:, :6].square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters() if parameter.grad is not None])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-4)


@KINDS
@torch.no_grad()
def test_a_row_of_padding_keeps_its_state_and_rows_are_independent(kind: str) -> None:
    """A cache holds users with histories of unlike lengths, and steps some of them together."""
    encoder, whole = made(kind), events(3, 30)
    _, short = streamed(encoder, part(whole, slice(0, 1), slice(0, 4)))
    _, long = streamed(encoder, part(whole, slice(1, 2), slice(0, 29)))
    state = tuple(torch.cat(pair) for pair in zip(short, long, strict=True))
    _, held = encoder.step(state, Events(torch.tensor([[-1], [-1]]), torch.zeros(2, 1, 0)))
    assert all(torch.equal(left, right) for left, right in zip(state, held, strict=True))
    step = Events(torch.stack([whole.items[0, 4], whole.items[1, 29]])[:, None], torch.zeros(2, 1, 0))
    states, _ = encoder.step(held, step)
    together = encoder(whole)
    torch.testing.assert_close(states, torch.stack([together[0, 4], together[1, 29]]), atol=1e-5, rtol=0)


@KINDS
@torch.no_grad()
def test_dropout_acts_in_training_alone(kind: str) -> None:
    encoder, whole = made(kind), events(2, 5)
    assert torch.equal(encoder(whole), encoder(whole))
    encoder.train()
    assert not torch.equal(encoder(whole), encoder(whole))


@KINDS
@torch.no_grad()
def test_an_unknown_item_is_read_as_zeros(kind: str) -> None:
    """Of an item that nothing followed in training the vector is scored with, and not read: step by step, and in a
    batch. Without item dropout nobody learned what zeros mean, so that all are read."""
    encoder, whole = made(kind, item_dropout=0.1), events(3, 7)
    followed, plain = torch.ones(ITEMS, dtype=torch.bool), made(kind)
    assert torch.equal(encoder(whole), plain(whole))
    followed[whole.items[:, 3]] = False
    assert encoder.followed is not None
    encoder.followed.copy_(followed)
    found = encoder(whole)
    assert not torch.allclose(found, plain(whole))
    torch.testing.assert_close(streamed(encoder, whole)[0], found, atol=1e-5, rtol=1e-5)
    assert encoder.items.learned is not None
    encoder.items.learned[~followed] = 5.0
    assert torch.equal(encoder(whole), found)


@torch.no_grad()
def test_some_items_are_taken_for_unknown_in_training_alone() -> None:
    encoder, items = made("lstm", item_dropout=0.25), torch.zeros(100, 200, dtype=torch.long)
    assert not encoder.unknown(items).any()
    assert 0.24 < float(encoder.train().unknown(items).float().mean()) < 0.26


@KINDS
def test_every_parameter_learns(kind: str) -> None:
    encoder = made(kind, numbers=2).train()
    encoder(events(4, 25, 2)).square().sum().backward()
    silent = [name for name, parameter in encoder.named_parameters() if parameter.grad is None]
    assert not silent


@KINDS
@torch.no_grad()
def test_the_numbers_of_an_event_are_read(kind: str) -> None:
    encoder, whole = made(kind, numbers=2), events(2, 5, 2)
    assert not torch.equal(encoder(whole), encoder(Events(whole.items, whole.numbers + 1)))


@KINDS
@torch.no_grad()
def test_twenty_thousand_events_give_finite_states(kind: str) -> None:
    encoder = made(kind, layers=1)
    assert torch.isfinite(encoder(events(1, 20_000))[0, -1]).all()


@torch.no_grad()
def test_mean_by_hand() -> None:
    """Decay 1/2, vectors (1, 0), (0, 1), (1, 1) as read: the weights are 1; 1/2, 1; 1/4, 1/2, 1."""
    encoder = MeanEncoder(ItemVectors(3, 2), EncoderSizes(dim=2)).eval()
    assert encoder.items.learned is not None
    encoder.items.learned.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]) / math.sqrt(2))
    encoder.logit.zero_()
    encoder.linear.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    encoder.linear.bias.copy_(torch.tensor([0.0, 1.0]))
    states = encoder(Events(torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, 0)))
    means = [[1, 0], [0.5 / 1.5, 1 / 1.5], [1.25 / 1.75, 1.5 / 1.75]]
    expected = torch.tensor([[[first, 2 * second + 1] for first, second in means]])
    torch.testing.assert_close(states, expected)


def test_a_mean_that_forgets_at_once_reads_the_last_event_alone() -> None:
    encoder, whole = made("mean", dropout=0.0), events(2, 200)
    assert isinstance(encoder, MeanEncoder)
    with torch.no_grad():
        encoder.logit.fill_(-30)
    states = encoder(whole)
    torch.testing.assert_close(states, encoder.linear(encoder.inputs(whole)))
    states.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in encoder.parameters())


@torch.no_grad()
def test_lstm_equals_a_loop_over_cells() -> None:
    encoder, whole = made("lstm"), events(3, 9)
    assert isinstance(encoder, LstmEncoder)
    inputs = encoder.inputs(whole)
    for layer in range(2):
        cell = torch.nn.LSTMCell(DIM, DIM)
        for name, parameter in cell.named_parameters():
            parameter.copy_(getattr(encoder.cells, f"{name}_l{layer}"))
        outputs, state = [], None
        for column in inputs.unbind(1):
            state = cell(column, state)
            outputs.append(state[0])
        inputs = torch.stack(outputs, 1)
    torch.testing.assert_close(encoder(whole), inputs, atol=1e-5, rtol=0)


def test_the_forget_gate_starts_at_one() -> None:
    encoder = made("lstm", layers=1)
    assert isinstance(encoder, LstmEncoder)
    bias = encoder.cells.bias_ih_l0 + encoder.cells.bias_hh_l0
    assert (bias[DIM : 2 * DIM] == 1).all()
    assert bias[:DIM].abs().max() < 1


@torch.no_grad()
def test_gru_equals_a_loop_over_cells() -> None:
    encoder, whole = made("gru", layers=1), events(3, 9)
    assert isinstance(encoder, GruEncoder)
    cell, state, outputs = torch.nn.GRUCell(DIM, DIM), None, []
    for name, parameter in cell.named_parameters():
        parameter.copy_(getattr(encoder.cells, f"{name}_l0"))
    for column in encoder.inputs(whole).unbind(1):
        state = cell(column, state)
        outputs.append(state)
    torch.testing.assert_close(encoder(whole), torch.stack(outputs, 1), atol=1e-5, rtol=0)


def turned(vector: Tensor, position: int) -> Tensor:
    """Rotary positions written out: columns i and i + width / 2 are turned by position * 10000 ** (-2 i / width)."""
    result, half = vector.clone(), len(vector) // 2
    for i in range(half):
        angle = position * 10_000 ** (-2 * i / len(vector))
        x, y = vector[i], vector[i + half]
        result[i] = x * math.cos(angle) - y * math.sin(angle)
        result[i + half] = y * math.cos(angle) + x * math.sin(angle)
    return result


@pytest.mark.parametrize("band", [20, 4])
@torch.no_grad()
def test_transformer_equals_attention_written_out(band: int) -> None:
    torch.manual_seed(5)
    encoder = TransformerEncoder(ItemVectors(ITEMS, 64), EncoderSizes(dim=64, max_length=band)).eval()
    whole, layer = events(1, 9), encoder.layers[0]
    assert isinstance(layer, transformers.Layer)
    assert layer.heads == 2
    inputs = encoder.inputs(whole)[0]
    queries, keys, values = layer.projections(layer.attention_norm(inputs)).chunk(3, 1)
    read = torch.zeros(9, 64)
    for place in range(9):
        for head in (slice(0, 32), slice(32, 64)):
            near = range(max(0, place - band + 1), place + 1)
            query = turned(queries[place, head], place)
            scores = torch.stack([query @ turned(keys[j, head], j) for j in near]) / math.sqrt(32)
            read[place, head] = scores.softmax(0) @ values[near.start : near.stop, head]
    states = inputs + layer.joined(read)
    states = states + layer.narrow(functional.gelu(layer.wide(layer.forward_norm(states))))
    torch.testing.assert_close(encoder(whole)[0], encoder.norm(states), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_transformer_of_one_layer_forgets_what_left_its_band() -> None:
    encoder, whole = made("transformer", layers=1, max_length=5), events(1, 12)
    items = whole.items.clone()
    items[0, 3] = (items[0, 3] + 1) % ITEMS
    changed = (encoder(Events(items, whole.numbers)) - encoder(whole)).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [3 <= place < 8 for place in range(12)]


@pytest.mark.parametrize(("dim", "heads"), [(16, 1), (64, 2), (128, 4), (96, 3), (70, 1), (72, 2)])
def test_heads_share_the_state_evenly(dim: int, heads: int) -> None:
    assert transformers.heads_of(dim) == heads


def test_a_start_is_the_same_by_seed() -> None:
    left, right = made("lstm").state_dict(), made("lstm").state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


class TestSharedDropout:
    def test_the_same_entries_are_dropped_at_every_step(self) -> None:
        torch.manual_seed(0)
        found = SharedDropout(0.5)(torch.ones(40, 7, 16))
        assert set(found.unique().tolist()) == {0.0, 2.0}
        assert torch.equal(found, found[:, :1].expand_as(found))
        assert found[:, 0].mean() == pytest.approx(1.0, abs=0.1)
        assert len(found[:, 0].unique(dim=0)) > 30  # each history has its own

    def test_nothing_is_dropped_outside_of_training(self) -> None:
        inputs = torch.randn(3, 4, 5)
        assert torch.equal(SharedDropout(0.5).eval()(inputs), inputs)
        assert torch.equal(SharedDropout(0.0)(inputs), inputs)
