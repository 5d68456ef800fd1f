"""Set numbers for the algorithms whose actions are points on the sphere."""

import torch
from torch import Tensor, nn

from what_next.models.item_space import ItemSpace
from what_next.types import Transitions

from .worlds import Head, items_of, transitions

SAME = [[1.0, 0.0], [0.0, 1.0]]
SWAP = [[0.0, 1.0], [1.0, 0.0]]
SLOW = [[0.5, 0.0], [0.0, 2.0]]


class Judges(nn.Module):
    """Critics whose values are bilinear, `state @ matrix @ point`, so that they can be worked by hand."""

    def __init__(self, *matrices: list[list[float]]) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.tensor(matrix) for matrix in matrices)

    def forward(self, states: Tensor, points: Tensor) -> Tensor:
        return torch.stack([((states @ matrix) * points).sum(-1) for matrix in self.matrices])


def networks(actor: list[list[float]] = SWAP, *critics: list[list[float]]) -> dict[str, nn.Module]:
    """An actor that swaps the state's entries, and a critic whose value is the inner product of state and point."""
    return {"actor": Head(actor), "critic": Judges(*(critics or (SAME,)))}


def items() -> ItemSpace:
    """Three items: to the east, to the north, to the west; their lengths do not count."""
    return items_of([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])


def batch() -> Transitions:
    """Two steps, in directions (.6, .8) and (1, 0): north came next, which paid 1, and east, which paid 2.

    The first state's next is in direction (2, 1): nearest to it is east, then north. The second history ended.
    """
    return transitions(
        [[3.0, 4.0], [1.0, 0.0]],
        [1, 0],
        rewards=[1.0, 2.0],
        next_states=[[2.0, 1.0], [0.0, -3.0]],
        discounts=[0.5, 0.0],
    )


def moved(loss: Tensor, *tensors: Tensor) -> list[bool]:
    """Which of some tensors the loss has a gradient for."""
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]
