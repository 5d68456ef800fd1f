"""Bandit feedback, the founding source: after every event an item is tried, and the reward of any item is known."""

import numpy as np
import torch

from what_next.policy import LearnedPolicy
from what_next.rewards import Samples, spread_reward
from what_next.rewards.spread import damped
from what_next.sources.base import Source
from what_next.types import Batch, Factors, History, Product, Request, repeats

EVENTS = 2**12
"""Most events in a batch (or one history), whatever `batch_size` says, to bound memory and step time with long
windows."""


class BanditSource(Source):
    """Random histories, the policy's items at each of their events, some random items, and all their rewards."""

    taken = 0

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """See `Source.next_batch`: history, predict, produce, and the reward of each item."""
        state, setup = self.state, self.setup
        assert setup.batch_size is not None, "a setup with bandit feedback has a batch size"
        longest = min(setup.longest, int(state.split.known[state.train_users].max()))
        most = min(setup.batch_size, max(1, EVENTS // longest))
        history = state.get_random_user_history(max(1, min(most, self.horizon - self.taken)), rng)
        self.taken += len(history.users)
        proposal = policy.agent.predict(history, rng, grid=True)
        policy.agent.in_time()
        product = policy.act(proposal, Request(1, policy.sampler, propensities=False), rng)
        assert proposal.factors is not None
        return self.batch(history, proposal.factors, product, rng)

    def batch(self, history: History, factors: Factors, product: Product, rng: np.random.Generator) -> Batch:
        """The batch of some histories and the items selected after each of their events."""
        count = self.setup.algorithm.explore
        others = rng.choice(self.state.space.seen, size=(len(history.users), 1, count))[:, 0].astype(np.int32)
        rewards, mask = self.rewards(history, product, others)
        return Batch(
            items=history.items,
            factors=factors,
            actions=product.items[..., 0],
            rewards=rewards[..., 0],
            mask=mask,
            discounts=np.zeros(mask.shape, np.float32),
            histories=len(history.users),
            others=others,
            other_rewards=rewards[..., 1:],
            matches=product.matches[..., 0],
            fallback=product.fallback[..., 0],
        )

    def rewards(self, history: History, product: Product, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rewards of the selected item and of the others at each step, and the mask of the steps that count.

        In units of the user's sigma. Steps without an item or without a defined reward do not count.
        """
        spread = self.setup.reward.spread
        vectors = torch.from_numpy(self.state.space.catalogue.vectors)
        selected = product.items[..., :1]
        samples = Samples.of(vectors[history.items], spread.window, spread.pairs)
        with_item = torch.cat([samples.with_item(vectors[selected]), samples.with_item(vectors[others[:, None]])], -1)
        reward, usable = spread_reward(samples, with_item, torch.from_numpy(history.sigma), spread.form)
        if spread.repeat_factor < 1:
            shape = (*selected.shape[:2], others.shape[1])
            items = np.concatenate([selected, np.broadcast_to(others[:, None], shape)], -1)
            reward = damped(reward, torch.from_numpy(repeats(items, history)), spread.repeat_factor)
        real = np.arange(history.items.shape[1]) < history.lengths[:, None]
        return reward.float().numpy(), usable.numpy() & real & (selected[..., 0] >= 0)

    def resume(self, histories: int, steps: int) -> None:
        """See `Source.resume`."""
        self.taken = histories
