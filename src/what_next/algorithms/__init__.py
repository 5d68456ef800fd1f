"""The algorithms: one file each, and the line here that makes it known.

An algorithm is a frozen pydantic model, so that its hyper-parameters are the object. Adding one is its file and its
line in `KNOWN`. Others are found through the entry point group `what_next.algorithms` of installed packages, or are
passed as an object from Python.
"""

import sys
import warnings
from importlib.metadata import entry_points

from what_next.algorithms.base import Algorithm
from what_next.algorithms.bcq import Bcq
from what_next.algorithms.cql import Cql
from what_next.algorithms.crr import Crr
from what_next.algorithms.ddpg import Ddpg
from what_next.algorithms.decision_transformer import DecisionTransformer
from what_next.algorithms.dqn import Dqn
from what_next.algorithms.hac import Hac
from what_next.algorithms.iql import Iql
from what_next.algorithms.next_item import NextItem
from what_next.algorithms.reinforce import Reinforce
from what_next.algorithms.sa2c import Sa2c
from what_next.algorithms.sac_rec import SacRec
from what_next.algorithms.snqn import Snqn
from what_next.algorithms.sqn import Sqn
from what_next.algorithms.td3 import Td3
from what_next.algorithms.td3_bc import Td3Bc
from what_next.algorithms.whatnext import WhatNext

KNOWN: tuple[type[Algorithm], ...] = (
    WhatNext,
    NextItem,
    Dqn,
    Sqn,
    SacRec,
    Snqn,
    Sa2c,
    Reinforce,
    Cql,
    Bcq,
    Iql,
    Crr,
    DecisionTransformer,
    Ddpg,
    Td3,
    Td3Bc,
    Hac,
)

__all__ = [
    "KNOWN",
    "Algorithm",
    "Bcq",
    "Cql",
    "Crr",
    "Ddpg",
    "DecisionTransformer",
    "Dqn",
    "Hac",
    "Iql",
    "NextItem",
    "Reinforce",
    "Sa2c",
    "SacRec",
    "Snqn",
    "Sqn",
    "Td3",
    "Td3Bc",
    "WhatNext",
    "known_algorithms",
]


LATER: set[tuple[str, str]] = set()
"""Module and name of algorithms whose module was itself being imported when they were looked for."""


def known_algorithms() -> dict[str, type[Algorithm]]:
    """The algorithms by name: the project's own, and those of installed packages (group `what_next.algorithms`).

    One whose module is just being imported, and imports this, is not made yet: it is noted in `LATER`.
    """
    known = {algorithm.model_fields["name"].default: algorithm for algorithm in KNOWN}
    for point in entry_points(group="what_next.algorithms"):
        if _being_imported(point.module):
            LATER.add((point.module, point.attr))
            continue
        try:
            algorithm = point.load()
            if not (isinstance(algorithm, type) and issubclass(algorithm, Algorithm)):
                raise TypeError(f"{algorithm!r} is no subclass of what_next.algorithms.Algorithm")
            name = algorithm.model_fields["name"].default
        except Exception as error:  # a stranger's import may fail in any way, and must not take the others along
            warnings.warn(f"the algorithm {point.name} ({point.value}) cannot be loaded: {error!r}", stacklevel=2)
            continue
        if name in known:
            warnings.warn(f"the algorithm {point.value} is left out: the name {name!r} is taken", stacklevel=2)
        else:
            known[name] = algorithm
    return known


def _being_imported(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))
