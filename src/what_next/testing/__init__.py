"""Checks for users: that an installation works, and that their own parts keep this package's contracts."""

from what_next.testing.conformance import CHECKS, check_algorithm
from what_next.testing.installation import made_up_log, run_tests
from what_next.testing.parts import check_encoder, check_reward, check_world
from what_next.testing.rig import Rig

__all__ = [
    "CHECKS",
    "Rig",
    "check_algorithm",
    "check_encoder",
    "check_reward",
    "check_world",
    "made_up_log",
    "run_tests",
]
