"""A version in memory: the trained policy, lookups in its catalogue, and the reasons for its answers."""

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int32

from what_next.data import Catalogue
from what_next.data.catalogue import by_kind
from what_next.errors import CatalogueError, ModelError, NotFinite, some
from what_next.inference.extend import NewItem, extend, misfits
from what_next.inference.recommender import Recommender
from what_next.inference.session import Event, Session, Sessions
from what_next.models.encoders import Encoder
from what_next.policy import LearnedPolicy
from what_next.rewards import Samples
from what_next.rewards.spread import LEAST_EVENTS, spread_of
from what_next.serving import logger
from what_next.serving.engine.versions import whole
from what_next.serving.request import Reason, SimilarItem
from what_next.serving.store import StoredItem
from what_next.training.artefacts import CRITIC, Manifest, read_manifest
from what_next.types import Request

WINDOW = 20
"""Latest events whose spread is reported."""


@dataclass(frozen=True, eq=False)
class Served:
    """One version, ready to answer.

    Attributes:
        version: its name.
        manifest: of its file.
        policy: the agent for inference, on its catalogue with the items that were added since.
        left_out: ids of added items that do not fit its catalogue.
        own: the number of items from its file, which come before the added ones.
        lock: for the policy, which only one thread at a time may use.
    """

    version: str
    manifest: Manifest
    policy: LearnedPolicy
    left_out: frozenset[str] = frozenset()
    own: int = 0
    lock: AbstractContextManager[bool] = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, folder: Path, version: str) -> "Served":
        """A version of `versions.keep`.

        Raises:
            ModelError: a file is missing or damaged.
        """
        agent = whole(folder, version)
        critic = agent.with_name(CRITIC)
        policy = LearnedPolicy.load(agent, critic=critic if critic.is_file() else None, device="cpu").of_histories()
        return cls(version, read_manifest(agent, "agent"), policy, own=len(policy.state.space.catalogue))

    def extended(self, items: Sequence[StoredItem]) -> "Served":
        """The same version with further items; approximate search always scores all added items."""
        odd = misfits(self.policy.agent.space, items)
        if odd:  # the store also served other models; the detailed reason names an item, so it is not logged
            names = some(self.catalogue.names)
            untold = "without attributes, it knows no new ones but by tags of items that it was trained with"
            why = f"its attributes are others ({names})" if names else untold
            logger.warning("version %s cannot recommend %d items that were added: %s", self.version, len(odd), why)
        new = [one for one in items if one.item_id not in odd]
        left_out = (self.left_out | odd).difference(one.item_id for one in new)
        if not new:
            return replace(self, left_out=left_out) if odd else self
        return replace(self, policy=extend(Recommender(self.policy), new).policy, left_out=left_out)

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        return self.policy.state.space.catalogue

    @cached_property
    def sessions(self) -> Sessions:
        """Begins and extends sessions for this version's agent."""
        return Sessions.of(self.policy.agent)

    @cached_property
    def ids(self) -> list[str]:
        """The items' ids as text."""
        return self.catalogue.ids.cast(pl.String).to_list()

    @cached_property
    def titles(self) -> list[str]:
        """The items' titles."""
        return self.catalogue.titles.cast(pl.String).to_list()

    @cached_property
    def lowered(self) -> list[str]:
        """The titles in lower case."""
        return [title.lower() for title in self.titles]

    @cached_property
    def places(self) -> dict[str, int]:
        """The position in the catalogue of each id."""
        return {name: place for place, name in enumerate(self.ids)}

    def known(self, ids: Iterable[str]) -> Int32[np.ndarray, "known"]:
        """The positions of those ids that are in the catalogue, in the given order."""
        return np.array([place for one in ids if (place := self.places.get(one)) is not None], np.int32)

    def item(self, item_id: str) -> NewItem | None:
        """An item; None if it is not in the catalogue."""
        return None if (place := self.places.get(item_id)) is None else self._item(place)

    def search(self, query: str, limit: int) -> list[NewItem]:
        """Items whose title contains a text, ignoring case; those whose title begins with it come first.

        Without a text, the first items of the catalogue.
        """
        text = query.strip().lower()
        found = [place for place, title in enumerate(self.lowered) if text in title] if text else range(len(self.ids))
        first = sorted(found, key=lambda place: not self.lowered[place].startswith(text)) if text else found
        return [self._item(place) for place in first[:limit]]

    def _item(self, place: int) -> NewItem:
        tags = self.catalogue.tags
        words = by_kind(None if tags is None else tags[place])
        return NewItem(self.ids[place], self.titles[place], self.attributes(place), words)

    def attributes(self, place: int) -> dict[str, float]:
        """The attributes of an item, in their own units."""
        values = zip(self.catalogue.names, self.catalogue.attributes[place].tolist(), strict=True)
        return {name: round(value, 6) for name, value in values}

    @cached_property
    def units(self) -> Float32[np.ndarray, "items dim"]:
        """The item vectors scaled to length 1 (0 stays 0): inner products are cosines."""
        encoder, vectors = self.policy.agent.nets.get("encoder"), self.catalogue.vectors
        if isinstance(encoder, Encoder):  # the founding algorithm has no encoder: it compares attributes
            with torch.no_grad():
                vectors = encoder.items().float().cpu().numpy()
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)

    def warm(self) -> "Served":
        """Compute all lazy values and test the model; returns itself.

        Raises:
            ModelError: the model's proposal is not finite.
        """
        _ = self.ids, self.titles, self.places, self.catalogue.vectors, self.catalogue.kinds
        try:
            self.policy.act(self.sessions.states([self.sessions.replay([Event(0)])]), Request())
        except NotFinite:
            raise ModelError(f"{self.version}: proposes what is no finite number; train again") from None
        return self


def reasons(served: Served, session: Session | None, items: Int32[np.ndarray, "chosen"]) -> list[Reason]:
    """The reason for each item: the most similar item of the history, the attributes, and the critic's value."""
    nearest: list[SimilarItem | None] = [None] * len(items)
    critic: list[float | None] = [None] * len(items)
    if session is not None and len(session) and len(items):
        heard = session.items[::-1]  # newest first: ties go to the later event
        alike = served.units[heard] @ served.units[items].T
        best = zip(heard[alike.argmax(0)].tolist(), alike.max(0).tolist(), strict=True)
        nearest = [_named(served, place, similarity) for place, similarity in best]
        judged = served.policy.values(served.sessions.states([session]), items[None])
        critic = critic if judged is None else judged[0].tolist()
    return [
        Reason(near, served.attributes(place), value)
        for near, place, value in zip(nearest, items.tolist(), critic, strict=True)
    ]


def similar(served: Served, item_id: str, k: int, withdrawn: Int32[np.ndarray, "withdrawn"]) -> list[SimilarItem]:
    """The items most similar to an item by cosine, without itself and withdrawn ones.

    Raises:
        CatalogueError: the item is unknown.
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
    """The spread of the latest events of a session; None with fewer than three events, or without attributes."""
    if len(items) < LEAST_EVENTS or not served.catalogue.informative:
        return None
    return spread_of(torch.from_numpy(served.catalogue.vectors[items[-WINDOW:]]))


def spreads(served: Served, items: Int32[np.ndarray, "heard"]) -> list[float | None]:
    """The spread after each of the last `WINDOW` events, oldest first; None as for `spread`."""
    count = min(len(items), WINDOW)
    if not served.catalogue.informative or not count:
        return [None] * count
    read = items[-2 * WINDOW + 1 :]  # back to the window of the oldest reported event
    samples = Samples.of(torch.from_numpy(served.catalogue.vectors[read])[None], WINDOW)
    latest: list[float] = samples.spread[0, -count:].tolist()
    return [value if heard >= LEAST_EVENTS else None for heard, value in enumerate(latest, len(items) - count + 1)]
