"""From proposals to items, row by row: the best, a draw from the softmax, or the best with chance now and then.

The scores of all rows come from one matrix product. What is drawn for a row depends on its own generator alone, so the
same seed and state give the same answer whoever else asks at that moment.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64

from what_next.retrieval import scored
from what_next.retrieval.explore import best, epsilon_greedy, softmax_draw
from what_next.server.engine.masks import Mask
from what_next.server.engine.served import Served
from what_next.types import Proposal, Ranked

NARROW = 8
"""Where at most one in so many items is permitted, those are scored alone."""


class Alarm(Exception):
    """A score or a propensity is not a finite number."""


@dataclass(frozen=True, eq=False)
class Row:
    """How one question wants its items chosen.

    Attributes:
        slots: how many.
        mask: which are permitted; None: all. `seen`: those that are not, besides.
        temperature: of the draw; 0 takes the best.
        epsilon: chance of a random permitted item at each slot; one of the two is 0.
        rng: of the draw.
    """

    slots: int
    mask: Mask | None
    seen: Int32[np.ndarray, "heard"]
    temperature: float
    epsilon: float
    rng: np.random.Generator


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen for a row.

    Attributes:
        items: positions in the catalogue, in the order of the slate.
        propensities: exact, of each given those before it.
        scores: of the items; None where there are none.
        candidates: hash of the items that were looked at; None: all.
    """

    items: Int32[np.ndarray, "chosen"]
    propensities: Float64[np.ndarray, "chosen"]
    scores: Float32[np.ndarray, "chosen"] | None
    candidates: str | None = None


def choose(served: Served, proposal: Proposal, rows: Sequence[Row], candidates: int) -> list[Choice | Alarm]:
    """A choice for each row of a proposal; an alarm where a number of the row is not finite.

    Args:
        served: the version that proposed.
        candidates: how many items approximate search finds, where the version has an index.
    """
    outcome: list[Choice | Alarm] = [Alarm("the proposal is not finite") for _ in rows]
    places = np.flatnonzero(np.isfinite(proposal.points).all(1))
    if proposal.ranked is None:
        for place, choice in _matching(served, proposal, rows, places):
            outcome[place] = choice
        return outcome
    if served.index is not None and not proposal.ranked.rescored and len(places):
        places = _approximate(served, proposal.points, proposal.ranked, rows, candidates, places, outcome)
    if len(places):
        _exact(proposal.points, proposal.ranked, rows, places, outcome)
    return outcome


# By scores


def _exact(
    points: Float32[np.ndarray, "batch dim"],
    ranked: Ranked,
    rows: Sequence[Row],
    places: Int64[np.ndarray, "some"],
    outcome: list[Choice | Alarm],
) -> None:
    """All items scored, for some of the rows; where few are permitted, those alone."""
    if ranked.rescored:  # its second scores are of rows of the whole batch, and of what is permitted
        wanted = list(rows)
        allowed = _allowed(wanted, len(ranked.vectors))
        with torch.no_grad():
            for part, found in scored(np.nan_to_num(points), ranked, allowed, _excluded(wanted)):
                for place, line in zip(range(part.start, part.stop), found.float().cpu().numpy(), strict=True):
                    if place in places:
                        outcome[place] = _taken(rows[place], line)
        return
    few = [place for place in places if _is_narrow(rows[place].mask, len(ranked.vectors))]
    for place in few:
        outcome[place] = _among(rows[place], points[place], ranked, rows[place].mask.places, hashed=False)
    left = [place for place in places if place not in few] if few else places.tolist()
    if not left:
        return
    some, wanted = points[left] if len(left) < len(rows) else points, [rows[place] for place in left]
    with torch.no_grad():
        for part, found in scored(some, ranked, None, _excluded(wanted)):
            for place, row, line in zip(left[part], wanted[part], found.float().cpu().numpy(), strict=True):
                if row.mask is not None:
                    line[~row.mask.permitted] = -np.inf
                outcome[place] = _taken(row, line)


def _is_narrow(mask: Mask | None, items: int) -> bool:
    return mask is not None and NARROW * mask.count < items


def _among(
    row: Row, point: Float32[np.ndarray, "dim"], ranked: Ranked, known: Int32[np.ndarray, "some"], *, hashed: bool
) -> Choice | Alarm:
    """A choice among some items, ascending, that were not seen."""
    known = known[np.isin(known, row.seen, invert=True)]
    with torch.no_grad():
        vectors = ranked.vectors[torch.from_numpy(known)]
        scores = (vectors @ torch.from_numpy(point).to(vectors)).float().cpu().numpy()
    found = _taken(row, scores)
    if isinstance(found, Alarm):
        return found
    return replace(found, items=known[found.items], candidates=_digest(known) if hashed else None)


def _allowed(rows: Sequence[Row], items: int) -> Bool[np.ndarray, "batch items"] | None:
    if all(row.mask is None for row in rows):
        return None
    found = np.ones((len(rows), items), np.bool_)
    for place, row in enumerate(rows):
        if row.mask is not None:
            found[place] = row.mask.permitted
    return found


def _excluded(rows: Sequence[Row]) -> Int32[np.ndarray, "batch width"] | None:
    width = max((len(row.seen) for row in rows), default=0)
    if not width:
        return None
    found = np.full((len(rows), width), -1, np.int32)
    for place, row in enumerate(rows):
        found[place, : len(row.seen)] = row.seen
    return found


def _taken(row: Row, scores: Float32[np.ndarray, "items"]) -> Choice | Alarm:
    """The items of a row by their scores, which are minus infinity where an item is not permitted."""
    try:
        if row.epsilon:
            order, permitted = best(scores, row.slots)[0], scores > -np.inf
            items, chances = epsilon_greedy(order, permitted, len(scores), row.slots, row.epsilon, row.rng)
        elif row.temperature:
            items, chances = softmax_draw(scores, row.slots, row.temperature, row.rng)
        else:
            items, chances = best(scores, row.slots)
    except ValueError as error:  # of a score that is NaN or infinite
        return Alarm(str(error))
    own = scores[items]
    if not (np.isfinite(own).all() and np.isfinite(chances).all()):
        return Alarm("a score or a propensity is not finite")
    return Choice(items, chances, own)


# By approximate search


def _approximate(
    served: Served,
    points: Float32[np.ndarray, "batch dim"],
    ranked: Ranked,
    rows: Sequence[Row],
    candidates: int,
    places: Int64[np.ndarray, "some"],
    outcome: list[Choice | Alarm],
) -> Int64[np.ndarray, "others"]:
    """Choose among what the index finds, and the items that came after it; returns the rows that need all items.

    Those are the rows with a mask, where an answer has to be the best of what is permitted; with random items, which
    are drawn from all; and where too few are found that were not seen.
    """
    assert served.index is not None
    free = np.array([rows[place].mask is None and not rows[place].epsilon for place in places], np.bool_)
    asked, left = places[free], list(places[~free])
    if len(asked):
        later = np.arange(len(served.index.vectors), len(ranked.vectors), dtype=np.int32)
        for place, near in zip(asked, served.index.search(points[asked], candidates), strict=True):
            row = rows[place]
            known = np.sort(np.concatenate([near[near >= 0], later]))
            found = _among(row, points[place], ranked, known, hashed=True)
            if isinstance(found, Choice) and len(found.items) < row.slots:
                left.append(place)
            else:
                outcome[place] = found
    return np.array(left, np.int64)


def _digest(known: Int32[np.ndarray, "some"]) -> str:
    return hashlib.blake2b(known.astype("<i4").tobytes(), digest_size=8).hexdigest()


# By a proposed point


def _matching(
    served: Served, proposal: Proposal, rows: Sequence[Row], places: Int64[np.ndarray, "some"]
) -> Iterator[tuple[int, Choice]]:
    """Items that match the proposed point: the nearest; with a temperature, drawn among the matching ones."""
    greedy = np.array([place for place in places if not rows[place].temperature], np.int64)
    if len(greedy):
        wanted = [rows[place] for place in greedy]
        slots = max(row.slots for row in wanted)
        found = _selected(served, proposal, wanted, greedy, slots, None)
        for place, row, items in zip(greedy, wanted, found[0], strict=True):
            yield int(place), _nearest(row, items[items >= 0], len(served.ids))
    for place in places:
        row = rows[place]
        if row.temperature:
            items, chances = _selected(served, proposal, [row], np.array([place]), row.slots, row.rng)
            real = items[0] >= 0
            yield int(place), Choice(items[0][real], chances[0][real], None)


def _nearest(row: Row, order: Int32[np.ndarray, "nearest"], items: int) -> Choice:
    order = order[: row.slots]
    if not row.epsilon:
        return Choice(order, np.ones(len(order)), None)
    permitted = np.ones(items, np.bool_) if row.mask is None else row.mask.permitted.copy()
    permitted[row.seen] = False
    return Choice(*epsilon_greedy(order, permitted, items, row.slots, row.epsilon, row.rng), None)


def _selected(
    served: Served,
    proposal: Proposal,
    rows: Sequence[Row],
    places: Int64[np.ndarray, "rows"],
    slots: int,
    rng: np.random.Generator | None,
) -> tuple[Int32[np.ndarray, "rows slots"], Float64[np.ndarray, "rows slots"]]:
    """What `State.produce` chooses for some rows of the proposal."""
    state, score = served.policy.state, proposal.score
    found = state.box.select(
        proposal.points[places],
        tolerance=state.space.tolerance,
        relax=state.setup.relax,
        slots=slots,
        rng=rng,
        allowed=_allowed(rows, len(served.ids)),
        exclude=_excluded(rows),
        propensities=True,
        score=None if score is None else lambda pairs, items: score(places[pairs], items),
        candidates=state.setup.selection.candidates if score else 0,
    )
    assert found.propensities is not None
    return found.items, found.propensities
