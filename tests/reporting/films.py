"""A log of films, policies whose hits are known beforehand, and the comparison on them."""

from dataclasses import replace

import numpy as np
import polars as pl

from what_next import Dataset, State
from what_next.baselines.rules import Rule
from what_next.experiments.next_items import Comparison, evaluator_of, protocol, result_of
from what_next.reporting.view import View
from what_next.types import History, Request, Slate


class Fixed(Rule):
    """A policy that names the same items to everyone, those first that a user's history says."""

    def __init__(self, first: np.ndarray, items: int) -> None:
        self.first, self.items = first, items

    def act(self, states: History, request: Request, rng=None) -> Slate:
        slates = np.empty((len(states.users), request.width), np.int32)
        for row, user in enumerate(states.users):
            rest = [item for item in range(self.items) if item != self.first[user] and item not in states.items[row]]
            slates[row] = [self.first[user], *rest][: request.width]
        return Slate(slates)


def comparison_of(setup, dataset: Dataset, named: dict[str, np.ndarray], learned=("agent",)) -> Comparison:
    """A comparison on policies that name a fixed item to each user first, and then the lowest items that are new."""
    state = State(dataset, setup)
    evaluator = evaluator_of(state, "test")
    judged = {name: evaluator.score([Fixed(first, len(dataset.catalogue))]) for name, first in named.items()}
    result = result_of(judged, evaluator, protocol(state, "test", evaluator, [0]))
    return Comparison(result, state, evaluator, judged, {name: [setup] for name in learned})


def hits(dataset: Dataset, share: float, miss: int = 0) -> np.ndarray:
    """For each user their last item, or for the users after a share of them, an item that nobody has last."""
    last = dataset.items[dataset.offsets[1:] - 1].copy()
    last[int(share * len(last)) :] = miss
    return last


def log_and_items(users: int = 24, items: int = 30, titles=None, hostile: str = "") -> Dataset:
    """A log whose items have two genres and a number; item 0 is nobody's last."""
    rng = np.random.default_rng(0)
    events = 8
    table = pl.DataFrame(
        {
            "item_id": np.arange(items),
            "title": titles or [f"Film {place}" for place in range(items)],
            f"is Drama{hostile}": np.arange(items) % 2.0,
            "is Comedy": np.arange(items) % 3 // 2 * 1.0,
            "length": rng.normal(size=items),
        }
    )
    rows = users * events
    log = pl.DataFrame(
        {
            "user_id": np.repeat([f"{hostile}u{place:02}" for place in range(users)], events),
            "item_id": np.where(np.arange(rows) % events == events - 1, 1, 0) + rng.integers(items - 1, size=rows),
        }
    )
    only_trains = pl.DataFrame({"user_id": ["z", "z"], "item_id": [0, 1]})
    log = pl.concat([log, only_trains]).with_columns(timestamp=pl.int_range(pl.len()) * 3600 + 1_600_000_000)
    return Dataset.from_frame(log, table, name=f"films{hostile}")


def with_values(comparison: Comparison, **values: list[float]) -> View:
    """The comparison with other values of the main metric for its first users; 0 for the rest."""
    rows, judged = len(comparison.evaluator.targets), dict(comparison.scores)
    for name, some in values.items():
        filled = np.array(some + [0.0] * (rows - len(some)))
        judged[name] = replace(judged[name], values={**judged[name].values, "ndcg@10": filled})
    return View(replace(comparison, scores=judged))
