"""SARDINE's environments (`sardine-rec`, Deffayet et al. 2023), as they are."""

from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from what_next.worlds.layouts import Bounds, Layout, Seen, Step, limits


class Sardine(Layout):
    """The last slate, its clicks, and the share of the boredom threshold that each topic's recent clicks have reached.

    The hidden state is that of its wrapper `IdealState`. It tells a time limit as `terminated`; here it cuts an episode
    off.
    """

    known = frozenset({"slate", "clicks", "hist"})

    def __init__(self, env: Any, name: str) -> None:
        super().__init__(env, name)
        self.steps: int | None = env.unwrapped.H

    @property
    def bounds(self) -> Bounds:
        """See `Layout`."""
        return limits(self.env.observation_space["hist"])

    @property
    def hidden(self) -> Bounds:  # type: ignore[override]
        """See `Layout`."""
        columns = 3 * self.env.unwrapped.num_topics
        return np.zeros(columns, np.float32), np.ones(columns, np.float32)

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "items dim"]:
        """See `Layout`."""
        found: Float32[np.ndarray, "items dim"] = self.env.unwrapped.item_embedd.astype(np.float32)
        return found

    def read(self, env: Any, observation: Any, slate: Int64[np.ndarray, "slots"]) -> Seen:
        """See `Layout`."""
        user = env.unwrapped
        rest = user.bored_timeout / user.boredom_moving_window
        ideal = np.concatenate([user.cur_user_embedd, observation["hist"], rest])
        return Seen(observation["slate"], observation["clicks"] > 0, observation["hist"], ideal)

    def step(self, env: Any, slate: Int64[np.ndarray, "slots"]) -> Step:
        """See `Layout`."""
        one = super().step(env, slate)
        return Step(one.observation, one.reward, False, one.left or one.cut)

    def greedy(self, env: Any) -> Int64[np.ndarray, "slots"]:
        """The most relevant items, the best first."""
        scores = self.vectors @ env.unwrapped.cur_user_embedd
        return np.argsort(-scores, kind="stable")[: self.slots]
