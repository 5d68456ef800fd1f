"""A world as a source: the agent's policy plays for thousands of users at once, and learns from their answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeGuard

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from what_next.agent import Agent
from what_next.algorithms import Algorithm
from what_next.algorithms.on_policy import OnPolicy
from what_next.data import Catalogue, Dataset
from what_next.data.cooccurrence import placed
from what_next.data.space import Space
from what_next.errors import SetupError, TrainingError
from what_next.losses.rl import gae
from what_next.models.slates import Pricer
from what_next.policy import EVERYONE, LearnedPolicy, nobody
from what_next.settings import Setup
from what_next.settings.setup import NO_WORLD, known_algorithms
from what_next.sources.base import Source
from what_next.sources.exploring import believe, explored
from what_next.sources.players import Player
from what_next.state import State
from what_next.training.encoder_learner import EncoderLearner
from what_next.types import Batch, Factors, Product, Proposal
from what_next.worlds import Feedback, World, known_worlds, opened, preset
from what_next.worlds.promises import check_own

UPDATES = 750
"""Fewest learning steps in a run if the setup does not set the number of users: more users make a run faster, but leave
it fewer experiences."""
USERS = (32, 1024)
"""Bounds of the number of users in that case, whatever number of steps results."""


def world_of(setup: Setup) -> World:
    """The world that a setup names; a `SetupError` if it names none, or an unknown one."""
    if setup.world.name is None:
        raise SetupError(NO_WORLD)
    return preset(as_known(setup.world.name))


def as_known(name: str) -> str:
    """The name of a world and its preset in their own case, whatever case is given."""
    worlds = known_worlds()
    known = [*worlds, *(f"{world}:{one}" for world, kind in worlds.items() for one in kind.presets)]
    return {one.lower(): one for one in known}.get(name.lower(), name)


def in_world(world: World, setup: Setup) -> Setup:
    """The setup changed for acting in a world: the encoder reads all numbers, and also slates and clicks, unless the
    ideal state is among the numbers.

    Raises:
        SetupError: it asks for numbers that only a log has.
    """
    if log := [f"inputs.{name}" for name in ("rewards", "gaps") if getattr(setup.inputs, name)]:
        raise SetupError(f"{log[0]} is yes, and that is read from a log; in a world all its numbers are read")
    slates = not setup.world.ideal and not believes(setup.algorithm)
    inputs = setup.inputs.model_copy(update={"context": True, "slates": slates})
    name = world.known_as if setup.world.name is None else as_known(setup.world.name)
    algorithm, named = setup.algorithm, setup.world.model_copy(update={"name": name})
    if getattr(algorithm, "slots", 0) is None:
        algorithm = algorithm.model_copy(update={"slots": world.slots})
    update = {"inputs": inputs, "split": EVERYONE, "world": named, "algorithm": algorithm}
    return setup.model_copy(update=update)


def believes(algorithm: Algorithm) -> TypeGuard[OnPolicy]:
    """Whether the agent keeps a belief about each user (`models.belief`)."""
    return isinstance(algorithm, OnPolicy) and algorithm.belief


def catalogue_in(world: World) -> Catalogue:
    """The catalogue of a world's items, by the world's ids."""
    vectors, ids = world.item_vectors, pl.Series(world.item_ids)
    columns = {f"attribute_{place}": one for place, one in enumerate(vectors.T) if one.min() < one.max()}
    table = pl.DataFrame({"item_id": ids, "title": ids.cast(pl.String)})
    return Catalogue.from_table(table.with_columns(pl.Series(name, one) for name, one in columns.items()))


def clicks_in(world: World | str, slates: int, rng: np.random.Generator) -> Dataset:
    """A log of users' clicks on random items of a world, for learning without acting.

    A policy trained on it can act in the world with `wn.play`. `world`: the world or its name (`preset`).
    """
    world = opened(world)
    items, users = explored(world, slates, rng).clicked
    return Dataset.of_events(pl.Series(users).cast(pl.String), items, catalogue_in(world), world.known_as)


def _check_vectors(world: World, catalogue: Catalogue, setup: Setup) -> None:
    """Raise a `SetupError` if the agent would read item vectors, and all items have the same."""
    if catalogue.informative:
        return
    told = f"world {world.known_as}: its items have no vectors that tell them apart"
    if setup.algorithm.by_attributes:
        raise SetupError(f"{told}, and {setup.algorithm.name} proposes points among them; set algorithm to another")
    if (items := setup.inputs.items) in ("attributes", "both"):
        raise SetupError(f"{told}, and inputs.items is {items}; set it to learned")


def state_in(world: World, setup: Setup) -> State:
    """The state of a world: its items as the catalogue, its observed numbers, and no log.

    Raises:
        SetupError: a custom world breaks the contract of all worlds, or its items have no vectors for this agent.
    """
    check_own(world)
    catalogue = catalogue_in(world)
    _check_vectors(world, catalogue, setup)
    everything = np.arange(len(catalogue), dtype=np.int32)
    least, largest = world.bounds(setup.world.ideal)
    scale = np.where(largest > least, largest - least, 1.0)
    setup = in_world(world, setup)
    if believes(algorithm := setup.algorithm):  # the belief's standardised weights are further numbers
        learned = setup.inputs.items in ("auto", "learned")  # auto would need a log
        given = 0 if learned else catalogue.vectors.shape[1]
        more = (given or algorithm.rank) + 1
        least, scale = np.pad(least, (0, more)), np.pad(scale, (0, more), constant_values=1.0)
    names = [f"seen_{place}" for place in range(len(least))]
    if setup.algorithm.by_attributes:  # an event is an item, and its reward whether it was clicked
        names, least, scale = ["reward", *names], np.pad(least, (1, 0)), np.pad(scale, (1, 0), constant_values=1.0)
    space = Space(
        catalogue=catalogue.standardised(everything),
        seen=everything,
        tolerance=setup.tolerance or 1.0,
        typical=1.0,
        event_names=tuple(names),
        event_center=least.astype(np.float32),
        event_scale=scale.astype(np.float32),
    )
    known = setup.world.name or ""  # includes the preset; replaced if another world was given
    known = known if known.partition(":")[0] == world.known_as else world.known_as
    state = State(nobody(space.catalogue, f"world {known}"), setup, space)
    if setup.algorithm.by_attributes and setup.tolerance is None:
        state.space = replace(space, tolerance=state.smallest_tolerance(np.random.default_rng(setup.split.seed)))
    return state


class WorldSource(Source):
    """Experience of the agent's own policy in a world.

    An experience is `world.window` slates of each of `world.users` users. Its advantages are estimated once, with the
    value estimates made while acting; then it is learned from as often, and in as many parts, as the algorithm says. If
    a time limit cuts an episode off, the value of what would have followed is estimated; if a user leaves, it is 0.
    Rewards are multiplied by `1 - discount`, so that values are means of rewards whatever the discount is. Slates are
    counted as histories.

    For an algorithm with `episodes`, an experience is one whole episode of each user, and no value is estimated.
    """

    kind: ClassVar[type[Player]] = Player
    shared = False  # every process would have to play all of it

    def __init__(self, state: State, world: World | None = None) -> None:
        super().__init__(state)
        self.world = world or world_of(self.setup)
        if self.setup.model == "transformer":
            raise SetupError("model is transformer, whose carried state grows with every event; take lstm, gru or mlp")
        self.algorithm: Any = self._can_learn()
        self.window = self.setup.world.window
        if self.algorithm.episodes:
            self.window = self.world.steps or self.window
        self.users = self.setup.world.users or self._affordable_users()
        self.player: Player | None = None
        self.users_state: Any = None
        self.waiting: Iterator[Batch] = iter(())
        self.begun = np.ones(self.users, np.bool_)
        self.buffers: dict[str, np.ndarray] = {}

    def _can_learn(self) -> Algorithm:
        """Raise a `SetupError` if the algorithm does not learn from its own choices."""
        algorithm = self.setup.algorithm
        if not isinstance(algorithm, OnPolicy):
            able = [name for name, one in known_algorithms().items() if one.replays or issubclass(one, OnPolicy)]
            source = "a log" if algorithm.source == "log" else f"the source {algorithm.source!r}"
            raise SetupError(f"the algorithm {algorithm.name} learns from {source}; in a world learn {', '.join(able)}")
        if algorithm.episodes and self.world.steps is None:
            raise SetupError(
                f"{algorithm.name} learns from whole episodes, and world {self.world.known_as} has no time limit; set "
                "its `steps`, or take a2c"
            )
        return algorithm

    def _affordable_users(self) -> int:
        """A number of users that leaves the run enough experiences."""
        return int(np.clip(self.horizon / (self.window * self._fewest), *USERS))

    @property
    def _fewest(self) -> float:
        """Fewest experiences in a run."""
        repeats, parts = self.algorithm.turns
        return UPDATES / float(repeats * parts)

    @property
    def chosen(self) -> tuple[Mapping[str, str | int], Sequence[str]]:
        """The number of users, if the setup leaves it open."""
        if self.setup.world.users is not None:
            return {}, ()
        slates, experience = self.horizon, self.users * self.window
        told = f"{experience:,} slates, so that {slates:,} are {slates / experience:,.0f} experiences"
        if self.algorithm.episodes:  # an episode may end before its time limit
            told = f"an episode of each, at most {experience:,} slates"
        reason = f"world.users {self.users:,}: an experience is {told}; `world.users` sets another"
        return {"world.users": self.users}, [reason]

    @property
    def explored(self) -> int:
        """Number of slates of random items from which item vectors or a belief's prior are initialised."""
        setup = self.setup
        if believes(self.algorithm):
            return max(1, setup.world.explore)
        learned = setup.item_inputs(self.state.space) != "attributes"
        return setup.world.explore if learned and setup.inputs.start == "cooccurrence" else 0

    @property
    def horizon(self) -> int:
        """Number of slates that the whole run learns from, without the exploring ones."""
        return max(1, self.setup.world.steps - self.explored)

    def prepare(self, agent: Agent) -> None:
        """See `Source.prepare`: learned item vectors start near those of items clicked by the same users; a belief's
        prior is fitted to the clicks."""
        if not self.explored:
            return
        if self.explored >= (steps := self.setup.world.steps):
            raise SetupError(
                f"world.explore takes {self.explored:,} of the {steps:,} slates of world.steps, so nothing is left to "
                "learn from; raise world.steps, or lower world.explore"
            )
        seen = explored(self.world, self.explored, np.random.default_rng(self.setup.seed))
        actor = agent.nets.get("actor")
        if isinstance(actor, Pricer) and actor.belief is not None:
            assert isinstance(agent.learner, EncoderLearner)
            believe(actor, actor.belief, seen, agent.space, agent.learner.known_vectors, self.setup.seed)
        else:
            agent.place_items(placed(*seen.clicked, self.world.items, self.setup.dim, self.setup.seed))

    def resume(self, histories: int, steps: int) -> None:
        """Continue with new users, because a world is not saved."""
        self.player, self.waiting = None, iter(())

    def next_batch(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """A part of the current experience; a new experience is made when its parts are used up."""
        batch = next(self.waiting, None)
        if batch is None:
            self.waiting = self._parts(self._experience(policy, rng), rng)
            batch = next(self.waiting)
        return batch

    def _parts(self, whole: Batch, rng: np.random.Generator) -> Iterator[Batch]:
        """The experience in parts of some users, each user once in each of `repeats` turns."""
        (repeats, parts), arrays = self.algorithm.turns, whole.arrays()
        for turn in range(repeats):
            for rows in np.array_split(rng.permutation(self.users), min(parts, self.users)):
                slates = int(whole.mask[rows].sum())
                share = (turn + 1) * slates // repeats - turn * slates // repeats
                yield rows_of(arrays, rows, share)

    def _begin(self, policy: LearnedPolicy, rng: np.random.Generator) -> Player:
        """Start with new users and new buffers."""
        self.users_state = self.world.reset(self.users, rng)
        self.player = self.kind(policy, self.world, draws=True)
        self.player.begin(self.users)
        self.begun[:] = True
        grid, slots = (self.window, self.users), self.world.slots
        self.buffers = {
            "shown": np.zeros((*grid, slots), np.int32),
            "clicks": np.zeros((*grid, slots), np.bool_),
            "slates": np.zeros((*grid, slots), np.int32),
            "slate_clicks": np.zeros((*grid, slots), np.bool_),
            "numbers": np.zeros((*grid, len(policy.agent.space.event_names)), np.float32),
            "begins": np.zeros(grid, np.bool_),
            "rewards": np.zeros(grid, np.float32),
            "discounts": np.zeros(grid, np.float32),
            **self._more(grid),
        }
        return self.player

    def _more(self, grid: tuple[int, int]) -> dict[str, np.ndarray]:
        """Further buffers."""
        floats = {name: np.zeros(grid, np.float32) for name in ("values", "next", "traces")}
        return floats | {"chances": np.zeros(grid, np.float64)}

    @torch.no_grad()
    def _experience(self, policy: LearnedPolicy, rng: np.random.Generator) -> Batch:
        """`window` slates of each user, or an episode of each."""
        whole, going = self.algorithm.episodes, np.ones(self.users, np.bool_)
        player = self._begin(policy, rng) if self.player is None or whole else self.player
        player.policy = policy
        carried = player.memory
        for time in range(self.window):
            policy.agent.in_time()
            self._step(player, time, rng)
            going &= ~self.begun
            if whole and not going.any():
                self.buffers = {name: values[: time + 1] for name, values in self.buffers.items()}
                break
        return self._batch(carried)

    def _step(self, player: Player, time: int, rng: np.random.Generator) -> None:
        """Observe, choose, and take the world's step; writes row `time` of the buffers."""
        world, into, ideal = self.world, self.buffers, self.setup.world.ideal
        seen = world.observe(self.users_state, ideal)
        player.believe(seen)
        events, numbers = player.look(seen)
        into["numbers"][time] = numbers
        into["shown"][time], into["clicks"][time], into["begins"][time] = seen.shown, seen.clicks, self.begun
        states = player.step(events)
        proposal = player.propose(states, numbers, rng, rng)
        product = player.policy.act(proposal, player.request, rng)
        into["slates"][time] = product.items
        if self.algorithm.draws_points:
            if "points" not in into:
                into["points"] = np.zeros((self.window, *proposal.points.shape), np.float32)
            into["points"][time] = proposal.points
        self._chose(player, states, proposal, product, time)
        self.users_state, feedback = world.step(self.users_state, product.items.astype(np.int64), rng)
        if not np.isfinite(feedback.rewards).all():
            raise TrainingError(f"world {world.known_as}: a reward is not a number")
        truncated = world.truncated(self.users_state) & ~feedback.terminated
        self.begun = feedback.terminated | truncated
        into["rewards"][time], into["slate_clicks"][time] = feedback.rewards, feedback.clicks
        into["discounts"][time] = np.where(feedback.terminated, 0, self.setup.discount)
        self._ended(player, feedback, time)
        ended = np.flatnonzero(self.begun)
        self.users_state = world.restart(self.users_state, ended, rng)
        player.forget(ended)

    def _chose(self, player: Player, states: Tensor, proposal: Proposal, product: Product, time: int) -> None:
        """Store the value estimate and the propensity of each choice."""
        into = self.buffers
        into["values"][time] = self._values(player, states)
        into["chances"][time] = self._chances(player, states, proposal, product)
        if time:
            into["next"][time - 1] = np.where(self.begun, into["next"][time - 1], into["values"][time])

    def _ended(self, player: Player, feedback: Feedback, time: int) -> None:
        """Store where credit ends, and the value estimates of users whose episode or window was cut off."""
        into = self.buffers
        into["traces"][time] = np.where(self.begun, 0, self.algorithm.trace)
        if self.algorithm.episodes:
            return
        cut = self.begun if time < self.window - 1 else np.ones_like(self.begun)
        if (rows := np.flatnonzero(cut & ~feedback.terminated)).size:
            into["next"][time, rows] = self._foreseen(player, rows)

    def _foreseen(self, player: Player, rows: Int64[np.ndarray, "some"]) -> Float32[np.ndarray, "some"]:
        """The value estimates of some users' current states; the carried state stays unchanged."""
        ideal, kept = self.setup.world.ideal, player.carried
        events, _ = player.look(self.world.observe(self.users_state.rows(rows), ideal), rows)
        assert kept is not None
        player.carried = tuple(part[torch.from_numpy(rows)] for part in kept)
        found = self._values(player, player.step(events))
        player.carried = kept
        return found

    def _values(self, player: Player, states: Tensor) -> Float32[np.ndarray, "users"]:
        return np.asarray(player.policy.agent.nets["critic"](states).cpu().numpy())

    def _chances(self, player: Player, states: Tensor, proposal: Proposal, product: Product) -> np.ndarray:
        """Propensities of the slates, or densities of the drawn points."""
        if not self.algorithm.draws_points:
            assert product.propensities is not None
            return np.asarray(np.exp(np.log(product.propensities).sum(1)))
        actor: Any = player.policy.agent.nets["actor"]
        points = torch.from_numpy(proposal.points).to(states.device)
        return np.asarray(actor.log_density(states, points).double().exp().cpu().numpy())

    def _batch(self, carried: Float32[np.ndarray, "users carried"]) -> Batch:
        """The buffers as a batch with advantages, users first; the next experience overwrites the buffers."""
        made, scale = self.buffers, np.float32(1 - self.setup.discount)
        parts = (made["rewards"] * scale, made["values"], made["next"], made["discounts"], made["traces"])
        advantages = gae(*(torch.from_numpy(part) for part in parts)).numpy()
        whole = self._written(carried)
        returns = np.ascontiguousarray((advantages + made["values"]).T)
        values, chances = (np.ascontiguousarray(made[name].T) for name in ("values", "chances"))
        return replace(whole, returns=returns, propensities=chances, values=values)

    def _written(self, carried: Float32[np.ndarray, "users carried"]) -> Batch:
        """The buffers without estimates as a batch, users first."""
        made = self.buffers
        users = {name: np.ascontiguousarray(values.swapaxes(0, 1)) for name, values in made.items()}
        numbers, mask = users["numbers"], np.ones(users["begins"].shape, np.bool_)
        if self.algorithm.episodes:
            mask = users["begins"].cumsum(1) == 1
        return Batch(
            items=np.full(mask.shape, -1, np.int32),
            factors=Factors(numbers, np.zeros((*mask.shape, 0, 0), np.float32), numbers),
            actions=users["slates"][..., 0],
            rewards=users["rewards"],
            mask=mask,
            discounts=users["discounts"],
            histories=int(mask.sum()),
            shown=users["shown"],
            clicks=users["clicks"],
            slates=users["slates"],
            slate_clicks=users["slate_clicks"],
            points=users.get("points"),
            begins=users["begins"],
            carried=carried,
        )


def rows_of(arrays: Mapping[str, np.ndarray], rows: Int64[np.ndarray, "some"], histories: int) -> Batch:
    """Some rows of stored play (`Batch.arrays`) as a batch that counts as this many histories."""
    some = {name: values[rows] for name, values in arrays.items() if name != "histories"}
    return Batch.of_arrays(some | {"histories": np.array(histories)})
