"""Python's own way in: `fit` and `load` give a `Model`, which recommends, is judged, and is saved.

Underneath are the objects of the command line: `Setup`, `Environment`, `LearnedPolicy`, `Recommender`, the evaluator
and the report.
"""

from what_next.python.fitting import fit, load
from what_next.python.hub import pull, push
from what_next.python.model import Model
from what_next.python.others import LensKitScorer, RecToolsModel
from what_next.python.results import Page, Results

__all__ = ["LensKitScorer", "Model", "Page", "RecToolsModel", "Results", "fit", "load", "pull", "push"]
