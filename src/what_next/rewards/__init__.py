"""Rewards: what the critic learns to foresee. One file each."""

from what_next.rewards.spread import Samples, population_sigma, prospects, spread_reward

__all__ = ["Samples", "population_sigma", "prospects", "spread_reward"]
