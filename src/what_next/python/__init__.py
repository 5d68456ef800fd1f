"""The Python interface: `fit` and `load` return a `Model`, which recommends, can be evaluated, and can be saved.

It is built on the objects behind the command line: `Setup`, `Environment`, `LearnedPolicy`, `Recommender`, the
evaluator and the report.
"""

from what_next.python.fitting import fit, load
from what_next.python.hub import pull, push
from what_next.python.model import Model
from what_next.python.others import LensKitScorer, RecToolsModel
from what_next.python.results import Page, Results

__all__ = ["LensKitScorer", "Model", "Page", "RecToolsModel", "Results", "fit", "load", "pull", "push"]
