"""The algorithms that a setup may name, and the defaults that each brings along."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field, WrapValidator

from what_next.algorithms import Algorithm, known_algorithms
from what_next.errors import SetupError
from what_next.settings.schema import listed

ALGORITHMS = known_algorithms()
"""Every algorithm that a setup may name."""


def _algorithm(value: object, choose: Callable[[object], Algorithm]) -> Algorithm:
    """An object passes as it is, so that Python users may bring their own; a name or a dictionary is looked up."""
    if isinstance(value, Algorithm):
        return value
    if isinstance(value, dict):
        return choose({"name": "whatnext", **value})
    return choose({"name": value} if isinstance(value, str) else value)


def any_of(algorithms: Mapping[str, type[Algorithm]]) -> Any:
    """The type of any of them, made at run time."""
    return Union[tuple(algorithms.values())]  # noqa: UP007


if TYPE_CHECKING:
    AnyAlgorithm = Algorithm
else:
    AnyAlgorithm = Annotated[
        any_of(ALGORITHMS),
        Field(discriminator="name"),
        WrapValidator(_algorithm),
    ]


def with_usual(data: object) -> object:
    """The values with the defaults of their algorithm where they say nothing."""
    if not isinstance(data, dict):
        return data
    chosen = data.get("algorithm", "whatnext")
    name = str(chosen.get("name", "whatnext") if isinstance(chosen, dict) else chosen)
    algorithm = type(chosen) if isinstance(chosen, Algorithm) else ALGORITHMS.get(name)
    if algorithm is None:
        raise SetupError(f"algorithm is {name!r}; allowed: {listed(list(ALGORITHMS), 'or')}")
    usual = algorithm.defaults()
    if "epochs" in data:
        usual.pop("passes", None)
    group = data.get("split")
    if isinstance(group, dict) and "name" not in group and "split" in usual:  # `split.seed` alone
        data = {**data, "split": {"name": usual["split"], **group}}
    return {**usual, **data}
