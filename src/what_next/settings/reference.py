"""Descriptions of all settings: for the documentation, `what-next list`, and the commented file of `what-next init`."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic.fields import FieldInfo

from what_next.settings.file import quote
from what_next.settings.schema import allowed, leaves, listed
from what_next.settings.setup import ALGORITHMS, Setup

EXAMPLE = {
    "train": "yes",
    "model": "lstm",
    "model_agent_path": "models/agent.safetensors",
    "model_critic_path": "models/critic.safetensors",
    "window": "20",
}
"""The settings that a new setup file gives explicitly."""


@dataclass(frozen=True)
class Setting:
    """A key, its description, its allowed values, and its default (None where a value is required)."""

    key: str
    description: str
    allowed: str
    default: str | None


def reference() -> list[Setting]:
    """Every setting, in order, with those of the default algorithm; a group's `name` under its short key."""
    return [*_described(leaves(Setup, {}))]


def settings_of(algorithm: str) -> list[Setting]:
    """The settings of one algorithm."""
    return [*_described(one for one in leaves(ALGORITHMS[algorithm], {}, "algorithm.") if one[0] != "algorithm.name")]


def template(
    data: str | Path,
    algorithm: str = "whatnext",
    why: Mapping[str, str] = MappingProxyType({}),
    epochs: int = 40_000,
    *,
    seen: bool = False,
    models: str = "",
) -> str:
    """A commented setup.txt for a data file; settings at their default are commented out.

    Args:
        data: the file, as the setup names it.
        algorithm: the algorithm, whose defaults are shown.
        why: for values other than the default, the reason by key, as a comment.
        epochs: how many histories to train on, for an algorithm whose length is counted in histories.
        seen: whether items of the history may be recommended again, in evaluation, too.
        models: the name of the model's files; empty: those of `EXAMPLE`.
    """
    defaults = {key: as_text(value) for key, value in ALGORITHMS[algorithm].defaults().items()}
    values = {**EXAMPLE, "data": Path(data).as_posix(), "epochs": str(epochs)}
    if algorithm != "whatnext":
        values["algorithm"] = algorithm
    if seen:
        values["evaluation.seen"] = "yes"
    if models:
        paths = f"models/{models}.safetensors", f"models/{models}-critic.safetensors"
        values["model_agent_path"], values["model_critic_path"] = paths
    if "passes" in defaults:  # an explicit epochs would replace these passes; window is only for whatnext
        values = {key: value for key, value in values.items() if key not in ("epochs", "window")}
    lines = ["# Settings of What Next?, as pairs of key, value. Remove the # before a key to change its value."]
    for setting in reference():
        if setting.key.startswith("algorithm."):
            continue
        about = f"{setting.description} ({setting.allowed})"
        about += f"; {why[setting.key]}" if setting.key in why else ""
        default = defaults.get(setting.key, setting.default)
        value = values.get(setting.key)
        lines += ["", *_comment(about), f"{setting.key}, {quote(value)}" if value else f"#{setting.key}, {default}"]
        if setting.key == "algorithm":
            lines += _own(algorithm, "")
    for name in ALGORITHMS:
        lines += _own(name, "   ") if name != algorithm else []
    return "\n".join(lines) + "\n"


def _own(algorithm: str, indent: str) -> list[str]:
    """The lines of an algorithm's own settings, headed by its first sentence; empty where it has none."""
    own = settings_of(algorithm)
    about = (ALGORITHMS[algorithm].__doc__ or "").strip().partition("\n")[0].rstrip(".")
    lines = ["", *_comment(f"With `algorithm, {algorithm}` ({about}):")] if own else []
    for one in own:
        lines += [*_comment(f"{one.description} ({one.allowed})"), f"#{indent}{one.key}, {one.default}"]
    return lines


def _described(fields: Iterable[tuple[str, FieldInfo]]) -> Iterator[Setting]:
    for key, field in fields:
        short = key.removesuffix(".name")
        about = field.description or Setup.model_fields[key.partition(".")[0]].description or ""
        values = listed(ALGORITHMS, "or") if short == "algorithm" else allowed(field)
        yield Setting(short, " ".join(about.split()), values, None if field.is_required() else as_text(field.default))


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ")


def written(setup: Setup, folder: Path) -> str:
    """A setup.txt of the settings that differ from their defaults; paths under `folder` become relative to it."""
    needed = {name: getattr(setup, name) for name in ("train", "data", "model_agent_path", "model_critic_path")}
    plain = Setup(**needed, algorithm=type(setup.algorithm).model_validate({}))
    defaults = dict(flat(plain.model_dump()))
    values = {name: value for name, value in needed.items() if value is not None}
    values["algorithm.name"] = setup.algorithm.name
    values |= {key: value for key, value in flat(setup.model_dump()) if value != defaults.get(key)}
    lines = []
    for key, value in values.items():
        if isinstance(value, Path):
            value = (value.relative_to(folder) if value.is_relative_to(folder) else value.resolve()).as_posix()
        text = str(value) if isinstance(value, float) else as_text(value)
        if isinstance(value, tuple | list) and value and isinstance(value[0], str):
            lines += [f"{key}.{place}, {quote(one)}" for place, one in enumerate(value)]
        else:
            lines.append(f"{key.removesuffix('.name')}, {text if isinstance(value, tuple | list) else quote(text)}")
    return "\n".join(lines) + "\n"


def flat(values: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, object]]:
    """Nested values by their dotted keys."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{group}{name}.")
        else:
            yield f"{group}{name}", value


def as_text(value: object) -> str:
    """A value as a setup file holds it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list) and value:
        return quote(",".join(str(one) for one in value))
    return "none" if value in (None, (), []) else str(value)
