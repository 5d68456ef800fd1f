"""What anybody can run: does an installation work, and does a part of their own keep the house's promises?"""

from what_next.testing.conformance import CHECKS as CHECKS
from what_next.testing.conformance import check_algorithm as check_algorithm
from what_next.testing.installation import made_up_log as made_up_log
from what_next.testing.installation import run_tests as run_tests
from what_next.testing.parts import check_encoder as check_encoder
from what_next.testing.parts import check_reward as check_reward
from what_next.testing.parts import check_world as check_world
from what_next.testing.rig import Rig as Rig
