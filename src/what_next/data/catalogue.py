"""The items: ids, titles, and attributes with the scaling used for distances."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Float32, Int, Int32

from what_next.data.importing.ids import as_text, several
from what_next.errors import CatalogueError, DataError, some

BLOCK = 2**14
"""Ids hashed at a time: as Python strings, ten million take 1.5 GB."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Every item that can be recommended, in a fixed order; elsewhere an item is its index in it.

    Attributes:
        ids: external ids (Int64 or String), distinct.
        named: the titles; None where all items go by their ids: see `titles`.
        names: attribute names, one per column of `attributes`; empty where there are none.
        attributes: the attributes in their own units, all finite.
        center: what is subtracted from each attribute, in its own unit; 0 until standardised.
        scale: what each attribute is divided by, in its own unit; 1 until standardised, 0 for a `constant` one.
        tags: words that items can share, such as "artist: Queen"; empty or null for an item without any. None: no item
            has any.
    """

    ids: pl.Series
    named: pl.Series | None
    names: tuple[str, ...]
    attributes: Float32[np.ndarray, "items attributes"]
    center: Float32[np.ndarray, "attributes"]
    scale: Float32[np.ndarray, "attributes"]
    tags: pl.Series | None = None

    def __repr__(self) -> str:
        tags = f"; tags: {', '.join(self.kinds)}" if self.kinds else ""
        return f"Catalogue({len(self):,} items, {len(self.names)} attributes: {some(self.names) or 'none'}{tags})"

    @classmethod
    def from_table(cls, table: pl.DataFrame) -> "Catalogue":
        """From an item table: columns `item_id`, `title`, then one per attribute (all finite); tags are lists."""
        tags = next((column for column in table.get_columns()[2:] if column.dtype == pl.List(pl.String)), None)
        names = tuple(name for name in table.columns[2:] if tags is None or name != tags.name)
        attributes = np.empty((len(table), len(names)), np.float32)
        for column, name in enumerate(names):
            attributes[:, column] = table[name].to_numpy()
        neutral = np.zeros(len(names), np.float32)
        ids, titles = table["item_id"], table["title"]
        named = None if titles.equals(ids.cast(pl.String)) else titles  # saves the memory of a second copy
        return cls(ids, named, names, attributes, neutral, neutral + 1, tags)

    def to_table(self) -> pl.DataFrame:
        """The item table that `from_table` reads."""
        columns = [pl.Series(name, column) for name, column in zip(self.names, self.attributes.T, strict=True)]
        tags = [] if self.tags is None else [self.tags]
        return pl.DataFrame([self.ids.alias("item_id"), self.titles.alias("title"), *columns, *tags])

    def scaled(
        self, center: Float32[np.ndarray, "attributes"], scale: Float32[np.ndarray, "attributes"]
    ) -> "Catalogue":
        """The same catalogue with the given scaling."""
        return replace(self, center=center, scale=scale)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def titles(self) -> pl.Series:
        """The titles of the items; the id as text for an item without a title."""
        return self.ids.cast(pl.String).alias("title") if self.named is None else self.named

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "items attributes"]:
        """The standardised attributes, `(attributes - center) / scale`, without units. Constant attributes are 0."""
        zeros = np.zeros_like(self.attributes)  # also for a new item with another value, which training never saw
        return np.asarray(np.divide(self.attributes - self.center, self.scale, out=zeros, where=self.scale > 0))

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of tags, such as `artist`."""
        if self.tags is None:
            return []
        return kinds_of(self.tags.explode().drop_nulls().unique()).unique().sort().to_list()

    def tagged(self, tags: Sequence[str]) -> Bool[np.ndarray, "items"]:
        """Which items have at least one of these tags."""
        if self.tags is None:
            return np.zeros(len(self), np.bool_)
        return self.tags.list.eval(pl.element().is_in(tags)).list.any().fill_null(False).to_numpy()

    @cached_property
    def constant(self) -> list[str]:
        """The attributes with a single value on all items used for standardisation, which distinguish no items."""
        return [name for name, scale in zip(self.names, self.scale, strict=True) if scale == 0]

    @property
    def informative(self) -> bool:
        """Whether there is an attribute that is not constant."""
        return bool(self.scale.any())

    def standardised(self, seen: Bool[np.ndarray, "items"] | Int[np.ndarray, "chosen"] | Sequence[int]) -> "Catalogue":
        """The same catalogue, centred and scaled by the mean and (population) standard deviation of some items.

        Args:
            seen: the items that training may know, as a mask or as indices.

        Raises:
            DataError: no item is given.
        """
        known = self.attributes[np.asarray(seen)].astype(np.float64)
        if not len(known):
            raise DataError("no item of the catalogue has a training event, so attributes cannot be standardised")
        center, scale = known.mean(axis=0), known.std(axis=0)
        scale[known.min(axis=0) == known.max(axis=0)] = 0  # rounding may give a tiny deviation instead
        return self.scaled(center.astype(np.float32), scale.astype(np.float32))

    def restore(self, vectors: Float[np.ndarray, "*batch attributes"]) -> Float[np.ndarray, "*batch attributes"]:
        """Converts standardised vectors back to the attributes' own units."""
        return np.asarray(vectors * self.scale + self.center)

    def index(self, ids: Sequence[str | int]) -> Int32[np.ndarray, "n"]:
        """Indices of external ids, compared as text; -1 for unknown ids."""
        places = self._by_text
        return np.array([places.get(one if isinstance(one, str) else as_text(one), -1) for one in ids], np.int32)

    def held(self, ids: Sequence[str | int]) -> Int32[np.ndarray, "some"]:
        """Indices of the known ids only."""
        places = self.index(ids)
        return np.extract(places >= 0, places)

    def mask(self, allowed: Any, blocked: Any = ()) -> Bool[np.ndarray, "items"] | None:
        """A mask of the allowed items without the blocked ones, ignoring unknown ids; None: all items.

        Raises:
            CatalogueError: no item is left, or an argument is not a list of ids.
        """
        permitted, without = None if allowed is None else several(allowed), several(blocked)
        if permitted is None and not without:
            return None
        mask = np.full(len(self), permitted is None)
        mask[self.held(permitted or [])] = True
        mask[self.held(without)] = False
        if not mask.any():
            raise CatalogueError("no item of the catalogue is allowed and not blocked; nothing can be recommended")
        return mask

    @cached_property
    def _by_text(self) -> dict[str, int]:
        return {text: position for position, text in enumerate(self.ids.cast(pl.String))}

    def hash(self) -> str:
        """SHA-256 of everything that a model is trained on: ids, attribute names, attributes and tags, but no
        titles."""
        digest = hashlib.sha256()
        words = [] if self.tags is None else [self.tags.list.join("\0", ignore_nulls=True).fill_null("")]
        for texts in (self.ids, pl.Series(self.names, dtype=pl.String), *words):
            for start in range(0, len(texts), BLOCK):
                # Each text is preceded by its length, so that different lists never give the same bytes.
                encoded = [text.encode() for text in texts[start : start + BLOCK].cast(pl.String).to_list()]
                digest.update(b"".join(len(one).to_bytes(8, "little") + one for one in encoded))
            digest.update(b"\xff" * 8)
        # Adding 0 turns -0.0 into 0.0, so that equal values have equal hashes.
        digest.update((self.attributes + np.float32(0)).astype("<f4").tobytes())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Size and, for each attribute, mean and standard deviation over all items, in its own unit."""
        values = self.attributes.astype(np.float64)
        return {
            name: {"mean": float(column.mean()), "sd": float(column.std())}
            for name, column in zip(self.names, values.T, strict=True)
        }


def kinds_of(tags: pl.Series) -> pl.Series:
    """The kinds of tags: `artist` for "artist: Queen"."""
    return tags.str.split(": ").list.first()


def tags_of(words: Mapping[str, Sequence[str]]) -> list[str]:
    """Tags as in `Catalogue.tags`, from words by kind."""
    return list(dict.fromkeys(f"{kind}: {word}" for kind, several in words.items() for word in several))


def by_kind(tags: Iterable[str] | None) -> dict[str, list[str]]:
    """Words by kind, from tags: the reverse of `tags_of`."""
    found: dict[str, list[str]] = {}
    for kind, _, word in (tag.partition(": ") for tag in (() if tags is None else tags)):
        found.setdefault(kind, []).append(word)
    return found
