"""The algorithms: one file each, registered by a line here.

An algorithm is a frozen pydantic model whose fields are its hyper-parameters. To add one, add its file and its line in
`KNOWN`. Others come through the entry point group `what_next.algorithms` of installed packages (`settings.plugins`), or
are passed as an object from Python.
"""

from what_next.algorithms.a2c import A2c as A2c
from what_next.algorithms.base import Algorithm as Algorithm
from what_next.algorithms.bcq import Bcq as Bcq
from what_next.algorithms.cql import Cql as Cql
from what_next.algorithms.crr import Crr as Crr
from what_next.algorithms.ddpg import Ddpg as Ddpg
from what_next.algorithms.decision_transformer import DecisionTransformer as DecisionTransformer
from what_next.algorithms.dqn import Dqn as Dqn
from what_next.algorithms.hac import Hac as Hac
from what_next.algorithms.iql import Iql as Iql
from what_next.algorithms.next_item import NextItem as NextItem
from what_next.algorithms.ppo import Ppo as Ppo
from what_next.algorithms.reinforce import Reinforce as Reinforce
from what_next.algorithms.sa2c import Sa2c as Sa2c
from what_next.algorithms.sac import Sac as Sac
from what_next.algorithms.sac_rec import SacRec as SacRec
from what_next.algorithms.slateq import Slateq as Slateq
from what_next.algorithms.snqn import Snqn as Snqn
from what_next.algorithms.sqn import Sqn as Sqn
from what_next.algorithms.td3 import Td3 as Td3
from what_next.algorithms.td3_bc import Td3Bc as Td3Bc
from what_next.algorithms.whatnext import WhatNext as WhatNext

KNOWN: tuple[type[Algorithm], ...] = (
    WhatNext, NextItem, Dqn, Sqn, SacRec, Snqn, Sa2c, Reinforce, Cql, Bcq, Iql, Crr, DecisionTransformer, Ddpg, Td3,
    Td3Bc, Hac, A2c, Ppo, Slateq, Sac,
)  # fmt: skip
