"""The founding cycle in a world: history, predict, produce, what the user did, propagate."""

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int64

from what_next.data.space import history_of
from what_next.policy import LearnedPolicy
from what_next.sources.players import Player
from what_next.sources.replay import ReplaySource
from what_next.types import Batch, History, Proposal, Sampler
from what_next.worlds import Observation, World


class FoundingPlayer(Player):
    """The founding algorithm acting: the actor proposes a point, and `produce` selects an item of the box around it.

    An event is an item that was shown; its reward is whether it was clicked, its context the numbers observed
    afterwards. A history begins with the world's first item for a new user, or, if there was none, with the item in the
    middle of the catalogue; its last events are read anew for each proposal.

    Attributes:
        epsilon: in training, the probability of proposing a random item's point.
    """

    epsilon = 0.0

    def __init__(self, policy: LearnedPolicy, world: World, *, draws: bool = False) -> None:
        super().__init__(policy, world, draws=draws)
        self.middle = int(np.square(policy.agent.space.catalogue.vectors).sum(1).argmin())
        self.width = max(1, policy.agent.setup.world.window - 1)  # as long as the histories in training

    @property
    def memory(self) -> Float32[np.ndarray, "users nothing"]:
        """See `Player.memory`: empty, because each history is read from its beginning."""
        return np.zeros((self.users, 0), np.float32)

    def begin(self, users: int) -> None:
        """See `Player.begin`."""
        super().begin(users)
        self.items, self.lengths = np.full((users, self.width), -1, np.int32), np.zeros(users, np.int64)
        self.numbers = np.zeros((users, self.width, len(self.policy.agent.space.event_names)), np.float32)

    def heard(self, shown: Int[np.ndarray, "*grid slots"]) -> Int64[np.ndarray, "*grid"]:
        """The item of each event."""
        first = shown[..., 0].astype(np.int64)
        return np.where(first < 0, self.middle, first)

    def look(self, seen: Observation, rows: Any = None) -> tuple[Any, Float32[np.ndarray, "users numbers"]]:
        """See `Player.look`; the numbers are not scaled."""
        numbers = np.concatenate([seen.clicks[:, :1], seen.numbers], 1).astype(np.float32)
        return (self.heard(seen.shown), numbers), numbers

    def step(self, events: Any) -> History:
        """The history of each user after one more event."""
        full = self.lengths == self.width
        for kept in (self.items, self.numbers):
            kept[full, :-1] = kept[full, 1:]
        self.lengths[~full] += 1
        rows = np.arange(len(self.lengths))
        self.items[rows, self.lengths - 1], self.numbers[rows, self.lengths - 1] = events
        most = int(self.lengths.max())
        return history_of(self.policy.agent.space, self.items[:, :most], self.lengths, self.numbers[:, :most])

    def propose(self, states: History, numbers: Any, rng: Any = None, draws: Any = None) -> Proposal:
        """See `Player.propose`; with `rng`, a draw from the actor's policy."""
        proposal, vectors = self.policy.agent.predict(states, rng), self.policy.agent.space.catalogue.vectors
        if rng is not None and self.epsilon:
            some = np.flatnonzero(rng.random(len(self.lengths)) < self.epsilon)
            proposal.points[some] = vectors[rng.integers(len(vectors), size=len(some))]
        return proposal

    def forget(self, rows: Int[np.ndarray, "some"]) -> None:
        """See `Player.forget`."""
        self.items[rows], self.numbers[rows], self.lengths[rows] = -1, 0, 0

    def keep(self, rows: Int[np.ndarray, "some"]) -> None:
        """See `Player.keep`."""
        self.items, self.numbers, self.lengths = self.items[rows], self.numbers[rows], self.lengths[rows]


class FoundingSource(ReplaySource):
    """Play of the founding algorithm's policies: a row is a run of events of one user, at most `world.window` long. The
    last step of a row is not learned from, unless the user left there."""

    kind: ClassVar[type[Player]] = FoundingPlayer

    @property
    def explored(self) -> int:
        """See `WorldSource.explored`: none, because no item vectors are learned."""
        return 0

    def _sampler(self, player: Player) -> Sampler:
        assert isinstance(player, FoundingPlayer)
        player.epsilon = self.epsilon
        return player.policy.sampler

    def _batch(self, carried: Float32[np.ndarray, "users carried"]) -> Batch:
        """See `WorldSource`: a row for each run of a user between a beginning and an end."""
        player, made = self.player, {name: values.swapaxes(0, 1) for name, values in self.buffers.items()}
        assert isinstance(player, FoundingPlayer)
        begins = made["begins"].copy()
        begins[:, 0] = True
        users, starts = np.nonzero(begins)
        ends = np.append(starts[1:], 0)
        ends = np.where(ends > 0, ends, self.window)
        times = starts[:, None] + np.arange(self.window)
        real, places = times < ends[:, None], (users[:, None], np.minimum(times, self.window - 1))
        items = np.where(real, player.heard(made["shown"])[places], -1).astype(np.int32)
        numbers = np.where(real[..., None], made["numbers"][places], 0).astype(np.float32)
        discounts = made["discounts"][places]
        history = history_of(player.policy.agent.space, items, real.sum(1), numbers)
        return Batch(
            items=items,
            factors=player.policy.agent.factorize(history),
            actions=made["slates"][..., 0][places],
            rewards=made["rewards"][places],
            mask=real & ((times < ends[:, None] - 1) | (discounts == 0)),
            discounts=discounts,
            histories=self.users * self.window,
        )
