"""What goes on beside the steps of a run: models are saved, validation decides when to stop, alarms are looked for."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from what_next.agent import Agent
from what_next.errors import ModelError, SetupError, TrainingError
from what_next.state import State
from what_next.training import checkpoint
from what_next.training.alarms import Alarms
from what_next.training.artefacts import read_manifest
from what_next.training.fitting import fitted
from what_next.training.step import Step
from what_next.training.validation import validate


class Watch:
    """Keeps a run's steps, saves its models, and says when it is over.

    With `patience`, the models are measured at every save, and only better ones are written: the best is kept, and a
    resumed run goes on from there, over the same steps again.

    Attributes:
        steps: what each step showed; `targets`: how many counted; `seconds`: how long all took.
        valid: the last measurement on the validation users.
        over: nothing better came for as long as `patience` says.
    """

    def __init__(
        self, agent: Agent, state: State, rng: np.random.Generator, run: str, *, resumed: bool = False
    ) -> None:
        """Of a new run, or of one that is gone on with; says what the data decided, and why.

        Raises:
            SetupError: there is `patience`, and nobody to measure on.
            ModelError: the run was made on another split, or with another loss or batches than the data decide now.
        """
        self.agent, self.state, self.rng, self.run = agent, state, rng, run
        self.setup = agent.setup
        self.made_on: dict[str, Any] = {"data": state.dataset.name, "split": state.split.hash}
        if found := fitted(self.setup, state):
            self.made_on["fitted"] = found.values
            for reason in found.reasons:
                Console(stderr=True, soft_wrap=True).print(reason, highlight=False)
        self.alarms = Alarms(0.0 if self.setup.algorithm.trials else self.setup.discount)
        self.steps: list[Step] = []
        self.targets, self.saved = 0, agent.histories
        self.start, self.seconds = time.perf_counter(), 0.0
        self.before: dict[str, float] = {"targets": 0, "seconds": 0.0}  # of the run that is gone on with
        self.valid: dict[str, float] = {}
        self.best, self.worse, self.over = -np.inf, 0, False
        if self.setup.patience and not len(state.split.validation):
            raise SetupError("patience is set, and the split has no validation users; raise split.validation")
        if resumed:
            self._go_on(read_manifest(self.setup.model_agent_path).metrics)

    def _go_on(self, before: Mapping[str, Any]) -> None:
        """Take over what the last save says of the run so far."""
        if before.get("split", self.made_on["split"]) != self.made_on["split"]:
            raise ModelError(
                f"{self.setup.model_agent_path}: was trained on split {before['split']}, and {self.setup.data} is now "
                f"split as {self.made_on['split']}; train anew, or start from it with --from"
            )
        if before.get("fitted", self.made_on.get("fitted")) != self.made_on.get("fitted"):
            raise ModelError(
                f"{self.setup.model_agent_path}: was trained with {_worded(before['fitted'])}, and the data decide for "
                f"{_worded(self.made_on['fitted'])} now; train anew, or start from it with --from"
            )
        self.before = {name: before.get(name, 0) for name in self.before}
        if self.setup.patience and before.get("valid"):
            self.valid = dict(before["valid"])
            self.best = self._score(self.valid)

    def _score(self, valid: Mapping[str, float]) -> float:
        """The monitor's value."""
        return next((value for name, value in valid.items() if name.startswith(self.monitor)), -np.inf)

    def see(self, step: Step) -> None:
        """One more step was taken."""
        self.steps.append(step)
        self.targets += step.targets
        self.seconds = time.perf_counter() - self.start
        for alarm in self.alarms.look(step, self.agent.histories / self.agent.horizon):
            Console(stderr=True).print(f"alarm after {self.agent.histories:,} histories: {alarm}", style="yellow")
            if self.setup.stop_on_alarm:
                raise TrainingError(
                    f"training stopped after {self.agent.histories:,} histories: {alarm}. The last save, if any, is "
                    f"kept at {self.setup.model_agent_path}; `stop_on_alarm, no` trains on"
                )
        if self.agent.histories - self.saved >= self.setup.save_every:
            self._keep()

    def finish(self) -> None:
        """The last step was taken: save, and measure what is saved."""
        if self.setup.patience is None:
            checkpoint.save(self.agent, self.rng, self.run, self._metrics())  # measuring may fail
            self.valid = validate(self.agent, self.state)
            checkpoint.save(self.agent, self.rng, self.run, self._metrics())
        elif not self.over and self.saved != self.agent.histories:
            self._keep()

    def _keep(self) -> None:
        """Save; with patience, only what is better than before."""
        self.saved = self.agent.histories
        if self.setup.patience is None:
            checkpoint.save(self.agent, self.rng, self.run, self._metrics())
            return
        valid = validate(self.agent, self.state)
        score = self._score(valid)
        if score > self.best:
            self.best, self.worse, self.valid = score, 0, valid
            checkpoint.save(self.agent, self.rng, self.run, self._metrics())
            return
        self.worse += 1
        self.over = self.worse >= self.setup.patience

    @property
    def monitor(self) -> str:
        """What is compared."""
        return self.setup.monitor or ("spread" if self.setup.algorithm.trials else "ndcg@10")

    def _metrics(self) -> dict[str, object]:
        """What the manifest says of the run."""
        found: dict[str, object] = {
            **self.made_on,
            "targets": self.targets + int(self.before["targets"]),
            "seconds": round(self.seconds + self.before["seconds"], 3),
        }
        if self.valid:
            found["valid"] = self.valid
        if self.alarms.told:
            found["alarms"] = list(self.alarms.told.values())
        return found


def _worded(fitted: Mapping[str, Any]) -> str:
    """Settings in a sentence."""
    return " and ".join(f"{name} {value}" for name, value in fitted.items())
