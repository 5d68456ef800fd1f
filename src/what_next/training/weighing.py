"""How much counts of the log weigh beside the network: chosen on the validation users, once it is trained."""

from collections.abc import Callable, Sequence

from rich.console import Console

from what_next.models.linear import LinearTerm

Measure = Callable[[], float]
WEIGHTS = (4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 72.0, 108.0, 160.0)
"""Of what the linear model points to, beside the network's logits."""
DECAYS = (0.9,)
PULLS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Towards what came next after the last items: of the length of what is added to the point."""
BIASES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the logarithm of how many had an item."""
PATIENCE = 3
"""So many values in a row that are worse than the best, and larger ones are not tried."""
TEMPERATURES = (0.8, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 14.0)


def weigh(linear: LinearTerm, monitor: str, score: Measure, surprise: Measure, *, quiet: bool = False) -> bool:
    """Set the numbers of the linear term one after the other, each to the best for the validation users; returns
    whether anything counts.

    The weight comes first, then the pull to what came next, then the bias for what is popular, 0 included; where all
    stay 0, the network is better alone, and that is all. The temperature comes last: all together are surer than each,
    and a softmax of their scores is calibrated by what came next (Guo, Pleiss, Sun and Weinberger 2017, "On Calibration
    of Modern Neural Networks", section 4.2).

    Args:
        linear: with what was counted in the log; changed.
        monitor: the name of what `score` measures of the agent as it is now, more is better.
        surprise: the mean negative logarithm of the chance that it gives to what came next.
        quiet: nothing is printed.
    """
    chosen = {"weight": 0.0}
    alone = _measured(linear, chosen, score)
    best = _improved(linear, chosen, "weight", WEIGHTS, score, alone)
    if chosen["weight"]:
        best = _improved(linear, chosen, "decay", DECAYS, score, best)
    if linear.successors.shape[1]:
        best = _improved(linear, chosen, "pull", PULLS, score, best)
        if not chosen.get("pull"):
            linear.forget()
    best = _improved(linear, chosen, "bias", BIASES, score, best)
    linear.choose(**chosen)
    if not linear.counts:
        return False
    likelihood = _measured(linear, chosen, lambda: -surprise())
    _improved(linear, chosen, "temperature", TEMPERATURES, lambda: -surprise(), likelihood)
    linear.choose(**chosen)
    told = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    Console(stderr=True, soft_wrap=True, quiet=quiet, force_jupyter=False).print(
        f"counts of the log stand beside the network ({told}; see `linear`): {monitor} of the "
        f"validation users {alone:.4f} -> {best:.4f}; `linear, no` leaves it out",
        highlight=False,
    )
    return True


def _improved(
    linear: LinearTerm, chosen: dict[str, float], name: str, values: Sequence[float], measure: Measure, best: float
) -> float:
    """Put the best value of a number among those that are chosen, where one is better than `best`; the best measure.

    Each takes a pass over the validation users, so that it ends where larger values only get worse.
    """
    worse = 0
    for value in values:
        found = _measured(linear, chosen | {name: value}, measure)
        worse = worse + 1 if found < best else 0
        if found > best:
            best = found
            chosen[name] = value
        if worse == PATIENCE:
            break
    return best


def _measured(linear: LinearTerm, chosen: dict[str, float], measure: Measure) -> float:
    linear.choose(**chosen)
    return measure()
