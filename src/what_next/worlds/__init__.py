"""Worlds: simulated users to act on. `what_next.worlds.gym` makes them environments of Gymnasium."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from what_next.errors import SetupError
from what_next.worlds.base import Draws, Episodes, Feedback, Observation, Reference, State, Streams, World, play
from what_next.worlds.boredom import Boredom
from what_next.worlds.choice import Choice
from what_next.worlds.sessions import Sessions

__all__ = [
    "GYM",
    "OWN",
    "Boredom",
    "Choice",
    "Draws",
    "Episodes",
    "Feedback",
    "Observation",
    "Reference",
    "Sessions",
    "State",
    "Streams",
    "World",
    "known_worlds",
    "opened",
    "play",
    "preset",
]

GROUP = "what_next.worlds"
GYM = "gym:"
"""Prefix of the ids of Gymnasium environments."""
OWN: Mapping[str, type[World]] = {"boredom": Boredom, "choice": Choice, "sessions": Sessions}


def known_worlds() -> dict[str, type[World]]:
    """The project's own worlds, and those of installed packages, by the `name` of their class."""
    # Imported here, because it brings PyTorch, which no other world needs.
    from what_next.settings.plugins import installed
    from what_next.worlds.fitted import Fitted

    own: dict[str, type[World]] = {**OWN, "fitted": Fitted}
    return own | installed(GROUP, World, own, lambda _, part: part.model_fields["name"].default)


def preset(name: str, **changes: Any) -> World:
    """A world by its name, by its name and a preset, or from the file of a world that was fitted to a log.

    For example `boredom`, `boredom:SlateTopK-Bored-v0`, `world.safetensors`; or any environment of Gymnasium by its id:
    `gym:sardine/SlateTopK-Bored-v0`.

    Args:
        changes: settings that override the preset's.

    Raises:
        SetupError: there is no such world or preset, or a setting is out of range.
    """
    if name.startswith(GYM):
        from what_next.worlds.environments import EnvironmentWorld  # imported here, because it brings PyTorch

        if changes:
            raise SetupError(f"world {name}: the settings of an environment are its own; found {', '.join(changes)}")
        return EnvironmentWorld.of(name.removeprefix(GYM))
    if name.endswith(".safetensors"):
        name, changes = "fitted", {"path": name, **changes}
    world, _, variant = name.partition(":")
    kind = known_worlds().get(world)
    if kind is None:
        raise SetupError(
            f"world {world!r} is not known; there are {', '.join(known_worlds())}, and {GYM}ID; one of your own "
            "needs its package installed (entry points what_next.worlds)"
        )
    if variant and variant not in kind.presets:
        nearest = get_close_matches(variant, kind.presets, 1, 0)
        hint = f"the nearest is {nearest[0]!r}; " if nearest else ""
        raise SetupError(f"world {world}: no preset {variant!r}; {hint}there are {', '.join(kind.presets) or 'none'}")
    return kind(**{**(kind.presets[variant] if variant else {}), **changes})


def opened(env: Any) -> World:
    """A world itself, by its name (`preset`), or from an environment (`environments.EnvironmentWorld.of`).

    Raises:
        SetupError: it is none of these.
    """
    if isinstance(env, World):
        return env
    if isinstance(env, str):
        return preset(env)
    from what_next.worlds.environments import EnvironmentWorld

    if isinstance(env, type) or not hasattr(env, "observation_space"):
        raise SetupError(f"env is {env!r:.200}; expected a world, the name of one, or an environment of Gymnasium")
    return EnvironmentWorld.of(env)
