"""The rule for the items that a request permitted, in the format of the service's store and exported log."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property

import numpy as np
from jaxtyping import Bool
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from what_next.data.catalogue import Catalogue, tags_of
from what_next.errors import DataError, some


@dataclass(frozen=True, eq=False, config={"extra": "forbid"})
class Rule:
    """Allowed or blocked item ids, ranges of attributes, and tags.

    It holds ids instead of item indices, so that it means the same for every model and catalogue.

    Attributes:
        allowed: item ids; None: all. `blocked`: item ids that are not permitted.
        ranges: for attributes by name, the least and the greatest permitted value, in the attributes' own units.
        tags: by kind of tags, the words of which an item must have at least one.
    """

    allowed: tuple[str, ...] | None = None
    blocked: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        """The rule as JSON; equal rules have equal texts, in whatever order their ids were given."""
        parts = {
            "allowed": None if self.allowed is None else sorted(set(self.allowed)),
            "blocked": sorted(set(self.blocked)),
            "ranges": {name: list(self.ranges[name]) for name in sorted(self.ranges)},
            "tags": {kind: sorted(set(self.tags[kind])) for kind in sorted(self.tags)},
        }
        return json.dumps({name: part for name, part in parts.items() if part or part == []}, separators=(",", ":"))

    @cached_property
    def hash(self) -> str:
        """Hash of the text, which identifies the rule."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    @classmethod
    def of(cls, text: str) -> "Rule":
        """The rule of a `text`; raises a `ValidationError` for an invalid text."""
        return TypeAdapter(cls).validate_json(text, strict=True)

    def mask(self, catalogue: Catalogue) -> Bool[np.ndarray, "items"]:
        """A mask of the items of a catalogue that the rule permits; unknown ids are ignored.

        Raises:
            DataError: the catalogue has no such attribute or kind of tags.
        """
        found = np.full(len(catalogue), self.allowed is None)
        found[catalogue.held(self.allowed or ())] = True
        for names, known in ((self.ranges, catalogue.names), (self.tags, catalogue.kinds)):
            for name in names:
                if name not in known:
                    raise DataError(
                        f"a request of the log permitted items by their {name!r}, and the model's items have "
                        f"{some(known) or 'nothing to go by'}; judge a model that was trained on the log's items"
                    )
        for name, (low, high) in self.ranges.items():
            values = catalogue.attributes[:, catalogue.names.index(name)]
            # Attributes are single precision, so bounds are rounded alike, or a bound would exclude an equal value.
            with np.errstate(over="ignore"):
                found &= (values >= np.float32(low)) & (values <= np.float32(high))
        for kind, words in self.tags.items():
            found &= catalogue.tagged(tags_of({kind: words}))
        found[catalogue.held(self.blocked)] = False
        return found
