"""Several networks joined into one whose score is the mean of theirs: their weights become blocks of its weights."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from what_next.errors import SetupError
from what_next.models.encoders.recurrent import RecurrentEncoder
from what_next.models.heads import Point, Value

Block = tuple[Tensor, Tensor, float]
"""A view of the joined weight, a member's weight, and the factor with which it is copied there."""


def joinable(nets: Mapping[str, nn.Module]) -> None:
    """Raise a `SetupError` if networks cannot be joined: only encoders of cells, `Point` and `Value` can be made of
    blocks."""
    for name, net in nets.items():
        if not isinstance(net, RecurrentEncoder | Point | Value):
            raise SetupError(
                f"ensemble is above 1, and of several networks {name!r} ({type(net).__name__}) none can be made; heads "
                "are Point or Value there; set ensemble=1"
            )


@torch.no_grad()
def join(whole: nn.Module, members: Sequence[nn.Module]) -> None:
    """Set a network to the mean of others, by concatenating their states and their item vectors.

    The mean of the members' scores `<point, item>` is then one inner product again, so serving, search and export work
    as for one network. The mean of logits is, up to a constant, the logarithm of the geometric mean of the
    probabilities (Hinton 2002, "Training Products of Experts by Minimizing Contrastive Divergence").

    Args:
        whole: as wide as all members together; changed in place.
        members: trained with the same settings from different seeds.
    """
    for weight in whole.parameters():
        weight.zero_()  # no weight connects two members
    for place, own, scale in _blocks(whole, members):
        place.add_(own, alpha=scale)  # added, because members share the bias of a scalar output
    first = members[0]
    if isinstance(whole, RecurrentEncoder) and isinstance(first, RecurrentEncoder):
        if whole.followed is not None and first.followed is not None:  # computed from the log: the same in all members
            whole.followed.copy_(first.followed)
        if whole.ridge and first.ridge:  # the same in all members, too
            whole.ridge.load_state_dict(first.ridge.state_dict())
            whole.ridge.choose()


def _blocks(whole: nn.Module, members: Sequence[nn.Module]) -> Iterator[Block]:
    """The blocks of all members in the joined network."""
    for place, member in enumerate(members):
        if isinstance(whole, RecurrentEncoder):
            yield from _of_encoder(whole, cast(RecurrentEncoder, member), place, len(members))
        elif isinstance(whole, Point):
            yield from _of_point(whole, cast(Point, member), place, len(members))
        else:
            yield from _of_value(cast(Value, whole), cast(Value, member), place, len(members))


def _of_encoder(whole: RecurrentEncoder, member: RecurrentEncoder, place: int, count: int) -> Iterator[Block]:
    """The blocks of an encoder. Its inputs are scaled by the square root of the item vectors' width (`Encoder.inputs`),
    which the joined vectors raise by `count ** 0.5`; the maps of the inputs compensate for that."""
    dim, longer = member.sizes.dim, count**0.5
    own = slice(place * dim, (place + 1) * dim)
    for name, weight in member.cells.named_parameters():
        together = getattr(whole.cells, name)
        first = 1 / longer if name == "weight_ih_l0" else 1.0
        for gate, rows in enumerate(torch.split(weight, dim)):
            there = together[gate * count * dim :][own]
            yield there[:, own] if weight.ndim == 2 else there, rows, first
    if whole.skip is not None and member.skip is not None:
        yield whole.skip.weight[own, own], member.skip.weight, 1 / longer
    if whole.numbers is not None and member.numbers is not None:
        yield whole.numbers.weight[own], member.numbers.weight, longer
        yield whole.numbers.bias[own], member.numbers.bias, longer
    if whole.items.map is not None and member.items.map is not None:
        yield whole.items.map[own], member.items.map, 1.0
    if whole.items.learned is not None and member.items.learned is not None:
        yield whole.items.learned[:, own], member.items.learned, 1.0


def _of_point(whole: Point, member: Point, place: int, count: int) -> Iterator[Block]:
    """The blocks of a point head. Its last row, if any, is a level that is added to every score; it is averaged too."""
    dim = member.linear.in_features
    own = slice(place * dim, (place + 1) * dim)
    yield whole.linear.weight[own, own], member.linear.weight[:dim], 1 / count
    yield whole.linear.bias[own], member.linear.bias[:dim], 1 / count
    if member.linear.out_features > dim:
        yield whole.linear.weight[-1:, own], member.linear.weight[dim:], 1 / count
        yield whole.linear.bias[-1:], member.linear.bias[dim:], 1 / count


def _of_value(whole: Value, member: Value, place: int, count: int) -> Iterator[Block]:
    dim = member.last.in_features
    own = slice(place * dim, (place + 1) * dim)
    hidden, its = cast(nn.Linear, whole.hidden[0]), cast(nn.Linear, member.hidden[0])
    yield hidden.weight[own, own], its.weight, 1.0
    yield hidden.bias[own], its.bias, 1.0
    yield whole.last.weight[:, own], member.last.weight, 1 / count
    yield whole.last.bias, member.last.bias, 1 / count
