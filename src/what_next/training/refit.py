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
from what_next.training.artefacts import Manifest, read_manifest

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


def planned(setup: Setup, split: Split) -> More | None:
    """The events that a second training is to add, by the setup and its split; None if none is to follow the first."""
    if setup.acts or setup.refit == "no":
        return None
    if setup.refit != "auto":
        return setup.refit
    worthwhile = split.kind != "users" and _held(split) >= HELD * split.known.sum()
    return "validation" if worthwhile else None


def first_share(split: Split) -> float:
    """The first training's share of `seconds` where a second one is to follow: this has as many passes, over more."""
    known = int(split.known.sum())
    return known / max(1, 2 * known + _held(split))


def due(setup: Setup, split: Split) -> More | None:
    """The events to add in a second training of a setup's model, after the first one; None: there is no second one.

    Args:
        split: the setup's, of its data.

    Raises:
        ModelError: the setup asks for a second training, and an earlier version trained the model.
    """
    more = planned(setup, split)
    if more is None:
        return None
    manifest = read_manifest(setup.model_agent_path)
    if setup.refit == "auto":
        return more if _first(manifest) and _ended_itself(setup, manifest) else None
    if more == refit_on(manifest):
        return None
    if not recipes_in(manifest):
        raise ModelError(
            f"{setup.model_agent_path}: was trained by an earlier version, which did not keep its learning rates; "
            "leave --resume out to train anew"
        )
    return more


def lacking(setup: Setup, split: Split) -> str:
    """What to say if by default there is no second training, but for the length of the first one there would be."""
    if setup.refit != "auto" or not planned(setup, split):
        return ""
    manifest = read_manifest(setup.model_agent_path)
    if not _first(manifest) or _ended_itself(setup, manifest):
        return ""
    newest = ", the newest ones" if split.kind == "time" else ""
    return (
        "refit auto: no second training, since the first one ended by passes, not by validation; so the model knows "
        f"nothing of the {_held(split):,} events of validation{newest}, beside {split.known.sum():,} that it learned "
        f"from. `refit, validation` trains a second time, some {manifest.metrics.get('seconds', 0.0):.0f} s; "
        "`refit, no` leaves this out"
    )


def _held(split: Split) -> int:
    """How many events validation holds back from training."""
    return int((split.until - split.known)[split.validation].sum())


def _first(manifest: Manifest) -> bool:
    """Whether a model comes from a first training, whose schedule is known."""
    return refit_on(manifest) is None and bool(recipes_in(manifest))


def _ended_itself(setup: Setup, manifest: Manifest) -> bool:
    """Whether validation ended the first training, or the time that was left for a second one; not passes."""
    return bool(setup.seconds) or all(one.converged for one in recipes_in(manifest))
