"""Parts that installed packages bring, by entry points: algorithms, rewards, encoders, sources."""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GIVEN: dict[str, dict[str, type[Any]]] = {}
"""What this program has registered itself (`settings.register`), by group and then name."""


def installed(
    group: str,
    base: type[Any],
    taken: Mapping[str, object],
    name_of: Callable[[str, Any], str] = lambda name, part: name,
) -> dict[str, Any]:
    """The classes of a group of entry points, by the entry point's name or what `name_of` makes of it and the class;
    and before them those that this program has registered.

    A part that cannot be loaded, is no `base`, lacks a method that it must define, or has a name that is taken is left
    out with a warning; one whose module is still being imported (`pending`) is left out without one.
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
        except (Exception, SystemExit) as error:  # a stranger's import fails in any way, and must not take others along
            warnings.warn(f"{point.name} of {group} ({point.value}) cannot be loaded: {error!r}", stacklevel=2)
            continue
        if (other := found.get(name, taken.get(name))) is not None:
            who = f"{getattr(other, '__module__', '')}.{getattr(other, '__qualname__', other)}"
            warnings.warn(f"{point.value} is left out of {group}: the name {name!r} is taken, by {who}", stacklevel=2)
        else:
            found[name] = part
    return found


def undefined(part: type[Any]) -> str:
    """Which methods a class must define, and does not, in words; empty: none."""
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    return f"{part.__qualname__} defines no {' and no '.join(missing)}" if missing else ""


def names(group: str) -> tuple[str, ...]:
    """The names of a group of entry points, and of what was registered; nothing is loaded."""
    return (*GIVEN.get(group, ()), *(point.name for point in entry_points(group=group)))


def pending(group: str) -> bool:
    """Whether a module of the group is just being imported, and imports this: its class is not made yet."""
    return any(_being_imported(point) for point in entry_points(group=group))


def _being_imported(point: EntryPoint) -> bool:
    spec = getattr(sys.modules.get(point.module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
