"""What is counted beside an encoder. In the log: what people who had the items of a history had, too; what came next
after its last items; and how popular each item is. In the history: what it holds, and what came next when its last
item was there before.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64
from torch import Tensor, nn
from torch.nn import functional

RANKS = (64, 512, 1024)
"""Directions of the linear model: at least, and where validation finds more to be worth their columns."""
ENTRIES = 2**21
"""Of the table of directions, where there are more than the fewest."""
PENALTY = 100.0
"""Of the ridge regression, before validation chooses another."""
TRIED = 2**17
"""Items up to which 512 directions are affordable (268 MB); half as many, up to which 1,024 are."""
RECALLED = 256
"""Last events of a history that are looked through for what it holds, and for its last item."""
AGAIN = 0.8
"""What came next after an item counts that much of what did after a later one of the same item."""
REPEAT_DECAY = 0.9
"""What an event counts of the one after it in what a history holds, before validation chooses another."""
TRANSITION_DECAY = 0.0
"""What an event counts of the one after it in what came next, item by item, before validation chooses another."""
LAST, SLOW, MANY = 10, 0.9, 2**13
"""Last events after which it is looked up, as in `baselines.Markov`; where an event counts `SLOW` of the one after it
or more, as many as have so many successors in all, and `RECALLED` at most."""
SUCCESSORS = (16, 128)
"""Of each item that are kept, at least and at most: those that came next most often."""
CELLS = 2**22
"""Of the table of what new items come next after, at a time: 50 MB."""
ALL_SUCCESSORS = 2**20
"""Entries of their table, where there are more than the fewest; and items up to which there is one."""

TABLES = ("next_items", "next_shares", "next_totals")
"""Of items, with as many columns as count."""
NUMBERS = {
    "weight": 0.0, "decay": 1.0, "penalty": 1.0, "zero_diagonal": 0.0, "bias": 0.0, "replay": 0.0, "repeat": 0.0,
    "repeat_decay": REPEAT_DECAY, "transition": 0.0, "transition_decay": TRANSITION_DECAY, "temperature": 1.0,
}  # fmt: skip
"""The numbers that validation chooses, as they are before it has."""
LATER = tuple(name for name in NUMBERS if name not in ("weight", "decay", "penalty", "temperature"))
"""Those that models of earlier versions may lack."""
FORMER = ("pull", "successors", "chain", "chain_decay", "chains", "codes")
"""What they may have besides: what came next, in the network's item space and in codes."""
RENAMED = {"step": "transition", "step_decay": "transition_decay"}
"""What was called otherwise there."""


def ranks_of(count: int) -> tuple[int, ...]:
    """Directions of the linear model of so many items, before validation may choose more; and what it may choose."""
    few = min(max(ENTRIES // count, RANKS[0]), RANKS[1], count)
    more = (min(rank, count) for rank in RANKS[1:] if count * rank <= TRIED * RANKS[1])
    return few, *(rank for rank in dict.fromkeys(more) if rank > few)


def successors_of(count: int) -> int:
    """How many items that came next are kept of each of so many items; 0 where a table of them is too large."""
    return min(max(ALL_SUCCESSORS // count, SUCCESSORS[0]), SUCCESSORS[1], count) if count <= ALL_SUCCESSORS else 0


@dataclass(frozen=True, eq=False)
class Past:
    """What the linear term reads of some histories.

    Attributes:
        foretold: what people who had the same had, too, along the directions; of length 1.
        recent: their last items, oldest first, and -1 before the first one; None where they do not count.
    """

    foretold: Float[Tensor, "*grid rank"]
    recent: Int64[Tensor, "*grid recent"] | None


class LinearTerm(nn.Module):
    """A ridge regression of items on items, of reduced rank, as so many more columns of points and item vectors.

    With `X` the matrix of who had what, and `V`, `s` the right singular vectors and the singular values of its first
    directions, items are foretold from a history by `h V diag(s^2 / (s^2 + PENALTY)) V'` (Jin et al. 2021, "Towards a
    Better Understanding of Linear Models for Recommendation": EASE without its zero diagonal). In `h` an event
    counts `decay` to the power of how many came after it. The product up to the last `V'` is made as long as `weight`,
    and goes into the point; `V` goes into the item vectors: the score stays one inner product. One column more is how
    popular each item is, times `bias`: where a log holds nothing else, what a network makes of it falls short of that.

    The ridge foretells an item the less by others, the more it may by itself, which is of no use for one that the
    history lacks. With `zero_diagonal` no item foretells itself, as in EASE (Steck 2019, arXiv:1905.03375, equation 8:
    the score of each item `j` divided by `P_jj`, of the inverse `P` of `X'X + PENALTY I`): row `j` of `V` is divided by
    `PENALTY P_jj = 1 - V_j diag(gains) V_j'`.

    An inner product of affordable size does not keep tens of thousands of items apart. So a few items of each history
    have something beside it (`boosts`): those that came next in the log after its last ones, as in `baselines.Markov`,
    since a rare item may have one successor, or that stood near them in any order, as in `baselines.ItemKnn`, since
    thousands of small sets take as many directions; those that it holds, as in `baselines.PopularPersonal`, since many
    people come back to a few items of their own, which may be rare or new; and those that came next in this very
    history when its last item was there before, since who plays a list anew, or buys by a routine, has told what comes
    next (as induction heads find it: Olsson et al. 2022, "In-context Learning and Induction Heads").

    All numbers are chosen on the validation users once the networks are trained (`training.weighing`). Until then
    nothing is added.

    What is not known of an item that comes later is taken from the items that share tags with it (`place`).

    Attributes:
        rank: how many directions there are.
        directions: [items rank], `V`; `gains`: [rank], `s^2 / (s^2 + PENALTY)`.
        popularity: [items], the logarithm of one plus the events of each, less its mean; 0 for what comes later. Events
            may count the less, the longer they are past.
        weight, decay, zero_diagonal, bias: as above; `penalty`: times `PENALTY`, which is what counts.
        next_items, next_shares: [items kept], for each item those that came next most often, -1 for none, and how often
            each did, by one more than how often anything did; or those that go with it the most surely in any order,
            and how surely (`baselines.counts.likelihood_ratios`). No column without `transition`. `next_totals`:
            [items 1], how often anything came next.
        tag_steps: how many steps of the log what tags foretell counts as there; 0: it does not count.
        tags_kept: [kinds], how often a tag of each of `Catalogue.kinds` is kept from one item to the next. No entry
            where that is not known.
        transition: what these shares count after the last item; after an earlier one `transition_decay` of what they do
            after the next.
        repeat: what the shares of items in the history count, where an event counts `repeat_decay` of the one after it.
        replay: the same of what came next in the history after earlier ones of its last item.
        last: after how many of the last events what came next is looked up.
        temperature: what all scores are divided by, so that their softmax gives the chances of what comes next.
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
        """Of `count` items, about which it knows nothing yet."""
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
        """Whether anything is added."""
        return any(bool(getattr(self, name)) for name in ("weight", "bias", "replay", "repeat", "transition"))

    @property
    def rank(self) -> int:
        """See above."""
        return len(self.gains)

    def choose(self, **numbers: float) -> None:
        """Set the numbers: these, and all others as in `NUMBERS`."""
        assert numbers.keys() <= NUMBERS.keys(), "what is set is one of the numbers"
        for name, value in (NUMBERS | numbers).items():
            self.register_buffer(name, torch.tensor(value, device=self.directions.device))
        self._set_last((NUMBERS | numbers)["transition_decay"])

    def _set_last(self, decay: float) -> None:
        """Set `last`: a number, since no tensor decides the shapes of an exported graph."""
        self.last = LAST if decay < SLOW else min(MANY // max(self.next_items.shape[1], 1), RECALLED)

    def learn(
        self,
        directions: Float32[np.ndarray, "items some"],
        strengths: Float32[np.ndarray, "some"],
        events: Int64[np.ndarray, "items"],
    ) -> None:
        """Take the directions of a log, the squares of their singular values, and how many events each item has."""
        self.favour(events)
        squares = torch.from_numpy(strengths)
        self.directions = torch.from_numpy(directions).to(self.directions.device)
        self.gains = (squares / (squares + PENALTY)).to(self.directions.device)

    def favour(self, events: Int64[np.ndarray, "items"] | Float64[np.ndarray, "items"]) -> None:
        """Let these be the events of each item that tell how popular it is."""
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
        """Take which items came right after each one in a log, and how often: the most frequent ones alone.

        Args:
            offsets: those of item `i` lie from `offsets[i]` to `offsets[i + 1]`.
            whole: what the counts are shares of; None: of one more than all counts of the item.
            tag_steps: how many steps of the log what tags foretell counts as among them.
        """
        count, most = len(self.directions), successors_of(len(self.directions))
        before = np.repeat(np.arange(count), np.diff(offsets))
        totals = np.bincount(before, counts, count)
        order = np.lexsort((followers, -counts, before))  # which leaves each item's own where they lie
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
        """Take how often a tag of each kind is kept from one item to the next."""
        self.tags_kept = torch.from_numpy(kept).to(self.directions)

    def forget(self) -> None:
        """Keep nothing of the transitions, where they do not count."""
        if not self.transition:
            for name in TABLES:
                setattr(self, name, getattr(self, name)[:, :0].clone())

    def grow(self, count: int) -> None:
        """Be of `count` items, about the last of which nothing is known."""
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
        """Take what the neighbours of new items tell of them, in the place of all that was known of the new ones.

        The direction of a new item is the mean of its neighbours'. They come next after it, and it after them, as often
        as its tags foretell; it comes next after any other item as often as its neighbours do on average.

        Args:
            new: positions of the new items.
            offsets: the neighbours of the first lie from `offsets[0]` to `offsets[1]`, the likely ones first.
            neighbours: items that are not new.
            chances: that each of them comes next after the new item, as its tags foretell it.
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
        """Put new items into the rows of others, in the place of what came next least often; `steps` of the log are
        what the chance of each neighbour counts as."""
        items, shares = table
        totals, start = self.next_totals[:, 0].cpu().numpy(), 0
        least = shares.argmin(1)  # the column of each row that gives way next
        lowest = shares[np.arange(len(shares)), least]
        for some in _averages(items, shares, offsets, neighbours, steps):
            for place, average in zip(new[start : start + len(some)].tolist(), some, strict=True):
                own, weights = (one[offsets[start] : offsets[start + 1]] for one in (neighbours, steps))
                start += 1
                average[own] = np.maximum(average[own], weights / (np.maximum(totals[own], weights) + 1))
                average[place] = 0
                rows = np.flatnonzero(average > lowest)
                items[rows, least[rows]], shares[rows, least[rows]] = place, average[rows]
                least[rows] = shares[rows].argmin(1)
                lowest[rows] = shares[rows, least[rows]]

    def extended(
        self, points: Float[Tensor, "batch columns"], foretold: Float[Tensor, "batch rank"]
    ) -> Float[Tensor, "batch more"]:
        """Points that have the columns of the linear model, too."""
        ones = torch.ones_like(points[:, :1])
        return torch.cat([points, self.weight * foretold, self.bias * ones], 1) / self.temperature

    def boosts(
        self, recent: Int64[Tensor, "batch recent"]
    ) -> tuple[Int64[Tensor, "batch some"], Float[Tensor, "batch some"]]:
        """Some items, -1 for none, and what is added to their scores; one that stands there twice has the sum."""
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
        """Item vectors to go with them."""
        directions = self.directions
        if self.zero_diagonal:
            others = 1 - directions.square() @ self._kept
            directions = directions / others.clamp(min=torch.finfo(others.dtype).eps)[:, None]
        return torch.cat([vectors, directions, self.popularity[:, None]], 1)

    def past(self, items: Int64[Tensor, "events"], lengths: Int64[Tensor, "batch"]) -> Past:
        """What is read of some histories; `items` are those of the first, then of the second, and so on."""
        ends = lengths.cumsum(0)
        after = ends.repeat_interleave(lengths) - 1 - torch.arange(len(items), device=items.device)
        sums = functional.embedding_bag(
            items, self.directions, ends - lengths, mode="sum", per_sample_weights=self.decay**after
        )
        return Past(self.foretold(sums), last_of(items, lengths, self.recalled) if self.recalled else None)

    def past_on_grid(self, items: Int64[Tensor, "batch time"]) -> Past:
        """The same after every event; -1 is padding at the end."""
        total, found = self.directions.new_zeros(len(items), self.rank), []
        for column in items.unbind(1):
            total = self.decay * total + self.vectors(column)
            found.append(self.foretold(total))
        count = min(self.recalled, items.shape[1])
        recent = functional.pad(items, (count - 1, 0), value=-1).unfold(1, count, 1) if count else None
        return Past(torch.stack(found, 1), recent)

    def vectors(self, items: Int64[Tensor, "*grid"]) -> Float[Tensor, "*grid rank"]:
        """What some items add to the sum of a history; 0 for -1."""
        rows = functional.embedding(items.clamp(min=0), self.directions)
        return rows.masked_fill((items < 0).unsqueeze(-1), 0.0)

    def foretold(self, sums: Float[Tensor, "batch rank"]) -> Float[Tensor, "batch rank"]:
        """From the sums of histories to what the log foretells of them."""
        return functional.normalize(sums * self._kept, dim=1)

    @property
    def _kept(self) -> Float[Tensor, "rank"]:
        """The gains at the penalty that counts."""
        return self.gains / (self.gains + self.penalty * (1 - self.gains))

    @property
    def recalled(self) -> int:
        """How many of the last items of a history count, beside its sum."""
        if self.repeat or self.replay:
            return RECALLED
        return (self.last if self.transition_decay else 1) if self.transition else 0

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """What was saved before one of the numbers was there goes without it; tables are as wide as they were. What
        models of earlier versions held beside them is left out."""
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
    """Of the sum of each row; 0 where that is."""
    return amounts / amounts.sum(1, keepdim=True).clamp(min=torch.finfo(amounts.dtype).tiny)


def mean_of(
    vectors: Float[Tensor, "items dim"],
    offsets: Int64[np.ndarray, "rows_plus_1"],
    items: Int32[np.ndarray, "pairs"],
    weights: Float32[np.ndarray, "pairs"],
) -> Float[Tensor, "rows dim"]:
    """Weighted means of the vectors of some items: in the first row those from `offsets[0]` to `offsets[1]`, and so on;
    0 where there are none."""
    counts = np.diff(offsets)
    rows = np.repeat(np.arange(len(counts)), counts)
    shares = weights / np.bincount(rows, weights, len(counts))[rows]
    places, bags, each = (torch.from_numpy(one).to(vectors.device) for one in (items, offsets[:-1], shares))
    found: Tensor = functional.embedding_bag(
        places.long(), vectors, bags, mode="sum", per_sample_weights=each.to(vectors)
    )
    return found


def _averages(
    items: Int32[np.ndarray, "items kept"],
    shares: Float32[np.ndarray, "items kept"],
    offsets: Int64[np.ndarray, "new_plus_1"],
    neighbours: Int32[np.ndarray, "pairs"],
    weights: Float32[np.ndarray, "pairs"],
) -> Iterator[Float32[np.ndarray, "some items"]]:
    """How often the neighbours of each new item come next after every item: their weighted mean, of some new items at a
    time."""
    known, columns = np.unique(neighbours, return_inverse=True)
    at = np.full(len(items) + 1, -1)  # -1, which is no item, is the last
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
    """The last items of some histories, so many at most, each history at the end of its row; -1 before it."""
    count = min(most, max(lengths.tolist(), default=0))
    places = torch.arange(count, device=items.device) - count + lengths.cumsum(0)[:, None]
    inside = places >= (lengths.cumsum(0) - lengths)[:, None]
    return items[places.clamp(min=0)].where(inside, -1)
