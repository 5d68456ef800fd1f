"""What goes on beside the steps of a run: models are saved, validation decides when to stop, alarms are looked for."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int32

from what_next.errors import ModelError, TrainingError, line_console
from what_next.training import checkpoint
from what_next.training.artefacts import read_manifest
from what_next.training.interrupts import Interrupted
from what_next.training.refit import Recipe
from what_next.training.sharding import Training
from what_next.training.step import Step, network_of
from what_next.training.weighing import Weighed

MEMORY = 30
"""An alarm is about the mean of so many diagnoses, so that one odd batch raises none."""
SHARES, FEWEST = frozenset({"top_item", "top_share", "explained"}), 32
"""Diagnoses that are shares, and the fewest steps of which one counts. Of fewer it is noise, however many are averaged:
the top item of a single state has 100 %, and a critic that explains a tenth of normal returns explains less than
nothing of most pairs, and of 16 now and then."""
WARM_UP = 0.2
"""Share of a run in which a critic may start anywhere, and one item may lead: popularity comes first."""
SLACK = 1.5
"""A value estimate may exceed the largest possible return by this factor: it is an estimate."""
TOP_SHARE = 0.5
"""One item that is first in more than this share of the states, beside those that are its own by the log, has taken
over: of an item with .4 of the events that is .4 + .5 * .6."""
LEAST_ENTROPY = 0.02
"""A policy's entropy below this share of the uniform policy's has collapsed."""
LARGEST_WEIGHT = 1000.0
"""An importance weight above this makes one step count for a thousand."""
HALVED = 4
"""The learning rate is halved so often, at most: with the last time the run is over."""
REACHED = 10
"""Of so many steps one counts, and every network has a gradient from one; a single step may be without."""
EXPLAINED = 0.01
"""A critic that explains less than this share of the variance of the returns explains nothing."""


@dataclass(eq=False)
class Alarms:
    """Signs in the steps of a run that learning has gone wrong, each raised once.

    Attributes:
        discount: of the returns that a critic learns; 0 for a one-step critic.
        unit: what the length of the run is counted in; `ranks`: how many processes share a step.
        counts: events of each item in the log, where they are known.
        raised: every alarm so far, in words that begin with when it was, by its name.
    """

    discount: float
    unit: str = "histories"
    ranks: int = 1
    counts: Int32[np.ndarray, "items"] | None = None
    raised: dict[str, str] = field(default_factory=dict)
    _largest: float = 0.0
    _metrics: dict[str, deque[float]] = field(default_factory=dict)

    def look(self, step: Step, done: float, histories: int) -> list[str]:
        """The alarms that this step raises for the first time, after so many histories; `done`: share of the run."""
        for name, value in {**step.metrics, "value": abs(step.value)}.items():
            if name not in SHARES or step.targets >= FEWEST * self.ranks:  # a process looks at its own part
                self._metrics.setdefault(name, deque(maxlen=MEMORY)).append(value)
        self._largest = max(self._largest, step.metrics.get("largest_reward", 0.0))
        found = self._found(done).items()
        new = {name: f"after {histories:,} {self.unit}: {text}" for name, text in found if name not in self.raised}
        self.raised |= new
        return list(new.values())

    def _found(self, done: float) -> Mapping[str, str]:
        found = {}
        bound = self._largest / (1 - self.discount)
        mean = {name: float(np.mean(values)) for name, values in self._metrics.items() if len(values) == MEMORY}
        if done > WARM_UP and self._largest and mean.get("value", 0.0) > SLACK * bound:
            found["diverging"] = (
                f"the critic expects {mean['value']:.3g} on average, and no return can exceed {bound:.3g} (largest "
                f"reward {self._largest:.3g}, discount {self.discount:g}): it diverges; lower learning_rate or tau"
            )
        share, logged = self._leader() if done > WARM_UP and "top_share" in mean else (0.0, 0.0)
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
        if done > WARM_UP and mean.get("explained", 1.0) < EXPLAINED:
            found["critic"] = (
                f"the critic explains {max(0.0, mean['explained']):.2%} of the variance of the returns: what follows "
                "it is noise; compare with `next_item`, or in a world with its references"
            )
        return found

    def _leader(self) -> tuple[float, float]:
        """In what share of the states the same item is first, at least (of each batch only its leader is known), and
        what share of the log's events it has."""
        sums = dict.fromkeys(self._metrics["top_item"], 0.0)
        for item, share in zip(self._metrics["top_item"], self._metrics["top_share"], strict=True):
            sums[item] += share
        item = max(sums, key=sums.__getitem__)
        share, logged = sums[item] / MEMORY, 0.0
        if share > TOP_SHARE and self.counts is not None:  # or else it has not taken over in any case
            logged = float(self.counts[int(item)] / max(1, self.counts.sum()))
        return share, logged


@dataclass(eq=False)
class Monitor:
    """Keeps a run's steps, saves its models, and says when it is over.

    With `patience`, the models are measured at every save, and only better ones are written: the best is kept, and a
    resumed run goes on from there, over the same steps again. Where nothing better comes, the learning rate is halved
    first: most of what a smaller one has to give, it gives within a pass or two. Each of several processes has a
    monitor, and all of these decide alike.

    A resumed run that was made on another split or other events, or with another loss or batches than the data decide
    now, is a `ModelError`.

    Attributes:
        agent: what learns; `rng`: all random numbers of the run; `run`: its id.
        validate: measures the agent on the validation users; `weigh`: the last word on the trained agent, which says
            whether it changed anything; `monitored`: by which of what was measured the best model is chosen.
        made_on: what the model's file and its card say of the data: their name, how much they hold (`counts`), the hash
            of their `split`, the checksum of their `events`, and what they decided (`fitted`).
        save_every: histories between two saves.
        patience: the setup's, or None where nothing can be chosen by validation users (`Environment._foresees`).
        resumed: whether it goes on from the last save.
        on_save: called after each save with the last measurement; `quiet`: nothing is printed.
        steps: what each step showed; `targets`: how many counted; `seconds`: how long all took.
        valid: the last measurement on the validation users.
        over: no step follows: nothing better came for as long as `patience` says, at the last rate either, or the run
            that is resumed had taken its last one.
        interrupted: counts of the log were not weighed to the end; a resumed run does that alone.
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
        self.console = line_console(quiet=self.quiet)
        self.alarms = Alarms(
            0.0 if self.setup.algorithm.one_step else self.setup.discount,
            self.setup.unit,
            self.agent.ranks.count,
            self.agent.space.counts,
        )
        self.in_save = 0  # of the alarms
        self.rates: list[tuple[int, float, int]] = []  # see `Recipe.of`
        self.weighed: Weighed | None = None
        self.converged = False
        self.start = time.perf_counter()
        self.before: dict[str, float] = {"targets": 0, "seconds": 0.0}  # of the run that is resumed
        self.best_at = self.saved
        self.best, self.worse, self.kept, self.unsaved = -np.inf, 0, self.resumed, False
        self.concluded = self.unweighed = False  # what is resumed
        if self.resumed:
            self._resume(read_manifest(self.setup.model_agent_path).metrics)

    def _resume(self, before: Mapping[str, Any]) -> None:
        """Take over what the last save says of the run so far."""
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
                self.valid = self.validate()  # the best was chosen by another measure
            self.best = self._score(self.valid)
        progress = checkpoint.progress(self.setup)
        if progress is not None:
            self.concluded, self.unweighed = progress.ended, progress.unweighed
        self.over = self.concluded or self.unweighed

    def _no_refit(self) -> None:
        """Raises a `ModelError` where a model that was trained a second time would go on with its first training."""
        progress = checkpoint.progress(self.setup)
        if progress is None or not progress.ended or self.setup.refit == "no":
            raise ModelError(
                f"{self.setup.model_agent_path}: was trained a second time (refit), so that its first training, whose "
                "length or settings the setup changes, cannot go on; leave --resume out to train anew"
            )

    def _score(self, valid: Mapping[str, float]) -> float:
        """The monitor's value; that of an algorithm in its warm-up is none."""
        if self.agent.steps < self.setup.algorithm.unready:
            return -np.inf
        return next((value for name, value in valid.items() if name.startswith(self.monitored)), -np.inf)

    def record(self, step: Step) -> None:
        """One more step was taken."""
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
        """The last step was taken: save, and measure what is saved; with patience, the agent takes the best weights.

        With patience, what lies between two saves is not measured: a run that is interrupted there (not `ended`) goes
        on from its best save, and comes to the same end as one that was not. Interrupted in the last word, the agent is
        as before it, and so is what is saved.
        """
        try:
            self._finish(ended=ended)
        except Interrupted:
            self.interrupted = True
            checkpoint.take_weights(self.agent)
            checkpoint.conclude(self.agent, self._concluded(), weighed=False)

    def _finish(self, *, ended: bool) -> None:
        if self.patience is None:
            self._save()  # measuring may fail
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
        """What the manifest of the best model says besides, once the run is over."""
        found: dict[str, object] = {"valid": dict(self.valid)} if self.valid else {}
        saved = read_manifest(self.setup.model_agent_path).metrics.get("recipes", ())
        if self.converged and len(saved) == 1:
            found["recipes"] = [saved[0] | {"converged": True}]
        return found | ({"weighed": self.weighed._asdict()} if self.weighed else {})

    def _save(self) -> None:
        """Write the models as they are; a `TrainingError` where nothing has moved them, or one of their networks."""
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
        """Raises a `TrainingError` where no step has counted so far, or a loss gave no gradient to what it updates."""
        algorithm = self.setup.algorithm
        if self.resumed or len(self.steps) < max(REACHED, algorithm.unready):
            return
        if not any(step.targets for step in self.steps):
            raise TrainingError(
                f"{len(self.steps):,} batches had no step that counts, so nothing was learned: their histories have "
                "one event each, or `mask` of what_next.types.Batch is False throughout"
            )
        learned = {network_of(name) for name, one in self.agent.optimisers.items() if one.state}  # Adam's moments
        idle = {network_of(name) for name in self.agent.optimisers} - learned
        for loss in {loss for step in self.steps for loss in step.losses} if idle else ():
            if named := [name for name in algorithm.updates[loss] if name in idle]:
                raise TrainingError(
                    f"the loss {loss!r} of {algorithm.name!r} updates {', '.join(named)}, and had no gradient for it "
                    f"in {len(self.steps):,} steps; compute the loss from it, or take it out of `updates`: "
                    "what_next.testing.check_algorithm tells such things"
                )

    def _keep(self) -> None:
        """Save; with patience, only what is better than before."""
        self.saved, self.unsaved = self.agent.histories, False
        self.kept = True
        self.rates.append(self._rate())
        valid = self.validate() if self.patience else {}
        score = self._score(valid)
        # Nothing measured, or nothing as before (in a warm-up, or where all targets stand in the histories): the latest
        # is as good as any.
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
        """The alarms; those that came after the model that is kept say so."""
        older = f"; the model that is kept is from before, after {self.best_at:,} {self.setup.unit}"
        return tuple(text + older * (place >= self.in_save) for place, text in enumerate(self.alarms.raised.values()))

    def _rate(self) -> tuple[int, float, int]:
        """What the learning rate follows, now."""
        agent = self.agent
        return agent.histories, max(agent.spent, agent.histories / agent.horizon), agent.halved

    def _recipe(self) -> Recipe:
        """How the agent was trained so far."""
        now = self._rate()
        rates = self.rates if self.rates[-1:] == [now] else [*self.rates, now]
        return Recipe.of(rates, self.made_on["counts"]["training users"])

    def _metrics(self) -> dict[str, object]:
        """What the manifest says of the run."""
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
