"""`what-next estimate` and `what-next gate`: policies judged by a log of decisions."""

import math
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from what_next.cli.options import (
    Estimator,
    Json,
    Looks,
    Margin,
    Overrides,
    Top,
    names_of,
    numbers_of,
    option,
    with_options,
)
from what_next.cli.output import answer
from what_next.errors import SetupError

if TYPE_CHECKING:
    from what_next.off_policy import LogSettings

app = typer.Typer()

REFUSED = 3
"""The exit code of a gate that does not promote."""


@dataclass(frozen=True)
class LogOptions:
    """The options that name the log of decisions, and say how it is read."""

    log: Path = option(
        "A log of decisions: CSV, TSV, Parquet, imported data, a service's exported log, Open Bandit's.",
        default=MISSING,
    )
    overrides: Overrides = None
    reward: str | None = option("The column with the reward.")
    propensity: str | None = option("The column with the probability with which the logged item was chosen.")
    user: str | None = option("The column with the user; a user's rows in order are a trajectory.")
    item: str | None = option("The column with the item.")
    time: str | None = option("The column with the time.")
    position: str | None = option("The column with the slot in a slate.")
    slate: str | None = option("The column with the id of a row's slate.")
    context: str | None = option("Columns that were known before the decision, separated by commas: for reward models.")
    items: Path | None = option("A table with one row per item: all that could have been chosen.")
    behaviour: Literal["logged", "estimated"] = option(
        "Whether propensities are the log's, or estimated from its own item frequencies.", default="logged"
    )
    marginal: bool = option(
        "On slates, the propensities are of an item at its position, whatever stands above it; without this, of an "
        "item given those above it.",
        "--marginal",
        default=False,
    )
    top: Top = None
    seen: bool = option("A trained model may choose items of the user's history, too.", "--seen", default=False)
    clusters: int | None = option("Clusters of item attributes for mips; default: the root of their number.", min=1)
    reward_range: str | None = option(
        "The least and the largest possible reward: for Bernstein intervals.", metavar="LOW,HIGH"
    )
    discount: float | None = option(
        "Discount of rewards along a user's rows: also estimates of whole trajectories.", min=0, max=1
    )
    level: float = option("Level of the intervals, in percent.", default=95.0, min=50, max=99.9)
    seed: int = option("Random seed for resamples, folds, halves and clusters.", default=0, min=0)

    def log_settings(self) -> "LogSettings":
        """The log's settings for off-policy estimators; a `SetupError` where the range of rewards is invalid."""
        from what_next.data.decisions.log import Roles
        from what_next.off_policy import LogSettings

        columns = {role: getattr(self, role) for role in Roles().given}
        shared = {name: getattr(self, name) for name in ("marginal", "top", "seen", "clusters", "discount", "level")}
        return LogSettings(
            self.log, Roles(**columns, context=tuple(names_of(self.context) or ())), self.items, **shared,
            estimated=self.behaviour == "estimated", reward_range=_range(self.reward_range), seed=self.seed,
            overrides=self.overrides or (),
        )  # fmt: skip


@app.command()
@with_options(LogOptions)
def estimate(
    policy: Annotated[
        str,
        typer.Option(
            help="uniform; a column of the log with the policy's chance of the logged item; a setup; or another log, "
            "whose item frequencies at each position are the policy."
        ),
    ],
    options: LogOptions,
    force: Annotated[bool, typer.Option("--force", help="Show refused estimates too, marked.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="With --behaviour estimated: the plot of its calibration to write, an .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate what a policy would have earned, from the log of another one (off-policy evaluation)."""
    from what_next.data.files import check_paths
    from what_next.off_policy import estimate_policy
    from what_next.off_policy.behaviour import plot_calibration
    from what_next.reporting.bars import Bars
    from what_next.reporting.terminal import estimates_table

    if calibration is not None and (options.behaviour != "estimated" or calibration.suffix.lower() != ".svg"):
        raise SetupError(f"--calibration {calibration}: is for --behaviour estimated, and must end in .svg")
    check_paths(filter(None, [calibration]))
    with Bars(as_json) as stages:
        result = estimate_policy(options.log_settings(), policy, force=force, stages=stages)
    if calibration is not None:
        plot_calibration(result["log"]["behaviour"], calibration)
    answer(result, as_json, estimates_table(result))


@app.command()
@with_options(LogOptions)
def gate(
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The policy to promote: a setup, uniform, a column, a log.")
    ],
    current: Annotated[str, typer.Argument(metavar="CURRENT", help="The policy in use: likewise.")],
    options: LogOptions,
    margin: Margin = 0.0,
    estimator: Estimator = None,
    looks: Looks = "one",
    as_json: Json = False,
) -> int:
    """Promote a new policy only if a log shows that it earns more: exit code 0; or 3, and why not."""
    from what_next.off_policy import gate as gate_policies
    from what_next.reporting.bars import Bars
    from what_next.reporting.terminal import gate_table

    with Bars(as_json) as stages:
        result = gate_policies(
            options.log_settings(), new, current, estimator=estimator, margin=margin, looks=looks, stages=stages
        )
    answer(result, as_json, gate_table(result))
    return 0 if result["promote"] else REFUSED


def _range(text: str | None) -> tuple[float, float] | None:
    """Two numbers; a `SetupError` where they are not two, not finite, or not ascending."""
    if text is None:
        return None
    match numbers_of(text):
        case low, high if -math.inf < low < high < math.inf:
            return low, high
    raise SetupError(
        f"--reward-range {text!r}: give two numbers, the least and the largest that a reward can be, as 0,1"
    )
