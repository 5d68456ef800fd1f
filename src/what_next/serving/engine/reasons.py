"""Why an item was recommended, what is like it, and how widely a session spreads."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int32

from what_next.errors import CatalogueError
from what_next.inference.session import Session
from what_next.rewards import Samples
from what_next.rewards.spread import LEAST_EVENTS, spread_of
from what_next.serving.engine.served import Served
from what_next.serving.request import Reason, SimilarItem

WINDOW = 20
"""Latest events whose spread is count."""


def reasons(served: Served, session: Session | None, items: Int32[np.ndarray, "chosen"]) -> list[Reason]:
    """The reason of each item: the nearest of the history, the item's attributes, and the critic's value."""
    heard = np.zeros(0, np.int32) if session is None else session.items[::-1]  # the later one among equals
    judged = None
    if session is not None and len(session) and len(items):
        judged = served.policy.values(served.sessions.states([session]), items[None])
    catalogue, found = served.catalogue, []
    alike = served.units[heard] @ served.units[items].T
    best = alike.argmax(0) if len(heard) else None
    for place, item in enumerate(items):
        nearest = None
        if best is not None:
            nearest = _named(served, int(heard[best[place]]), float(alike[best[place], place]))
        values = zip(catalogue.names, catalogue.attributes[item].tolist(), strict=True)
        attributes = {name: round(value, 6) for name, value in values}
        found.append(Reason(nearest, attributes, None if judged is None else float(judged[0, place])))
    return found


def similar(served: Served, item_id: str, k: int, withdrawn: Int32[np.ndarray, "withdrawn"]) -> list[SimilarItem]:
    """The items that are most like one, by the cosine of their vectors; not the item itself, nor withdrawn ones.

    Raises:
        CatalogueError: it is not known.
    """
    place = served.places.get(item_id)
    if place is None:
        raise CatalogueError(f"item {item_id!r} is not in the catalogue of {len(served.ids):,} items")
    alike = served.units @ served.units[place]
    alike[place] = -np.inf
    alike[withdrawn] = -np.inf
    order = np.argsort(-alike, kind="stable")[:k]
    return [_named(served, int(one), float(alike[one])) for one in order if alike[one] > -np.inf]


def _named(served: Served, place: int, similarity: float) -> SimilarItem:
    return SimilarItem(served.ids[place], served.titles[place], round(min(1.0, max(-1.0, similarity)), 6))


def spread(served: Served, items: Int32[np.ndarray, "heard"]) -> float | None:
    """The spread of the latest events of a session; None where there are fewer than three, or no attributes."""
    if len(items) < LEAST_EVENTS or not served.catalogue.names:
        return None
    return spread_of(torch.from_numpy(served.catalogue.vectors[items[-WINDOW:]]))


def spreads(served: Served, items: Int32[np.ndarray, "heard"]) -> list[float | None]:
    """The same after each of the latest events, oldest first: one number for each of the last `WINDOW` events."""
    count = min(len(items), WINDOW)
    if not served.catalogue.names or not count:
        return [None] * count
    read = items[-2 * WINDOW + 1 :]  # what the first of those that are count reaches back to
    found: Sequence[float] = (
        Samples.of(torch.from_numpy(served.catalogue.vectors[read])[None], WINDOW).spread[0].tolist()
    )
    early = len(items) - len(read)
    series = [value if early + step + 1 >= LEAST_EVENTS else None for step, value in enumerate(found)]
    return series[-count:]
