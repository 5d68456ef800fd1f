"""How a service draws a slate from an agent's proposal: slot by slot, each item given those above it."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int, Int32, Int64

from what_next.policy import LearnedPolicy
from what_next.retrieval import scored
from what_next.settings import Server
from what_next.types import History, Proposal

LARGEST = float(np.finfo(np.float64).max)


class Drawing:
    """The slates of some histories, on their way: what is free, and what an agent makes of it.

    With `server.temperature` above 0 an item is drawn from the softmax of the scores over it (of an agent without
    scores, among those that match); else the best is taken, or with `server.epsilon` now and then any that is free.
    """

    def __init__(
        self, policy: LearnedPolicy, server: Server, history: History, excluded: Int32[np.ndarray, "batch width"]
    ) -> None:
        """`excluded`: items that may not be shown, -1 pads."""
        self.policy, self.server = policy, server
        self.proposal: Proposal = policy.agent.predict(history)
        self.free = np.ones((len(excluded), len(policy.agent.space.catalogue)), np.bool_)
        rows, columns = np.nonzero(excluded >= 0)
        self.free[rows, excluded[rows, columns]] = False
        self.scores = self._scores()

    def _scores(self) -> Float32[np.ndarray, "batch items"] | None:
        ranked = self.proposal.ranked
        if ranked is None:
            return None
        with torch.no_grad():
            found = torch.cat([part for _, part in scored(self.proposal.points, ranked, self.free)])
        return np.asarray(found.float().cpu().numpy())

    def take(self, rows: Int[np.ndarray, "some"], items: Int[np.ndarray, "some"]) -> None:
        """What stands in the next slot of some rows: it is free no longer. -1 is an item that the agent lacks."""
        known = items >= 0
        self.free[rows[known], items[known]] = False

    def chances(self, rows: Int64[np.ndarray, "some"]) -> Float64[np.ndarray, "some items"]:
        """The chance of every item to be the next of some rows; they sum to 1, or to 0 where no item is free."""
        free, temperature, epsilon = self.free[rows], self.server.temperature, self.server.epsilon
        if self.scores is None:
            box, points, how = self.policy.state.box, self.proposal.points[rows], self._matching(rows, free)
            if temperature:
                return box.chances(points, **how)
            best = box.select(points, rng=None, **how).items[:, 0]
        else:
            scores = np.where(free, self.scores[rows].astype(np.float64), -np.inf)
            if temperature:
                weights = np.exp((scores - scores.max(1, keepdims=True, initial=-LARGEST)) / temperature)
                return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 1))
            best = scores.argmax(1)  # the lower item among equals
        found = np.full(free.shape, epsilon) / np.maximum(free.sum(1, keepdims=True), 1)
        found[np.arange(len(rows)), best] += 1 - epsilon
        return np.where(free, found, 0.0)

    def _matching(self, rows: Int64[np.ndarray, "some"], free: Bool[np.ndarray, "some items"]) -> dict[str, Any]:
        """How an agent without scores finds items."""
        state, score = self.policy.state, self.proposal.score
        return {
            "tolerance": state.space.tolerance,
            "relax": state.setup.relax,
            "allowed": free,
            "score": None if score is None else lambda pairs, items: score(rows[pairs], items),
            "candidates": state.setup.selection.candidates if score else 0,
        }
