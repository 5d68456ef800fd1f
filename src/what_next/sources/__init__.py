"""What an agent makes of histories: trials of items (the founding algorithm), or transitions of the log."""

import torch

from what_next.data.space import Space
from what_next.settings import Setup
from what_next.sources.base import Experience, Told, follow
from what_next.sources.log import LogExperience
from what_next.sources.trials import TrialExperience

__all__ = ["Experience", "LogExperience", "Told", "TrialExperience", "experience_of", "follow"]


def experience_of(setup: Setup, space: Space, device: torch.device) -> Experience:
    """The one that the setup's algorithm learns from."""
    return (TrialExperience if setup.algorithm.trials else LogExperience)(setup, space, device)
