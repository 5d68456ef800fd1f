"""A version in memory: the trained policy, and what answers need of its catalogue."""

import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32

from what_next.data import Catalogue
from what_next.errors import ModelError, NotFinite, some
from what_next.inference.extend import NewItem, extend, misfits
from what_next.inference.recommender import Recommender
from what_next.inference.session import Event, Sessions
from what_next.models.encoders import Encoder
from what_next.policy import LearnedPolicy
from what_next.serving.engine.versions import AGENT, CRITIC, folder_of, intact
from what_next.serving.store import ItemRow, StoredItem
from what_next.training.artefacts import Manifest, read_manifest
from what_next.types import Request

logger = logging.getLogger("what_next.serving")


@dataclass(frozen=True, eq=False)
class Served:
    """One version, ready to answer.

    Attributes:
        version: what it is called.
        manifest: what its file says of it.
        policy: the agent for inference, on its catalogue with the items that came since.
        left_out: ids of items that came since and have other attributes than its own.
        lock: of the policy: one thread at a time.
    """

    version: str
    manifest: Manifest
    policy: LearnedPolicy
    left_out: frozenset[str] = frozenset()
    lock: AbstractContextManager[bool] = field(default_factory=threading.Lock)

    @classmethod
    def load(cls, folder: Path, version: str) -> "Served":
        """A version of `versions.keep`.

        Raises:
            ModelError: a file is missing or damaged.
        """
        place = folder_of(folder, version)
        agent, critic = place / AGENT, place / CRITIC
        intact(place, version)
        policy = LearnedPolicy.load(agent, critic=critic if critic.is_file() else None, device="cpu").of_histories()
        return cls(version, read_manifest(agent, "agent"), policy)

    def extended(self, items: Sequence[StoredItem]) -> "Served":
        """The same version with further items; a search finds those of the version, and looks at all later ones."""
        new = [NewItem(item.item_id, item.title, item.attributes) for item in items]
        odd = misfits(self.catalogue, new)
        if odd:  # of a store that served other models, too; why is not for the log, since it names an item
            message = "version %s cannot recommend %d items that were added: its attributes are others (%s)"
            logger.warning(message, self.version, len(odd), some(self.catalogue.names) or "none")
        new = [one for one in new if one.item_id not in odd]
        left_out = (self.left_out | odd).difference(one.item_id for one in new)
        if not new:
            return replace(self, left_out=left_out) if odd else self
        return replace(self, policy=extend(Recommender(self.policy), new).policy, left_out=left_out)

    def indexed(self, candidates: int) -> "Served":
        """The same with approximate search (`LearnedPolicy.indexed`); `extended` comes later: the index stays."""
        return replace(self, policy=self.policy.indexed(candidates))

    @property
    def catalogue(self) -> Catalogue:
        """The items."""
        return self.policy.state.space.catalogue

    @cached_property
    def sessions(self) -> Sessions:
        """How a person's session begins, grows, and becomes the policy's state."""
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
        """The titles in small letters."""
        return [title.lower() for title in self.titles]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where an id stands in the catalogue."""
        return {name: place for place, name in enumerate(self.ids)}

    def item(self, item_id: str) -> ItemRow | None:
        """An item; None: the catalogue does not hold it."""
        return None if (place := self.places.get(item_id)) is None else self._item(place)

    def search(self, query: str, limit: int) -> list[ItemRow]:
        """Items whose title holds a text, whatever its case; those whose title begins with it first.

        Without a text, the first items of the catalogue.
        """
        text = query.strip().lower()
        found = [place for place, title in enumerate(self.lowered) if text in title] if text else range(len(self.ids))
        first = sorted(found, key=lambda place: not self.lowered[place].startswith(text)) if text else found
        return [self._item(place) for place in first[:limit]]

    def _item(self, place: int) -> ItemRow:
        values = zip(self.catalogue.names, self.catalogue.attributes[place].tolist(), strict=True)
        return ItemRow(self.ids[place], self.titles[place], {name: round(value, 6) for name, value in values})

    @cached_property
    def units(self) -> Float32[np.ndarray, "items dim"]:
        """The item vectors, all of length 1 (0 where a vector is 0): their inner products are cosines."""
        encoder, vectors = self.policy.agent.nets.get("encoder"), self.catalogue.vectors
        if isinstance(encoder, Encoder):  # the founding algorithm has none: its actor reads events itself
            with torch.no_grad():
                vectors = encoder.items().float().cpu().numpy()
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)

    def warm(self) -> "Served":
        """Computes what is computed once; returns itself.

        Raises:
            ModelError: the model proposes what is no finite number.
        """
        _ = self.ids, self.titles, self.places, self.catalogue.vectors
        try:
            self.policy.act(self.sessions.states([self.sessions.replay([Event(0)])]), Request())
        except NotFinite:
            raise ModelError(f"{self.version}: proposes what is no finite number; train again") from None
        return self
