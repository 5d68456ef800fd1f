"""The trained agent as a policy: the same two calls that the training loop makes."""

from typing import Any

import numpy as np

from what_next.agent import Agent
from what_next.state import State
from what_next.types import History, Slate


class LearnedPolicy:
    """An agent and the state that turns its proposals into items (a `types.Policy`).

    What differs between training, evaluation and service are arguments: `rng=None` is greedy.
    """

    def __init__(self, agent: Agent, state: State) -> None:
        self.agent = agent
        self.state = state

    def act(self, history: History, slots: int = 1, rng: np.random.Generator | None = None, **masks: Any) -> Slate:
        """A slate for each history: the actor's likeliest point, and items that match it, drawn by `rng`.

        Args:
            history: what each user heard; only the latest events count.
            slots: items for each.
            rng: draws the items among those that match; None takes the nearest.
            masks: `allowed`, `exclude` and `propensities`, see `State.produce`.
        """
        proposal = self.agent.predict(history)
        product = self.state.produce(
            proposal.points,
            None,
            rng,
            history=history,
            slots=slots,
            score=proposal.score,
            ranked=proposal.ranked,
            **masks,
        )
        # A point in a learned space says nothing to people.
        points = proposal.points if proposal.ranked is None else None
        return Slate(product.items, product.propensities, product.fallback, points, product)
