"""Choose how much the counts of the log weigh beside a trained network, on the validation users."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from time import monotonic
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from what_next.baselines.counts import Known, Rows
from what_next.baselines.slim import regression
from what_next.baselines.tags import EVENTS, Tagged
from what_next.data import Catalogue
from what_next.data.space import DAY
from what_next.errors import Lines
from what_next.models.linear import RANKS, LinearTerm, ranks_of, successors_of

Measure = Callable[[], float]
Counts = Float64[np.ndarray, "items"]
WEIGHTS = (
    4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 72.0, 108.0, 160.0, 240.0, 360.0, 540.0, 810.0, 1215.0, 1800.0, 2700.0, 4000.0,
)  # fmt: skip
"""Candidate weights of the linear model's scores beside the network's logits."""
DECAYS = (0.9, 0.8)
"""Candidate decays: in the linear model's input an event counts `decay` to the power of how many events follow it."""
PENALTIES = (0.1, 0.3, 3.0)
"""Candidate penalties of the ridge regression, as factors of the penalty that it was fitted with."""
REPEATS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Candidate weights of `repeat` (items that the history holds) and of `replay` (items that came next in the history
after earlier occurrences of its last item)."""
REPEAT_DECAYS = (0.9, 1.0, 0.5)
"""Candidate decays per following event, for the items that a history holds."""
LARGER = 0.995
"""`repeat` takes its largest candidate weight that reaches this share of the best measure: the network has memorised
the histories of the validation users and scores their items high by itself, but it has not seen later histories."""
TRANSITIONS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Candidate weights of the items that came next in the log after the last items of the history."""
TRANSITION_DECAYS = (0.0, 0.4, 0.8, 1.0)
"""Candidate decays per following event, for those last items. Each decay is tried with all `TRANSITIONS`, because the
best weight depends on the decay."""
REGRESSION = "a regression on what goes together"
"""Words for the table of `baselines.slim.regression`."""
RIDGE = (10.0, 1.0, 100.0)
"""Candidate penalties of that regression; those after the first are tried if the table is better than others."""
WORTH = 1.02
"""Factor by which more directions must improve the validation measure: they add as many columns to every score."""
GAIN = 1 / 6
"""Still more directions are tried only if the gain of the last direction, `s^2 / (s^2 + PENALTY)`, is at least this.
Many directions go with 0.3 of the penalty, at which the ridge regression keeps .4 of that last direction."""
BIASES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Candidate weights of popularity: the logarithm of an item's number of events."""
SHARES = (1.0, 1 / 4, 1 / 16, 1 / 64)
"""Candidate half-lives of recent popularity, as shares of the median age of the events."""
NEWER = 0.97
"""The shortest half-life that reaches this share of the best measure is taken: recommendations are made later than the
validation users' events, so recent events describe popularity at that time better."""
UNITS = (("days", DAY), ("hours", DAY / 24), ("seconds", DAY / 86_400))
MANY, MORE, LONG = 70, 20, 5.0
"""About `MANY` passes over the validation users are made, and `MORE` for each further transition table. If they are
expected to take more than `LONG` seconds, a message says so first."""
PATIENCE = 3
"""The search over a number's ascending values ends after this many worse values in a row."""
TEMPERATURES = (
    0.8, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 80.0, 120.0, 180.0, 270.0, 400.0,
    600.0, 900.0, 1350.0, 2000.0, 3000.0,
)  # fmt: skip


def weigh(
    linear: LinearTerm,
    measured: str,
    score: Measure,
    surprise: Measure,
    recent: Mapping[str, Counts] | None = None,
    learn: Callable[[int], None] | None = None,
    transitions: Mapping[str, Callable[[], None]] | None = None,
    *,
    repeats: bool = False,
    quiet: bool = False,
    agreed: Callable[[float], float] = float,
) -> "Weighed | None":
    """Set the numbers of the linear term one after the other, each to the value that is best for the validation users.

    The order: the weight with its decay and penalty; the transition table; the number of directions; what the history
    repeats; popularity, of all time or recent; the zero diagonal; the temperature. If everything else stays 0, the
    network is better alone, and the temperature is left as it is.

    Args:
        linear: the linear term with the log's counts; changed in place.
        measured: words for what `score` measures.
        score: the validation measure of the agent as it is now; more is better.
        surprise: the mean negative log-likelihood of the items that came next.
        recent: exponentially decayed event counts per item, keyed by words for their half-life.
        learn: gives the linear term this many directions; None if it already has as many as it may have.
        transitions: functions that give the linear term a transition table, keyed by words for the table; None if it
            has one. The first table stays unless another is better.
        repeats: whether an item of the history may be recommended again.
        quiet: print nothing.
        agreed: a number of all processes that weigh together, from this one's: their clocks differ.

    Returns:
        What was chosen; None if the linear term adds nothing to the scores.
    """
    console = Lines(quiet=quiet)
    trial, start = Trial(linear, score), monotonic()
    alone = trial.best = trial.measured()
    passes = MANY + MORE * max(0, sum(not _refines(name) for name in transitions or ()) - 1)
    if (seconds := agreed(passes * (monotonic() - start))) > LONG:
        start = monotonic()  # only the first pass encoded the histories
        trial.measured(weight=WEIGHTS[0])
        seconds = agreed(passes * (monotonic() - start))
    if seconds > LONG:
        console.print(
            f"weighing counts of the log beside the network: some {passes} passes over the validation users, about "
            f"{f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'}",
            highlight=False,
        )
    _count(trial)
    table = _follow(trial, transitions or {})
    if learn:
        _widen(trial, learn)
    if repeats:
        _repeat(trial)
    half_life = _favour(trial, recent or {})
    _clear(trial)
    linear.choose(**trial.numbers)
    if not linear.counts:
        console.print("counts of the log make nothing better: the network stands alone")
        return None
    _calibrate(trial, surprise)
    chosen = [words for words in (table, half_life) if words]
    told = ", ".join([*(f"{name} {value:g}" for name, value in trial.numbers.items()), *chosen])
    console.print(
        f"counts of the log stand beside the network ({told}; see `linear`): {measured} {alone:.4f} -> "
        f"{trial.best:.4f}; `linear, no` leaves it out",
        highlight=False,
    )
    place = list(recent or ()).index(half_life) if half_life else None
    return Weighed(dict(trial.numbers), linear.rank, table, place)


class Weighed(NamedTuple):
    """The choice of `weigh`, as a manifest holds it.

    Attributes:
        numbers: of the linear term; `rank`: number of its directions.
        table: the transition table, by its key in `transitions_of`.
        recent: the popularity half-life, by its position in `recent_of`; None: all events count alike.
    """

    numbers: dict[str, float]
    rank: int
    table: str
    recent: int | None

    def apply(
        self,
        linear: LinearTerm,
        recent: Mapping[str, Counts],
        learn: Callable[[int], None],
        transitions: Mapping[str, Callable[[], None]],
    ) -> None:
        """Give the linear term these numbers and the counts of another log; arguments as for `weigh`."""
        learn(self.rank)
        if transitions:
            transitions.get(self.table, transitions[""])()
        if self.recent is not None and recent:
            linear.favour(list(recent.values())[self.recent])
        linear.choose(**self.numbers)
        linear.forget()


@dataclass
class Trial:
    """Numbers of the linear term while they are tried on the validation users.

    Attributes:
        numbers: the values chosen so far.
        best: the validation measure with these values.
    """

    linear: LinearTerm
    measure: Measure
    numbers: dict[str, float] = field(default_factory=lambda: {"weight": 0.0})
    best: float = -np.inf

    def copy(self) -> "Trial":
        """An independent trial that starts from the values chosen here."""
        return replace(self, numbers=dict(self.numbers))

    def take(self, other: "Trial") -> None:
        """Adopt the values of another trial."""
        self.numbers, self.best = other.numbers, other.best

    def measured(self, **changes: float) -> float:
        """The validation measure with the chosen values and these changes."""
        self.linear.choose(**self.numbers | changes)
        return self.measure()

    def improve(self, name: str, values: Sequence[float], patience: int = PATIENCE) -> None:
        """Choose the best of some values, if it beats what is chosen now.

        Each value takes a pass over the validation users, so the search ends after `patience` worse values in a row.
        """
        worse = 0
        for value in values:
            found = self.measured(**{name: value})
            worse = worse + 1 if found < self.best else 0
            if found > self.best:
                self.best, self.numbers[name] = found, value
            if worse == patience:
                break

    def enlarge(self, name: str, values: Sequence[float], least: float) -> None:
        """Raise a chosen number step by step, until a value changes nothing or the measure falls below `least`."""
        for value in [value for value in values if value > self.numbers[name]]:
            if (found := self.measured(**{name: value})) < least or found == self.best:
                return
            self.best, self.numbers[name] = found, value

    def adjust(self, name: str, values: Sequence[float]) -> None:
        """Search the neighbourhood of a chosen number: larger values first, then smaller ones."""
        here = self.numbers[name]
        self.improve(name, [value for value in values if value > here])
        self.improve(name, [value for value in reversed(values) if value < here])


def _count(trial: Trial) -> None:
    """Choose the weight of the linear model, its decay and its penalty."""
    trial.improve("weight", WEIGHTS)
    if trial.numbers["weight"]:
        trial.improve("decay", DECAYS)
        trial.improve("penalty", PENALTIES)
    if "penalty" in trial.numbers:
        trial.adjust("weight", WEIGHTS)


def _widen(trial: Trial, learn: Callable[[int], None]) -> None:
    """Take more directions, as long as the validation measure gains enough for the columns that they add."""
    linear = trial.linear
    for rank in ranks_of(len(linear.directions))[1:]:
        if linear.rank >= RANKS[1] and linear.gains[-1] < GAIN:
            return
        fewer, wider = (linear.directions, linear.gains), trial.copy()
        learn(rank)
        if linear.rank > len(fewer[1]):  # otherwise the log has no more directions
            wider.numbers.pop("penalty", None)  # it was chosen for fewer directions
            wider.improve("weight", [weight for weight in WEIGHTS if weight >= trial.numbers["weight"]])
            if wider.numbers["weight"]:
                wider.improve("penalty", PENALTIES)
        if not (wider.best > trial.best and wider.best >= _times(WORTH, trial.best)):
            linear.directions, linear.gains = fewer
            return
        trial.take(wider)
        if "transition" in trial.numbers:
            trial.adjust("transition", TRANSITIONS)


def _clear(trial: Trial) -> None:
    """Set the diagonal to zero if that is better, with a weight and a penalty of its own."""
    cleared = trial.copy()
    cleared.numbers["zero_diagonal"] = 1.0
    cleared.best = cleared.measured()
    cleared.adjust("weight", WEIGHTS)
    if cleared.best > trial.best:
        cleared.improve("penalty", (1.0, *PENALTIES))
        cleared.adjust("weight", WEIGHTS)
        trial.take(cleared)


def _follow(trial: Trial, tables: Mapping[str, Callable[[], None]]) -> str:
    """Choose the transition table, its decay and its weight; returns the words for the table. No table is kept if its
    weight is 0."""
    linear, first, words, name = trial.linear, trial.copy(), "", ""
    for name, learn in (tables or {"": lambda: None}).items():
        if _refines(name) and not words.startswith(REGRESSION):
            break
        learn()
        best = _readjusted(trial) if _refines(name) else _decayed(first)
        if linear.next_items.shape[1] and best.best > trial.best:
            trial.take(best)
            words = name
    if words != name:  # the linear term still holds the last table tried
        tables[words]()
    linear.choose(**trial.numbers)
    linear.forget()
    return words


def _refines(table: str) -> bool:
    """Whether a table is that of the regression with another penalty than the first."""
    return table.startswith(f"{REGRESSION}, ")


def _readjusted(chosen: Trial) -> Trial:
    """The chosen trial with another table, of the same kind and decay, and a weight near the chosen one."""
    one = chosen.copy()
    one.best = one.measured()
    one.adjust("transition", TRANSITIONS)
    return one


def _decayed(first: Trial) -> Trial:
    """The trial with the best transition decay and weight. From the second decay, slower ones are tried as long as they
    get better, then faster ones."""

    @cache
    def at(place: int) -> Trial:
        one = first.copy()
        one.numbers["transition_decay"] = TRANSITION_DECAYS[place]
        one.improve("transition", TRANSITIONS, len(TRANSITIONS))  # no early end: it may be best without the network
        return one

    here = 1
    for way in (1, -1):
        while 0 <= here + way < len(TRANSITION_DECAYS) and at(here + way).best > at(here).best:
            here += way
    return at(here)


def _repeat(trial: Trial) -> None:
    """Choose the weights of `replay` and `repeat`, and the decay of `repeat`. Each decay is tried with all weights:
    where goods are bought again after a period, what was bought of late is the least likely, and no weight is good with
    a decay that favours it."""
    trial.improve("replay", REPEATS)
    first = trial.copy()
    for decay in REPEAT_DECAYS:
        one = first.copy()
        one.numbers["repeat_decay"] = decay
        one.improve("repeat", REPEATS)
        if one.best > trial.best:
            trial.take(one)
    if "repeat" in trial.numbers:
        trial.enlarge("repeat", REPEATS, max(first.best, _times(LARGER, trial.best)))


def _calibrate(trial: Trial, surprise: Measure) -> None:
    """Choose the temperature: the summed scores are more confident than each part, so their softmax is calibrated on
    what came next (Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", section 4.2)."""
    likely = replace(trial.copy(), measure=lambda: -surprise())
    likely.best = likely.measured()
    likely.improve("temperature", TEMPERATURES)
    trial.numbers = likely.numbers
    trial.linear.choose(**trial.numbers)


def transitions_of(events: Known, catalogue: Catalogue, linear: LinearTerm) -> dict[str, Callable[[], None]]:
    """Functions that give the linear term a transition table, keyed by words for it: the log's transitions alone, or
    with those that tags predict, or what stands in the same histories in any order, by its association or by a
    regression, with one penalty and then with others. Empty if there are too many items for a table."""
    most = successors_of(events.catalogue)
    if not most:
        return {}
    tagged = Tagged.of(catalogue)
    kept = tagged.kept(events.followers)
    linear.learn_tags(tagged.of_kinds(kept, len(catalogue.kinds)))

    @cache
    def foretold() -> Rows:
        return tagged.foretold(kept, events.counts, most)

    def learn(steps: float) -> None:
        rows = events.followers.plus(foretold(), steps) if steps else events.followers
        linear.learn_transitions(rows.offsets, rows.columns, rows.values, tag_steps=steps)

    @cache
    def regressed(penalty: float) -> Rows:
        return regression(events, penalty)

    def learn_together(counted: Callable[[], Rows]) -> None:
        rows, largest = counted(), np.zeros(events.catalogue, np.float32)
        np.maximum.at(largest, rows.rows, rows.values)
        whole = float(largest[largest > 0].mean())  # so that the surest of an item is about 1, as a share may be
        linear.learn_transitions(rows.offsets, rows.columns, rows.values, whole=whole)

    ways: dict[str, Callable[[], None]] = {"": partial(learn, 0.0)}
    for steps in EVENTS if catalogue.tags is not None else ():
        ways[f"what tags foretell, as {steps:g} steps"] = partial(learn, steps)
    if len(events.associations.values):
        ways["what goes together in any order"] = partial(learn_together, lambda: events.associations)
        for penalty in RIDGE:
            words = REGRESSION if penalty == RIDGE[0] else f"{REGRESSION}, penalty {penalty:g}"
            ways[words] = partial(learn_together, partial(regressed, penalty))
    return ways


def recent_of(events: Known) -> dict[str, Counts]:
    """Exponentially decayed event counts per item, keyed by words for their half-life, from long to short."""
    median = float(np.median(events.ages)) if len(events.ages) else 0.0
    units = (("events of a user", 1.0),) if events.times is None else UNITS
    found = dict[str, Counts]()
    for half in (median * share for share in SHARES if median):
        unit, size = next((one for one in units if half >= one[1] / 10), units[-1])
        found[f"popularity half-life {half / size:.3g} {unit}"] = events.of_late(half)
    return found


def _favour(trial: Trial, recent: Mapping[str, Counts]) -> str:
    """Choose the weight of popularity, and its half-life if recent popularity is better; returns the words for the
    half-life. The half-lives are searched only if a first look, with the weight chosen for all time, is promising."""
    trial.improve("bias", BIASES)
    linear, better = trial.linear, list[str]()
    always = linear.popularity.clone()

    def first_look(words: str) -> float:
        linear.favour(recent[words])
        return trial.measured(bias=trial.numbers.get("bias", 1.0))

    found = {words: replace(trial.copy(), best=-np.inf) for words in recent}  # from long half-lives to short ones
    if any(first_look(words) > _times(NEWER, trial.best) for words in recent):
        for words, one in found.items():
            linear.favour(recent[words])
            one.improve("bias", BIASES)
        least = max(trial.best, _times(NEWER, max(one.best for one in found.values())))
        better = [words for words, one in found.items() if one.best > least]
    if not better:
        linear.popularity.copy_(always)
        return ""
    linear.favour(recent[better[-1]])
    trial.take(found[better[-1]])
    return better[-1]


def _times(factor: float, value: float) -> float:
    """`value` improved by the factor (made worse if it is below 1); works for a negative measure, too."""
    return value + (factor - 1) * abs(value)
