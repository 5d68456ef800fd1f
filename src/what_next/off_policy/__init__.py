"""What would a policy have earned, and is it better than another? Judged on a log of decisions, off-policy."""

from what_next.off_policy.judge import estimate_policy, gate
from what_next.off_policy.learned import Learned
from what_next.off_policy.reading import LogSettings

__all__ = ["Learned", "LogSettings", "estimate_policy", "gate"]
