"""Replay: play of an agent's policies is kept, and random samples of it are learned from several times."""

from collections.abc import Mapping, Sequence

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
"""Share of a run's slates during which epsilon falls from 1 to its setting."""
EXPERIENCES = 50.0
"""Fewest experiences in a run, if the setup does not set the number of users."""
FOLLOWED = 10.0
"""By default, the least sum of a target network's steps (`tau`) over a run; a small one keeps late rewards from
reaching early states."""


class Replay:
    """A ring buffer of stretches of play, one per row; the newest replace the oldest.

    Attributes:
        rows: capacity; `count`: rows in use.
    """

    def __init__(self, rows: int) -> None:
        self.rows, self.count, self.place = rows, 0, 0
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, batch: Batch) -> None:
        """Keep the rows of a batch; only the last ones if they exceed the capacity."""
        arrays = {name: values[-self.rows :] for name, values in batch.arrays().items() if name != "histories"}
        if not self.arrays:
            self.arrays = {name: np.empty((self.rows, *one.shape[1:]), one.dtype) for name, one in arrays.items()}
        new = len(arrays["mask"])
        places = (self.place + np.arange(new)) % self.rows
        for name, values in arrays.items():
            self.arrays[name][places] = values
        self.place, self.count = (self.place + new) % self.rows, min(self.rows, self.count + new)

    def sample(self, rows: int, rng: np.random.Generator, histories: int = 0) -> Batch:
        """Rows drawn uniformly with replacement; `histories`: how many histories the batch counts as."""
        return rows_of(self.arrays, rng.integers(self.count, size=rows), histories)


class ReplaySource(WorldSource):
    """Experience of the agent's own policies in a world: of the current one and of earlier ones.

    The policy takes the best items, or in each slot a random one with probability `world.epsilon`; it draws points if
    its algorithm does. On average, each slate is learned from `world.reuse` times. A stretch starts from the encoder's
    carried state at the time of play (Kapturowski et al. 2019, "stored state"). Its last slate, and a slate after which
    a time limit cut the episode off, are not learned from, because what followed is not in the stretch.
    """

    def __init__(self, state: State, world: World | None = None) -> None:
        super().__init__(state, world)
        settings = self.setup.world
        self.replay = Replay(max(self.users, settings.replay // self.window))
        self.taken = 0
        self.due: list[int] = []

    def _can_learn(self) -> Algorithm:
        """Raise a `SetupError` if the algorithm does not learn from such slates."""
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
                f"world.window is 1, and {algorithm.name} learns only from slates that another slate follows; "
                "allowed: above 1"
            )
        return algorithm

    def resume(self, histories: int, steps: int) -> None:
        """See `Source.resume`: with new users and an empty buffer."""
        super().resume(histories, steps)
        self.taken, self.due = histories, []
        self.replay = Replay(self.replay.rows)

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """A sample of the kept stretches; new ones are played first whenever they are due."""
        if not self.due:
            self.replay.add(self._experience(policy, rng))
            slates = self.users * self.window
            ends = np.arange(self.batches + 1) * slates // self.batches
            self.due = np.diff(ends).tolist()
            self.taken += slates
        return self.replay.sample(self.rows, rng, self.due.pop())

    @property
    def rows(self) -> int:
        """Stretches in a batch."""
        return max(1, self.setup.world.batch // self.window)

    @property
    def batches(self) -> int:
        """Batches from each experience."""
        return max(1, round(self.setup.world.reuse * self.users / self.rows))

    @property
    def polyak(self) -> float:
        """See `Source.polyak`: at least `FOLLOWED` over the steps of the run, unless the setup sets `tau`."""
        algorithm, steps = self.setup.algorithm, self.horizon / (self.users * self.window) * self.batches
        if "tau" in algorithm.model_fields_set:
            return algorithm.polyak
        return min(1.0, max(algorithm.polyak, FOLLOWED / steps))

    @property
    def chosen(self) -> tuple[Mapping[str, str | int], Sequence[str]]:
        """See `WorldSource.chosen`; with the step of the target networks, if the length of the run decided it."""
        values, reasons = super().chosen
        if (tau := self.polyak) > self.setup.algorithm.polyak:
            reasons = [*reasons, f"algorithm.tau {tau:.2g}: the run is short; `algorithm.tau` sets another"]
        return values, reasons

    @property
    def _fewest(self) -> float:
        """See `WorldSource`: enough that the buffer holds recent play."""
        return EXPERIENCES

    @property
    def epsilon(self) -> float:
        """The current probability of a random item in each slot."""
        return max(self.setup.world.epsilon, 1 - self.taken / (EXPLORING * self.horizon))

    def _begin(self, policy: LearnedPolicy, rng: np.random.Generator) -> Player:
        self.cut = np.zeros((self.window, self.users), np.bool_)
        return super()._begin(policy, rng)

    def _more(self, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        return {}

    def _chose(self, player: Player, *_: object) -> None:
        """Nothing: this source stores neither values nor propensities."""

    def _ended(self, player: Player, feedback: Feedback, time: int) -> None:
        self.cut[time] = self.begun & ~feedback.terminated

    def _experience(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        player = self.player or self._begin(policy, rng)
        player.request = Request(self.world.slots, self._sampler(player), propensities=False)
        batch = super()._experience(policy, rng)
        if self.cut.all():
            raise SetupError(
                f"world {self.world.known_as}: its time limit ends every episode after one slate, and "
                f"{self.algorithm.name} learns only from slates that another slate follows, or after which the user "
                "left; let the step say that the episode has ended (`terminated`), or take ppo or a2c"
            )
        return batch

    def _sampler(self, player: Player) -> Sampler:
        """How slates are chosen in training."""
        return Greedy() if self.algorithm.draws_points else EpsilonGreedy(self.epsilon)

    def _batch(self, carried: Float32[np.ndarray, "users carried"]) -> Batch:
        """See `WorldSource`; steps whose successor is unknown do not count."""
        batch = self._written(carried)
        batch.mask[:] = ~self.cut.T
        batch.mask[:, -1] = False
        return batch
