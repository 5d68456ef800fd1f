"""What would a policy have earned, and is it better than another? Judged on a log of decisions, off-policy.

Names are looked up when they are first used: whoever joins decisions to histories needs no estimator.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from what_next.off_policy.judge import estimate_policy, gate
    from what_next.off_policy.learned import Learned
    from what_next.off_policy.reading import LogSettings

_HOMES = {"Learned": "learned", "LogSettings": "reading", "estimate_policy": "judge", "gate": "judge"}

__all__ = ["Learned", "LogSettings", "estimate_policy", "gate"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
