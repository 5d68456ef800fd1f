"""What a run returns: what it trained on and how that went, or what it recommends."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from what_next.inference.recommendation import Recommendation
from what_next.training.step import Step


@dataclass(frozen=True)
class Report:
    """The outcome of `Environment.run_sim`.

    Attributes:
        histories: user histories trained on, in all; `targets`: steps of them that counted, in this run.
        seconds: of training in this run.
        steps: what each step of this run showed; empty for an inference.
        valid: measured on the validation users, which training never saw: see `validation.validate`.
        saved: where the models are.
        recommendations: of an inference; empty for a training.
        passes: the histories, counted in passes over the training users.
        alarms: signs that learning has gone wrong (`alarms.Alarms`).
        stopped: training was interrupted before its end, and can go on.
    """

    histories: int
    targets: int = 0
    seconds: float = 0.0
    steps: tuple[Step, ...] = ()
    valid: dict[str, float] | None = None
    saved: tuple[Path, ...] = ()
    recommendations: tuple[Recommendation, ...] = ()
    passes: float = 0.0
    alarms: tuple[str, ...] = ()
    stopped: bool = False

    def as_json(self) -> dict[str, Any]:
        """What `what-next run` and `train` print with `--json`."""
        if self.recommendations:
            return {"recommendations": [asdict(one) for one in self.recommendations]}
        return {
            "histories": self.histories,
            "passes": round(self.passes, 3),
            "targets": self.targets,
            "seconds": round(self.seconds, 3),
            "targets_per_s": round(self.targets / self.seconds, 1) if self.seconds else None,
            "valid": self.valid,
            "saved": [str(path) for path in self.saved],
            "alarms": list(self.alarms),
            "stopped": self.stopped,
        }

    def __rich__(self) -> RenderableType:
        """A few lines for people."""
        if self.recommendations:
            return Group(*self.recommendations)
        told = f"trained on {self.histories:,} histories ({self.passes:.1f} passes over the training users)"
        lines = [f"{told}; {self.targets:,} targets in {self.seconds:.0f} s"]
        if self.steps:
            last = self.steps[-max(1, len(self.steps) // 10) :]
            reward, fallback = (
                sum(getattr(step, name) for step in last) / len(last) for name in ("reward", "fallback")
            )
            lines.append(f"last tenth of training: reward {reward:+.4f}, fallbacks {fallback:.1%}")
        if self.valid:
            measured = ", ".join(f"{name} {value:.4g}" for name, value in self.valid.items())
            lines.append(f"on validation users, never trained on: {measured}")
        lines += [f"ALARM: {alarm}" for alarm in self.alarms]
        lines += [f"saved {path}" for path in self.saved]
        return Text("\n".join(lines))
