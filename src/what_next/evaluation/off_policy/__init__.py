"""Off-policy evaluation: what a policy would have earned, from the log of another."""

from what_next.evaluation.off_policy.decisions import Decisions, Target
from what_next.evaluation.off_policy.diagnostics import Thresholds
from what_next.evaluation.off_policy.estimate import difference, estimate
from what_next.evaluation.off_policy.log import Options

__all__ = ["Decisions", "Options", "Target", "Thresholds", "difference", "estimate"]
