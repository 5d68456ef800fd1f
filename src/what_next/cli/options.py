"""Arguments and options that several commands share, and how their values are parsed."""

import csv
import inspect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from what_next.cli.output import note
from what_next.errors import SetupError, WhatNextError, some

if TYPE_CHECKING:
    from what_next.data import Catalogue
    from what_next.settings import Setup

Code = TypeVar("Code", int, None)

# Commands import their dependencies when they run: PyTorch takes seconds, which --help should not cost.

SetupFile = Annotated[Path, typer.Argument(metavar="SETUP", help="A setup.txt, or the same as TOML.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that override a setup's.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Allowed = Annotated[Path | None, typer.Option(help="A file with the item ids that may be recommended, a line each.")]
Blocked = Annotated[Path | None, typer.Option(help="A file with the item ids that may not.")]
Estimator = Annotated[
    str | None,
    typer.Option(help="The estimate that decides: dr, slate_snips, ... Default: snips; on slates cascade_snips."),
]
Top = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Judge by this many positions of each slate, from above: long slates rarely match between two policies.",
    ),
]
Margin = Annotated[
    float, typer.Option(help="How much more the new one must earn, in the reward's unit: a decision, or a slate.")
]

Looks = Annotated[
    Literal["one", "any"],
    typer.Option(help="How many looks at a growing log the verdict allows: this one alone, or any number."),
]


def option(about: str, *names: str, default: Any = None, **how: Any) -> Any:
    """A data-class field that becomes an option of the commands that use the class (`with_options`)."""
    return field(default=default, metadata={"option": typer.Option(*names, help=about, **how)})


def with_options(kind: type[Any]) -> Callable[[Callable[..., Code]], Callable[..., Code]]:
    """Decorates a command: each field of its parameter `options`, a data class, becomes an option."""
    kinds = {one.name: Annotated[one.type, one.metadata["option"]] for one in fields(kind) if one.metadata}
    parameters = inspect.signature(kind).parameters
    options = [one.replace(annotation=kinds.get(name, one.annotation)) for name, one in parameters.items()]

    def made(command: Callable[..., Code]) -> Callable[..., Code]:
        @wraps(command)
        def run(**given: Any) -> Code:
            chosen = kind(**{name: given.pop(name) for name in parameters})
            return command(**given, options=chosen)

        own = inspect.signature(command).parameters.values()
        named = [part for one in own for part in (options if one.name == "options" else [one])]
        named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in named]
        run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in named}
        return run

    return made


def setup_of(file: Path, overrides: Sequence[str] | None, *last: str) -> "Setup":
    """The setup from SETUP and KEY=VALUE; `last` overrides both."""
    from what_next.settings import Setup

    return Setup.read(file, _words(overrides, last))


def _words(overrides: Sequence[str] | None, last: Sequence[str]) -> list[str]:
    """KEY=VALUE words, with those of `last` in place of earlier ones with the same keys."""
    fixed = {word.partition("=")[0] for word in last}
    return [*(word for word in overrides or [] if word.partition("=")[0].strip().lower() not in fixed), *last]


def trained_setup(file: Path, overrides: Sequence[str] | None, *last: str) -> "Setup":
    """The setup of a trained model (see `read_trained`), with a note where the file names another algorithm."""
    from what_next.settings import Setup
    from what_next.training.artefacts import read_trained

    words = _words(overrides, last)
    found, given = read_trained(file, words), Setup.read(file, words).algorithm
    if found.algorithm != given:
        one, other = found.algorithm.model_dump(), given.model_dump()
        differ = ["name"] if one["name"] != other["name"] else [key for key in one if one[key] != other[key]]
        of_model, of_setup = (
            ", ".join(str(values[key]) if key == "name" else f"algorithm.{key}={values[key]}" for key in differ)
            for values in (one, other)
        )
        note(f"{found.model_agent_path}: was trained with {of_model}, and that counts; the setup says {of_setup}")
    return found


def names_of(text: str | None) -> list[str] | None:
    """Names separated by commas; double quotes enclose a name that contains commas. None for None."""
    if text is None:
        return None
    return [name.strip() for row in csv.reader([text], skipinitialspace=True) for name in row if name.strip()]


def seeds_of(text: str | None) -> list[int] | None:
    """The value of `--seeds`."""
    if text is None:
        return None
    words = text.split(",")
    numbers = {int(word) for word in words if re.fullmatch(r"\s*[0-9]{1,19}\s*", word)}
    if len(numbers) < len(words) or max(numbers) >= 2**63:
        raise SetupError(f"--seeds {text!r}: expected different whole numbers below 2^63, such as 0,1,2")
    return [int(word) for word in words]


def baselines_of(text: str | None) -> Sequence[str]:
    """The value of `--baselines`: all by default, and an empty list for `none`."""
    from what_next.experiments.baselines import EVERY

    words = EVERY if text is None else names_of(text) or []
    if words == ["none"]:
        return []
    if not words or not set(words) <= set(EVERY):
        raise SetupError(f"--baselines {text!r}: expected none, or some of {', '.join(EVERY)}, separated by commas")
    return words


def numbers_of(text: str) -> list[float]:
    """Numbers separated by commas; empty if one of them is not a number."""
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        return []


def weights_of(text: str | None) -> list[float]:
    """The value of `--weights`; empty by default."""
    if text is None:
        return []
    weights = numbers_of(text)
    if len(weights) < 2 or not all(0 <= one < math.inf for one in weights) or len(set(weights)) < len(weights):
        raise SetupError(f"--weights {text!r}: expected different numbers of at least 0, such as 0,0.5,2")
    return weights


def ids_of(path: Path | None, catalogue: "Catalogue") -> list[str] | None:
    """The ids in a file, one per line; prints which of them are not in the catalogue."""
    if path is None:
        return None
    try:
        ids = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise WhatNextError(f"{path}: cannot be read as a list of ids ({why}); write one id on each line") from None
    unknown = [one for one, item in zip(ids, catalogue.index(ids), strict=True) if item < 0]
    if unknown:
        note(f"{path}: not in the catalogue, left out: {some(map(repr, unknown))}")
    return ids
