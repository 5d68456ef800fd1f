"""Values of options that several commands share."""

from pathlib import Path

from rich.console import Console

from what_next.data import Catalogue
from what_next.data.splits import Part
from what_next.errors import SetupError, WhatNextError, some


def part_of(split: str) -> Part:
    """The value of `--split`."""
    part: Part = "validation" if split == "validation" else "test"
    if split != part:
        raise SetupError(f"--split {split!r}: expected validation or test")
    return part


def seeds_of(text: str | None) -> list[int] | None:
    """The value of `--seeds`."""
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise SetupError(f"--seeds {text!r}: expected different whole numbers, such as 0,1,2")
    return [int(word) for word in words]


def weights_of(text: str | None) -> list[float]:
    """The value of `--weights`; none without it."""
    if text is None:
        return []
    try:
        weights = [float(one) for one in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) < 2 or min(weights) < 0 or len(set(weights)) < len(weights):
        raise SetupError(f"--weights {text!r}: expected different numbers of at least 0, such as 0,0.5,2")
    return weights


def ids_of(path: Path | None, catalogue: Catalogue) -> list[str] | None:
    """The ids of a file, one on each line; those that the catalogue does not hold are told, and change nothing."""
    if path is None:
        return None
    try:
        ids = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise WhatNextError(f"{path}: cannot be read as a list of ids ({error}); write one id on each line") from None
    unknown = [one for one, item in zip(ids, catalogue.index(ids), strict=True) if item < 0]
    if unknown:
        told = f"{path}: not in the catalogue, left out: {some(unknown)}"
        Console(stderr=True, soft_wrap=True).print(told, markup=False, highlight=False)
    return ids
