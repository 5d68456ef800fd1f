"""Replay: what an agent's policy played is kept, and learned from several times, in random parts."""

import numpy as np
from jaxtyping import Float32

from what_next.algorithms.base import Algorithm
from what_next.errors import SetupError
from what_next.policy import LearnedPolicy
from what_next.sources.players import Player
from what_next.sources.world import WorldSource, rows_of
from what_next.state import State
from what_next.types import Batch, EpsilonGreedy, Greedy, Request, Sampler
from what_next.worlds import Feedback, World

EXPLORING = 0.1
"""Share of the slates that a run learns from, over which epsilon falls from 1 to its value."""
EXPERIENCES = 50.0
"""In a run, at least, where the setup leaves open how many users are acted on at once."""


class Replay:
    """Stretches of play, each of one row, in arrays that are made once; the newest take the place of the oldest.

    Attributes:
        rows: how many there is room for; `count`: how many there are.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.count, self.place = rows, 0, 0
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, batch: Batch) -> None:
        """Keep the rows of a batch, the last ones where there are more than there is room for."""
        arrays = {name: values[-self.rows :] for name, values in batch.arrays().items() if name != "histories"}
        if not self.arrays:
            self.arrays = {name: np.empty((self.rows, *one.shape[1:]), one.dtype) for name, one in arrays.items()}
        new = len(arrays["mask"])
        places = (self.place + np.arange(new)) % self.rows
        for name, values in arrays.items():
            self.arrays[name][places] = values
        self.place, self.count = (self.place + new) % self.rows, min(self.rows, self.count + new)

    def sample(self, rows: int, rng: np.random.Generator, histories: int = 0) -> Batch:
        """Some of the rows, any of them as likely, with replacement; `histories`: how many the batch counts as."""
        return rows_of(self.arrays, rng.integers(self.count, size=rows), histories)


class ReplaySource(WorldSource):
    """Experience of the agent's own policies in a world: of the one that learns, and of those that it was before.

    The policy takes the items that it holds for the best, and any with a chance of `world.epsilon`, or draws points
    where its algorithm does. As many slates are played as are learned from, `world.reuse` times each on average. A
    stretch begins with what the encoder knew when it was played (Kapturowski et al. 2019, "stored state"); its last
    slate, and one after which a time limit cut the episode off, are not learned from: what followed is not there.
    """

    def __init__(self, state: State, world: World | None = None) -> None:
        super().__init__(state, world)
        settings = self.setup.world
        self.replay = Replay(max(self.users, settings.replay // self.window))
        self.taken = 0
        self.due: list[int] = []

    def _can_learn(self) -> Algorithm:
        """Raises a `SetupError` where the algorithm does not learn from such slates."""
        algorithm, world = self.setup.algorithm, self.world
        if world.slots > 1 and not algorithm.slates:
            raise SetupError(
                f"{algorithm.name} values single items, and world {world.known_as} shows slates of {world.slots}; "
                "take slateq or sac, or a world of single items"
            )
        if self.setup.n_step > 1:
            raise SetupError(f"n_step is {self.setup.n_step}; allowed in a world: 1")
        if self.setup.world.window == 1:
            raise SetupError(
                f"world.window is 1, and what {algorithm.name} learns from is followed by another slate; "
                "allowed: above 1"
            )
        return algorithm

    def resume(self, histories: int, steps: int) -> None:
        """See `Source.resume`: with new users, and nothing that was played."""
        super().resume(histories, steps)
        self.taken, self.due = histories, []
        self.replay = Replay(self.replay.rows)

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """Some stretches of what is kept; as often as that is due, new ones are played first."""
        rows = max(1, self.setup.world.batch // self.window)
        if not self.due:
            self.replay.add(self._experience(policy, rng))
            slates = self.users * self.window
            batches = max(1, round(self.setup.world.reuse * self.users / rows))
            ends = np.arange(batches + 1) * slates // batches
            self.due = np.diff(ends).tolist()
            self.taken += slates
        return self.replay.sample(rows, rng, self.due.pop())

    @property
    def _fewest(self) -> float:
        """See `WorldSource`: what is learned from was not played long ago."""
        return EXPERIENCES

    @property
    def epsilon(self) -> float:
        """The chance of any item in each slot, now."""
        return max(self.setup.world.epsilon, 1 - self.taken / (EXPLORING * self.horizon))

    def _begin(self, policy: LearnedPolicy, rng: np.random.Generator) -> Player:
        self.cut = np.zeros((self.window, self.users), np.bool_)
        return super()._begin(policy, rng)

    def _more(self, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        return {}

    def _chose(self, player: Player, *_: object) -> None:
        """Nothing: neither values nor chances are read."""

    def _ended(self, player: Player, feedback: Feedback, time: int) -> None:
        self.cut[time] = self.begun & ~feedback.terminated

    def _experience(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        player = self.player or self._begin(policy, rng)
        player.request = Request(self.world.slots, self._sampler(player), propensities=False)
        return super()._experience(policy, rng)

    def _sampler(self, player: Player) -> Sampler:
        """How slates are taken while it learns."""
        return Greedy() if self.algorithm.draws_points else EpsilonGreedy(self.epsilon)

    def _batch(self, carried: Float32[np.ndarray, "users carried"]) -> Batch:
        """See `WorldSource`; what is followed by nothing that is known does not count."""
        batch = self._written(carried)
        batch.mask[:] = ~self.cut.T
        batch.mask[:, -1] = False
        return batch
