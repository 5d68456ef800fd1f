"""How much counts of the log weigh beside the network: chosen on the validation users, once it is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from time import monotonic
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from what_next.baselines.counts import Known, Rows
from what_next.baselines.tags import EVENTS, Tagged
from what_next.data import Catalogue
from what_next.data.space import DAY
from what_next.errors import line_console
from what_next.models.linear import RANKS, LinearTerm, ranks_of, successors_of

Measure = Callable[[], float]
Counts = Float64[np.ndarray, "items"]
WEIGHTS = (
    4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 72.0, 108.0, 160.0, 240.0, 360.0, 540.0, 810.0, 1215.0, 1800.0, 2700.0, 4000.0,
)  # fmt: skip
"""Of what the linear model points to, beside the network's logits."""
DECAYS = (0.9, 0.8)
"""Of an event in what the linear model makes of a history, for each one after it."""
PENALTIES = (0.1, 0.3, 3.0)
"""Of the linear model: times the one that it was made with."""
REPEATS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Of what the history holds; and of what came next there when its last item was there before."""
REPEAT_DECAYS = (1.0, 0.5)
"""Of an event in what a history holds, for each one after it."""
LARGER = 0.995
"""The largest weight of what a history holds is taken that has this share of what the best one has: the network knows
by heart what validation users have, and scores it high by itself; later histories it never saw."""
TRANSITIONS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Of which items came next after the last ones."""
TRANSITION_DECAYS = (0.0, 0.4, 0.8, 1.0)
"""Of an event there, for each one after it. Each is tried with all weights: what is best for one is not for another."""
WORTH = 1.02
"""More directions must make so much of the measure: they are as many more columns."""
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
MANY, MORE, LONG = 70, 20, 5.0
"""About so many passes over the validation users are made, and so many more for another way to tell what came next;
where they take more than so many seconds, it is said before."""
PATIENCE = 3
"""So many values in a row that are worse than the best, and larger ones are not tried."""
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
) -> "Weighed | None":
    """Set the numbers of the linear term one after the other, each to the best for the validation users; returns what
    was chosen, or None where nothing counts.

    The weight comes first, with decay, penalty and directions, then which items came next, then the bias for what is
    popular, or was of late, 0 included, then the diagonal; where all stay 0, the network is better alone, and that is
    all. The temperature comes last.

    Args:
        linear: with what was counted in the log; changed.
        measured: words for what `score` measures of the agent as it is now, more is better.
        surprise: the mean negative logarithm of the chance that it gives to what came next.
        recent: by words for it, the events of each item where those that are long past count less.
        learn: give the linear term so many directions; None: it has all that there may be.
        transitions: by words for it, give it what came next; None: it has that. The first ones stay where others are no
            better.
        repeats: an item of the history may be recommended again.
        quiet: nothing is printed.
    """
    console = line_console(quiet=quiet)
    trial, start = Trial(linear, score), monotonic()
    alone = trial.best = trial.measured()
    passes = MANY + MORE * max(0, len(transitions or ()) - 1)
    if (seconds := passes * (monotonic() - start)) > LONG:
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
    """What `weigh` chose.

    Attributes:
        numbers: of the linear term; `rank`: its directions.
        table: by which words of `transitions_of` it knows what came next.
        recent: place in `recent_of` of what it knows of popularity; None: all events count alike.
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
        """Set the linear term likewise, by the counts of another log; the arguments are as of `weigh`."""
        learn(self.rank)
        if transitions:
            transitions.get(self.table, transitions[""])()
        if self.recent is not None and recent:
            linear.favour(list(recent.values())[self.recent])
        linear.choose(**self.numbers)
        linear.forget()


@dataclass
class Trial:
    """Numbers of the linear term, as they are tried on the validation users.

    Attributes:
        numbers: those that are chosen so far; `best`: the measure with them.
    """

    linear: LinearTerm
    measure: Measure
    numbers: dict[str, float] = field(default_factory=lambda: {"weight": 0.0})
    best: float = -np.inf

    def copy(self) -> "Trial":
        """Another, which goes on from here."""
        return replace(self, numbers=dict(self.numbers))

    def take(self, other: "Trial") -> None:
        """Choose what another has."""
        self.numbers, self.best = other.numbers, other.best

    def measured(self, **changes: float) -> float:
        """The measure with the numbers that are chosen, and some changes."""
        self.linear.choose(**self.numbers | changes)
        return self.measure()

    def improve(self, name: str, values: Sequence[float], patience: int = PATIENCE) -> None:
        """Choose the best value of a number, where one is better than what there is.

        Each takes a pass over the validation users, so that it ends where larger values only get worse.
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
        """Choose larger values of a number that is chosen, until one changes nothing, or leaves less than `least`."""
        for value in [value for value in values if value > self.numbers[name]]:
            if (found := self.measured(**{name: value})) < least or found == self.best:
                return
            self.best, self.numbers[name] = found, value

    def adjust(self, name: str, values: Sequence[float]) -> None:
        """Choose a better value of a number that is chosen: larger ones are tried first, then smaller ones."""
        here = self.numbers[name]
        self.improve(name, [value for value in values if value > here])
        self.improve(name, [value for value in reversed(values) if value < here])


def _count(trial: Trial) -> None:
    """Choose how much people who had the same items count."""
    trial.improve("weight", WEIGHTS)
    if trial.numbers["weight"]:
        trial.improve("decay", DECAYS)
        trial.improve("penalty", PENALTIES)
    if "penalty" in trial.numbers:
        trial.adjust("weight", WEIGHTS)


def _widen(trial: Trial, learn: Callable[[int], None]) -> None:
    """Take more directions, as long as they are worth their columns."""
    linear = trial.linear
    for rank in ranks_of(len(linear.directions))[1:]:
        if linear.rank >= RANKS[1] and linear.gains[-1] < GAIN:
            return
        fewer, wider = (linear.directions, linear.gains), trial.copy()
        learn(rank)
        if linear.rank > len(fewer[1]):  # or else the log has no more
            wider.numbers.pop("penalty", None)  # that of all was of a few
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
    """Let no item foretell itself, where that is better: it goes with a penalty and a weight of its own."""
    cleared = trial.copy()
    cleared.numbers["zero_diagonal"] = 1.0
    cleared.best = cleared.measured()
    cleared.adjust("weight", WEIGHTS)
    if cleared.best > trial.best:
        cleared.improve("penalty", (1.0, *PENALTIES))
        cleared.adjust("weight", WEIGHTS)
        trial.take(cleared)


def _follow(trial: Trial, tables: Mapping[str, Callable[[], None]]) -> str:
    """Choose the table of which items came next, and how much it counts; returns the words for it. Where none counts,
    none is kept."""
    linear, first, words, name = trial.linear, trial.copy(), "", ""
    for name, learn in (tables or {"": lambda: None}).items():
        learn()
        if linear.next_items.shape[1] and (best := _decayed(first)).best > trial.best:
            trial.take(best)
            words = name
    if words != name:  # the last one that it was given
        tables[words]()
    linear.choose(**trial.numbers)
    linear.forget()
    return words


def _decayed(first: Trial) -> Trial:
    """What came next with its best decay and weight: slower decays are tried as long as they are better, else faster
    ones."""

    @cache
    def at(place: int) -> Trial:
        one = first.copy()
        one.numbers["transition_decay"] = TRANSITION_DECAYS[place]
        one.improve("transition", TRANSITIONS, len(TRANSITIONS))  # alone it may be better than beside the network
        return one

    here = 1
    for way in (1, -1):
        while 0 <= here + way < len(TRANSITION_DECAYS) and at(here + way).best > at(here).best:
            here += way
    return at(here)


def _repeat(trial: Trial) -> None:
    """Choose how much counts what a history holds, and what came next in it."""
    trial.improve("replay", REPEATS)
    without = trial.best
    trial.improve("repeat", REPEATS)
    if "repeat" in trial.numbers:
        trial.improve("repeat_decay", REPEAT_DECAYS)
        trial.enlarge("repeat", REPEATS, max(without, _times(LARGER, trial.best)))


def _calibrate(trial: Trial, surprise: Measure) -> None:
    """Choose the temperature: all together are surer than each, and a softmax of their scores is calibrated by what
    came next (Guo, Pleiss, Sun and Weinberger 2017, "On Calibration of Modern Neural Networks", section 4.2)."""
    likely = replace(trial.copy(), measure=lambda: -surprise())
    likely.best = likely.measured()
    likely.improve("temperature", TEMPERATURES)
    trial.numbers = likely.numbers
    trial.linear.choose(**trial.numbers)


def transitions_of(events: Known, catalogue: Catalogue, linear: LinearTerm) -> dict[str, Callable[[], None]]:
    """Ways to give the linear term what came next in the log as it is now, by words for each: alone, or with what tags
    foretell; or what goes together in any order. None where there are too many items."""
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

    def learn_associations() -> None:
        rows, largest = events.associations, np.zeros(events.catalogue, np.float32)
        np.maximum.at(largest, rows.rows, rows.values)
        whole = float(largest[largest > 0].mean())  # so that the surest of an item is about 1, as a share may be
        linear.learn_transitions(rows.offsets, rows.columns, rows.values, whole=whole)

    ways: dict[str, Callable[[], None]] = {"": partial(learn, 0.0)}
    for steps in EVENTS if catalogue.tags is not None else ():
        ways[f"what tags foretell, as {steps:g} steps"] = partial(learn, steps)
    if events.associations.values.any():
        ways["what goes together in any order"] = learn_associations
    return ways


def recent_of(events: Known) -> dict[str, Counts]:
    """What was popular of late, by words for the half-life of an event's weight."""
    median = float(np.median(events.ages)) if len(events.ages) else 0.0
    units = (("events of a user", 1.0),) if events.times is None else UNITS
    found = dict[str, Counts]()
    for half in (median * share for share in SHARES if median):
        unit, size = next((one for one in units if half >= one[1] / 10), units[-1])
        found[f"popularity half-life {half / size:.3g} {unit}"] = events.of_late(half)
    return found


def _favour(trial: Trial, recent: Mapping[str, Counts]) -> str:
    """Choose how much counts what is popular; of late, where that is better: the words for what was chosen. A first
    look tells whether any half-life is worth a search."""
    trial.improve("bias", BIASES)
    linear, better = trial.linear, list[str]()
    always = linear.popularity.clone()

    def first_look(words: str) -> float:
        linear.favour(recent[words])
        return trial.measured(bias=trial.numbers.get("bias", 1.0))

    found = {words: replace(trial.copy(), best=-np.inf) for words in recent}  # the half-lives fall
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
    """As much better or worse as the factor says, of a measure that may be negative."""
    return value + (factor - 1) * abs(value)
