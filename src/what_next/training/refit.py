"""A second training (`refit`) on more events than the first one, with the schedule that validation chose in it.

Validation holds events back from training. Once it has chosen the number of passes, the learning rates and the weights
of the log's counts, a second training from scratch can learn from the held-back events, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from what_next.data import Split
from what_next.data.splits import More
from what_next.errors import ModelError
from what_next.settings import Setup
from what_next.training.artefacts import Manifest, read_manifest, read_rest

HELD = 0.05
"""Fewest validation events, as a share of the training events, for a second training by default. With the last event of
each user as a test that no choice had seen, it raised NDCG@10 from .052 to .068 on amazon-beauty-s3rec (a share of .17)
and from .145 to .158 on yoochoose-100k (.26); on lastfm-s3rec (.02) and ml-100k (.01) it changed nothing beyond noise.
"""


@dataclass(frozen=True)
class Recipe:
    """The schedule of one network's training, up to the checkpoint that validation chose.

    Attributes:
        passes: over the training users.
        rates: for each save, the share of these passes, the share of the run's horizon, and how often the learning rate
            had been halved before it.
        converged: whether validation ended the training, not a limit of passes or seconds.
    """

    passes: float
    rates: tuple[tuple[float, float, int], ...]
    converged: bool

    @classmethod
    def of(cls, rates: Sequence[tuple[int, float, int]], users: int) -> "Recipe":
        """The recipe of `rates` that count histories instead of shares; the last row is the checkpoint.

        Args:
            users: training users.
        """
        histories = max(1, rates[-1][0]) if rates else 1
        return cls(histories / max(1, users), tuple((at / histories, done, half) for at, done, half in rates), False)

    def histories(self, users: int) -> int:
        """The histories of as many passes over this number of training users."""
        return max(1, round(self.passes * users))

    def rate(self, share: float) -> tuple[int, float]:
        """For the step after a share of the passes: the halvings of the learning rate, and the share of the horizon."""
        ends, dones, halved = zip(*self.rates, strict=True)
        place = min(int(np.searchsorted(ends, share, side="right")), len(ends) - 1)
        return int(halved[place]), float(np.interp(share, (0.0, *ends), (0.0, *dones)))

    def as_json(self) -> dict[str, Any]:
        """The recipe in a manifest."""
        return {"passes": self.passes, "rates": [list(one) for one in self.rates], "converged": self.converged}


def recipes_in(manifest: Manifest) -> list[Recipe]:
    """The recipe of each network of a model; empty if an earlier version saved it."""
    return [
        Recipe(float(one["passes"]), tuple((float(a), float(b), int(c)) for a, b, c in one["rates"]), one["converged"])
        for one in manifest.metrics.get("recipes", ())
    ]


def refit_on(manifest: Manifest) -> More | None:
    """The events that a model's second training added; None if there was none."""
    found: Mapping[str, Any] = manifest.metrics.get("refit") or {}
    return found.get("on")


def due(setup: Setup, split: Split) -> More | None:
    """The events to add in a second training of a setup's model, after the first one; None: there is no second one.

    Args:
        split: the setup's, of its data.

    Raises:
        ModelError: the setup asks for a second training, and an earlier version trained the model.
    """
    if setup.acts or setup.refit == "no":
        return None
    if setup.refit == "auto":
        return "validation" if _worthwhile(setup, split) and not _prevented(setup) else None
    manifest = read_manifest(setup.model_agent_path)
    if setup.refit == refit_on(manifest):
        return None
    if not recipes_in(manifest):
        raise ModelError(
            f"{setup.model_agent_path}: was trained by an earlier version, which did not keep its learning rates; "
            "leave --resume out to train anew"
        )
    return setup.refit


def lacking(setup: Setup, split: Split) -> str:
    """What to say if by default there is no second training, but for the length of the first one there would be."""
    why = _prevented(setup) if setup.refit == "auto" and _worthwhile(setup, split) else ""
    if not why:
        return ""
    newest = ", the newest ones" if split.kind == "time" else ""
    return (
        f"refit auto: no second training, since {why}; so the model knows nothing of the {_held(split):,} events of "
        f"validation{newest}, beside {split.known.sum():,} that it learned from. `refit, validation` trains a second "
        f"time, some {read_manifest(setup.model_agent_path).metrics.get('seconds', 0.0):.0f} s; `refit, no` leaves "
        "this out"
    )


def _held(split: Split) -> int:
    """How many events validation holds back from training."""
    return int((split.until - split.known)[split.validation].sum())


def _worthwhile(setup: Setup, split: Split) -> bool:
    """Whether validation holds enough later events for a second training by default, and the model had none yet."""
    if setup.acts or split.kind == "users" or _held(split) < HELD * split.known.sum():
        return False
    manifest = read_manifest(setup.model_agent_path)
    return refit_on(manifest) is None and bool(recipes_in(manifest))


def _prevented(setup: Setup) -> str:
    """Why the length of the first training leaves no second one by default; empty if nothing does."""
    manifest = read_manifest(setup.model_agent_path)
    if not all(one.converged for one in recipes_in(manifest)):
        return "the first one ended by passes or seconds, not by validation"
    return "" if _in_time(setup, manifest) else f"too little of seconds {setup.seconds:g} is left"


def _in_time(setup: Setup, manifest: Manifest) -> bool:
    """Whether enough of `seconds` is left: a second training takes about as long as the first one up to its best."""
    if not setup.seconds:
        return True
    spent = read_rest(setup.model_agent_path)[2].get("spent_in_all", 1.0)
    return bool(manifest.metrics["seconds"] <= (1 - spent) * setup.seconds)
