"""Counts that score items beside an encoder. From the log: a linear model of co-occurrence, the items that came next
after the last ones, and popularity. From the history: the items that it holds, and the items that came next when its
last item occurred before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64
from torch import Tensor, nn
from torch.nn import functional

from what_next.data.batches import ranges

RANKS = (64, 512, 1024)
"""Numbers of directions of the linear model: the fewest, then those that validation may choose instead."""
ENTRIES = 2**21
"""Most entries of the table of directions before validation, unless the fewest directions already need more."""
PENALTY = 100.0
"""Penalty of the ridge regression; validation chooses a factor of it."""
TRIED = 2**17
"""Most items for which 512 directions are affordable (268 MB). 1,024 directions are, up to half as many items."""
RECALLED = 256
"""How many of a history's last events `repeat` and `replay` read."""
AGAIN = 0.8
"""Decay of `replay`: an item that followed an earlier occurrence of the last item counts this factor per later one."""
REPEAT_DECAY = 0.9
"""Decay of `repeat` per following event, before validation chooses one."""
TRANSITION_DECAY = 0.0
"""Decay of `transition` per following event, before validation chooses one."""
LAST, SLOW, MANY = 10, 0.9, 2**13
"""Transitions are looked up after the last `LAST` events, as in `baselines.Markov`. From a decay of `SLOW` on, they are
looked up after as many events as have `MANY` successors together, but at most `RECALLED`."""
SUCCESSORS = (16, 128)
"""Successors kept per item, at least and at most: the most frequent ones."""
CELLS = 2**22
"""Cells of the table of all items x new items that `_averages` computes at a time: 50 MB."""
ALL_SUCCESSORS = 2**20
"""Most entries of the table of successors, unless the fewest per item need more; with more items there is no table."""

TABLES = ("next_items", "next_shares", "next_totals")
"""Buffers with a row per item, whose number of columns depends on what counts."""
NUMBERS = {
    "weight": 0.0, "decay": 1.0, "penalty": 1.0, "zero_diagonal": 0.0, "bias": 0.0, "replay": 0.0, "repeat": 0.0,
    "repeat_decay": REPEAT_DECAY, "transition": 0.0, "transition_decay": TRANSITION_DECAY, "temperature": 1.0,
}  # fmt: skip
"""The numbers that validation chooses, with their values before it does."""
LATER = tuple(name for name in NUMBERS if name not in ("weight", "decay", "penalty", "temperature"))
"""Numbers that models of earlier versions may lack."""
FORMER = ("pull", "successors", "chain", "chain_decay", "chains", "codes")
"""Buffers of earlier versions that are dropped: transitions in the network's item space, and codes."""
RENAMED = {"step": "transition", "step_decay": "transition_decay"}
"""Former names of numbers."""


def ranks_of(count: int) -> tuple[int, ...]:
    """For `count` items: the number of directions before validation, then the larger numbers that it may choose."""
    few = min(max(ENTRIES // count, RANKS[0]), RANKS[1], count)
    more = (min(rank, count) for rank in RANKS[1:] if count * rank <= TRIED * RANKS[1])
    return few, *(rank for rank in dict.fromkeys(more) if rank > few)


def successors_of(count: int) -> int:
    """How many successors are kept per item, for `count` items; 0 if the table would be too large."""
    return min(max(ALL_SUCCESSORS // count, SUCCESSORS[0]), SUCCESSORS[1], count) if count <= ALL_SUCCESSORS else 0


@dataclass(frozen=True, eq=False)
class Past:
    """What the linear term reads of a batch of histories.

    Attributes:
        foretold: the linear model's prediction along the directions; of length 1.
        recent: the last items, oldest first, padded with -1 at the start; None if they do not count.
    """

    foretold: Float[Tensor, "*grid rank"]
    recent: Int64[Tensor, "*grid recent"] | None


class LinearTerm(nn.Module):
    """A ridge regression of items on items, of reduced rank, as additional columns of points and item vectors.

    With `X` the users x items matrix of the log, and `V`, `s` the right singular vectors and the singular values of its
    first directions, a history `h` predicts items by `h V diag(s^2 / (s^2 + PENALTY)) V'` (Jin et al. 2021, "Towards a
    Better Understanding of Linear Models for Recommendation": EASE without its zero diagonal). In `h` an event counts
    `decay` to the power of how many events follow it. The product up to the last `V'` is scaled to length `weight` and
    appended to the point; `V` is appended to the item vectors: the score stays one inner product. One more column is
    the popularity of each item, times `bias`, because a network reproduces popularity less exactly than a count.

    The more an item can predict itself, the less the ridge regression lets other items predict it, and an item that the
    history lacks has only the others. With `zero_diagonal` it scores as in EASE, where no item predicts itself (Steck
    2019, arXiv:1905.03375, equation 8: the score of each item `j` divided by `P_jj`, of the inverse `P` of
    `X'X + PENALTY I`): row `j` of `V` is divided by `PENALTY P_jj = 1 - V_j diag(gains) V_j'`. An item of the history
    still predicts itself, and more strongly so.

    An inner product of affordable size cannot separate tens of thousands of items. So `boosts` adds to the scores of a
    few items per history:

    - items that came next in the log after the last ones, as in `baselines.Markov`, because a rare item may have one
      successor; or items that go together with them in any order, because thousands of small sets need as many
      directions;
    - items that the history holds, as in `baselines.PopularPersonal`, because many people come back to a few items of
      their own, which may be rare or new;
    - items that came next in the same history when its last item occurred before, because people replay lists and buy
      by routine (induction heads find the same: Olsson et al. 2022, "In-context Learning and Induction Heads").

    All numbers are chosen on the validation users once the networks are trained (`training.weighing`). Until then
    nothing is added. What is unknown of a new item is taken from the items that share tags with it (`place`).

    Attributes:
        rank: number of directions.
        directions: [items rank], `V`; `gains`: [rank], `s^2 / (s^2 + PENALTY)`.
        popularity: [items], the logarithm of one plus the item's events, less the mean; 0 for new items. The events
            may be weighted by an exponential decay.
        weight, decay, zero_diagonal, bias: as above; `penalty`: factor of `PENALTY`.
        next_items, next_shares: [items kept], the successors of each item, -1 for none, and their shares: the count
            divided by one more than the item's total. Or the items that co-occur with it most surely in any order, and
            how surely (`baselines.counts.likelihood_ratios`), or those in whose regression it has the largest weights
            (`baselines.slim.regression`). No columns without `transition`.
        next_totals: [items 1], how often any item came next.
        tag_steps: how many transitions of the log the prediction from tags counts as; 0 if tags are not used.
        tags_kept: [kinds], how often the next item has the same tag, for each of `Catalogue.kinds`. Empty if unknown.
        transition: weight of `next_shares` after the last item. It falls by the factor `transition_decay` per
            following event.
        repeat: weight of the items in the history, where an event counts `repeat_decay` per following event.
        replay: weight of the items that came next in the history after earlier occurrences of its last item.
        last: after how many of the last events transitions are looked up.
        temperature: divides all scores, so that their softmax gives the probabilities of the next item.
    """

    directions: Tensor
    gains: Tensor
    popularity: Tensor
    weight: Tensor
    decay: Tensor
    penalty: Tensor
    zero_diagonal: Tensor
    bias: Tensor
    replay: Tensor
    repeat: Tensor
    repeat_decay: Tensor
    transition: Tensor
    transition_decay: Tensor
    next_items: Tensor
    next_shares: Tensor
    next_totals: Tensor
    tag_steps: Tensor
    tags_kept: Tensor
    temperature: Tensor

    def __init__(self, count: int) -> None:
        """Of `count` items, with nothing counted yet."""
        super().__init__()
        few = ranks_of(count)[0]
        self.register_buffer("directions", torch.zeros(count, few))
        self.register_buffer("gains", torch.zeros(few))
        self.register_buffer("popularity", torch.zeros(count))
        for name in TABLES:
            self.register_buffer(name, torch.zeros(count, 0))
        self.next_items = self.next_items.int()
        self.register_buffer("tag_steps", torch.zeros(()))
        self.register_buffer("tags_kept", torch.zeros(0))
        self.choose()

    @property
    def counts(self) -> bool:
        """Whether anything is added to the scores."""
        return any(bool(getattr(self, name)) for name in ("weight", "bias", "replay", "repeat", "transition"))

    @property
    def rank(self) -> int:
        """See above."""
        return len(self.gains)

    def choose(self, **numbers: float) -> None:
        """Set these numbers, and all others to their values in `NUMBERS`."""
        assert numbers.keys() <= NUMBERS.keys(), "what is set is one of the numbers"
        for name, value in (NUMBERS | numbers).items():
            self.register_buffer(name, torch.tensor(value, device=self.directions.device))
        self._set_last((NUMBERS | numbers)["transition_decay"])

    def _set_last(self, decay: float) -> None:
        """Set `last`, a Python number because no tensor may decide the shapes of an exported graph."""
        self.last = LAST if decay < SLOW else min(MANY // max(self.next_items.shape[1], 1), RECALLED)

    def learn(
        self,
        directions: Float32[np.ndarray, "items some"],
        strengths: Float32[np.ndarray, "some"],
        events: Int64[np.ndarray, "items"],
    ) -> None:
        """Set the directions, the squares of their singular values, and the popularity from the events per item."""
        self.favour(events)
        squares = torch.from_numpy(strengths)
        self.directions = torch.from_numpy(directions).to(self.directions.device)
        self.gains = (squares / (squares + PENALTY)).to(self.directions.device)

    def favour(self, events: Int64[np.ndarray, "items"] | Float64[np.ndarray, "items"]) -> None:
        """Set the popularity from these events per item."""
        popularity = torch.from_numpy(events).log1p()
        self.popularity.copy_(popularity - popularity.mean())

    def learn_transitions(
        self,
        offsets: Int64[np.ndarray, "items_plus_1"],
        followers: Int32[np.ndarray, "pairs"],
        counts: Float32[np.ndarray, "pairs"],
        *,
        whole: float | None = None,
        tag_steps: float = 0.0,
    ) -> None:
        """Keep the most frequent successors of each item.

        Args:
            offsets: the successors of item `i` lie from `offsets[i]` to `offsets[i + 1]`.
            whole: divisor of the counts that makes them shares; None: the item's total plus one.
            tag_steps: how many transitions of the log the prediction from tags counts as in `counts`.
        """
        count, most = len(self.directions), successors_of(len(self.directions))
        before = np.repeat(np.arange(count), np.diff(offsets))
        totals = np.bincount(before, counts, count)
        order = np.lexsort((followers, -counts, before))  # sorts within each item's own range
        places = np.arange(len(before)) - offsets[before]
        kept = places < most
        cells, chosen = (before[kept], places[kept]), order[kept]
        items, shares = np.full((count, most), -1, np.int32), np.zeros((count, most), np.float32)
        items[cells], shares[cells] = followers[chosen], counts[chosen] / (whole or totals[before[kept]] + 1)
        self.next_items = torch.from_numpy(items).to(self.directions.device)
        self.next_shares = torch.from_numpy(shares).to(self.directions.device)
        self.next_totals = torch.from_numpy(totals[:, None]).to(self.next_shares)
        self.tag_steps.fill_(tag_steps)

    def learn_tags(self, kept: Float64[np.ndarray, "kinds"]) -> None:
        """Set how often the next item has the same tag, for each kind of tag."""
        self.tags_kept = torch.from_numpy(kept).to(self.directions)

    def forget(self) -> None:
        """Drop the transition tables if they do not count."""
        if not self.transition:
            for name in TABLES:
                setattr(self, name, getattr(self, name)[:, :0].clone())

    def grow(self, count: int) -> None:
        """Grow to `count` items; nothing is known of the new ones."""
        more = count - len(self.directions)
        self.popularity = functional.pad(self.popularity, (0, more))
        self.directions = functional.pad(self.directions, (0, 0, 0, more))
        for name in TABLES:
            nothing = -1 if name == "next_items" else 0
            setattr(self, name, functional.pad(getattr(self, name), (0, 0, 0, more), value=nothing))

    @torch.no_grad()
    def place(
        self,
        new: Int64[np.ndarray, "new"],
        offsets: Int64[np.ndarray, "new_plus_1"],
        neighbours: Int32[np.ndarray, "pairs"],
        chances: Float32[np.ndarray, "pairs"],
    ) -> None:
        """Replace everything known of the new items by what their neighbours tell.

        The direction of a new item is the mean of its neighbours'. They come next after it, and it after them, as often
        as its tags predict; it comes next after any other item as often as its neighbours do on average.

        Args:
            new: positions of the new items.
            offsets: the neighbours of the first lie from `offsets[0]` to `offsets[1]`, the likely ones first.
            neighbours: items that are not new.
            chances: the probability that each neighbour comes next after the new item, as its tags predict it.
        """
        self.directions[new] = mean_of(self.directions, offsets, neighbours, chances)
        if not self.next_items.shape[1] or not self.tag_steps:
            return
        items, shares = self.next_items.cpu().numpy(), self.next_shares.cpu().numpy()
        before = np.isin(items, new)
        items[before], shares[before] = -1, 0
        items[new], shares[new], self.next_totals[new] = -1, 0, 0
        steps, most = float(self.tag_steps) * chances, items.shape[1]
        for place, start, stop in zip(new.tolist(), offsets[:-1], offsets[1:], strict=True):
            kept = slice(start, min(stop, start + most))
            self.next_totals[place] = total = float(steps[kept].sum())
            count = len(steps[kept])
            items[place, :count], shares[place, :count] = neighbours[kept], steps[kept] / (total + 1)
        self._let_follow(new, offsets, neighbours, steps, (items, shares))
        self.next_items = torch.from_numpy(items).to(self.directions.device)
        self.next_shares = torch.from_numpy(shares).to(self.directions.device)

    def _let_follow(
        self,
        new: Int64[np.ndarray, "new"],
        offsets: Int64[np.ndarray, "new_plus_1"],
        neighbours: Int32[np.ndarray, "pairs"],
        steps: Float32[np.ndarray, "pairs"],
        table: tuple[Int32[np.ndarray, "items kept"], Float32[np.ndarray, "items kept"]],
    ) -> None:
        """Put new items into the successors of other items, in place of the least frequent ones; `steps`: how many
        transitions of the log the probability of each neighbour counts as."""
        items, shares = table
        totals = self.next_totals[:, 0].cpu().numpy()
        least = shares.argmin(1)  # the column of each row that is replaced next
        lowest = shares[np.arange(len(shares)), least]
        alike = _alike(offsets, neighbours, steps)
        each = iter(alike)
        for some in _averages(items, shares, [one[0] for one in alike], offsets, neighbours, steps):
            for average, same in zip(some, each, strict=False):  # `each` goes on in the next chunk
                own, weights = (one[offsets[same[0]] : offsets[same[0] + 1]] for one in (neighbours, steps))
                average[own] = np.maximum(average[own], weights / (np.maximum(totals[own], weights) + 1))
                open_rows = np.flatnonzero(average > lowest)
                for place in new[same].tolist():  # `lowest` only rises, so fewer rows remain open after each
                    rows = open_rows[open_rows != place]
                    items[rows, least[rows]], shares[rows, least[rows]] = place, average[rows]
                    least[rows] = shares[rows].argmin(1)
                    lowest[rows] = shares[rows, least[rows]]
                    open_rows = open_rows[average[open_rows] > lowest[open_rows]]

    def extended(
        self, points: Float[Tensor, "batch columns"], foretold: Float[Tensor, "batch rank"]
    ) -> Float[Tensor, "batch more"]:
        """Points with the columns of the linear model appended."""
        ones = torch.ones_like(points[:, :1])
        return torch.cat([points, self.weight * foretold, self.bias * ones], 1) / self.temperature

    def boosts(
        self, recent: Int64[Tensor, "batch recent"]
    ) -> tuple[Int64[Tensor, "batch some"], Float[Tensor, "batch some"]]:
        """Items (-1 for none) and what is added to their scores; the values of an item that occurs twice are summed."""
        lags = torch.arange(recent.shape[1] - 1, -1, -1, device=recent.device)
        there, earlier, last = (recent >= 0).to(self.repeat.dtype), recent[:, :-1], recent[:, -1:]
        same = (earlier == last) * there[:, -1:]
        later = same.sum(1, keepdim=True) - same.cumsum(1)
        came_next = functional.pad(same * AGAIN**later, (1, 0))
        own = self.repeat * _shares(self.repeat_decay**lags * there) + self.replay * _shares(came_next)
        if not self.next_items.shape[1]:
            return recent, own / self.temperature
        latest = recent[:, -self.last :].clamp(min=0)
        weights = (self.transition_decay**lags * there)[:, -self.last :]
        next_items = functional.embedding(latest, self.next_items).flatten(1).long()
        steps = (functional.embedding(latest, self.next_shares) * (self.transition * weights).unsqueeze(2)).flatten(1)
        return torch.cat([recent, next_items], 1), torch.cat([own, steps], 1) / self.temperature

    def columns(self, vectors: Float[Tensor, "items columns"]) -> Float[Tensor, "items more"]:
        """Item vectors with the columns that match `extended`."""
        directions = self.directions
        if self.zero_diagonal:
            others = 1 - directions.square() @ self._kept
            directions = directions / others.clamp(min=torch.finfo(others.dtype).eps)[:, None]
        return torch.cat([vectors, directions, self.popularity[:, None]], 1)

    def past(self, items: Int64[Tensor, "events"], lengths: Int64[Tensor, "batch"]) -> Past:
        """What is read of some histories, whose `items` are concatenated."""
        ends = lengths.cumsum(0)
        after = ends.repeat_interleave(lengths) - 1 - torch.arange(len(items), device=items.device)
        sums = functional.embedding_bag(
            items, self.directions, ends - lengths, mode="sum", per_sample_weights=self.decay**after
        )
        return Past(self.foretold(sums), last_of(items, lengths, self.recalled) if self.recalled else None)

    def past_on_grid(self, items: Int64[Tensor, "batch time"]) -> Past:
        """The same after every event of a grid; -1 is padding at the end."""
        total, found = self.directions.new_zeros(len(items), self.rank), []
        for column in items.unbind(1):
            total = self.decay * total + self.vectors(column)
            found.append(self.foretold(total))
        count = min(self.recalled, items.shape[1])
        recent = functional.pad(items, (count - 1, 0), value=-1).unfold(1, count, 1) if count else None
        return Past(torch.stack(found, 1), recent)

    def vectors(self, items: Int64[Tensor, "*grid"]) -> Float[Tensor, "*grid rank"]:
        """What each item adds to the sum of a history; 0 for -1."""
        rows = functional.embedding(items.clamp(min=0), self.directions)
        return rows.masked_fill((items < 0).unsqueeze(-1), 0.0)

    def foretold(self, sums: Float[Tensor, "batch rank"]) -> Float[Tensor, "batch rank"]:
        """The linear model's prediction along the directions, from the sums of histories."""
        return functional.normalize(sums * self._kept, dim=1)

    @property
    def _kept(self) -> Float[Tensor, "rank"]:
        """The gains at the chosen penalty."""
        return self.gains / (self.gains + self.penalty * (1 - self.gains))

    @property
    def recalled(self) -> int:
        """How many of the last items of a history are read besides its sum."""
        if self.repeat or self.replay:
            return RECALLED
        return (self.last if self.transition_decay else 1) if self.transition else 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Give buffers the shapes that were saved, defaults to numbers that an earlier version lacked, and drop buffers
        that are no longer used."""
        for name in FORMER:
            state_dict.pop(prefix + name, None)
        for name, now in RENAMED.items():
            if prefix + name in state_dict:
                state_dict[prefix + now] = state_dict.pop(prefix + name)
        for name in TABLES:
            state_dict.setdefault(prefix + name, getattr(self, name)[:, :0])
        for name in ("directions", *TABLES):
            saved, own = state_dict[prefix + name], getattr(self, name)
            setattr(self, name, own.new_zeros(len(own), saved.shape[1]))
        self._set_last(float(state_dict.get(prefix + "transition_decay", 0.0)))
        self.gains = self.gains.new_zeros(self.directions.shape[1])
        self.tags_kept = self.tags_kept.new_zeros(len(state_dict.setdefault(prefix + "tags_kept", self.tags_kept[:0])))
        state_dict.setdefault(prefix + "penalty", torch.ones_like(self.penalty))
        for name in ("popularity", "tag_steps", *LATER):
            state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *others)


def _shares(amounts: Float[Tensor, "batch some"]) -> Float[Tensor, "batch some"]:
    """Each amount divided by the sum of its row; 0 if the sum is."""
    return amounts / amounts.sum(1, keepdim=True).clamp(min=torch.finfo(amounts.dtype).tiny)


def mean_of(
    vectors: Float[Tensor, "items dim"],
    offsets: Int64[np.ndarray, "rows_plus_1"],
    items: Int32[np.ndarray, "pairs"],
    weights: Float32[np.ndarray, "pairs"],
) -> Float[Tensor, "rows dim"]:
    """Weighted means of item vectors: the first row is the mean of the items from `offsets[0]` to `offsets[1]`, and so
    on; a row without items is 0."""
    counts = np.diff(offsets)
    rows = np.repeat(np.arange(len(counts)), counts)
    shares = weights / np.bincount(rows, weights, len(counts))[rows]
    places, bags, each = (torch.from_numpy(one).to(vectors.device) for one in (items, offsets[:-1], shares))
    found: Tensor = functional.embedding_bag(
        places.long(), vectors, bags, mode="sum", per_sample_weights=each.to(vectors)
    )
    return found


def _alike(
    offsets: Int64[np.ndarray, "new_plus_1"],
    neighbours: Int32[np.ndarray, "pairs"],
    weights: Float32[np.ndarray, "pairs"],
) -> list[list[int]]:
    """The new items in groups that have the same neighbours with the same weights, because thousands may share one
    popular tag."""
    found: dict[bytes, list[int]] = {}
    for one, (start, stop) in enumerate(pairwise(offsets.tolist())):
        found.setdefault(neighbours[start:stop].tobytes() + weights[start:stop].tobytes(), []).append(one)
    return list(found.values())


def _averages(
    items: Int32[np.ndarray, "items kept"],
    shares: Float32[np.ndarray, "items kept"],
    chosen: list[int],
    offsets: Int64[np.ndarray, "new_plus_1"],
    neighbours: Int32[np.ndarray, "pairs"],
    weights: Float32[np.ndarray, "pairs"],
) -> Iterator[Float32[np.ndarray, "some items"]]:
    """How often the neighbours of each chosen new item come next after every item: their weighted mean, for a chunk of
    new items at a time."""
    sizes = np.diff(offsets)[chosen]
    pairs = ranges(offsets[chosen], sizes)
    offsets, neighbours, weights = np.append(0, sizes.cumsum()), neighbours[pairs], weights[pairs]
    known, columns = np.unique(neighbours, return_inverse=True)
    at = np.full(len(items) + 1, -1)  # the last entry is for -1, which is no item
    at[known] = np.arange(len(known))
    cells = at[items]
    rows, kept = np.nonzero(cells >= 0)
    places = torch.from_numpy(np.stack([rows, cells[rows, kept]]))
    values = torch.from_numpy(shares[rows, kept].astype(np.float64))
    table = torch.sparse_coo_tensor(places, values, (len(items), len(known)), check_invariants=True).coalesce()
    new = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    each = (weights / np.bincount(new, weights, len(offsets) - 1)[new]).astype(np.float64)
    size = max(1, CELLS // len(items))
    for start in range(0, len(offsets) - 1, size):
        count = min(size, len(offsets) - 1 - start)
        part, wide = slice(offsets[start], offsets[start + count]), torch.zeros(len(known), count, dtype=torch.float64)
        wide[columns[part], new[part] - start] = torch.from_numpy(each[part])
        yield torch.sparse.mm(table, wide).T.float().contiguous().numpy()


def last_of(
    items: Int64[Tensor, "events"], lengths: Int64[Tensor, "batch"], most: int
) -> Int64[Tensor, "batch recent"]:
    """The last items of some histories, at most `most`, aligned at the end of each row; -1 before them."""
    count = min(most, max(lengths.tolist(), default=0))
    places = torch.arange(count, device=items.device) - count + lengths.cumsum(0)[:, None]
    inside = places >= (lengths.cumsum(0) - lengths)[:, None]
    return items[places.clamp(min=0)].where(inside, -1)
