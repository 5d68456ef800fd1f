"""Sources of experience: each makes batches, and the learner does not know which source made them."""

from collections.abc import Mapping

from what_next.errors import SetupError
from what_next.settings.plugins import installed
from what_next.sources.bandit import BanditSource as BanditSource
from what_next.sources.base import Mixture as Mixture
from what_next.sources.base import Source as Source
from what_next.sources.decisions import DecisionSource as DecisionSource
from what_next.sources.decisions import refuse_unable, with_decisions
from what_next.sources.founding import FoundingPlayer as FoundingPlayer
from what_next.sources.founding import FoundingSource as FoundingSource
from what_next.sources.log import LogSource as LogSource
from what_next.sources.players import LogPlayer as LogPlayer
from what_next.sources.players import Player as Player
from what_next.sources.replay import Replay as Replay
from what_next.sources.replay import ReplaySource as ReplaySource
from what_next.sources.world import WorldSource as WorldSource
from what_next.sources.world import clicks_in as clicks_in
from what_next.sources.world import state_in as state_in
from what_next.sources.world import world_of as world_of
from what_next.state import State
from what_next.worlds import World

SOURCES: Mapping[str, type[Source]] = {
    "log": LogSource,
    "decisions": DecisionSource,
    "bandit": BanditSource,
    "world": WorldSource,
}
"""Sources by the name that an algorithm uses; installed packages add theirs (group `what_next.sources`)."""


def known_sources() -> dict[str, type[Source]]:
    """Every source that an algorithm may name; loads those of installed packages."""
    return {**SOURCES, **installed("what_next.sources", Source, SOURCES)}


def source_of(state: State) -> Source:
    """The source that the setup's algorithm learns from; with a log, also the service's decisions (`with_decisions`).

    Raises:
        DataError: the setup asks for decisions of a service, and there are none to learn from.
        SetupError: neither this package nor an installed one has the source, or the algorithm cannot learn from the
            source that the setup asks for.
    """
    algorithm = state.setup.algorithm
    refuse_unable(state)
    kind = SOURCES.get(algorithm.source) or known_sources().get(algorithm.source)
    if kind is None:
        raise SetupError(
            f"the algorithm {algorithm.name} learns from the source {algorithm.source!r}, which is not known here; "
            "install the package that brings it (an entry point of what_next.sources), or give Environment a `source`"
        )
    return with_decisions(state) if kind is LogSource else kind(state)


def source_in(world: World, state: State) -> WorldSource:
    """The source for learning in a world: the algorithm's own choices as they are made, or a replay of them.

    Raises:
        SetupError: the algorithm learns only from a log.
    """
    algorithm = state.setup.algorithm
    if not algorithm.replays:
        return WorldSource(state, world)
    return (FoundingSource if algorithm.by_attributes else ReplaySource)(state, world)
