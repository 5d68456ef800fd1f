"""Parts of installed packages, found by entry points: algorithms, rewards, encoders, sources, worlds."""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GIVEN: dict[str, dict[str, type[Any]]] = {}
"""Classes registered in this process (`settings.register`), by group and then name."""


def installed(
    group: str,
    base: type[Any],
    taken: Mapping[str, object],
    name_of: Callable[[str, Any], str] = lambda name, part: name,
) -> dict[str, Any]:
    """The classes of a group of entry points, by the entry point's name or by `name_of` the entry point and class;
    classes registered in this process come first.

    A part that cannot be loaded, is no subclass of `base`, does not define a required method, or has a name that is
    taken is left out with a warning; one whose module is still being imported (`pending`) is left out silently.
    """
    found: dict[str, Any] = {}
    points: list[tuple[EntryPoint, Any]] = [(point, None) for point in entry_points(group=group)]
    given = [
        (EntryPoint(name, f"{part.__module__}:{part.__qualname__}", group), part)
        for name, part in GIVEN.get(group, {}).items()
    ]
    for point, part in given + points:
        if part is None and _being_imported(point):
            continue
        try:
            part = part or point.load()
            if not (isinstance(part, type) and issubclass(part, base)):
                raise TypeError(f"{part!r} is no subclass of {base.__module__}.{base.__qualname__}")
            if missing := undefined(part):
                raise TypeError(missing)
            name = name_of(point.name, part)
        # Another package's import can fail in any way; the rest must still load.
        except (Exception, SystemExit) as error:
            warnings.warn(f"{point.name} of {group} ({point.value}) cannot be loaded: {error!r}", stacklevel=2)
            continue
        if found.get(name) is part:
            continue  # both installed and registered
        if (other := found.get(name, taken.get(name))) is not None:
            who = f"{getattr(other, '__module__', '')}.{getattr(other, '__qualname__', other)}"
            warnings.warn(f"{point.value} is left out of {group}: the name {name!r} is taken, by {who}", stacklevel=2)
        else:
            found[name] = part
    return found


def undefined(part: type[Any]) -> str:
    """A sentence about the abstract methods that a class does not define; empty if it defines all."""
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    return f"{part.__qualname__} defines no {' and no '.join(missing)}" if missing else ""


def names(group: str) -> tuple[str, ...]:
    """The names of a group's entry points and registered classes, without loading any."""
    return (*GIVEN.get(group, ()), *(point.name for point in entry_points(group=group)))


def pending(group: str) -> bool:
    """Whether a module of the group is being imported right now and imports this one, so its class does not exist
    yet."""
    return any(_being_imported(point) for point in entry_points(group=group))


def _being_imported(point: EntryPoint) -> bool:
    spec = getattr(sys.modules.get(point.module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
