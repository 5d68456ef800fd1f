"""What Next?: recommenders that learn from what happens next. The common names; the rest is in the modules.

Names are imported on first use: importing the package imports nothing else, so that a program can catch Ctrl-C before
PyTorch is loaded, and a module with an algorithm may be imported before the package or by it.
"""

from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from what_next.agent import Agent as Agent
    from what_next.algorithms import Algorithm as Algorithm
    from what_next.algorithms import WhatNext as WhatNext
    from what_next.data import Catalogue as Catalogue
    from what_next.data import Dataset as Dataset
    from what_next.environment import Environment as Environment
    from what_next.environment import Report as Report
    from what_next.experiments.simulation import play as play
    from what_next.experiments.simulation import simulate as simulate
    from what_next.inference.recommendation import Recommendation as Recommendation
    from what_next.inference.recommender import Recommender as Recommender
    from what_next.models import AgentModel as AgentModel
    from what_next.models import CriticModel as CriticModel
    from what_next.policy import LearnedPolicy as LearnedPolicy
    from what_next.python import LensKitScorer as LensKitScorer
    from what_next.python import Model as Model
    from what_next.python import RecToolsModel as RecToolsModel
    from what_next.python import fit as fit
    from what_next.python import load as load
    from what_next.python import pull as pull
    from what_next.python import push as push
    from what_next.settings import Setup as Setup
    from what_next.settings import register as register
    from what_next.state import State as State

__version__ = version("what-next-rl")

_HOMES = {
    "Agent": "agent",
    "AgentModel": "models",
    "Algorithm": "algorithms",
    "Catalogue": "data",
    "CriticModel": "models",
    "Dataset": "data",
    "Environment": "environment",
    "LearnedPolicy": "policy",
    "LensKitScorer": "python",
    "Model": "python",
    "RecToolsModel": "python",
    "Recommendation": "inference.recommendation",
    "Recommender": "inference.recommender",
    "Report": "environment",
    "Setup": "settings",
    "State": "state",
    "WhatNext": "algorithms",
    "fit": "python",
    "load": "python",
    "pull": "python",
    "push": "python",
    "register": "settings",
    "play": "experiments.simulation",
    "simulate": "experiments.simulation",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"what_next.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"what_next.{name}"):  # a module, as `what_next.errors`
        return import_module(f"what_next.{name}")
    raise AttributeError(f"module 'what_next' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
