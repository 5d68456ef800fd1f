"""Guard rails: signs in the steps of a run that learning has gone wrong, told once each."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from what_next.training.step import Step

MEMORY = 30
"""An alarm is about the mean of so many diagnoses, so that one odd batch raises none."""
WARM_UP = 0.2
"""Share of a run in which a critic need not explain anything yet."""
SLACK = 1.5
"""A value estimate may exceed the largest possible return by this factor: it is an estimate."""
TOP_SHARE = 0.5
"""One item in more than this share of all recommendations has taken over."""
LEAST_ENTROPY = 0.02
"""A policy's entropy below this share of the uniform policy's has collapsed."""
LARGEST_WEIGHT = 1000.0
"""An importance weight above this makes one step count for a thousand."""
EXPLAINED = 0.01
"""A critic that explains less than this share of the variance of the returns explains nothing."""


@dataclass(eq=False)
class Alarms:
    """Looks at every step.

    Attributes:
        discount: of the returns that a critic learns; 0 for a one-step critic.
        told: every alarm so far, in words, by its name.
    """

    discount: float
    told: dict[str, str] = field(default_factory=dict)
    _largest: float = 0.0
    _notes: dict[str, deque[float]] = field(default_factory=dict)

    def look(self, step: Step, done: float) -> list[str]:
        """The alarms that this step raises for the first time; `done` is the share of the run behind it."""
        for name, value in {**step.notes, "value": abs(step.value)}.items():
            self._notes.setdefault(name, deque(maxlen=MEMORY)).append(value)
        self._largest = max(self._largest, step.notes.get("largest_reward", 0.0))
        new = {name: text for name, text in self._found(done).items() if name not in self.told}
        self.told |= new
        return list(new.values())

    def _found(self, done: float) -> Mapping[str, str]:
        found = {}
        bound = self._largest / (1 - self.discount)
        mean = {name: float(np.mean(values)) for name, values in self._notes.items() if len(values) == MEMORY}
        if self._largest and mean.get("value", 0.0) > SLACK * bound:
            found["diverging"] = (
                f"the critic expects {mean['value']:.3g} on average, and no return can exceed {bound:.3g} (largest "
                f"reward {self._largest:.3g}, discount {self.discount:g}): it diverges; lower learning_rate or tau"
            )
        if mean.get("top_share", 0.0) > TOP_SHARE:
            found["one item"] = (
                f"one item is the first recommendation in {mean['top_share']:.0%} of all states: it has taken over"
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
                f"the critic explains {max(0.0, mean['explained']):.1%} of the variance of the returns: what follows "
                "it is noise; compare with `next_item`"
            )
        return found
