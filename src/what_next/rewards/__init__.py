"""Rewards: what the critic learns to foresee, and what algorithms that learn from the log earn. One file each."""

from collections.abc import Mapping

from what_next.rewards.base import NEVER, Heard, Reward
from what_next.rewards.diversity import Diversity
from what_next.rewards.log import Log
from what_next.rewards.logged import Logged
from what_next.rewards.novelty import Novelty
from what_next.rewards.profile_correlation import ProfileCorrelation
from what_next.rewards.repeat import Repeat
from what_next.rewards.return_time import ReturnTime
from what_next.rewards.serendipity import Serendipity
from what_next.rewards.spread import Samples, Spread, population_sigma, prospects, spread_reward
from what_next.rewards.total import check, total, weighted

REWARDS: Mapping[str, type[Reward]] = {
    "spread": Spread,
    "logged": Logged,
    "profile_correlation": ProfileCorrelation,
    "diversity": Diversity,
    "novelty": Novelty,
    "serendipity": Serendipity,
    "repeat": Repeat,
    "return_time": ReturnTime,
}
"""Every reward that a setup may give a weight (`reward.NAME.weight`)."""

__all__ = [
    "NEVER",
    "REWARDS",
    "Diversity",
    "Heard",
    "Log",
    "Logged",
    "Novelty",
    "ProfileCorrelation",
    "Repeat",
    "ReturnTime",
    "Reward",
    "Samples",
    "Serendipity",
    "Spread",
    "check",
    "population_sigma",
    "prospects",
    "spread_reward",
    "total",
    "weighted",
]
