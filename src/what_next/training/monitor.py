"""Accompanies the steps of a run: saves the models, stops early by validation, and raises alarms."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int32

from what_next.errors import Lines, ModelError, TrainingError
from what_next.training import checkpoint
from what_next.training.artefacts import read_manifest
from what_next.training.interrupts import Interrupted
from what_next.training.refit import Recipe
from what_next.training.sharding import Training
from what_next.training.step import Step, network_of
from what_next.training.weighing import Weighed

MEMORY = 30
"""An alarm looks at the mean of this many diagnoses, so that one odd batch raises none."""
SHARES, FEWEST = frozenset({"top_item", "top_share", "explained"}), 32
"""Diagnoses that are shares, and the fewest targets in a step for one to count. With fewer they are noise, however many
are averaged: the top item of a single state has 100 %, and a critic that explains a tenth of normal returns often has a
negative share on two targets, and sometimes on 16."""
WARM_UP = 0.2
"""No alarms about the critic or about a leading item in this first share of a run, nor from its steps: a critic may
start anywhere, and a policy learns popularity first."""
LATER = SHARES | {"value"}
"""What counts only after the warm-up."""
SLACK = 1.5
"""Factor by which a value estimate may exceed the largest possible return, because it is an estimate."""
TOP_SHARE = 0.5
"""One item has taken over if it is first in more than its share of the log's events plus this share of the rest: an
item with .4 of the events may be first in up to .4 + .5 * .6 of the states."""
LEAST_ENTROPY = 0.02
"""A policy has collapsed if its entropy is below this share of the uniform policy's."""
LARGEST_WEIGHT = 1000.0
"""Alarm threshold of the largest importance weight: one step then counts for a thousand."""
HALVED = 4
"""At this many halvings of the learning rate, the run ends."""
REACHED = 10
"""After this many steps one must have counted, and every network must have had a gradient; a single step may lack
both."""
EXPLAINED = 0.01
"""A critic explains nothing if it explains less than this share of the variance of the returns."""


@dataclass(eq=False)
class Alarms:
    """Signs in the steps of a run that learning has gone wrong, each raised once.

    Attributes:
        discount: discount of the returns that a critic learns; 0 for a one-step critic.
        unit: the unit in which the length of the run is counted.
        ranks: how many processes share a step.
        counts: events of each item in the log, if known.
        raised: message of every alarm so far, by the alarm's name; it begins with when the alarm was raised.
    """

    discount: float
    unit: str = "histories"
    ranks: int = 1
    counts: Int32[np.ndarray, "items"] | None = None
    raised: dict[str, str] = field(default_factory=dict)
    _largest: float = 0.0
    _metrics: dict[str, deque[float]] = field(default_factory=dict)

    def look(self, step: Step, done: float, histories: int) -> list[str]:
        """The alarms that this step raises for the first time, after `histories`; `done`: share of the run."""
        for name, value in {**step.metrics, "value": abs(step.value)}.items():
            enough = step.targets >= FEWEST * self.ranks  # each process diagnoses only its own part
            if (name not in SHARES or enough) and (name not in LATER or done > WARM_UP):
                self._metrics.setdefault(name, deque(maxlen=MEMORY)).append(value)
        self._largest = max(self._largest, step.metrics.get("largest_reward", 0.0))
        found = self._found().items()
        new = {name: f"after {histories:,} {self.unit}: {text}" for name, text in found if name not in self.raised}
        self.raised |= new
        return list(new.values())

    def _found(self) -> Mapping[str, str]:
        found = {}
        bound = self._largest / (1 - self.discount)
        mean = {name: float(np.mean(values)) for name, values in self._metrics.items() if len(values) == MEMORY}
        if self._largest and mean.get("value", 0.0) > SLACK * bound:
            found["diverging"] = (
                f"the critic expects {mean['value']:.3g} on average, and no return can exceed {bound:.3g} (largest "
                f"reward {self._largest:.3g}, discount {self.discount:g}): it diverges; lower learning_rate or tau"
            )
        share, logged = self._leader() if "top_share" in mean else (0.0, 0.0)
        if share > logged + TOP_SHARE * (1 - logged):
            beside = f" and has {logged:.0%} of the log's events" if logged else ""
            found["one item"] = (
                f"one item is the first recommendation in {share:.0%} of all states{beside}: it has taken over"
            )
        if mean.get("entropy_share", 1.0) < LEAST_ENTROPY:
            found["entropy"] = (
                f"the policy's entropy is {mean['entropy_share']:.1%} of the uniform one's: it has collapsed, and "
                "explores nothing; lower learning_rate, or weigh the critic less"
            )
        if mean.get("largest_weight", 0.0) > LARGEST_WEIGHT:
            found["weights"] = (
                f"the largest importance weight of a batch is {mean['largest_weight']:.3g} on average: a few steps "
                "decide what is learnt; lower the cap of the weights"
            )
        if mean.get("explained", 1.0) < EXPLAINED:
            found["critic"] = (
                f"the critic explains {max(0.0, mean['explained']):.2%} of the variance of the returns: its advice "
                "is noise; compare with `next_item`, or in a world with its references"
            )
        return found

    def _leader(self) -> tuple[float, float]:
        """The largest share of states in which the same item is first, and the item's share of the log's events. The
        first share is a lower bound, because only the leader of each batch is known."""
        sums = dict.fromkeys(self._metrics["top_item"], 0.0)
        for item, share in zip(self._metrics["top_item"], self._metrics["top_share"], strict=True):
            sums[item] += share
        item = max(sums, key=sums.__getitem__)
        share, logged = sums[item] / MEMORY, 0.0
        if share > TOP_SHARE and self.counts is not None:  # below that, no alarm is possible
            logged = float(self.counts[int(item)] / max(1, self.counts.sum()))
        return share, logged


@dataclass(eq=False)
class Monitor:
    """Keeps a run's steps, saves its models, and decides when the run ends.

    With `patience`, every save is measured first, and only a better model is written. A resumed run continues from that
    best save and repeats the steps after it. When the measure stops improving, the learning rate is halved before the
    run ends, because a smaller rate still improves the model within a pass or two. Each of several processes has a
    monitor, and all of them decide alike.

    A `ModelError` is raised for a resumed run whose split or events have changed, or for which the data now decide on
    another loss or other batches.

    Attributes:
        agent: the agent that learns; `rng`: source of all random numbers of the run; `run`: its id.
        validate: measures the agent on the validation users.
        weigh: weighs the counts of the log beside the trained agent; returns what it chose, if anything.
        monitored: the measure that chooses the best model.
        made_on: what the manifest and the model card say of the data: the data set's name, its sizes (`counts`), the
            hash of the `split`, the checksum of the `events`, and the settings that the data decided (`fitted`).
        save_every: histories between two saves.
        patience: the setup's, or None if validation users cannot choose the model (`Environment._foresees`).
        resumed: whether the run continues from the last save.
        on_save: called after each save with the last measurement; `quiet`: print nothing.
        steps: every step's result; `targets`: how many targets they had; `seconds`: how long all took.
        valid: the last measurement on the validation users.
        over: no step follows, because patience ran out at the last learning rate too, or because the resumed run had
            ended already.
        interrupted: weighing the counts of the log was interrupted; a resumed run only repeats the weighing.
    """

    agent: Training
    rng: np.random.Generator
    run: str
    validate: Callable[[], dict[str, float]]
    weigh: Callable[[], Weighed | None]
    monitored: str
    made_on: dict[str, Any]
    save_every: int
    patience: int | None
    resumed: bool = False
    on_save: Callable[[dict[str, float]], object] | None = None
    quiet: bool = False
    steps: list[Step] = field(default_factory=list)
    targets: int = 0
    seconds: float = 0.0
    valid: dict[str, float] = field(default_factory=dict)
    over: bool = False
    interrupted: bool = False

    def __post_init__(self) -> None:
        self.setup, self.saved = self.agent.setup, self.agent.histories
        self.console = Lines(quiet=self.quiet)
        self.alarms = Alarms(
            0.0 if self.setup.algorithm.one_step else self.setup.discount,
            self.setup.unit,
            self.agent.ranks.count,
            self.agent.space.counts,
        )
        self.in_save = 0  # number of alarms before the last save
        self.rates: list[tuple[int, float, int]] = []  # as `Recipe.of` takes them
        self.weighed: Weighed | None = None
        self.converged = False
        self.start = time.perf_counter()
        self.before: dict[str, float] = {"targets": 0, "seconds": 0.0}  # totals of the run that is resumed
        self.best_at = self.saved
        self.best, self.worse, self.kept, self.unsaved = -np.inf, 0, self.resumed, False
        self.concluded = self.unweighed = False  # state of the run that is resumed
        if self.resumed:
            self._resume(read_manifest(self.setup.model_agent_path).metrics)

    def _resume(self, before: Mapping[str, Any]) -> None:
        """Take over the state of the run from the last save."""
        if before.get("split", self.made_on["split"]) != self.made_on["split"]:
            raise ModelError(
                f"{self.setup.model_agent_path}: was trained on split {before['split']}, and {self.setup.data} is now "
                f"split as {self.made_on['split']}; train anew, or start from it with --from"
            )
        if before.get("events", self.made_on.get("events")) != self.made_on.get("events"):
            raise ModelError(
                f"{self.setup.model_agent_path}: {self.setup.data} has changed since it was saved (items, times, "
                "rewards or context of its events); train anew, or start from it with --from"
            )
        if before.get("fitted", self.made_on.get("fitted")) != self.made_on.get("fitted"):
            raise ModelError(
                f"{self.setup.model_agent_path}: was trained with {_worded(before['fitted'])}, and the data decide for "
                f"{_worded(self.made_on['fitted'])} now; train anew, or start from it with --from"
            )
        if before.get("refit"):
            self._no_refit()
        self.before = {name: before.get(name, 0) for name in self.before}
        for one in before.get("recipes", ()):
            self.rates = [(round(share * self.saved), done, halved) for share, done, halved in one["rates"]]
            self.converged = one["converged"]
        if self.patience and before.get("valid"):
            self.valid = dict(before["valid"])
            if not any(name.startswith(self.monitored) for name in self.valid):
                self.valid = self.validate()  # the saved measurement is of another measure
            self.best = self._score(self.valid)
        progress = checkpoint.progress(self.setup)
        if progress is not None:
            self.concluded, self.unweighed = progress.ended, progress.unweighed
        self.over = self.concluded or self.unweighed

    def _no_refit(self) -> None:
        """Raise a `ModelError` if a resumed run would continue the first training of a model that had a second one."""
        progress = checkpoint.progress(self.setup)
        if progress is None or not progress.ended or self.setup.refit == "no":
            raise ModelError(
                f"{self.setup.model_agent_path}: was trained a second time (refit), so its first training cannot be "
                "continued with another length or without refit; leave --resume out to train anew"
            )

    def _score(self, valid: Mapping[str, float]) -> float:
        """The monitored value; minus infinity during an algorithm's warm-up."""
        if self.agent.steps < self.setup.algorithm.unready:
            return -np.inf
        return next((value for name, value in valid.items() if name.startswith(self.monitored)), -np.inf)

    def record(self, step: Step) -> None:
        """Record a step; raise its alarms, and save if a save is due."""
        self.steps.append(step)
        self.unsaved = True
        self.targets += step.targets
        self.seconds = time.perf_counter() - self.start
        done = max(self.agent.spent, self.agent.histories / self.agent.horizon)
        alarms = () if self.agent.ranks.rank else self.alarms.look(step, done, self.agent.histories)
        for alarm in alarms:
            self.console.print(f"alarm {alarm}", style="yellow")
            if self.setup.stop_on_alarm:
                raise TrainingError(
                    f"training stopped {alarm}. The last save, if any, is kept at {self.setup.model_agent_path}; "
                    "`stop_on_alarm, no` trains on"
                )
        if self.agent.histories // self.save_every > self.saved // self.save_every:
            self._keep()

    def finish(self, *, ended: bool) -> None:
        """Save after the last step and measure what is saved; with patience, the agent takes the best weights.

        With patience, a run interrupted between two saves (not `ended`) does not measure or save its last steps: it
        resumes from its best save, and comes to the same end as an uninterrupted run. If the weighing of the counts is
        interrupted, agent and save are as before the weighing.
        """
        try:
            self._finish(ended=ended)
        except Interrupted:
            self.interrupted = True
            checkpoint.take_weights(self.agent)
            checkpoint.conclude(self.agent, self._concluded(), weighed=False)

    def _finish(self, *, ended: bool) -> None:
        if self.patience is None:
            self._save()  # first, because measuring may fail
            if ended:
                self.weighed = self.weigh()
            self.valid = self.validate()
            self._save()
            return
        if ended and not self.over and self.unsaved:
            self._keep()
        elif not ended and not self.kept:
            self._save()
        checkpoint.take_weights(self.agent)
        if ended and not self.concluded:
            if (weighed := self.weigh()) is not None:
                self.weighed, self.valid = weighed, self.validate()
            checkpoint.conclude(self.agent, self._concluded())

    def _concluded(self) -> dict[str, object]:
        """Metrics that the manifest of the best model gets when the run ends."""
        found: dict[str, object] = {"valid": dict(self.valid)} if self.valid else {}
        saved = read_manifest(self.setup.model_agent_path).metrics.get("recipes", ())
        if self.converged and len(saved) == 1:
            found["recipes"] = [saved[0] | {"converged": True}]
        return found | ({"weighed": self.weighed._asdict()} if self.weighed else {})

    def _save(self) -> None:
        """Write the current models; a `TrainingError` if no step had a loss, or a network got no gradient."""
        if self.steps and not self.resumed and not any(step.losses for step in self.steps):
            raise TrainingError(
                f"losses of {self.setup.algorithm.name!r} gives none at any of {len(self.steps):,} steps, so nothing "
                "was learned; a loss is due at the first step"
            )
        self._reaches()
        checkpoint.save(self.agent, self.rng, self.run, self._metrics())
        self.in_save = len(self.alarms.raised)
        if self.on_save is not None:
            self.on_save(dict(self.valid))

    def _reaches(self) -> None:
        """Raise a `TrainingError` if no step has counted so far, or a loss gave no gradient to a network it updates."""
        algorithm = self.setup.algorithm
        if self.resumed or len(self.steps) < max(REACHED, algorithm.unready):
            return
        if not any(step.targets for step in self.steps):
            raise TrainingError(
                f"{len(self.steps):,} batches had no step that counts, so nothing was learned: their histories have "
                "one event each, or `mask` of what_next.types.Batch is False throughout"
            )
        learned = {network_of(name) for name, one in self.agent.optimisers.items() if one.state}  # had a gradient
        idle = {network_of(name) for name in self.agent.optimisers} - learned
        for loss in {loss for step in self.steps for loss in step.losses} if idle else ():
            if named := [name for name in algorithm.updates[loss] if name in idle]:
                raise TrainingError(
                    f"the loss {loss!r} of {algorithm.name!r} updates {', '.join(named)}, and had no gradient for it "
                    f"in {len(self.steps):,} steps; compute the loss from it, or take it out of `updates`: "
                    "what_next.testing.check_algorithm finds such mistakes"
                )

    def _keep(self) -> None:
        """Save; with patience, only a model that is better than the best so far."""
        self.saved, self.unsaved = self.agent.histories, False
        self.kept = True
        self.rates.append(self._rate())
        valid = self.validate() if self.patience else {}
        score = self._score(valid)
        # The latest model is as good as any if nothing was measured, or if the measure stays 0 (warm-up, or all targets
        # are in the histories).
        if score > self.best or not valid or score == self.best <= 0:
            self.best, self.best_at, self.worse, self.valid = score, self.saved, 0, valid
            self._save()
            return
        self.worse += 1
        if self.patience and self.worse >= self.patience:
            self.worse, self.agent.halved = 0, self.agent.halved + 1
            self.over = self.converged = self.agent.halved >= HALVED
            if self.over:
                self.console.print(
                    f"training ends after {self.saved:,} histories: the model saved after {self.best_at:,} is still "
                    "the best on the validation users, and is kept",
                    highlight=False,
                )

    @property
    def alarmed(self) -> tuple[str, ...]:
        """The alarms; an alarm after the last save says that the kept model is older."""
        older = f"; the model that is kept is from before, after {self.best_at:,} {self.setup.unit}"
        return tuple(text + older * (place >= self.in_save) for place, text in enumerate(self.alarms.raised.values()))

    def _rate(self) -> tuple[int, float, int]:
        """The current row of `rates`: histories, share of the horizon, halvings of the learning rate."""
        agent = self.agent
        return agent.histories, max(agent.spent, agent.histories / agent.horizon), agent.halved

    def _recipe(self) -> Recipe:
        """The schedule of the training so far."""
        now = self._rate()
        rates = self.rates if self.rates[-1:] == [now] else [*self.rates, now]
        return Recipe.of(rates, self.made_on["counts"]["training users"])

    def _metrics(self) -> dict[str, object]:
        """The run's metrics in the manifest."""
        found: dict[str, object] = {
            "recipes": [self._recipe().as_json()],
            **self.made_on,
            "targets": self.targets + int(self.before["targets"]),
            "seconds": round(self.seconds + self.before["seconds"], 3),
        }
        if self.valid:
            found["valid"] = self.valid
        if self.weighed:
            found["weighed"] = self.weighed._asdict()
        if self.alarms.raised:
            found["alarms"] = list(self.alarms.raised.values())
        return found


def _worded(settings: Mapping[str, Any]) -> str:
    """Settings in a sentence."""
    return " and ".join(f"{name} {value}" for name, value in settings.items())
