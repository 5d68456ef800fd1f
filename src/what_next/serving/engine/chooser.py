"""From proposals to items, row by row: the best, a draw from the softmax, or the best with chance now and then.

The scores of all rows come from one matrix product. What is drawn for a row depends on its own generator alone, so the
same seed and state give the same answer whoever else asks at that moment, but for the last digits of scores.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64

from what_next.retrieval import scored
from what_next.retrieval.blocks import Blocks, Wanted
from what_next.retrieval.explore import best, epsilon_greedy, softmax_draw
from what_next.serving.engine.matching import matching
from what_next.serving.engine.rows import Alarm, Choice, Row, allowed, excluded
from what_next.serving.engine.served import Served
from what_next.types import Proposal, Ranked

NARROW = 8
"""Where at most one in so many items is permitted, those are scored alone."""


def choose(served: Served, proposal: Proposal, rows: Sequence[Row], candidates: int) -> list[Choice | Alarm]:
    """A choice for each row of a proposal; an alarm where a number of the row is not finite.

    Args:
        served: the version that proposed.
        candidates: how many items approximate search finds, where the version has an index.
    """
    outcome: list[Choice | Alarm] = [Alarm("the proposal is not finite") for _ in rows]
    places = np.flatnonzero(np.isfinite(proposal.points).all(1))
    if proposal.ranked is None:
        for place, choice in matching(served, proposal, rows, places):
            outcome[place] = choice
        return outcome
    if served.index is not None and not proposal.ranked.rescored and len(places):
        places = _approximate(served, proposal.points, proposal.ranked, rows, candidates, places, outcome)
    if len(places):
        _exact(served, proposal.points, proposal.ranked, rows, places, outcome)
    return outcome


# By scores


def _exact(
    served: Served,
    points: Float32[np.ndarray, "batch dim"],
    ranked: Ranked,
    rows: Sequence[Row],
    places: Int64[np.ndarray, "some"],
    outcome: list[Choice | Alarm],
) -> None:
    """All items scored, for some of the rows; where few are permitted, those alone."""
    if ranked.rescored:
        _rescored(points, ranked, rows, places, outcome)
        return
    broad: dict[bool, list[int]] = {True: [], False: []}
    for place in places.tolist():
        row = rows[place]
        if row.mask is not None and NARROW * row.mask.count < len(ranked.vectors):
            outcome[place] = _among(row, points[place], ranked, row.mask.places)
        else:
            broad[row.temperature > 0].append(place)
    for draw, some in broad.items():
        if some:
            found = _by_blocks(served.blocks, points[some], [rows[place] for place in some], draw)
            for place, choice in zip(some, found, strict=True):
                outcome[place] = choice


def _by_blocks(
    blocks: Blocks, points: Float32[np.ndarray, "some dim"], rows: Sequence[Row], draw: bool
) -> list[Choice | Alarm]:
    wanted = [
        Wanted(row.slots, None if row.mask is None else row.mask.permitted, row.seen, row.temperature, row.rng)
        for row in rows
    ]
    try:
        found = blocks.draw(points, wanted) if draw else blocks.best(points, wanted)
    except ValueError as error:  # of a score that is NaN or infinite
        if len(rows) == 1:
            return [Alarm(str(error))]
        return [one for place in range(len(rows)) for one in _by_blocks(blocks, points[[place]], [rows[place]], draw)]
    for place, row in enumerate(rows):
        if row.epsilon:
            free, count = row.free(blocks.items), blocks.items
            found[place] = epsilon_greedy(found[place][0], free, count, row.slots, row.epsilon, row.rng)
    # The scores of all rows at once: row by row it would take several times as long.
    lengths = [len(items) for items, _ in found]
    vectors = blocks.vectors.numpy()[np.concatenate([items for items, _ in found])]
    scores = np.split(np.einsum("ij,ij->i", vectors, np.repeat(points, lengths, 0)), np.cumsum(lengths)[:-1])
    return [Choice(items, chances, own) for (items, chances), own in zip(found, scores, strict=True)]


def _rescored(
    points: Float32[np.ndarray, "batch dim"],
    ranked: Ranked,
    rows: Sequence[Row],
    places: Int64[np.ndarray, "some"],
    outcome: list[Choice | Alarm],
) -> None:
    """The second scores are of rows of the whole batch, and of what is permitted."""
    permitted, kept = allowed(rows, len(ranked.vectors)), set(places.tolist())
    with torch.no_grad():
        for part, found in scored(np.nan_to_num(points), ranked, permitted, excluded(rows)):
            for place, line in enumerate(found.float().cpu().numpy(), part.start):
                if place in kept:
                    outcome[place] = taken(rows[place], line)


def _among(
    row: Row, point: Float32[np.ndarray, "dim"], ranked: Ranked, known: Int32[np.ndarray, "some"]
) -> Choice | Alarm:
    """A choice among some items, ascending, that were not seen."""
    known = known[np.isin(known, row.seen, invert=True)]
    with torch.no_grad():
        vectors = ranked.vectors[torch.from_numpy(known)]
        scores = (vectors @ torch.from_numpy(point).to(vectors)).float().cpu().numpy()
    found = taken(row, scores)
    if isinstance(found, Alarm):
        return found
    return replace(found, items=known[found.items])


def taken(row: Row, scores: Float32[np.ndarray, "items"]) -> Choice | Alarm:
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
            found = _among(row, points[place], ranked, known)
            if isinstance(found, Alarm):
                outcome[place] = found
            elif len(found.items) < row.slots:
                left.append(place)
            else:
                outcome[place] = replace(found, candidates=served.digest(known))
    return np.array(left, np.int64)
