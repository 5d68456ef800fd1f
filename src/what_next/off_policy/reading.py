"""Settings for reading a log of decisions, and the lookup of a target policy by its name."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from what_next.data.decisions.log import DecisionLog, Roles
from what_next.data.decisions.reader import read_log
from what_next.errors import DataError, SetupError, some
from what_next.off_policy.behaviour import estimate_behaviour
from what_next.off_policy.decisions import Options
from what_next.off_policy.learned import Learned
from what_next.off_policy.targets import COLUMNS, ColumnPolicy, Frequencies, TargetPolicy, Uniform
from what_next.off_policy.weighting import clusters_of
from what_next.training.artefacts import read_trained

LOGS = {".csv", ".tsv", ".parquet", ".pq", ".gz", ".dat", ".inter", ".pk", ".pkl", ".pickle"}
"""File name endings of logs; any other file is a setup."""


@dataclass(frozen=True)
class LogSettings:
    """Which log judges the policies, and how it is read.

    Attributes:
        path: of the log; `roles`, `items`: see `read_log`.
        estimated: estimate the propensities from the log's own frequencies instead of reading a column.
        marginal: on slates, the propensities (and a policy's column) are chances of an item at its position, whatever
            is above it; else they are conditional on the items above.
        top: use only the first `top` positions of each slate; None: all.
        seen: a trained model may choose items of the user's history, too.
        clusters: the number of item clusters for marginalised weights; None: see `Options`.
        reward_range: the smallest and the largest possible reward; None: unknown.
        discount: of rewards along a user's rows; None leaves estimators of sequences out.
        level: of the intervals, in percent.
        seed: of the resamples, folds and halves.
        overrides: `key=value` settings that override those of every judged setup.
    """

    path: Path
    roles: Roles = field(default_factory=Roles)
    items: Path | None = None
    estimated: bool = False
    marginal: bool = False
    top: int | None = None
    seen: bool = False
    clusters: int | None = None
    reward_range: tuple[float, float] | None = None
    discount: float | None = None
    level: float = 95.0
    seed: int = 0
    overrides: Sequence[str] = ()


def policy_of(name: str, log: DecisionLog, settings: LogSettings) -> TargetPolicy:
    """The policy of a name, which is looked up as `uniform`, then as a column of the log, then as a file.

    Raises:
        SetupError: the name is none of these, the column has another role, or the setup cannot be read.
    """
    if name == "uniform":
        return Uniform()
    columns = log.source.frame.collect_schema().names()
    if name in columns:
        role = next((role for role, column in log.columns.items() if column == name and role != "propensity"), None)
        if role is not None:
            raise SetupError(
                f"--policy {name!r}: is the {role} of {settings.path}, and not a policy's chance of the logged item; "
                "name the column with that"
            )
        return ColumnPolicy(name)
    path = Path(name)
    if not path.is_file():
        raise SetupError(
            f"--policy {name!r}: is not uniform, not a column of {settings.path} ({some(map(repr, columns))}), "
            f"and not a file; give a setup, or another log"
        )
    if path.suffix.lower() in LOGS:
        return Frequencies(path, settings.roles)
    if path.suffix.lower() == ".safetensors":
        raise SetupError(f"{path}: is a model's file; name its setup, which says how it is served, too")
    return Learned(name, read_trained(path, [*settings.overrides, "train=no"]), seen=settings.seen)


def read(settings: LogSettings) -> tuple[DecisionLog, dict[str, Any]]:
    """The log with propensities, and where these come from, as plain values.

    Raises:
        DataError: as for `read_log`; or rows seem to be slates, but no column tells which rows belong together.
        SetupError: a column of propensities is named although they are to be estimated; or `marginal` is given for a
            service's log.
    """
    if settings.estimated and settings.roles.propensity is not None:
        raise SetupError(
            f"--propensity {settings.roles.propensity}: is not read with --behaviour estimated; leave one of them out"
        )
    log = read_log(settings.path, settings.roles, settings.items, propensities=not settings.estimated)
    if settings.marginal and log.kind == "service":
        raise SetupError(
            f"--marginal: the chances in {settings.path} are of items given those above them; leave it out"
        )
    if not settings.estimated:
        if not settings.marginal:
            _refuse_loose(log)
        return log, {"kind": "logged", "column": log.columns["propensity"]}
    propensities, about = estimate_behaviour(log, settings.seed)
    return replace(log, propensities=propensities), about


def _refuse_loose(log: DecisionLog) -> None:
    """Raise a `DataError` if rows seem to have been shown as slates, but no column tells which rows belong together:
    with conditional chances, weighting each row alone can prefer the worse of two policies with high confidence."""
    if log.kind != "log" or log.slates is not None:
        return
    if log.places is not None and np.ptp(log.places):
        found = f"rows have positions (column {log.columns['position']!r})"
    elif (log.moments != np.arange(len(log))).any():
        found = f"a {log.unit} has several rows at one time (column {log.columns['time']!r})"
    else:
        return
    copies = "" if log.times is None else log.source.advice_on_copies  # without times, decisions may look alike
    raise DataError(
        f"{log.source.path}: {found}, and nothing tells which of them were shown as one slate; name the column with "
        "the slate by --slate (a number for each row, where each was decided alone), or say --marginal, if each chance "
        f"is of an item whatever else was shown{copies}"
    )


def options_of(log: DecisionLog, settings: LogSettings) -> Options:
    """The options of the estimates. The whole behaviour policy is known if all propensities are those of uniform."""
    items, clusters = len(log.items), None
    if settings.clusters is not None:
        if log.items.vectors is None:
            raise SetupError(
                f"--clusters {settings.clusters}: the items of {settings.path} have no attributes to make clusters of; "
                "give their table with --items"
            )
        clusters = clusters_of(log.items.vectors, min(settings.clusters, items), settings.seed)
    elif log.items.vectors is None and items > COLUMNS:
        clusters = np.arange(items)  # rare items share one column of the vectors, so k-means cannot separate them
    assert log.propensities is not None
    same = not settings.estimated and bool(np.allclose(log.propensities, 1 / items, rtol=1e-6, atol=0))
    behaviour = np.full((1, items), 1 / items) if same else None
    return Options(
        behaviour,
        clusters,
        reward_range=settings.reward_range or ((0.0, 1.0) if binary(log) else None),
        discount=settings.discount,
        estimated=settings.estimated,
        level=settings.level,
        seed=settings.seed,
    )


def binary(log: DecisionLog) -> bool:
    """Whether all rewards are 0 or 1, as with clicks; then no other value is assumed to be possible."""
    return bool(np.isin(log.rewards, (0.0, 1.0)).all())
