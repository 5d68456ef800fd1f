"""Values of options that several commands share."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from what_next.data import Catalogue
from what_next.data.splits import Part
from what_next.errors import SetupError, WhatNextError, some
from what_next.settings import Setup
from what_next.training.artefacts import read_trained


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
    numbers = {int(word) for word in words if re.fullmatch(r"\s*[0-9]{1,19}\s*", word)}
    if len(numbers) < len(words) or max(numbers) >= 2**63:
        raise SetupError(f"--seeds {text!r}: expected different whole numbers below 2^63, such as 0,1,2")
    return [int(word) for word in words]


def baselines_of(text: str | None) -> Sequence[str]:
    """The value of `--baselines`: all of them without it, and none for the word itself."""
    from what_next.experiments.baselines import EVERY  # imported late: other commands need not wait for it

    if text is None:
        return EVERY
    words = [] if text.strip() == "none" else [word.strip() for word in text.split(",")]
    if not set(words) <= set(EVERY):
        raise SetupError(f"--baselines {text!r}: expected none, or some of {', '.join(EVERY)}, separated by commas")
    return words


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


def trained_setup(path: Path, overrides: Sequence[str]) -> Setup:
    """The setup of a trained model, see `read_trained`; an algorithm that is given and does not hold is told."""
    found, given = read_trained(path, overrides), Setup.read(path, overrides).algorithm
    if found.algorithm != given:
        told = (
            f"{found.model_agent_path}: was trained by {found.algorithm!r}; that holds, and not {given!r} of the setup"
        )
        Console(stderr=True, soft_wrap=True).print(told, markup=False, highlight=False)
    return found


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
