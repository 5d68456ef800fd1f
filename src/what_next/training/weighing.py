"""How much counts of the log weigh beside the network: chosen on the validation users, once it is trained."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

import numpy as np
from jaxtyping import Float64

from what_next.baselines.counts import Known
from what_next.data.space import DAY
from what_next.errors import Plain
from what_next.models.linear import RANKS, LinearTerm, ranks_of

Measure = Callable[[], float]
Counts = Float64[np.ndarray, "items"]
WEIGHTS = (4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 72.0, 108.0, 160.0, 240.0, 360.0, 540.0, 810.0, 1215.0)
"""Of what the linear model points to, beside the network's logits."""
DECAYS = (0.9, 0.8)
"""Of an event in what the linear model makes of a history, for each one after it."""
PENALTIES = (0.1, 0.3, 3.0)
"""Of the linear model: times the one that it was made with."""
PULLS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Towards what came next after the last items: of the length of what is added to the point."""
CHAINS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
"""Of what came next after the last items, in codes; and in the history when its last item was there before."""
CHAIN_DECAYS = (0.4, 0.95)
"""Of an event in what came next, in codes, for each one after it."""
WORTH = 1.02
"""More directions, and codes, must make so much of the measure: they are as many more columns."""
GAIN = 1 / 6
"""What the ridge regression keeps of the last of many directions, where still more may be worth a look: with three
tenths of its penalty, which so many go with, it keeps .4 of that."""
BIASES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Of the logarithm of how many events an item has."""
SHARES = (1.0, 1 / 4, 1 / 16, 1 / 64)
"""Of the median age of the events: half-lives of what was popular of late."""
NEWER = 0.97
"""A shorter half-life is taken where it has this share of what the best one has: what will be recommended lies later
than what validation users did, and there the shorter one is nearer to what is popular."""
UNITS = (("days", DAY), ("hours", DAY / 24), ("seconds", DAY / 86_400))
MANY, LONG = 50, 5.0
"""Passes over the validation users, about, and their seconds: where they take more, it is said before."""
PATIENCE = 3
"""So many values in a row that are worse than the best, and larger ones are not tried."""
TEMPERATURES = (0.8, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 80.0)


def weigh(
    linear: LinearTerm,
    measured: str,
    score: Measure,
    surprise: Measure,
    recent: Mapping[str, Counts] | None = None,
    learn: Callable[[int], None] | None = None,
    *,
    repeats: bool = False,
    quiet: bool = False,
) -> bool:
    """Set the numbers of the linear term one after the other, each to the best for the validation users; returns
    whether anything counts.

    The weight comes first, with decay, penalty and directions, then what came next, in the network's space and in
    codes, then the bias for what is popular, or was of late, 0 included; where all stay 0, the network is better alone,
    and that is all. The temperature comes last: all together are surer than each, and a softmax of their scores is
    calibrated by what came next (Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks",
    section 4.2).

    Args:
        linear: with what was counted in the log; changed.
        measured: words for what `score` measures of the agent as it is now, more is better.
        surprise: the mean negative logarithm of the chance that it gives to what came next.
        recent: by words for it, the events of each item where those that are long past count less.
        learn: give the linear term so many directions; None: it has all that there may be.
        repeats: an item of the history may be recommended again.
        quiet: nothing is printed.
    """
    console = Plain(stderr=True, soft_wrap=True, quiet=quiet, force_jupyter=False)
    chosen, start = {"weight": 0.0}, monotonic()
    alone = _measured(linear, chosen, score)
    if (seconds := MANY * (monotonic() - start)) > LONG:
        console.print(
            f"weighing counts of the log beside the network: some {MANY} passes over the validation users, about "
            f"{seconds:.0f} s",
            highlight=False,
        )
    best = _counted(linear, chosen, score, alone)
    best = _wider(linear, chosen, score, best, learn) if learn else best
    best = _followed(linear, chosen, score, best, repeats=repeats)
    best, of_late = _popular(linear, chosen, recent or {}, score, best)
    linear.choose(**chosen)
    if not linear.counts:
        return False
    likelihood = _measured(linear, chosen, lambda: -surprise())
    _improved(linear, chosen, "temperature", TEMPERATURES, lambda: -surprise(), likelihood)
    linear.choose(**chosen)
    told = ", ".join([*(f"{name} {value:g}" for name, value in chosen.items()), *of_late])
    console.print(
        f"counts of the log stand beside the network ({told}; see `linear`): {measured} {alone:.4f} -> {best:.4f}; "
        "`linear, no` leaves it out",
        highlight=False,
    )
    return True


def _counted(linear: LinearTerm, chosen: dict[str, float], score: Measure, best: float) -> float:
    """Choose how much people who had the same items count; the best measure."""
    best = _improved(linear, chosen, "weight", WEIGHTS, score, best)
    if chosen["weight"]:
        best = _improved(linear, chosen, "decay", DECAYS, score, best)
        best = _improved(linear, chosen, "penalty", PENALTIES, score, best)
    if "penalty" in chosen:
        best = _improved(linear, chosen, "weight", WEIGHTS, score, best)
    return best


def _wider(
    linear: LinearTerm, chosen: dict[str, float], score: Measure, best: float, learn: Callable[[int], None]
) -> float:
    """Take more directions, as long as they are worth their columns; the best measure."""
    for rank in ranks_of(len(linear.directions))[1:]:
        if linear.rank >= RANKS[1] and linear.gains[-1] < GAIN:
            break
        if (found := _of_rank(rank, linear, chosen, score, best, learn)) is None:
            break
        best = found
    return best


def _of_rank(
    rank: int,
    linear: LinearTerm,
    chosen: dict[str, float],
    score: Measure,
    best: float,
    learn: Callable[[int], None],
) -> float | None:
    """Take so many directions; the best measure, or None where they are not worth it and all is as before."""
    fewer = linear.directions, linear.gains
    learn(rank)
    if linear.rank > len(fewer[1]):  # or else the log has no more
        trial = {name: value for name, value in chosen.items() if name != "penalty"}  # that of all was of a few
        heavier = [weight for weight in WEIGHTS if weight >= chosen["weight"]]
        found = _improved(linear, trial, "weight", heavier, score, best)
        if trial["weight"]:
            found = _improved(linear, trial, "penalty", PENALTIES, score, found)
        if found > best and found >= _times(WORTH, best):
            chosen.pop("penalty", None)
            chosen.update(trial)
            return found
    linear.directions, linear.gains = fewer
    return None


def _followed(linear: LinearTerm, chosen: dict[str, float], score: Measure, best: float, *, repeats: bool) -> float:
    """Choose how much what came next counts, in the network's space and in codes, and keep nothing of what does not;
    the best measure."""
    if linear.successors.shape[1]:
        best = _improved(linear, chosen, "pull", PULLS, score, best)
    best = _coded(linear, chosen, score, best, repeats=repeats)
    linear.choose(**chosen)
    linear.forget()
    return best


def _coded(linear: LinearTerm, chosen: dict[str, float], score: Measure, best: float, *, repeats: bool) -> float:
    """Choose how much counts in codes, where it is worth their columns; the best measure."""
    if not linear.codes.shape[1]:
        return best
    trial = dict(chosen)
    found = _improved(linear, trial, "chain", CHAINS, score, best)
    if "chain" in trial:
        found = _improved(linear, trial, "chain_decay", CHAIN_DECAYS, score, found)
    if "chain_decay" in trial:
        found = _improved(linear, trial, "chain", CHAINS, score, found)
    if repeats:
        found = _improved(linear, trial, "replay", CHAINS, score, found)
    if found < _times(WORTH, best):
        return best
    chosen.update(trial)
    return found


def recent_of(events: Known) -> dict[str, Counts]:
    """What was popular of late, by words for the half-life of an event's weight."""
    median = float(np.median(events.ages)) if len(events.ages) else 0.0
    units = (("events of a user", 1.0),) if events.times is None else UNITS
    found = dict[str, Counts]()
    for half in (median * share for share in SHARES if median):
        unit, size = next((one for one in units if half >= one[1] / 10), units[-1])
        found[f"popularity half-life {half / size:.3g} {unit}"] = events.of_late(half)
    return found


def _popular(
    linear: LinearTerm, chosen: dict[str, float], recent: Mapping[str, Counts], score: Measure, best: float
) -> tuple[float, list[str]]:
    """Choose how much counts what is popular; of late, where that is better: the best measure, and the words for what
    was chosen. A first look tells whether any half-life is worth a search."""
    best = _improved(linear, chosen, "bias", BIASES, score, best)
    always, found = linear.popularity.clone(), dict[str, float]()
    trials = {words: dict(chosen) for words in recent}  # the half-lives fall

    def first_look(words: str) -> float:
        linear.favour(recent[words])
        return _measured(linear, {"bias": 1.0} | chosen, score)

    if any(first_look(words) > _times(NEWER, best) for words in recent):
        for words, trial in trials.items():
            linear.favour(recent[words])
            found[words] = _improved(linear, trial, "bias", BIASES, score, -np.inf)
    better = [words for words, value in found.items() if value > max(best, _times(NEWER, max(found.values())))]
    if not better:
        linear.popularity.copy_(always)
        return best, []
    linear.favour(recent[better[-1]])
    chosen.update(trials[better[-1]])
    return found[better[-1]], better[-1:]


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


def _times(factor: float, value: float) -> float:
    """As much better or worse as the factor says, of a measure that may be negative."""
    return value + (factor - 1) * abs(value)
