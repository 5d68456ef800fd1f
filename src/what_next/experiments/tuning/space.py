"""Where settings are sought: what every algorithm shares, and what an algorithm declares for its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from what_next.settings import Setup

Value = int | float | str | bool
Settings = dict[str, Value]
Choices = tuple[Value, ...]

MAGNITUDES = 10
"""A range whose ends are so many times apart is searched by orders of magnitude."""
OWN = "algorithm."
"""What begins the keys of an algorithm's own settings."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    low: int | float
    high: int | float

    @property
    def by_magnitude(self) -> bool:
        """Whether equal factors are equally likely, not equal differences."""
        return self.low > 0 and self.high >= MAGNITUDES * self.low

    def holding(self, value: int | float) -> "Range":
        """The range, widened where it has to be to hold a setup's own value."""
        return Range(min(self.low, value), max(self.high, value))


COMMON: Mapping[str, Range | Choices] = {
    "learning_rate": Range(3e-4, 1e-2),
    "dropout": Range(0.0, 0.5),
    "weight_decay": (0.0, 1e-4, 1e-3, 1e-2, 1e-1),
    "batch_size": (8, 16, 32, 64, 128),
}
"""What is searched for every algorithm."""
TARGETS: Choices = (512, 1024, 2048, 4096, 8192)
"""Of `batch_targets`, which is searched where no `batch_size` is set."""


def search_space(setup: Setup) -> dict[str, Range | Choices]:
    """`COMMON` and what the algorithm's `search` says; the setup's own values are always among it.

    An algorithm's `search` (a class variable) maps names of its fields to a pair of numbers, which is a range, or to
    other values to choose from. A name that is none of its fields is a setting of the setup (`discount`, say). A range
    for a setting that is no number now (none, say) is left out.
    """
    found: dict[str, Range | Choices] = dict(COMMON)
    if setup.batch_size is None:
        del found["batch_size"]
        found["batch_targets"] = TARGETS
    for name, where in type(setup.algorithm).search.items():
        key = OWN + name if name in type(setup.algorithm).model_fields else name
        found[key] = Range(*where) if len(where) == 2 and all(map(_is_number, where)) else tuple(where)
    own = own_values(setup, found)
    return {
        key: where.holding(own[key]) if isinstance(where, Range) else tuple(dict.fromkeys([*where, own[key]]))
        for key, where in found.items()
        if not isinstance(where, Range) or _is_number(own[key])
    }


def own_values(setup: Setup, space: Mapping[str, Range | Choices]) -> dict[str, Any]:
    """What a setup has for some settings."""
    return {
        key: getattr(setup.algorithm, key.removeprefix(OWN)) if key.startswith(OWN) else getattr(setup, key)
        for key in space
    }


def with_settings(setup: Setup, settings: Mapping[str, Value]) -> Setup:
    """The setup with some settings changed; keys of its algorithm begin with `algorithm.`."""
    of_algorithm = {key.removeprefix(OWN): value for key, value in settings.items() if key.startswith(OWN)}
    of_setup = {key: value for key, value in settings.items() if not key.startswith(OWN)}
    return setup.model_copy(update={**of_setup, "algorithm": setup.algorithm.model_copy(update=of_algorithm)})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
