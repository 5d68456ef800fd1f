"""What a policy would have earned on a log of decisions, and whether a new policy may replace the current one."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from what_next.data.decisions.log import DecisionLog
from what_next.data.stages import SILENT, Stages
from what_next.errors import DataError, SetupError
from what_next.off_policy.decisions import Decisions, Looks, Target
from what_next.off_policy.diagnostics import without_failures
from what_next.off_policy.estimate import Judged, difference, estimate, estimates_of
from what_next.off_policy.learned import Learned
from what_next.off_policy.reading import LogSettings, binary, options_of, policy_of, read
from what_next.off_policy.slates import places
from what_next.off_policy.targets import TargetPolicy, decisions_of, places_of, vectors_of

ROUNDING = 1e-9
"""A difference must exceed this share of the estimate, so that rounding alone never separates equal policies."""
SETTINGS = ("level", "resamples", "seed", "discount", "thresholds")
"""Options that are reported with the estimates."""
DRAWN = ("uniform", "frequencies")
"""Kinds of policies that draw without the items above only if no slate of the log holds an item twice."""
FEW = 100
"""Fewest rows whose reward differs from the commonest one: with fewer, the gate refuses whatever the interval says."""


class _Case:
    """The rows in which every policy can be asked, and each policy's chances there.

    Attributes:
        names: of the policies.
        log: the rows in which every policy can be asked; `left`: the number of other rows of the file.
        decisions, options: the same rows as the estimators read them.
        on_log: each policy over all rows of the file; `targets`: over the rows of `log`.
        behaviour: where the propensities come from, as plain values.
        repeats: a message if a slate's repeated item changes how a policy is taken to draw; else None.
        chosen: a message if the file seems to hold only decisions that earned something; else None.
        top: only the first `top` positions of each slate are used; None: all.
    """

    def __init__(self, settings: LogSettings, policies: Sequence[str | TargetPolicy], stages: Stages) -> None:
        whole, self.behaviour = read(settings)
        self.top, vectors, marginal = settings.top, vectors_of(whole), settings.marginal or settings.estimated
        everything = decisions_of(whole, vectors, marginal=marginal)
        meant = [policy_of(one, whole, settings) if isinstance(one, str) else one for one in policies]
        if settings.overrides and not any(isinstance(one, Learned) for one in meant):
            raise SetupError(
                f"{' '.join(settings.overrides)}: settings are for setups, and none is judged; leave them out"
            )
        if whole.kind != "service" and any(one.startswith("server.") for one in settings.overrides):
            raise SetupError(
                f"{' '.join(settings.overrides)}: server.* only matters if the exported log of a service judges a "
                f"model, and {settings.path} is not such a log; leave server.* out"
            )
        self.names: list[str] = [one.name for one in meant]
        self.on_log = [one.on_log(whole, everything, stages.begin(f"asking {one.name}", len(whole))) for one in meant]
        covered = np.logical_and.reduce([one.covered for one in self.on_log])
        if self.top is not None:
            if whole.slates is None:
                raise SetupError(f"--top {self.top}: {settings.path} has no slates; leave it out, or name their column")
            covered &= places_of(whole) < self.top
        if not covered.any():
            raise DataError(f"{settings.path}: no row in which {' and '.join(self.names)} could be asked")
        self.log, self.targets = whole.of_rows(covered), [one.of_rows(covered) for one in self.on_log]
        self.decisions = decisions_of(self.log, vectors, marginal=marginal)
        self.options = options_of(self.log, settings)
        self.left = len(whole) - len(self.log)
        self.repeats = _repeats(everything, whole) if any(one.about["kind"] in DRAWN for one in self.on_log) else None
        self.chosen = without_failures(whole.rewards, whole.slates if everything.slated else None)

    def about(self) -> dict[str, Any]:
        """The log, as plain values."""
        return {**self.log.describe(), "left_out_rows": self.left, "behaviour": self.behaviour}

    @property
    def usual(self) -> str:
        """The gate's default estimator: self-normalised, and made for the log's kind of propensities."""
        if not self.decisions.slated:
            return "snips"
        return "independent_snips" if self.decisions.marginal else "cascade_snips"

    def thin(self) -> str | None:
        """A message if fewer than `FEW` rows have a reward other than the commonest; else None."""
        values, counts = np.unique(self.log.rewards, return_counts=True)
        other = len(self.log) - int(counts.max())
        if other >= FEW:
            return None
        return f"{other:,} of {len(self.log):,} rows have a reward other than {values[counts.argmax()]:g}"

    def notes(self, *, ranged: bool) -> list[str]:
        """Notes for the user about the log and the policies; `ranged`: an interval rests on the range of rewards."""
        return list(dict.fromkeys([*(note for one in self.on_log for note in one.notes), *self._of_log(ranged=ranged)]))

    def _of_log(self, *, ranged: bool) -> Iterator[str]:
        log, thin = self.log, self.thin()
        yield from log.notes
        if thin is not None:
            yield f"{thin}: so few decide nothing"
        if self.chosen is not None:
            yield self.chosen
        if self.behaviour["kind"] == "estimated":
            yield (
                f"propensities are estimated from the log's own frequencies given {self.behaviour['given']} (on "
                f"held-out rows {self.behaviour['miscalibrated']:.1%} of the probability is in the wrong bin): the "
                "estimates are right only if the policy that wrote the log depended on nothing else"
            )
        if self.top is not None:
            yield f"judged by the first {self.top} positions of each slate, and by nothing below"
        if self.decisions.slated:
            yield _of_slates(self.decisions, log.places is not None)
        if self.repeats is not None:
            yield self.repeats
        if log.slates is not None and log.places is not None and (gaps := log.places != places(log.slates)).any():
            line = int(log.order[gaps].min()) + log.source.first_line
            yield f"the first row of a slate that lacks a position above it is line {line} of {log.source.path}"
        if log.unit == "row" and log.times is not None and (copies := log.source.copies):
            yield (
                f"{copies:,} rows are copies of others in all columns: if they are the same decisions once more, the "
                "intervals are too narrow; leave them out"
            )
        if log.kind == "open bandit":
            yield "Open Bandit files have no users: rows count as independent decisions, and the position as context"
        if any(one.about["kind"] == "uniform" for one in self.on_log) and "uniform" in log.source.names:
            yield "uniform means that each item has the same chance; it is not the log's column of that name"
        if ranged and binary(log) and self.options.reward_range == (0.0, 1.0):
            yield "all rewards are 0 or 1, and Bernstein intervals and betting assume that no others are possible"
        if log.items.vectors is None:
            yield "items have no attributes: reward models know them by their ids, and clusters are single items"


def estimate_policy(
    settings: LogSettings, policy: str, *, force: bool = False, stages: Stages = SILENT
) -> dict[str, Any]:
    """Every estimate of what a policy would have earned, as plain values.

    Args:
        settings: the log.
        policy: `uniform`, a column with its chance of the logged item, a setup file, or another log.
        force: show refused estimates, too.

    Raises:
        DataError: the log cannot be used, or cannot judge this policy.
        ModelError: the model of the setup is missing or damaged.
        SetupError: there is no such policy.
    """
    case = _Case(settings, [policy], stages)
    found = estimate(case.decisions, case.targets[0], replace(case.options, force=force), stages)
    ranged = any(one["bernstein_low"] is not None for one in found["estimates"].values())
    return {
        "log": case.about(),
        "policy": {"name": policy, **case.on_log[0].about},
        "on_policy": found["logged"],
        "estimates": found["estimates"],
        "left_out": found["left_out"],
        "diagnostics": found["diagnostics"],
        "settings": {name: found[name] for name in SETTINGS} | {"reward_range": case.options.reward_range},
        "notes": [*case.notes(ranged=ranged), *found["notes"]],
    }


def gate(
    settings: LogSettings,
    new: str | TargetPolicy,
    current: str | TargetPolicy,
    *,
    estimator: str | None = None,
    margin: float = 0.0,
    looks: Looks = "one",
    stages: Stages = SILENT,
) -> dict[str, Any]:
    """Whether a new policy may take the place of the current one: only if the log shows that it would earn more.

    Both are judged on the same rows. The interval of the difference is a bootstrap over units or, to hold at any number
    of looks at a growing log, a confidence sequence. The new policy is promoted if the lower bound of the difference is
    above the margin, neither estimate is refused, at least `FEW` rewards differ from the commonest, and the policy was
    not made from this log.

    Args:
        settings: the log.
        new: a policy: a name as for `estimate_policy`, or an object; `current`: likewise.
        estimator: the estimate that decides; None: the self-normalised one (`_Case.usual`).
        margin: how much more the new policy must earn, in the unit of the log's rewards.
        looks: "one": the interval is valid at this look only; "any": at any number of looks.

    Raises:
        DataError, ModelError: as for `estimate_policy`.
        SetupError: there is no such policy, the estimate cannot be made, or the margin is not finite.
    """
    if not np.isfinite(margin):
        raise SetupError(f"--margin {margin}: is not a finite number; give one, in the unit of the reward")
    case = _Case(settings, [new, current], stages)
    estimator = estimator or case.usual
    options = replace(case.options, only=estimator, looks=looks)
    judged = [Judged.of(case.decisions, one, options, stages) for one in case.targets]
    each = [_one(case, estimator, *one, stages) for one in zip(case.names, case.targets, judged, strict=True)]
    apart = difference(judged[0], judged[1], stages)[estimator]
    sides = {
        side: {
            "name": name,
            **on.about,
            "estimate": found["estimates"][estimator],
            "mean_weight": found["diagnostics"]["mean_weight"],
        }
        for side, name, on, found in zip(("new", "current"), case.names, case.on_log, each, strict=True)
    }
    return _verdict(case, apart, estimator, margin, sides["new"]) | {
        "estimator": estimator,
        "margin": margin,
        "looks": looks,
        "difference": apart,
        **sides,
        "on_policy": each[0]["logged"],
        "log": case.about(),
        "settings": {name: each[0][name] for name in SETTINGS},
        "notes": [
            *case.notes(ranged=apart["interval"] == "betting"),
            *(f"{name}: {note}" for name, found in zip(case.names, each, strict=True) for note in found["notes"]),
            *_of_looks(apart, looks, margin, case),
        ],
    }


def _of_slates(decisions: Decisions, placed: bool) -> str:
    """A note on whether chances on slates are taken as marginal or as conditional on the items above."""
    order = (
        "" if placed else "; without a column of positions, the rows of a slate count from above as the file has them"
    )
    if decisions.marginal:
        return f"chances on slates are taken as marginal: of an item at its position, whatever stands above it{order}"
    return (
        "chances on slates are taken as those of an item given the items above it (else say --marginal); cascade "
        f"estimates assume that an item's reward does not depend on the items below it{order}"
    )


def _repeats(decisions: Decisions, log: DecisionLog) -> str | None:
    """A note if slates hold an item twice, so that policies without a model are taken to draw with replacement."""
    if decisions.marginal or not decisions.slated or log.slates is None:
        return None
    kept = np.unique(log.slates * len(log.items) + log.actions, return_index=True)[1]
    twice = np.setdiff1d(np.arange(len(log)), kept)
    if not twice.size:
        return None
    slates, line = len(np.unique(log.slates[twice])), int(log.order[twice].min()) + log.source.first_line
    return (
        f"{slates:,} of {int(log.slates[-1]) + 1:,} slates hold an item twice (the first in line {line} of "
        f"{log.source.path}), so uniform, and the frequencies of a log, are taken to draw with replacement; if the log "
        "was drawn without, correct these slates or leave them out"
    )


def _of_looks(apart: dict[str, Any], looks: Looks, margin: float, case: _Case) -> Iterator[str]:
    """Notes on how many looks the interval is valid for, on its assumptions, and on a negative margin."""
    if looks == "one":
        yield (
            "the interval of the difference is good for one look: a gate that is asked again and again while the log "
            "grows promotes, sooner or later, a model that is not better; for any number of looks say --looks any"
        )
    elif apart["interval"] == "betting":
        yield (
            "the interval of the difference holds at any number of looks (betting), if the difference stays the same "
            "all along and rows are independent"
        )
    else:
        comes_back = ", and later rewards of a user are not systematically opposed to earlier ones"
        yield (
            "the interval of the difference holds at any number of looks (asymptotic), if there are many "
            f"{case.log.unit}s, independent of each other{comes_back if case.log.unit == 'user' else ''}"
        )
    if margin < 0:
        yield f"--margin {margin:g} is below 0: a policy that earns less may be promoted"


def _verdict(case: _Case, apart: dict[str, Any], estimator: str, margin: float, new: dict[str, Any]) -> dict[str, Any]:
    """Whether the new policy is promoted, and why or why not."""
    name, refused, thin = new["name"], apart["refused"], case.thin()
    against = None
    if new.get("own"):
        against = f"{name} was made from this log; judge it on later rows"
    elif refused is not None:
        against = refused.replace("the other policy:", f"{case.names[1]}:").replace("the policy:", f"{name}:")
    elif thin is not None:
        against = f"{thin}, and at least {FEW} are needed"
    elif apart["low"] is None:
        against = "the difference has no interval on this log"
    if against is not None:
        return {"promote": False, "why": f"the evidence is refused: {against}"}
    promote = apart["low"] > margin + ROUNDING * abs(new["estimate"]["mean"] or 0.0)
    why = (
        f"the lower bound of the difference by {estimator} is {apart['low']:.4g} (mean {apart['mean']:.4g}), "
        f"{'above' if promote else 'not above'} {margin:g}"
    )
    return {"promote": promote, "why": why}


def _one(case: _Case, estimator: str, name: str, target: Target, judged: Judged, stages: Stages) -> dict[str, Any]:
    """The policy's estimates with `estimator`; a `SetupError` names why it cannot be made, and which others can."""
    found = estimates_of(judged, stages)
    if estimator in found["estimates"]:
        return found
    found = estimate(case.decisions, target, case.options, stages)
    lacking = found["left_out"].get(estimator, "there is no such estimate of this log")
    raise SetupError(f"--estimator {estimator!r}, of {name}: {lacking}; there are {', '.join(found['estimates'])}")
