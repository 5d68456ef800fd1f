"""`what-next estimate` and `what-next gate`: policies judged by a log of decisions."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import RenderableType

from what_next.cli.bars import Bars
from what_next.cli.data import Json
from what_next.cli.guard import emit, tell
from what_next.cli.model import Overrides
from what_next.data.decisions.log import Roles
from what_next.errors import SetupError

REFUSED = 3
"""The exit code of a gate that does not promote."""

LogFile = Annotated[
    Path,
    typer.Option(
        "--log", help="A log of decisions: CSV, TSV, Parquet, imported data, a service's exported log, Open Bandit's."
    ),
]
Reward = Annotated[str | None, typer.Option(help="The column with the reward.")]
Propensity = Annotated[
    str | None, typer.Option(help="The column with the probability with which the logged item was chosen.")
]
User = Annotated[str | None, typer.Option(help="The column with the user; a user's rows in order are a trajectory.")]
Item = Annotated[str | None, typer.Option(help="The column with the item.")]
Time = Annotated[str | None, typer.Option(help="The column with the time.")]
Position = Annotated[str | None, typer.Option(help="The column with the slot in a slate.")]
Slate = Annotated[str | None, typer.Option(help="The column that tells which slate a row belongs to.")]
Context = Annotated[
    str | None,
    typer.Option(help="Columns that were known before the decision, separated by commas: for reward models."),
]
ItemFile = Annotated[
    Path | None, typer.Option("--items", help="A table with one row per item: all that could have been chosen.")
]
Behaviour = Annotated[
    Literal["logged", "estimated"],
    typer.Option(help="Whether propensities are the log's, or estimated from its own item frequencies."),
]
Marginal = Annotated[
    bool,
    typer.Option(
        "--marginal",
        help="On slates, chances are of an item at its position, whatever stands above it; "
        "without this, of an item given those above it.",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(min=1, help="Judge by so many positions of each slate, from above: of long slates too few are alike."),
]
Seen = Annotated[bool, typer.Option("--seen", help="A trained model may choose items of the user's history, too.")]
Clusters = Annotated[
    int | None, typer.Option(min=1, help="Clusters of item attributes for mips; default: the root of their number.")
]
RewardRange = Annotated[
    str | None,
    typer.Option(metavar="LOW,HIGH", help="What a reward can be at least and at most: for Bernstein intervals."),
]
Estimator = Annotated[
    str | None,
    typer.Option(help="The estimate that decides: dr, slate_snips, ... Default: snips; on slates cascade_snips."),
]
Discount = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Of the rewards along a user's rows: also estimates of whole trajectories."),
]
Level = Annotated[float, typer.Option(min=50, max=99.9, help="Of the intervals, in percent.")]
Seed = Annotated[int, typer.Option(min=0, help="Of resamples, folds, halves and clusters.")]


def estimate(
    log: LogFile,
    policy: Annotated[
        str,
        typer.Option(
            help="uniform; a column of the log with the policy's chance of the logged item; a setup; or another log, "
            "whose item frequencies at each position are the policy."
        ),
    ],
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Show refused estimates too, marked.")] = False,
    reward: Reward = None,
    propensity: Propensity = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    position: Position = None,
    slate: Slate = None,
    context: Context = None,
    items: ItemFile = None,
    behaviour: Behaviour = "logged",
    calibration: Annotated[
        Path | None, typer.Option(help="With --behaviour estimated: the plot of its calibration to write, an .svg.")
    ] = None,
    marginal: Marginal = False,
    top: Top = None,
    seen: Seen = False,
    clusters: Clusters = None,
    reward_range: RewardRange = None,
    discount: Discount = None,
    level: Level = 95.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Estimate what a policy would have earned, from the log of another one (off-policy evaluation)."""
    # Imported late, here and below: other commands need not wait for it.
    from what_next.off_policy import Reading, estimate_policy
    from what_next.off_policy.behaviour import plot_calibration
    from what_next.reporting.terminal import estimates_table

    _check_plot(calibration, behaviour)
    roles = Roles(user, item, time, reward, propensity, position, slate, _names(context))
    reading = Reading(
        log, roles, items, estimated=behaviour == "estimated", marginal=marginal, top=top, seen=seen, clusters=clusters,
        reward_range=_range(reward_range), discount=discount, level=level, seed=seed, overrides=overrides or (),
    )  # fmt: skip
    with Bars(as_json) as stages:
        result = estimate_policy(reading, policy, force=force, stages=stages)
    if calibration is not None:
        plot_calibration(result["log"]["behaviour"], calibration)
    return _show(result, as_json, estimates_table)


def gate(
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The policy to promote: a setup, uniform, a column, a log.")
    ],
    current: Annotated[str, typer.Argument(metavar="CURRENT", help="The policy in use: likewise.")],
    log: LogFile,
    overrides: Overrides = None,
    margin: Annotated[
        float, typer.Option(help="How much more the new one must earn, in the reward's unit: a decision, or a slate.")
    ] = 0.0,
    estimator: Estimator = None,
    reward: Reward = None,
    propensity: Propensity = None,
    user: User = None,
    item: Item = None,
    time: Time = None,
    position: Position = None,
    slate: Slate = None,
    context: Context = None,
    items: ItemFile = None,
    behaviour: Behaviour = "logged",
    marginal: Marginal = False,
    top: Top = None,
    seen: Seen = False,
    clusters: Clusters = None,
    reward_range: RewardRange = None,
    discount: Discount = None,
    level: Level = 95.0,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Promote a new policy only if a log shows that it earns more: exit code 0; or 3, and why not."""
    from what_next.off_policy import Reading
    from what_next.off_policy import gate as gate_policies
    from what_next.reporting.terminal import gate_table

    roles = Roles(user, item, time, reward, propensity, position, slate, _names(context))
    reading = Reading(
        log, roles, items, estimated=behaviour == "estimated", marginal=marginal, top=top, seen=seen, clusters=clusters,
        reward_range=_range(reward_range), discount=discount, level=level, seed=seed, overrides=overrides or (),
    )  # fmt: skip
    with Bars(as_json) as stages:
        result = gate_policies(reading, new, current, estimator=estimator, margin=margin, stages=stages)
    _show(result, as_json, gate_table)
    return 0 if result["promote"] else REFUSED


def _check_plot(path: Path | None, behaviour: str) -> None:
    """Raises a `SetupError` where there is nothing to draw, or not as an .svg."""
    if path is not None and (behaviour != "estimated" or path.suffix.lower() != ".svg"):
        raise SetupError(f"--calibration {path}: is for --behaviour estimated, and must end in .svg")


def _range(text: str | None) -> tuple[float, float] | None:
    """Two numbers.

    Raises:
        SetupError: they are not two, not finite, or not ascending.
    """
    if text is None:
        return None
    try:
        low, high = (float(one) for one in text.split(","))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise SetupError(
            f"--reward-range {text!r}: give two numbers, the least and the largest that a reward can be, as 0,1"
        )
    return low, high


def _names(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _show(result: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], RenderableType]) -> int:
    if as_json:
        emit(result)
    else:
        tell(table(result))
    return 0
