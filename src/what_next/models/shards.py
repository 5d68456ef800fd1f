"""A table of item vectors whose rows are sharded over several processes; all-to-all fetches rows and sends gradients.

Item `i` is row `i // count` of process `i % count`. A catalogue's order has nothing to do with this remainder, so every
process holds as many rows as every other, and as many popular ones, and no map from items to rows is needed.

The rows that a step needs are fetched when it asks for them, and kept. Its gradients go back the same way, in one
exchange per look-up, after the backward pass (`gradient`): no process waits for another within a backward pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

BLOCK = 2**14
"""Rows of a table that are drawn, or sent to the first process, at a time: 4 MB at dim 64."""


@runtime_checkable
class Exchange(Protocol):
    """The processes that share a table (`training.distributed.Ranks`)."""

    rank: int
    count: int

    def exchange(self, rows: Tensor, given: Sequence[int], taken: Sequence[int]) -> Tensor:
        """All-to-all: the first `given[0]` rows go to the first process, and so on; returns the rows received."""
        ...

    def summed(self, values: Tensor) -> Tensor:
        """The sum of these values over all processes."""
        ...

    def collected(self, rows: Tensor) -> list[Tensor]:
        """In the first process, the rows of every process, equally many of each; in the others, an empty list."""
        ...


@dataclass(eq=False)
class Lookup:
    """Rows that this process fetched, and its own rows that the others fetched at the same time.

    Attributes:
        places: index in `rows` of each requested item; `rows`: one per distinct item.
        given: number of them that each process sent; `taken`: number of rows that each took from here, `asked`.
        sums: sums of the gradients of `rows`.
    """

    places: Int64[Tensor, "asked_for"]
    rows: Float[Tensor, "distinct dim"]
    given: list[int]
    taken: list[int]
    asked: Int64[Tensor, "taken"]
    sums: Float[Tensor, "distinct dim"] | None = None


class _Fetch(torch.autograd.Function):
    """The rows of a look-up, one for each item; the backward pass sums their gradients in the look-up."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, lookup: Lookup) -> Tensor:
        ctx.lookup = lookup
        return lookup.rows[lookup.places]

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[None, None]:
        lookup = ctx.lookup
        if lookup.sums is None:
            lookup.sums = torch.zeros_like(lookup.rows)
        lookup.sums.index_add_(0, lookup.places, gradients)
        return None, None


@dataclass(eq=False)
class Shards:
    """How the rows of a table of `items` are sharded over several processes.

    All processes must call `look_up` and `gradient` equally often and in the same order.
    """

    items: int
    ranks: Exchange
    lookups: list[Lookup] = field(default_factory=list, repr=False)

    @property
    def own(self) -> slice:
        """The items whose rows this process holds."""
        return slice(self.ranks.rank, self.items, self.ranks.count)

    def look_up(self, table: Float[Tensor, "own dim"], items: Int64[Tensor, "*grid"]) -> Float[Tensor, "*grid dim"]:
        """The rows of some items; each distinct row is fetched once."""
        count = self.ranks.count
        most = -(-self.items // count)
        keys, places = torch.unique(items % count * most + items // count, return_inverse=True)  # by process, then row
        given = torch.bincount(keys // most, minlength=count)
        ones = [1] * count
        told = self.ranks.exchange(given, ones, ones)
        sent, taken = given.tolist(), told.tolist()
        asked = self.ranks.exchange(keys % most, sent, taken)
        rows = self.ranks.exchange(table.detach()[asked], taken, sent)
        lookup = Lookup(places.flatten(), rows, sent, taken, asked)
        if torch.is_grad_enabled():
            self.lookups.append(lookup)
        found: Tensor = _Fetch.apply(table, lookup)
        return found.view(*items.shape, -1)

    def gradient(self, table: Float[Tensor, "own dim"]) -> None:
        """Set the table's sparse gradient: the sum over all processes' look-ups since the last call."""
        values = [
            self.ranks.exchange(torch.zeros_like(one.rows) if one.sums is None else one.sums, one.given, one.taken)
            for one in self.lookups
        ]
        rows = torch.cat([one.asked for one in self.lookups])
        table.grad = torch.sparse_coo_tensor(
            rows[None], torch.cat(values), table.shape, check_invariants=False
        ).coalesce()
        self.lookups.clear()

    def whole(self, table: Float[Tensor, "own dim"]) -> Iterator[Float[Tensor, "rows dim"]]:
        """In the first process, blocks of the rows of all items in order; in the others, nothing."""
        count = self.ranks.count
        for start in range(0, -(-self.items // count), BLOCK):
            piece = table.detach()[start : start + BLOCK]
            wanted = min(BLOCK, -(-self.items // count) - start)
            padded = torch.cat([piece, piece.new_zeros(wanted - len(piece), piece.shape[1])])
            if several := self.ranks.collected(padded):
                yield torch.stack(several, 1).flatten(0, 1)[: self.items - start * count]
