"""The algorithms: one file each, and the line here that makes it known.

An algorithm is a frozen pydantic model, so that its hyper-parameters are the object. Adding one is its file and its
line in `KNOWN`. Others are found through the entry point group `what_next.algorithms` of installed packages
(`settings.plugins`), or are passed as an object from Python.
"""

from what_next.algorithms.a2c import A2c
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
from what_next.algorithms.ppo import Ppo
from what_next.algorithms.reinforce import Reinforce
from what_next.algorithms.sa2c import Sa2c
from what_next.algorithms.sac import Sac
from what_next.algorithms.sac_rec import SacRec
from what_next.algorithms.slateq import Slateq
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
    A2c,
    Ppo,
    Slateq,
    Sac,
)

__all__ = [
    "KNOWN",
    "A2c",
    "Algorithm",
    "Bcq",
    "Cql",
    "Crr",
    "Ddpg",
    "Dqn",
    "Hac",
    "Iql",
    "NextItem",
    "Ppo",
    "Reinforce",
    "Sa2c",
    "Sac",
    "SacRec",
    "Slateq",
    "Snqn",
    "Sqn",
    "Td3",
    "Td3Bc",
    "WhatNext",
]
