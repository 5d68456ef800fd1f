"""Every setting in words: for the documentation, `what-next list`, and the commented file of `what-next init`."""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic.fields import FieldInfo

from what_next.settings.file import quote
from what_next.settings.schema import allowed, leaves, listed
from what_next.settings.setup import ALGORITHMS, Setup

EXAMPLE = {
    "train": "yes",
    "model": "lstm",
    "epochs": "40000",
    "model_agent_path": "models/agent.safetensors",
    "model_critic_path": "models/critic.safetensors",
    "window": "20",
}
"""What a new setup file sets."""


@dataclass(frozen=True)
class Setting:
    """A key, what it means, what it may be, and its default (None where a value is required)."""

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


def template(data: str | Path, algorithm: str = "", why: str = "") -> str:
    """A commented setup.txt for a data file; what keeps its default stands behind a `#`.

    Args:
        data: the file, as the setup names it.
        algorithm: another than the default.
        why: the reason for it, as a comment.
    """
    values = {**EXAMPLE, "data": Path(data).as_posix(), "algorithm": algorithm}
    lines = ["# Settings of What Next?, as pairs of key, value. Remove the # before a key to change its value."]
    for setting in reference():
        about = f"{setting.description} ({setting.allowed})"
        about += f"; {why}" if why and setting.key == "algorithm" else ""
        lines += ["", *_comment(about)]
        value = values.get(setting.key)
        lines.append(f"{setting.key}, {quote(value)}" if value else f"#{setting.key}, {setting.default}")
    for name, kind in ALGORITHMS.items():
        own = settings_of(name) if name != "whatnext" else []  # these are above
        if own:
            title = (kind.__doc__ or "").strip().partition("\n")[0]
            lines += ["", *_comment(f"With `algorithm, {name}` ({title.rstrip('.')}):")]
        for one in own:
            lines += [*_comment(f"{one.description} ({one.allowed})"), f"#   {one.key}, {one.default}"]
    return "\n".join(lines) + "\n"


def _described(fields: Iterable[tuple[str, FieldInfo]]) -> Iterator[Setting]:
    for key, field in fields:
        short = key.removesuffix(".name")
        about = field.description or Setup.model_fields[key.partition(".")[0]].description or ""
        values = listed(list(ALGORITHMS), "or") if short == "algorithm" else allowed(field)
        yield Setting(short, about, values, None if field.is_required() else _written(field.default))


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ")


def _written(value: object) -> str:
    """A default as a setup file holds it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple) and value:
        return quote(",".join(str(one) for one in value))
    return "none" if value in (None, ()) else str(value)
