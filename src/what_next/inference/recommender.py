"""Recommendations for people and programs: ids in, ids and titles out."""

import os
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int32

from what_next.data import Dataset
from what_next.data.dataset import is_frame, to_polars
from what_next.data.forks import check_fork
from what_next.data.importing.columns import numeric
from what_next.errors import CatalogueError, DataError, some
from what_next.inference.modes import own_modes
from what_next.inference.recommendation import Item, Recommendation
from what_next.policy import EVERYONE, LearnedPolicy
from what_next.state import State
from what_next.types import Greedy, History, Permitted, Product, Proposal, Request

CHUNK, EVENTS = 512, 2**18
"""Most users scored at a time, and most events of their histories, padding included."""


class Recommender:
    """An agent, its catalogue and its state together."""

    def __init__(self, policy: LearnedPolicy) -> None:
        _one_thread_in_forks()
        self.policy = policy.of_histories()
        self.state = policy.state
        self.catalogue = policy.state.space.catalogue

    def __repr__(self) -> str:
        return f"Recommender({self.policy.agent!r};\n  {self.catalogue!r})"

    def recommend(
        self,
        history: Sequence[str | int] | None = None,
        k: int = 10,
        *,
        user: str | int | None = None,
        seen: bool | None = None,
        context: dict[str, float] | None = None,
        allowed: Iterable[str | int] | None = None,
        blocked: Iterable[str | int] = (),
        rng: np.random.Generator | None = None,
    ) -> Recommendation:
        """Recommend items after a history of item ids (oldest first), or for a user of the data set.

        Args:
            history: item ids; `user`: a user id. With both, the history is used, and the user id is only reported.
            k: number of items.
            seen: whether items of the history may be recommended; None: as `evaluation.seen` of the setup says.
            context: numbers about the situation, by name.
            allowed: ids of the items that may be recommended; None for all. Unknown ids are ignored.
            blocked: ids of items that may not be recommended. Unknown ids are ignored.
            rng: draws the items by the agent's sampler; None takes the best (or nearest) ones.

        Raises:
            CatalogueError: the user, or every item of the history, is unknown; or no item is permitted.
            DataError: `k` is not a whole number above 0, `seen` is neither a bool nor None, or `user` is several ids.
        """
        if isinstance(user, Iterable) and not isinstance(user, str | bytes):
            raise DataError(f"user is {user!r:.200}; expected one id; recommend_users answers for several")
        if history is not None:
            known, unknown = self.state.history_of(history)
        elif user is not None:
            known, unknown = self.state.get_user_history(self.users([user])), []
        else:
            raise CatalogueError("nobody to recommend to: give a user, or a history of item ids")
        if context:
            known = self.state.with_context(known, context)
        found = self._chosen(known, k, seen, self.catalogue.mask(allowed, blocked), rng)
        return self._recommendation(known, *found, 0, None if user is None else str(user), tuple(unknown))

    def recommend_users(
        self,
        users: Sequence[str | int],
        k: int = 10,
        *,
        seen: bool | None = None,
        rng: np.random.Generator | None = None,
    ) -> list[Recommendation]:
        """Recommendations for some users of the data set."""
        history = self.state.get_user_history(self.users(users))
        found = self._chosen(history, k, seen, None, rng)
        return [self._recommendation(history, *found, row, str(user)) for row, user in enumerate(users)]

    def recommend_frame(self, frame: Any, k: int = 10, *, seen: bool | None = None) -> Any:
        """A frame of `user_id, rank, item_id, title` for every user of a frame of events, in the frame's own library.

        Args:
            frame: events of any users, oldest first for each, with columns `user_id` and `item_id` (pandas, Polars,
                pyarrow). Rows without a user or an item, and items outside the catalogue, are ignored; a user with no
                other rows gets no recommendation. `reward` and context columns are read by their names in training.
            k: number of items for each user; `seen`: whether items of their history may be recommended.

        Raises:
            DataError: `frame` is not a data frame, or lacks a column; or `k` or `seen` is invalid.
        """
        if not is_frame(frame):
            raise DataError(f"{type(frame).__name__} found where a frame of pandas, Polars or pyarrow is expected")
        check_fork("recommend_frame")
        events = to_polars(frame)
        if missing := {"user_id", "item_id"} - set(events.columns):
            raise DataError(f"the frame has no column {some(sorted(missing))}; it has {some(events.columns)}")
        found = numeric(events.lazy(), [one for one in events.columns if one in self.state.space.event_names])
        return like(frame, self.with_events(events.select("user_id", "item_id", **found), k, seen=seen))

    def with_events(self, events: pl.DataFrame, k: int = 10, **how: Any) -> pl.DataFrame:
        """`recommend_frame` for a Polars frame.

        Args:
            events: `user_id`, `item_id`, and if known the numbers of each event, as `Dataset.of_events` takes them;
                missing ones are replaced by the usual ones.
            k: number of items for each user; `how`: further arguments of `recommend_all`.
        """
        catalogue, space, events = self.catalogue, self.state.space, events.drop_nulls(["user_id", "item_id"])
        usual = dict(zip(space.event_names, space.event_center.tolist(), strict=True))
        numbers = events.drop("user_id", "item_id")
        numbers = numbers.with_columns(pl.col(name).fill_null(usual[name]) for name in numbers.columns if name in usual)
        items = catalogue.index(events["item_id"].to_list())
        known = Dataset.of_events(events["user_id"], items, catalogue, numbers=numbers.to_dict())
        setup = self.state.setup.model_copy(update={"split": EVERYONE})
        state = State(known, setup, self.state.space)
        return Recommender(LearnedPolicy(self.policy.agent, state, self.policy.search)).recommend_all(k, **how)

    def recommend_all(
        self,
        k: int = 10,
        *,
        seen: bool | None = None,
        allowed: Iterable[str | int] | None = None,
        blocked: Iterable[str | int] = (),
        rng: np.random.Generator | None = None,
        users: Int32[np.ndarray, "users"] | None = None,
    ) -> pl.DataFrame:
        """A frame of `user_id, rank, item_id, title` for all users of the data set, or for the given user positions."""
        check_fork("recommend_all")
        mask = self.catalogue.mask(allowed, blocked)
        parts = [self._ranked(np.array([], np.int32), np.zeros((0, 0), np.int32))]
        everyone = np.arange(self.state.dataset.users, dtype=np.int32) if users is None else users
        lengths, start = self.state.dataset.lengths[everyone], 0
        while start < len(lengths):
            longest = int(lengths[start : start + CHUNK].max(initial=1))
            these = everyone[start : start + max(1, min(CHUNK, EVENTS // longest))]
            start += len(these)
            _, slates = self._chosen(self.state.get_user_history(these), k, seen, mask, rng, propensities=False)
            parts.append(self._ranked(these, slates.items))
        return pl.concat(parts)

    def _ranked(self, users: Int32[np.ndarray, "batch"], items: Int32[np.ndarray, "batch slots"]) -> pl.DataFrame:
        rows, ranks = np.nonzero(items >= 0)
        chosen = items[rows, ranks]
        return pl.DataFrame(
            {
                "user_id": self.state.dataset.user_ids.gather(users[rows]),
                "rank": ranks + 1,
                "item_id": self.catalogue.ids.gather(chosen),
                "title": self.catalogue.titles.gather(chosen),
            }
        )

    @own_modes()
    def _chosen(
        self,
        history: History,
        k: int,
        seen: bool | None,
        mask: Bool[np.ndarray, "items"] | None,
        rng: np.random.Generator | None,
        propensities: bool = True,
    ) -> tuple[Proposal, Product]:
        """The agent's proposals after some histories, and the slates."""
        if not isinstance(k, int | np.integer) or k < 1:
            raise DataError(f"k is {k!r}; expected a whole number above 0")
        if not isinstance(seen, bool | np.bool_ | None):
            raise DataError(f"seen is {seen!r}; expected True, False or None")
        seen = self.state.setup.evaluation.seen if seen is None else seen
        permitted = Permitted.of(mask, None if seen else history.items)
        sampler = Greedy() if rng is None else self.policy.sampler
        states = self.policy.states(history)
        slots = int(min(k, len(self.catalogue)))
        return states, self.policy.act(states, Request(slots, sampler, permitted, propensities), rng)

    def users(self, ids: Sequence[str | int]) -> np.ndarray:
        """Positions of users in the data set.

        Raises:
            CatalogueError: one is unknown.
        """
        found = self.state.dataset.user_index(list(ids))
        if (found < 0).any():
            name = ids[int(np.argmin(found))]
            data = self.state.dataset
            like = f", such as {str(data.user_ids[0])!r}" if data.users else ""
            raise CatalogueError(
                f"user {str(name)!r} is not among the {data.users} users of {data.name}{like}; "
                "give a history of item ids instead"
            )
        return found

    def _recommendation(
        self,
        history: History,
        states: Proposal,
        slate: Product,
        row: int,
        user: str | None,
        unknown: tuple[str, ...] = (),
    ) -> Recommendation:
        catalogue, items, heard = self.catalogue, [], history.items[row, : history.lengths[row]]
        for slot, item in enumerate(slate.items[row]):
            if item < 0:
                break
            items.append(
                Item(
                    item_id=str(catalogue.ids[int(item)]),
                    title=catalogue.titles[int(item)],
                    attributes=self._named(catalogue.attributes[item]),
                    match=not slate.fallback[row, slot],
                    repeat=bool((heard == item).any()),
                    propensity=None if slate.propensities is None else float(slate.propensities[row, slot]),
                )
            )
        titles = tuple(catalogue.titles.gather(heard))
        # A point in a learned space has no meaning for people.
        proposal = {} if states.ranked else self._named(catalogue.restore(states.points[row]))
        return Recommendation(user, titles, proposal, tuple(items), unknown)

    def _named(self, values: np.ndarray) -> dict[str, float]:
        return {name: round(float(value), 6) for name, value in zip(self.catalogue.names, values, strict=True)}


@cache
def _one_thread_in_forks() -> None:
    """Make forked children compute with one thread: the parent's threads do not exist in a child, which would hang."""
    if hasattr(os, "register_at_fork"):  # Windows has no forks
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def like(frame: Any, result: pl.DataFrame) -> Any:
    """The result as a frame of the same library as `frame` (pandas, Polars, pyarrow)."""
    backend = nw.from_native(frame, eager_only=True).implementation
    kinds = None
    if not len(result):  # dtypes cannot be inferred from no values
        result = result.with_columns(pl.col(pl.Null).cast(pl.String))
        kinds = nw.from_native(result).schema
    return nw.from_dict(result.to_dict(as_series=False), kinds, backend=backend).to_native()
