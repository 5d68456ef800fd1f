"""The trained agent as a policy: the one place that chooses its items and computes their propensities."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int, Int32

from what_next.agent import Agent
from what_next.algorithms import Algorithm
from what_next.data import Catalogue, Dataset
from what_next.errors import ModelError
from what_next.models.encoders import Encoder
from what_next.models.item_space import ItemSpace
from what_next.retrieval import ByScore, Exact, Priced, Rescored, SlotBySlot, Table
from what_next.retrieval.approximate import Approximate, ApproximateIndex
from what_next.retrieval.choosing import of_slates
from what_next.settings import Setup, SplitSettings
from what_next.state import State
from what_next.training.artefacts import models_of, read_manifest
from what_next.types import Greedy, History, Product, Proposal, Random, Request, Sampler, Softmax, Transitions

EVERYONE = SplitSettings(test=0, validation=0)
"""A split that sets nobody aside, for recommending without judging."""


@dataclass(frozen=True, eq=False)
class Search:
    """Approximate search: an index over a model's own items, and how many of them a search finds."""

    index: ApproximateIndex
    candidates: int


class LearnedPolicy:
    """An agent and the state that turns its proposals into items (a `types.Policy`).

    Its states are proposals: the actor's points after each history, or in each live session (`Sessions.states` of
    `inference.session`). It may be used by one thread at a time.

    Attributes:
        agent, state: the arguments.
        search: approximate search, for an agent that scores items; None: all items are scored.
    """

    def __init__(self, agent: Agent, state: State, search: Search | None = None) -> None:
        self.agent, self.state, self.search = agent, state, search
        self._table: Table | None = None
        self._balanced: SlotBySlot | None = None

    def __repr__(self) -> str:
        return f"LearnedPolicy({self.agent!r})"

    @classmethod
    def load(
        cls,
        source: str | Path | Setup,
        dataset: Dataset | None = None,
        *,
        critic: Path | None = None,
        device: str | None = None,
        algorithm: type[Algorithm] | None = None,
    ) -> "LearnedPolicy":
        """A trained model from its files; the one way to open it.

        Args:
            source: the agent's file, or a setup that names it; a setup's settings replace those that are not the
                model's own.
            dataset: histories, with the model's own catalogue; None: no histories.
            critic: the critic's file; None: the setup's, or the one beside the agent's if the agent needs it.
            device: the networks' device; None: the setup's.
            algorithm: the class of an algorithm that is not registered; only with a file, not with a setup.

        Raises:
            ModelError: a file is missing, damaged, newer, or does not belong to the others; or the algorithm is
                unknown.
            CatalogueError: the data set has another catalogue.
        """
        given: dict[str, object] = {"model_critic_path": critic, "device": device}
        update = {name: value for name, value in given.items() if value is not None}
        if not isinstance(source, Setup):
            setup = read_manifest(Path(source), "agent").made_by(algorithm)
            own = {"train": False, "split": EVERYONE, "model_agent_path": Path(source), "model_critic_path": None}
            setup = setup.model_copy(update=own | update)
        elif algorithm is None:
            setup = source.model_copy(update=update if dataset is not None else {"split": EVERYONE, **update})
        else:
            raise TypeError("a setup holds its algorithm; the class is for a model's file")
        saved = models_of(setup)
        setup = setup.model_copy(update={"model_critic_path": saved.critic})
        ready = Agent(setup, saved.space).ready_agent(saved)
        space = ready.space.with_tolerance(setup.tolerance)
        return cls(ready, State(dataset or nobody(space.catalogue), ready.setup, space))

    def of_histories(self) -> "LearnedPolicy":
        """Itself, if it can read a history of items.

        Raises:
            ModelError: it learned by acting, and reads its world's slates.
        """
        refuse_acting(self.agent.setup)
        return self

    def indexed(self, candidates: int) -> "LearnedPolicy":
        """The same policy with approximate search over its items, if it ranks them by an inner product.

        The index is built from the model alone, deterministically, so that evaluation uses the same candidates as the
        service.
        """
        example, _ = self.state.history_of([self.state.space.catalogue.ids[0]])
        ranked = self.states(example).ranked
        if ranked is None or ranked.rescored or ranked.traits is not None:
            return self
        vectors = np.ascontiguousarray(ranked.vectors.detach().float().cpu().numpy())
        return LearnedPolicy(self.agent, self.state, Search(ApproximateIndex.of(vectors), candidates))

    # Choosing

    @property
    def sampler(self) -> Sampler:
        """The agent's default sampler: greedy for values, because they are not logits, and for drawn points."""
        algorithm = self.agent.setup.algorithm
        return Greedy() if algorithm.needs_critic or algorithm.draws_points else Softmax()

    def states(self, history: History) -> Proposal:
        """The actor's proposals after some histories; only the latest events may count."""
        return self.agent.predict(history)

    def act(self, states: Proposal, request: Request, rng: Random = None) -> Product:
        """A slate for each state.

        Args:
            states: from `states`, or of live sessions.
            request: number of items, permitted items, and sampler.
            rng: one generator, or one for each row; not needed for `Greedy`.

        Raises:
            NotFinite: a proposal or a score is not finite; it names the rows.
        """
        backend = self.backend(states)
        return self.state.produce(states.points, None, rng, request=request, score=states.score, backend=backend)

    def propensities(
        self, states: Proposal, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Float64[np.ndarray, "batch slots"]:
        """The probability with which `act` chooses each item of some slates, given the items above it; NaN for -1."""
        return of_slates(self.chances(states, request, slates), slates)

    def chances(
        self, states: Proposal, request: Request, slates: Int32[np.ndarray, "batch slots"]
    ) -> Iterator[Float64[np.ndarray, "batch items"]]:
        """For each slot, the probability that `act` chooses each item, given the items above the slot in some slates.

        A row sums to 1, or to 0 if no item is left.
        """
        backend = self.backend(states) or self.state.matching(score=states.score)
        return backend.chances(states.points, request, slates)

    def backend(self, states: Proposal) -> ByScore | None:
        """The selection of items for proposals with scores; None: items that match a point, see `State.matching`."""
        ranked = states.ranked
        if ranked is None:
            return None
        if self._table is None or self._table.made_of is not ranked.vectors:
            self._table = Table(ranked.vectors)
        if ranked.rescored:
            return Rescored(Exact(self._table, ranked.boosts), ranked)
        if ranked.traits is not None:
            if self._balanced is None or self._balanced.traits is not ranked.traits:
                self._balanced = (Priced if ranked.priced else SlotBySlot)(Exact(self._table), ranked.traits)
            return self._balanced
        exact = Exact(self._table, ranked.boosts)
        return exact if self.search is None else Approximate(exact, self.search.index, self.search.candidates)

    # The critic's values of items

    def values(
        self, states: Proposal, items: Int[np.ndarray, "batch some"]
    ) -> Float64[np.ndarray, "batch some"] | None:
        """The critic's values of some items in each state; None if no critic was loaded, or it values no items."""
        batch, count = items.shape
        if states.values is not None:
            rows = np.repeat(np.arange(batch), count)
            return np.asarray(states.values(rows, items.astype(np.int64).ravel()), np.float64).reshape(items.shape)
        if states.encoded is None or self.agent.setup.model_critic_path is None:
            return None
        nets, encoder = self.agent.nets, self.agent.nets["encoder"]
        assert isinstance(encoder, Encoder)
        with torch.no_grad():
            steps = states.encoded.repeat_interleave(count, 0)
            ids = torch.from_numpy(items.astype(np.int64).ravel()).to(steps.device)
            vectors = ItemSpace.of(encoder.items.rows(ids))
            nothing, places = steps.new_zeros(batch * count), torch.arange(batch * count, device=steps.device)
            unknown = torch.full_like(places, -1)
            some = Transitions(steps, places, nothing, steps, steps, unknown, nothing, nothing, nothing)
            found = self.agent.setup.algorithm.estimates(nets, some, vectors)
        return None if found is None else np.asarray(found.cpu().numpy(), np.float64).reshape(items.shape)


def nobody(catalogue: Catalogue, name: str = "no log") -> Dataset:
    """A data set without users; histories are then given by item ids."""
    return Dataset.of_events(pl.Series([], dtype=pl.String), np.array([], np.int32), catalogue, name)


def refuse_acting(setup: Setup) -> None:
    """Raise a `ModelError` if the setup's agent learned by acting, and reads its world's slates, not histories."""
    if setup.acts and (setup.inputs.context or setup.algorithm.source == "world"):
        raise ModelError(
            f"{setup.model_agent_path}: {setup.algorithm.name} learned by acting in {setup.world.name}, and reads the "
            "slates that are shown there, no history of items; `what-next simulate` or wn.play plays it"
        )
