"""Which items a request permitted: the rule, as the service's store and its exported log keep it."""

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
    """Item ids that are allowed or blocked, ranges of attributes, and tags.

    Ids, and no numbers of items: a rule means the same for each model, whatever catalogue that has.

    Attributes:
        allowed: item ids; None: all. `blocked`: item ids that are not.
        ranges: for attributes by name, the least and the largest value, in the attributes' own units.
        tags: for kinds of tags by name, the words of which an item must have one.
    """

    allowed: tuple[str, ...] | None = None
    blocked: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def text(self) -> str:
        """As JSON; equal rules have equal texts, in whatever order their ids came."""
        parts = {
            "allowed": None if self.allowed is None else sorted(set(self.allowed)),
            "blocked": sorted(set(self.blocked)),
            "ranges": {name: list(self.ranges[name]) for name in sorted(self.ranges)},
            "tags": {kind: sorted(set(self.tags[kind])) for kind in sorted(self.tags)},
        }
        return json.dumps({name: part for name, part in parts.items() if part or part == []}, separators=(",", ":"))

    @cached_property
    def hash(self) -> str:
        """Of the text, to tell rules apart."""
        return hashlib.blake2b(self.text.encode(), digest_size=16).hexdigest()

    @classmethod
    def of(cls, text: str) -> "Rule":
        """The rule of a `text`; raises a `ValidationError` where it is that of none."""
        return TypeAdapter(cls).validate_json(text, strict=True)

    def mask(self, catalogue: Catalogue) -> Bool[np.ndarray, "items"]:
        """The items of a catalogue that it permits; ids that are not there are passed over.

        Raises:
            DataError: the catalogue lacks an attribute, or a kind of tags.
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
            # Attributes are single precision: so must a bound be that names one of their values.
            with np.errstate(over="ignore"):
                found &= (values >= np.float32(low)) & (values <= np.float32(high))
        for kind, words in self.tags.items():
            found &= catalogue.tagged(tags_of({kind: words}))
        found[catalogue.held(self.blocked)] = False
        return found
