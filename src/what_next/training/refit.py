"""A second training on more events, by what validation found in the first one.

Validation needs events that training does not see. Once it has said how long to train, at which learning rates, and how
much the counts of the log weigh, these events can be learned from, too.
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
"""Share of the training events that validation must hold for a second training by default. On amazon-beauty-s3rec
(.17), with the last event of each user set aside for the test, it brought NDCG@10 from .052 to .068, on yoochoose-100k
(.26) from .145 to .158; on lastfm-s3rec (.02) and ml-100k (.01) it changed nothing beyond the noise."""


@dataclass(frozen=True)
class Recipe:
    """How one network was trained, up to the checkpoint that validation chose.

    Attributes:
        passes: over the training users.
        rates: at each save, the share of these passes, the share of the run's horizon, and how often the learning rate
            had been halved.
        converged: validation ended the training, not a limit of passes or seconds.
    """

    passes: float
    rates: tuple[tuple[float, float, int], ...]
    converged: bool

    @classmethod
    def of(cls, rates: Sequence[tuple[int, float, int]], users: int) -> "Recipe":
        """`rates` with histories in place of the share of passes, the last one at the checkpoint; of so many users."""
        histories = max(1, rates[-1][0]) if rates else 1
        return cls(histories / max(1, users), tuple((at / histories, done, half) for at, done, half in rates), False)

    def rate(self, share: float) -> tuple[int, float]:
        """After a share of the passes: how often the learning rate is halved, and the share of the horizon that it has
        fallen over."""
        ends, dones, halved = zip(*self.rates, strict=True)
        place = min(int(np.searchsorted(ends, share, side="right")), len(ends) - 1)
        return int(halved[place]), float(np.interp(share, (0.0, *ends), (0.0, *dones)))

    def as_json(self) -> dict[str, Any]:
        """What a manifest holds."""
        return {"passes": self.passes, "rates": [list(one) for one in self.rates], "converged": self.converged}


def recipes_in(manifest: Manifest) -> list[Recipe]:
    """Those of a model's networks; none where an earlier version saved it."""
    return [
        Recipe(float(one["passes"]), tuple((float(a), float(b), int(c)) for a, b, c in one["rates"]), one["converged"])
        for one in manifest.metrics.get("recipes", ())
    ]


def refit_on(manifest: Manifest) -> More | None:
    """Which events a model's second training learned from besides; None: there was none."""
    found: Mapping[str, Any] = manifest.metrics.get("refit") or {}
    return found.get("on")


def due(setup: Setup, split: Split) -> More | None:
    """Which events the setup's model, whose first training is over, is still to be trained on; None: on no others.

    Raises:
        ModelError: the setup asks for it, and an earlier version trained the model.
    """
    if setup.acts or setup.refit == "no":
        return None
    held = int((split.until - split.known)[split.validation].sum())
    if setup.refit == "auto" and (split.kind == "users" or held < HELD * split.known.sum()):
        return None
    manifest = read_manifest(setup.model_agent_path)
    recipes, on = recipes_in(manifest), refit_on(manifest)
    if setup.refit != "auto":
        if setup.refit == on:
            return None
        if not recipes:
            raise ModelError(
                f"{setup.model_agent_path}: was trained by an earlier version, which did not keep at which learning "
                "rates; leave --resume out to train anew"
            )
        return setup.refit
    converged = bool(recipes) and all(one.converged for one in recipes)
    return "validation" if on is None and converged and _in_time(setup, manifest) else None


def _in_time(setup: Setup, manifest: Manifest) -> bool:
    """Whether the seconds that are left suffice: it takes about as long as the first training did up to its best."""
    if not setup.seconds:
        return True
    spent = read_rest(setup.model_agent_path)[2].get("spent_in_all", 1.0)
    return bool(manifest.metrics["seconds"] <= (1 - spent) * setup.seconds)
