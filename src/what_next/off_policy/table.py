"""Off-policy estimates for people."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from what_next.metrics.folded import Folded


def estimates_table(result: Mapping[str, Any]) -> RenderableType:
    """The result of `estimate_policy`: estimators as rows, what was measured on above, notes below."""
    level, unit = f"{result['settings']['level']:g} %", result["log"]["unit"]
    title = f"{result['policy']['name']}, by {_measured_on(result['log'])}; mean [{level} interval over {unit}s]"
    header = ["estimate", "mean", f"{level} interval", "Bernstein", "effective size"]
    logged, alike = result["on_policy"], {one["per"] for one in result["estimates"].values()} <= {"decision"}
    rows = [["as logged", _number(logged["mean"]), _bounds(logged["low"], logged["high"]), "", "", logged["per"]]]
    for name, one in result["estimates"].items():
        bernstein = _bounds(one["bernstein_low"], one["bernstein_high"])
        rows.append([name, _mean(one), _bounds(one["low"], one["high"]), bernstein, _number(one["ess"]), one["per"]])
    shown = Folded(title, header, [[row[:-1] for row in rows]]) if alike else Folded(title, [*header, "per"], [rows])
    found = result["diagnostics"]
    facts = (
        f"plain weights: effective size {_number(found['ess'])}, mean {_number(found['mean_weight'])}, largest "
        f"{_number(found['largest'])}, support {found['support']:.1%}"
    )
    refused = {name: one["refused"] for name, one in result["estimates"].items() if one["refused"]}
    lines = [facts, *_reasons("refused", refused), *_reasons("left out", result["left_out"]), *result["notes"]]
    return Group(shown, *(Text(line) for line in lines))


def gate_table(result: Mapping[str, Any]) -> RenderableType:
    """The result of `gate`: both policies, their difference, and the verdict."""
    level, unit, apart = f"{result['settings']['level']:g} %", result["log"]["unit"], result["difference"]
    rows = []
    for role in ("new", "current"):
        one = result[role]["estimate"]
        numbers = [_mean(one), _bounds(one["low"], one["high"]), _number(one["ess"])]
        rows.append([f"{role}: {result[role]['name']}", *numbers])
    rows.append(["new \N{MINUS SIGN} current", _mean(apart), _bounds(apart["low"], apart["high"]), ""])
    title = f"{result['estimator']} per {apart['per']}, by {_measured_on(result['log'])}"
    shown = Folded(title, ["policy", "mean", f"{level} interval over {unit}s", "effective size"], [rows])
    verdict = f"{'promote' if result['promote'] else 'do not promote'} {result['new']['name']}: {result['why']}"
    return Group(shown, *(Text(line) for line in [*result["notes"], verdict]))


def _mean(one: Mapping[str, Any]) -> str:
    """The number, or that there is none; marked where it is shown all the same."""
    if one["refused"] is None:
        return _number(one["mean"])
    return f"{_number(one['mean'])} (refused)" if "forced" in one else "refused"


def _reasons(what: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """A line for each reason, with all that it speaks against."""
    for reason in dict.fromkeys(reasons.values()):
        yield f"{', '.join(name for name, one in reasons.items() if one == reason)}: {what}: {reason}"


def _measured_on(log: Mapping[str, Any]) -> str:
    units = f" of {log['units']:,} {log['unit']}s" if log["unit"] != "row" else ""
    return f"{log['rows']:,} decisions{units} in {log['file']} ({log['items']:,} items, {log['hash']})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _bounds(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"
