"""Where experience comes from: each source makes batches, and the learner does not know which one made them."""

from collections.abc import Mapping

from what_next.settings.plugins import installed
from what_next.sources.bandit import BanditSource
from what_next.sources.base import Mixture, Source
from what_next.sources.log import LogSource
from what_next.state import State

SOURCES: Mapping[str, type[Source]] = {"log": LogSource, "bandit": BanditSource}
"""By the name that an algorithm gives; those of installed packages follow (group `what_next.sources`)."""

__all__ = ["SOURCES", "BanditSource", "LogSource", "Mixture", "Source", "source_of"]


def source_of(state: State) -> Source:
    """The one that the setup's algorithm learns from."""
    name = state.setup.algorithm.source
    kind: type[Source] = SOURCES.get(name) or installed("what_next.sources", Source, SOURCES)[name]
    return kind(state)
