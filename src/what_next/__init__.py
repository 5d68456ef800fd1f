"""What Next?: recommenders that learn from what happens next. The common names; the rest is in the modules."""

import gc
from importlib.metadata import version

__version__ = version("what-next-rl")

_collects = gc.isenabled()
gc.disable()  # what is imported stays: looking through it for garbage takes a sixth of the time
try:
    from what_next.agent import Agent
    from what_next.algorithms import Algorithm, WhatNext
    from what_next.data import Catalogue, Dataset
    from what_next.environment import Environment
    from what_next.policy import LearnedPolicy
    from what_next.recommendation import Recommendation
    from what_next.recommender import Recommender, load
    from what_next.report import Report
    from what_next.settings import Setup
    from what_next.state import State
finally:
    if _collects:
        gc.enable()

__all__ = [
    "Agent",
    "Algorithm",
    "Catalogue",
    "Dataset",
    "Environment",
    "LearnedPolicy",
    "Recommendation",
    "Recommender",
    "Report",
    "Setup",
    "State",
    "WhatNext",
    "__version__",
    "load",
]
