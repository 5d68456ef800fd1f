"""State: the histories, the catalogue, and the selection of items for a proposal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32

from what_next.data import Catalogue, Dataset
from what_next.data.space import Space, history_of, known_events, numbers_at, same_catalogue, scaled_space
from what_next.data.splits import More, advised
from what_next.errors import CatalogueError, DataError, ModelError, SetupError, counted, some
from what_next.retrieval import Box, ByScore, Matching, smallest_tolerance
from what_next.rewards import Logged, population_sigma
from what_next.settings import Setup
from what_next.training.artefacts import read_models, to_resume
from what_next.types import Greedy, History, Product, Random, Request, Score, Softmax

DEFAULTS = "train, no, data, -, model_agent_path, agent.safetensors, model_critic_path, critic.safetensors"
"""Settings of a State that is given no setup."""
SAMPLE = 2000
"""Most windows or users from which a statistic of the training part is taken."""


class State:
    """A data set as the training loop sees it: random training histories, and items that match a proposal.

    Attributes:
        dataset: all events.
        split: which events training may know.
        chosen_by: the split whose validation users chose the settings; another one than `split` if there is `more`.
        more: the events that a second training may know besides (`refit`); None: there is none.
        space: the catalogue as training may know it, with the tolerance.
        train_users: positions of the users that training draws from.
    """

    def __init__(
        self, dataset: Dataset, setup: Setup | None = None, space: Space | None = None, more: More | None = None
    ) -> None:
        """Statistics of the training part are computed here, unless `space` holds those of a trained model.

        Raises:
            DataError: the data set has no attributes that differ, or no user has three events to train on.
            CatalogueError: `space` has another catalogue.
        """
        self.setup = setup or Setup.from_text(DEFAULTS)
        self.dataset = dataset
        algorithm = self.setup.algorithm
        self._has_inputs()
        if space is not None:
            same_catalogue(dataset, space)
        self.chosen_by, self.more = self.setup.split.of(dataset), more
        self.split = self.chosen_by if more is None else self.chosen_by.with_more(dataset, more)
        least = algorithm.least_events
        self.train_users = np.flatnonzero(self.split.known >= least).astype(np.int32)
        self._sigma = np.full(dataset.users, np.nan, np.float32)
        self.space = space or scaled_space(dataset, self.split)
        self._check_attributes(self.space.catalogue)
        if not len(self.train_users) and (space is None):
            raise DataError(
                f"{dataset.name}: no training user has {least} events, the fewest that teach anything; "
                + advised(dataset, f"take a larger log, or {self.setup.split.more}")
            )
        if space is None and algorithm.by_attributes:
            self.space = self._measured()

    def __repr__(self) -> str:
        split = f"split {self.split.kind} {self.split.hash}"
        return f"State({len(self.train_users):,} training users, {split};\n  {self.dataset!r})"

    def _has_inputs(self) -> None:
        """Raise an error if the setup names inputs that the data do not have."""
        inputs, dataset, algorithm = self.setup.inputs, self.dataset, self.setup.algorithm
        if not algorithm.by_attributes and dataset.users:
            if inputs.rewards and dataset.rewards is None:
                raise SetupError(
                    f"inputs.rewards is yes, and {dataset.name} has no reward column (numbers of kinds of events are "
                    "no input); import it with --reward"
                )
            if inputs.gaps and dataset.timestamps is None:
                raise SetupError(f"inputs.gaps is yes, and {dataset.name} has no times; import it with --time")
        self._check_attributes(dataset.catalogue)

    def _check_attributes(self, catalogue: Catalogue) -> None:
        """Raise a `DataError` if the setup needs attributes and no attribute differs between items."""
        algorithm, items = self.setup.algorithm, self.setup.inputs.items
        if not catalogue.informative and (algorithm.by_attributes or items in ("attributes", "both")):
            trained = " with a training event" if catalogue.constant else ""
            learned = "" if algorithm.by_attributes else ", or set inputs.items to learned"
            raise DataError(
                f"{self.dataset.name}: its items have no attributes (one that all items{trained} share is none), and "
                f"{algorithm.name} proposes points in their space; set algorithm to one that needs none, such as "
                f"next_item, or import the data with --attributes or an item table (--items){learned}"
            )

    @property
    def left_out(self) -> list[str]:
        """A message about constant attributes, if networks or rewards would read attributes."""
        constant, setup = self.space.catalogue.constant, self.setup
        rewarded = any("attributes" in term.needs for term in setup.reward.terms)
        if not constant or not (
            rewarded or setup.algorithm.by_attributes or setup.item_inputs(self.space) != "learned"
        ):
            return []
        return [
            f"left out: {counted(len(constant), 'attribute')}, the same for all items with a training event "
            f"({some(constant)}); values for other items are ignored"
        ]

    @cached_property
    def monitored(self) -> str:
        """The measure on the validation users: the setting `monitor`, or the first of the algorithm's `monitors` that
        the log allows."""
        measures = self.setup.algorithm.monitors
        return self.setup.monitor or next((one for one in measures if one != "dcg@10" or self._rewarded()), measures[0])

    def _rewarded(self) -> bool:
        """Whether logged rewards count for the algorithm, differ among the training events, and have a positive sum."""
        lowest, highest, total = np.inf, -np.inf, 0.0
        if any(isinstance(term, Logged) and (term.weight or 0) > 0 for term in self.setup.reward.terms):
            for part in (self.logged[some] for some in known_events(self.dataset, self.split.known)):
                lowest, highest = min(lowest, part.min(initial=np.inf)), max(highest, part.max(initial=-np.inf))
                total += part.sum(dtype=np.float64)
        return bool(lowest < highest and total > 0)

    @cached_property
    def logged(self) -> Float32[np.ndarray, "events"]:
        """The logged reward of each event."""
        return self.setup.reward.logged.of_events(self.dataset)

    @cached_property
    def box(self) -> Box:
        """Look-up of items by their attributes."""
        return Box(self.space.catalogue.vectors)

    @classmethod
    def from_setup(cls, setup: Setup | str | Path) -> "State":
        """The state of the data file of a setup, or of the path of one."""
        setup = setup if isinstance(setup, Setup) else Setup.read(setup)
        return cls(Dataset.read(setup.data_path), setup)

    @classmethod
    def open(cls, setup: Setup, *, resume: bool = False, origin: Path | None = None) -> "State":
        """The state of a setup's data: measured there, or in the space of the model that training starts from.

        If the setup does not train, it is in the space of its model, and nothing is measured.

        Raises:
            CatalogueError: the model, or the run that is resumed, was made on another catalogue.
            ModelError: the model cannot be read, or has other attributes.
        """
        if not setup.train:
            space = read_models(setup.model_agent_path).space
            return cls(Dataset.read(setup.data_path), setup, space.with_tolerance(setup.tolerance))
        state = cls.from_setup(setup)
        if resume:
            begun = setup.members[0].model_agent_path
            saved = read_models(begun if begun.is_file() else to_resume(setup.model_agent_path)).space
            return cls(state.dataset, setup, saved.measured(state.space))
        return cls(state.dataset, setup, state.space_under(origin)) if origin else state

    def space_under(self, origin: Path) -> Space:
        """The space of these data under the scaling of a trained model; the setup's tolerance overrides the model's.

        Raises:
            ModelError: the attributes are not those of the model.
        """
        old, space = read_models(origin).space, self.space
        if old.catalogue.names != space.catalogue.names or old.event_names != space.event_names:
            raise ModelError(
                f"{origin}: was trained on attributes {some(old.catalogue.names)} and events with "
                f"{some(old.event_names) or 'nothing more'}; the data have {some(space.catalogue.names)} and "
                f"{some(space.event_names) or 'nothing more'}"
            )
        catalogue = space.catalogue.scaled(old.catalogue.center, old.catalogue.scale)
        return replace(old.measured(space), catalogue=catalogue).with_tolerance(self.setup.tolerance)

    def new_items(self, origin: Path) -> int:
        """How many items of the catalogue a model did not know."""
        return int((read_models(origin).space.catalogue.index(self.space.catalogue.ids.to_list()) < 0).sum())

    def within(self, space: Space) -> "State":
        """The same data in the space of a trained model.

        Raises:
            CatalogueError: the model was trained on another catalogue.
        """
        return State(self.dataset, self.setup, space.with_tolerance(self.setup.tolerance))

    def get_random_user_history(self, batch: int, rng: np.random.Generator | None = None) -> History:
        """The histories of `batch` random training users, drawn with replacement.

        The complete history that training may know. If it is longer than the setting `window` (without it,
        `max_length`), that many consecutive events from a random position.
        """
        rng = rng or np.random.default_rng()
        users = rng.choice(self.train_users, size=batch)
        known = self.split.known[users]
        lengths = np.minimum(known, self.setup.longest)
        return self.histories(users, rng.integers(known - lengths + 1), lengths)

    def get_user_history(self, users: Int32[np.ndarray, "batch"]) -> History:
        """The whole histories of some users."""
        lengths = self.dataset.lengths[users]
        return self.histories(users, np.zeros_like(lengths), lengths)

    def histories(
        self,
        users: Int32[np.ndarray, "batch"],
        starts: Int[np.ndarray, "batch"],
        lengths: Int[np.ndarray, "batch"],
        width: int = 1,
    ) -> History:
        """The events `starts : starts + lengths` of some users, with their sigma; `width` columns or more."""
        steps = np.arange(max(width, int(lengths.max(initial=0))))
        real = steps < lengths[:, None]
        events = np.where(real, (self.dataset.offsets[users] + starts)[:, None] + steps, 0)
        read = numbers_at(self.dataset, self.space.event_names, self.space.event_center, events)
        numbers = np.where(real[..., None], read, np.float32(0))
        items = np.where(real, self.dataset.items[events], -1).astype(np.int32)
        history = history_of(self.space, items, lengths.astype(np.int64), numbers)
        users, times = users.astype(np.int32), self.dataset.timestamps
        times = None if times is None else np.where(real, times[events], 0)
        return replace(history, users=users, sigma=self.sigma(users), times=times)

    def history_of(self, ids: Sequence[str | int]) -> tuple[History, list[str]]:
        """A history from external item ids, oldest first, and the ids that are not in the catalogue."""
        if not len(ids):
            raise CatalogueError("the history is empty; give the ids of one item or more, oldest first, or a user's id")
        items = self.space.catalogue.index(list(ids))
        unknown = [str(one) for one, item in zip(ids, items, strict=True) if item < 0]
        items = items[items >= 0]
        if not len(items):
            several = f"none of the {len(ids)} items of the history is"
            none = several if len(ids) > 1 else "the history's only item is not"
            raise CatalogueError(
                f"{none} in the catalogue of {len(self.space.catalogue):,} items; give ids as they stand in the item "
                f"table, such as {str(self.space.catalogue.ids[0])!r}"
            )
        numbers = np.broadcast_to(self.space.event_center, (1, len(items), len(self.space.event_center)))
        return history_of(self.space, items[None].astype(np.int32), np.array([len(items)]), numbers), unknown

    def with_context(self, history: History, values: Mapping[str, float]) -> History:
        """The history with the context of its last event set to the situation of the request.

        Raises:
            DataError: the data set has no such context, or a value is not finite.
        """
        names = self.space.context_names
        context = history.context.copy()
        for name, value in values.items():
            if name not in names:
                raise DataError(f"context {name!r} is unknown; {self.dataset.name} has {some(names) or 'none'}")
            if not abs(value) <= float(np.finfo(np.float32).max):
                raise DataError(f"context {name!r} is {value}; expected a finite number")
            context[np.arange(len(context)), history.lengths - 1, names.index(name)] = value
        return replace(history, context=context)

    def produce(
        self,
        attributes: Float32[np.ndarray, "*grid dim"],
        relax: float | None = None,
        rng: Random = None,
        *,
        request: Request | None = None,
        score: Score | None = None,
        backend: ByScore | None = None,
    ) -> Product:
        """For each proposal, a randomly selected item whose attributes match.

        An item matches if every attribute lies within the tolerance; one attribute, drawn for each slot, may lie within
        half of `relax`. If none matches, one of the nearest is taken and marked as a fallback.

        Args:
            attributes: the proposals, in standard deviations.
            relax: width of the relaxed band, in standard deviations; None: the setup's.
            rng: one generator, or one for each proposal; None takes the nearest items, in order.
            request: number of items, permitted items and sampler, a row for each proposal. None: one item, drawn with
                `rng`, without its propensity.
            score: the critic's values: the best of `selection.candidates` drawn items is taken.
            backend: selects items by score instead.
        """
        points = np.ascontiguousarray(attributes.reshape(-1, attributes.shape[-1]))
        request = request or Request(sampler=Greedy() if rng is None else Softmax(), propensities=False)
        found = (backend or self.matching(relax, score)).act(points, request, rng)
        grid = (*attributes.shape[:-1], request.width)
        return Product(
            items=found.items.reshape(grid),
            propensities=None if found.propensities is None else found.propensities.reshape(grid),
            scores=None if found.scores is None else found.scores.reshape(grid),
            candidates=found.candidates,
            matches=found.matches.reshape(grid),
            fallback=found.fallback.reshape(grid),
        )

    def matching(self, relax: float | None = None, score: Score | None = None) -> Matching:
        """The selection of items that match a point; the arguments are those of `produce`."""
        relax = self.setup.relax if relax is None else relax
        candidates = self.setup.selection.candidates if score else 0
        return Matching(self.box, self.space.tolerance, relax, score, candidates)

    predict = produce  # the founding text's other name

    def _measured(self) -> Space:
        """The space with the tolerance and the typical spread, measured on random training users."""
        rng = np.random.default_rng(self.setup.split.seed)
        some = rng.permutation(self.train_users)[:SAMPLE]
        return replace(
            self.space,
            typical=float(self.sigma(some).mean(dtype=np.float64)),
            tolerance=self.setup.tolerance or self.smallest_tolerance(rng),
        )

    def smallest_tolerance(self, rng: np.random.Generator) -> float:
        """The smallest tolerance at which half of the distinct training items match another one.

        The actor proposes points of the catalogue, so a proposal matches its own item at any tolerance. An item drawn
        from a wider box would change the spread differently from the proposal.
        """
        different = rng.permutation(np.unique(self.space.catalogue.vectors[self.space.seen], axis=0))
        some = min(SAMPLE, len(different) // 2)
        return smallest_tolerance(different[some:], different[:some], 0.5) if some else 1.0

    def sigma(self, users: Int32[np.ndarray, "batch"]) -> Float32[np.ndarray, "batch"]:
        """Spread of all that each user likes: from the events that training may know, or all of a user set aside."""
        spread = self.setup.reward.spread
        if not (self.setup.algorithm.by_attributes or spread.weight):
            return np.full(len(users), np.nan, np.float32)  # not needed
        known = users[users >= 0]
        for user in np.unique(known[np.isnan(self._sigma[known])]):
            start = self.dataset.offsets[user]
            count = self.split.known[user] or self.dataset.lengths[user]
            vectors = torch.from_numpy(self.space.catalogue.vectors[self.dataset.items[start : start + count]])
            self._sigma[user] = population_sigma(vectors, spread.pairs, self.setup.split.seed)
        return np.where(users >= 0, self._sigma[users] if len(self._sigma) else np.nan, np.nan).astype(np.float32)
