"""Off-policy evaluation on a log of decisions: what a policy would have earned, and whether it beats another."""

from what_next.off_policy.judge import estimate_policy, gate
from what_next.off_policy.learned import Learned
from what_next.off_policy.reading import LogSettings

__all__ = ["Learned", "LogSettings", "estimate_policy", "gate"]
