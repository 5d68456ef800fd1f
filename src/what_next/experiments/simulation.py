"""An agent in a world of simulated users, beside the references of that world."""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int64
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from what_next.data import Catalogue
from what_next.data.stages import SILENT, Stages
from what_next.environment import Environment, Report
from what_next.errors import ModelError, SetupError
from what_next.inference.modes import own_modes
from what_next.inference.recommender import Recommender
from what_next.models.slates import Pricer
from what_next.policy import LearnedPolicy
from what_next.settings import Setup
from what_next.sources import FoundingPlayer, LogPlayer, Player, world_of
from what_next.sources.world import catalogue_in
from what_next.training.artefacts import read_manifest
from what_next.types import Greedy
from what_next.worlds import Episodes, Reference, World, opened
from what_next.worlds import play as episodes_of
from what_next.worlds.base import limit_of, played
from what_next.worlds.promises import check_own

WATCHED = 100
"""Users that are recorded slate by slate, and most slates of each."""


@dataclass(frozen=True, eq=False)
class Watched:
    """What a policy showed to some users, and how they reacted.

    Attributes:
        shown, clicks, rewards: of each slate; `going`: whether the user was still there for it.
        numbers: the observations of the users before each slate, between 0 and 1; with the hidden state, if available.
    """

    shown: Int64[np.ndarray, "steps users slots"]
    clicks: Bool[np.ndarray, "steps users slots"]
    rewards: Float32[np.ndarray, "steps users"]
    going: Bool[np.ndarray, "steps users"]
    numbers: Float32[np.ndarray, "steps users columns"]


@dataclass(frozen=True, eq=False)
class Simulation:
    """The returns of an agent and of a world's references in this world.

    Attributes:
        world: its name; `episodes`: by policy. The agent is listed by its algorithm's name, where it acts greedily, and
            with `drawn` appended, where it samples as in training.
        agent: the algorithm; `ideal`: whether it saw the hidden state.
        report: of its training; None for an existing model. seconds: processor seconds of training.
        played: the world itself; `explored`: slates of random items before training.
        watched: what the agent and greed did, slate by slate, if that was requested.
    """

    world: str
    episodes: dict[str, Episodes]
    agent: str
    ideal: bool
    report: Report | None
    seconds: float
    played: World
    explored: int = 0
    watched: Mapping[str, Watched] = field(default_factory=dict)

    @property
    def slates(self) -> int:
        """The number of slates that it learned from, including the random ones before."""
        return 0 if self.report is None else self.report.histories + self.explored

    @property
    def places(self) -> int:
        """Decimal places of returns: two digits of the narrowest interval, because clicks of a log may earn little."""
        margins = [one.margin for one in self.episodes.values() if one.margin > 0]
        return int(np.clip(1 - np.floor(np.log10(min(margins, default=1.0))), 1, 6))

    def as_json(self) -> dict[str, Any]:
        """What `what-next simulate --json` prints."""
        policies = {
            name: {
                "return": round(one.mean, 6),
                "low": round(one.mean - one.margin, 6),
                "high": round(one.mean + one.margin, 6),
                "steps": round(float(one.lengths.mean()), 2),
                "episodes": len(one.returns),
            }
            for name, one in self.episodes.items()
        }
        training = None
        if self.report is not None:
            wall = round(self.report.seconds, 1)
            training = {"steps": self.slates, "seconds": wall, "processor_seconds": round(self.seconds, 1)}
        return {
            "world": self.world,
            "agent": self.agent,
            "ideal": self.ideal,
            "policies": policies,
            "training": training,
            "stopped": self.report is not None and self.report.stopped,
        }

    def __rich__(self) -> RenderableType:
        seen = "and sees the users' hidden state" if self.ideal else "and sees what the world shows"
        told = f"{self.agent} was there already, {seen}"
        if self.report is not None:
            steps, wall = f"{self.slates:,} slates", f"{self.report.seconds:.0f} s"
            told = f"{self.agent} learned from {steps} in {wall} ({self.seconds:.0f} s of processors), {seen}"
        if not self.episodes:
            return Text(told)
        count = len(next(iter(self.episodes.values())).returns)
        title, lines = f"{self.world}: returns of {count:,} episodes", Table()
        for name in ("policy", "return", "95 % interval", "steps"):
            lines.add_column(name, justify="left" if name == "policy" else "right")
        places = self.places
        for name, one in sorted(self.episodes.items(), key=lambda pair: -pair[1].mean):
            interval = f"{one.mean - one.margin:.{places}f} to {one.mean + one.margin:.{places}f}"
            shown = Text(name, style="bold" if name.startswith(self.agent) else "")
            lines.add_row(shown, f"{one.mean:.{places}f}", interval, f"{one.lengths.mean():.1f}")
        return Group(Text(title), lines, Text(told))


@own_modes()
def play(
    policy: LearnedPolicy | Recommender | Reference | str | Path,
    env: Any,
    episodes: int = 500,
    *,
    draws: bool = False,
    seed: int = 0,
) -> Episodes:
    """A policy's returns in a world, or in any environment of Gymnasium: one episode for each of some new users.

    Args:
        policy: one that learned by acting, or from a log of choices among the world's items (`sources.LogPlayer`), a
            model with such a policy, or the file of its agent; or a function from a state and a generator to slates.
        env: a world, its name (`boredom:SlateTopK-Bored-v0`, `gym:sardine/SlateTopK-Bored-v0`), or an environment,
            which is copied for each user. See `worlds.environments` for the supported environments.
        draws: whether it samples, as during learning; otherwise it acts greedily.

    Raises:
        SetupError: there is no such world, its episodes have no time limit, `episodes` is below two, `policy` or `seed`
            is invalid, a custom world breaks the contract of all worlds, or no layout describes the environment's
            observations.
        ModelError: the model was not made for this world.
    """
    world = opened(env)
    check_own(world)
    if isinstance(policy, str | Path):
        policy = LearnedPolicy.load(policy)
    if isinstance(policy, Recommender):
        policy = policy.policy
    if isinstance(policy, LearnedPolicy):
        check_made_for(policy, world)
        policy = player_of(policy)(policy, world, draws=draws)
    if not callable(policy):
        raise SetupError(f"policy is {policy!r:.200}; expected a model, the file of its agent, or a function to slates")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SetupError(f"seed is {seed!r}; allowed: a whole number from 0 on")
    return episodes_of(world, policy, episodes, np.random.default_rng(seed))


def simulate(
    setup: Setup | str | Path, env: Any = None, *, stages: Stages = SILENT, force: bool = False, watch: bool = False
) -> Simulation:
    """Train the setup's agent in a world, or load it if the setup does not train; then play it and the references.

    All policies play for users drawn from one seed, which training does not use. If training is interrupted, the agent
    is saved and nothing is played.

    Args:
        env: as in `play`; None: the world named by the setup, or else by its model.
        watch: whether to record what the agent and greed do slate by slate, for a report.

    Raises:
        SetupError: there is no such world, its episodes have no time limit, or the algorithm does not learn by acting.
        ModelError: the model was not made for this world.
        TrainingError: a reward or a loss was not a number.
    """
    setup = _read(setup, env)
    world, report, seconds, explored = world_of(setup) if env is None else opened(env), None, 0.0, 0
    limit_of(world)  # checked before training, because the model is played afterwards
    if setup.train:
        environment, before = Environment.from_setup(setup, world=world, force=force), time.process_time()
        report, explored = environment.run_sim(), getattr(environment.source, "explored", 0)
        seconds = time.process_time() - before
        policy = LearnedPolicy(environment.agent.eval(), environment.state)
    else:
        policy = LearnedPolicy.load(setup)
        check_made_for(policy, world)
    name, kind = setup.algorithm.name, player_of(policy)
    agents: dict[str, Reference] = {name: kind(policy, world)}
    if policy.agent.setup.algorithm.draws_points or policy.sampler != Greedy():
        agents[f"{name}, drawn"] = kind(policy, world, draws=True)
    interrupted = report is not None and report.interrupted  # after an interrupt nothing is played
    players = {} if interrupted else agents | dict(world.references())
    episodes, done = {}, stages.begin("playing", len(players))
    for one, player in players.items():
        rng = np.random.default_rng([setup.seed, setup.world.episodes])
        episodes[one] = episodes_of(world, player, setup.world.episodes, rng)
        done(1)
    played_in = policy.agent.setup.world
    watched = {one: watched_in(world, players[one]) for one in (name, "greedy") if watch and one in players}
    known_as = played_in.name or (setup.world.name if env is None else None) or world.known_as
    return Simulation(known_as, episodes, name, played_in.ideal, report, seconds, world, explored, watched)


def _read(setup: Setup | str | Path, env: Any) -> Setup:
    """The setup; if neither it nor `env` names a world and it does not train, the world of its model is used."""
    setup = setup if isinstance(setup, Setup) else Setup.read(setup, ["data=-"])  # a world needs no data
    if env is not None or setup.train or setup.world.name is not None:
        return setup
    learned = read_manifest(setup.model_agent_path, "agent").setup.get("world", {})
    known = {name: learned[name] for name in ("name", "ideal") if name in learned}
    return setup.model_copy(update={"world": setup.world.model_copy(update=known)})


def watched_in(world: World, policy: Reference, users: int = WATCHED) -> Watched:
    """Play a policy for new users, until all have left or the most slates were shown."""
    ideal, found = has_ideal(world), list[tuple[np.ndarray, ...]]()
    low, high = world.bounds(ideal)
    limit = min(WATCHED, world.steps or WATCHED)
    for places, before, after, feedback in played(world, policy, users, np.random.default_rng(users), limit):
        numbers = (world.observe(before, ideal).numbers - low) / np.where(high > low, high - low, 1)
        shown = feedback.clicks, feedback.rewards, np.ones(len(places), np.bool_), numbers.astype(np.float32)
        found.append(tuple(_spread(values, places, users) for values in (after.shown, *shown)))
    return Watched(*(np.stack(parts) for parts in zip(*found, strict=True)))


def has_ideal(world: World) -> bool:
    """Whether the users' hidden state is available."""
    try:
        world.bounds(ideal=True)
    except SetupError:
        return False
    return True


def _spread(values: np.ndarray, places: np.ndarray, users: int) -> np.ndarray:
    """The values of some users at their places, zeros for the others."""
    every = np.zeros((users, *values.shape[1:]), values.dtype)
    every[places] = values
    return every


def player_of(policy: LearnedPolicy) -> type[Player] | type[LogPlayer]:
    """The player for a policy, by its input: the world's observations of users, or items only."""
    setup = policy.agent.setup
    if setup.algorithm.by_attributes and setup.acts:
        return FoundingPlayer
    return Player if setup.acts and setup.inputs.context else LogPlayer


def check_made_for(policy: LearnedPolicy, world: World) -> None:
    """Raises a `ModelError` where a model's items or inputs do not match the world."""
    agent = policy.agent
    setup, space = agent.setup, agent.space
    path, ideal, items = setup.model_agent_path, setup.world.ideal, len(world.item_vectors)
    if player_of(policy) is LogPlayer:
        if setup.inputs.rewards or setup.inputs.gaps or setup.inputs.context:
            raise ModelError(
                f"{path}: learned from rewards, times or context of a log, which a world does not tell (`inputs`)"
            )
        if len(space.catalogue) != items:
            raise ModelError(f"{path}: knows {len(space.catalogue):,} items, and {world.known_as} has {items:,}")
        _same_items(path, space.catalogue, world)
        return
    actor = agent.nets.get("actor")
    numbers = len(world.bounds(ideal)[0])
    if isinstance(actor, Pricer) and actor.belief is not None:
        numbers += actor.belief.width + 1
    numbers += setup.algorithm.by_attributes  # whether an item was clicked
    if (len(space.catalogue), len(space.event_names)) != (items, numbers):
        raise ModelError(
            f"{path}: was trained with {len(space.catalogue):,} items and {len(space.event_names)} numbers of a user; "
            f"{world.known_as} has {items:,} and shows {numbers} (world.ideal is {ideal})"
        )


def _same_items(path: Path, catalogue: Catalogue, world: World) -> None:
    """Raises a `ModelError` where a model's items differ from the world's, although their number is the same.

    A model's ids are the world's ids, or item numbers, as in a log that was recorded there (Minari). In a world without
    ids, a catalogue made from a world (`catalogue_in`) must also have the same vectors.
    """
    known, own = catalogue.ids.cast(pl.String).to_list(), list(map(str, world.item_ids))
    numbers = list(map(str, range(len(own))))
    if known != own and (known != numbers or set(known) == set(own)):
        place = next(place for place, pair in enumerate(zip(known, own, strict=True)) if pair[0] != pair[1])
        raise ModelError(
            f"{path}: its item {place + 1} is {known[place]!r}, and that of {world.known_as} is {own[place]!r}: it "
            "learned of other items, or has them in another order; train on a log of this world's items, in its order"
        )
    if own == numbers and catalogue.names and all(re.fullmatch(r"attribute_\d+", name) for name in catalogue.names):
        here = catalogue_in(world)
        if catalogue.names != here.names or not np.allclose(catalogue.attributes, here.attributes, atol=1e-5):
            raise ModelError(
                f"{path}: learned of another world's items than {world.known_as} has; train on a log of this world's"
            )
