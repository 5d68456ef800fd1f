"""How good an agent is on the validation users, whose targets training never saw."""

import numpy as np

from what_next.agent import Agent
from what_next.metrics.next_items import Targets, rank
from what_next.metrics.windows import Sampling, draw_windows
from what_next.policy import LearnedPolicy
from what_next.state import State
from what_next.types import Permitted, Request

MOST = 10_000
"""Validation users that are measured during training, at most: always the same ones."""
EVENTS = 2**21
"""Events of their histories, at most (or one user's)."""


def validate(agent: Agent, state: State) -> dict[str, float]:
    """HR@10 and NDCG@10 of what came next; for the founding algorithm, the spread reward. Empty: nobody is judged."""
    was_training = any(net.training for net in agent.nets.values())
    policy = LearnedPolicy(agent.quiet(), state)
    found = _spread(policy) if agent.setup.algorithm.trials else _next_items(policy)
    if was_training:
        agent.loud()
    return found


def _next_items(policy: LearnedPolicy) -> dict[str, float]:
    state = policy.state
    targets = Targets.of(state.dataset, state.split, "validation")
    if not len(targets):
        return {}
    if len(targets) > MOST or targets.before.sum() > EVENTS:
        chosen = np.random.default_rng(state.setup.split.seed).choice(
            len(targets), min(MOST, len(targets)), replace=False
        )
        chosen = chosen[: max(1, np.searchsorted(targets.before[chosen].cumsum(), EVENTS))]
        targets = targets.of_rows(np.sort(chosen))
    ranks = rank(policy, targets, state.histories)
    return {"ndcg@10": float(ranks.ndcg.mean()), "hr@10": float(ranks.hr.mean()), "users": float(len(targets))}


def _spread(policy: LearnedPolicy) -> dict[str, float]:
    """The mean spread reward (`towards`) on a window of each validation user."""
    state = policy.state
    spread = state.setup.reward.spread
    since, until = state.split.targets("validation")
    windows = draw_windows(
        state.dataset,
        state.split.validation,
        state.histories,
        length=spread.window,
        per_user=1,
        since=since,
        until=until,
    )
    if not len(windows):
        return {}
    rng = np.random.default_rng(state.setup.seed)
    request = Request(1, policy.sampler, Permitted.of(without=windows.history.items), propensities=False)
    items = policy.act(policy.states(windows.history), request, rng).items[:, 0]
    sampling = Sampling(state.space.catalogue.vectors, spread.window, spread.pairs)
    earned = sampling.reward(windows.history, items)
    told = earned[np.isfinite(earned)]
    return {f"spread@{spread.window}": float(told.mean()), "users": float(len(told))} if len(told) else {}
