"""Rewards: what the critic learns to predict, and what algorithms that learn from the log optimise."""

from collections.abc import Mapping

from what_next.rewards.base import NEVER, Events, Reward
from what_next.rewards.beyond import Diversity, Novelty, ProfileCorrelation, Repeat, ReturnTime, Serendipity
from what_next.rewards.log import RewardLog, check, total, weighted
from what_next.rewards.logged import Logged
from what_next.rewards.spread import Samples, Spread, population_sigma, prospects, spread_reward

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
    "NEVER", "REWARDS", "Diversity", "Events", "Logged", "Novelty", "ProfileCorrelation", "Repeat", "ReturnTime",
    "Reward", "RewardLog", "Samples", "Serendipity", "Spread", "check", "population_sigma", "prospects",
    "spread_reward", "total", "weighted",
]  # fmt: skip
