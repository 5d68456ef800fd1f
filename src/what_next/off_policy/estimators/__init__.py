"""Off-policy evaluation: what a policy would have earned, from the log of another."""

from what_next.off_policy.estimators.decisions import Decisions, Target
from what_next.off_policy.estimators.diagnostics import Thresholds
from what_next.off_policy.estimators.estimate import difference, estimate
from what_next.off_policy.estimators.log import Options

__all__ = ["Decisions", "Options", "Target", "Thresholds", "difference", "estimate"]
