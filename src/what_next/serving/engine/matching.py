"""From a proposed point to items that match it, row by row: for an agent that has no scores."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int32, Int64

from what_next.retrieval.explore import epsilon_greedy
from what_next.serving.engine.rows import Choice, Row, allowed, excluded
from what_next.serving.engine.served import Served
from what_next.types import Proposal


def matching(
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
    return Choice(*epsilon_greedy(order, row.free(items), items, row.slots, row.epsilon, row.rng), None)


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
        allowed=allowed(rows, len(served.ids)),
        exclude=excluded(rows),
        propensities=True,
        score=None if score is None else lambda pairs, items: score(places[pairs], items),
        candidates=state.setup.selection.candidates if score else 0,
    )
    assert found.propensities is not None
    return found.items, found.propensities
