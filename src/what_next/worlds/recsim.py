"""RecSim's environments (Ie et al. 2019), which keep to Gym, the forerunner of Gymnasium."""

from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from what_next.worlds.layouts import Bounds, Layout, Seen, Step, flat, limits


class RecSim(Layout):
    """What is seen of the user, what came of each item of the slate, and the documents to choose from.

    Where the documents are drawn anew for each slate, an item is a place among them, and the numbers tell what lies in
    each; else the documents' own numbers are the items' vectors.
    """

    known = frozenset({"user", "doc", "response"})

    def __init__(self, env: Any, name: str) -> None:
        super().__init__(env, name)
        inner = env.unwrapped.environment
        self.drawn_anew: bool = inner._resample_documents
        self.documents = inner.candidate_set.observation_space()
        self.user, self.response = inner.user_model.observation_space(), inner.user_model.response_space()
        self.none = np.zeros(len(limits(self.response)[0]), np.float32)

    @property
    def bounds(self) -> Bounds:
        """See `Layout`."""
        parts = [limits(self.user), limits(self.response), *([limits(self.documents)] if self.drawn_anew else [])]
        low, high = (np.concatenate([one[end] for one in parts]) for end in (0, 1))
        return low, high

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "items dim"]:
        """See `Layout`."""
        if self.drawn_anew:
            return np.zeros((self.items, 0), np.float32)
        seen = self.env.unwrapped.environment.candidate_set.create_observation()
        return np.array([np.ravel(one) for one in seen.values()], np.float32)

    def read(self, env: Any, observation: Any, slate: Int64[np.ndarray, "slots"]) -> Seen:
        """See `Layout`."""
        responses = observation["response"]
        clicks = np.array([bool(one.get("click", 0)) for one in responses or [{}] * self.slots])
        parts = [flat(self.user, observation["user"]), flat(self.response, responses) if responses else self.none]
        if self.drawn_anew:
            parts.append(np.concatenate([np.ravel(one) for one in observation["doc"].values()]).astype(np.float32))
        return Seen(slate, clicks, np.concatenate(parts), np.zeros(0))

    def reset(self, env: Any, seed: int) -> Any:
        """See `Layout`. Its samplers keep generators of their own, alike in every copy."""
        inner = env.unwrapped.environment
        for place, sampler in enumerate((inner._document_sampler, inner.user_model._user_sampler)):
            sampler._rng = np.random.RandomState([seed, place])
        return env.reset()

    def step(self, env: Any, slate: Int64[np.ndarray, "slots"]) -> Step:
        """See `Layout`."""
        observation, reward, done, _ = env.step(slate)
        return Step(observation, float(reward), bool(done), False)
