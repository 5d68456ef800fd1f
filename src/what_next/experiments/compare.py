"""Compares setups on the same users, each with the first, and with ablations of itself.

`tradeoff` measures the cost of the founding reward: it trains the same setup at several weights of the spread.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from what_next.algorithms import NextItem
from what_next.data import Dataset
from what_next.data.splits import Part
from what_next.data.stages import SILENT, Stages
from what_next.errors import ModelError, SetupError
from what_next.experiments.baselines import EVERY, Allowed
from what_next.experiments.models import beside, is_trained, judged_state, of_seed, policy, trained
from what_next.experiments.next_items import RIVALS, Comparison, evaluator_of, few_hits, protocol, result_of, rules
from what_next.rewards import Logged, Spread
from what_next.settings import Setup, listed
from what_next.sources import LogSource
from what_next.state import State
from what_next.training.artefacts import read_manifest
from what_next.training.checkpoint import made_with
from what_next.training.refit import refit_on
from what_next.types import History

OFF, SHUFFLED = "critic off", "rewards shuffled"
ONE_SEED = "one training each: the intervals do not include the variation between seeds; take --seeds 0,1,2"


class ShuffledSource(LogSource):
    """The same log with its rewards permuted among events, so that rewards say nothing about the chosen items.

    If the setup's encoder reads rewards, it reads the original ones.
    """

    def earned(self, history: History) -> Float32[np.ndarray, "batch time"]:
        """See `LogSource.earned`."""
        events = self._events(history)
        return np.where(events < 0, 0, self.shuffled[events]).astype(np.float32)

    @cached_property
    def shuffled(self) -> Float32[np.ndarray, "events"]:
        """The permuted rewards, by the setup's seed; 0 for events that are no training target."""
        places, values = self.own
        earned = np.zeros(self.state.dataset.events, np.float32)
        earned[places] = np.random.default_rng(self.setup.seed).permutation(values)
        return earned

    @cached_property
    def own(self) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
        """The events that are training targets, by their place in the log, and their original rewards."""
        places, values = [], []
        for step in range(len(self.batches)):
            history = self.windows(self.batches.batch(step))
            # The first event of a window is the last of the window before, which is where it is a target.
            events = self._events(history)[:, 1:]
            places.append(events[events >= 0])
            values.append(super().earned(history)[:, 1:][events >= 0])
        return np.concatenate(places), np.concatenate(values)

    def _events(self, history: History) -> Int64[np.ndarray, "batch time"]:
        """The places of a history's events in the log; -1 for padding."""
        assert history.before is not None
        first = self.state.dataset.offsets[history.users] + history.before
        return np.where(history.items < 0, -1, first[:, None] + np.arange(history.items.shape[1]))


@dataclass(frozen=True, eq=False)
class Entrant:
    """A competitor: its setup, the data that it is judged on, the policies beside it, and its source of batches."""

    state: State
    beside: str
    shuffled: bool = False
    ablated: bool = False

    def of(self, seed: int | None) -> Setup:
        """The setup of a seed, after training its model if that is missing.

        Raises:
            ModelError: without a seed, the setup's own model has other settings; it is not overwritten.
        """
        setup = self.state.setup if seed is None else of_seed(self.state.setup, seed)
        if is_trained(setup, self.state):
            return setup
        if seed is None and not self.ablated and setup.model_agent_path.exists():
            then = made_with(setup)
            other = f"was made by other settings than its setup has now ({then})"
            raise ModelError(
                f"{setup.model_agent_path}: {other if then else 'was not trained to its end'}; train it first "
                "(`what-next train SETUP`), or compare with --seeds, which trains beside it"
            )
        return trained(setup, self.state, ShuffledSource if self.shuffled else None)


def compare(
    setups: Mapping[str, Setup],
    part: Part = "test",
    seeds: Sequence[int] | None = None,
    *,
    ablations: bool = False,
    allowed: Allowed = None,
    baselines: Collection[str] = EVERY,
    anew: bool = False,
    stages: Stages = SILENT,
) -> Comparison:
    """Evaluate several setups on the next items of the same users, and compare each with the first.

    Args:
        setups: by display name; two or more, or one with `ablations`.
        seeds: of training: each setup's models are trained where they are missing, beside the setup's own. None: the
            setup's own model, trained if it is missing.
        ablations: also evaluate each setup that learns from the log's rewards without them. "critic off": only next
            items are learned (`next_item`), with the same settings; for an algorithm with more networks than its actor.
            "rewards shuffled": the same algorithm with rewards permuted among events.
        part: see `evaluate_next`; `allowed`, `baselines`, `anew`: likewise.

    Returns:
        The result as for `evaluate_next`, beside `random` and the baselines; `differences` ("B - A") of each setup from
        the first, and of each ablation from its setup; `training`: by name, the `algorithm` and each seed's `seconds`.

    Raises:
        SetupError: the setups have different splits, or two save to the same model.
        ModelError: see `Entrant.of`.
    """
    entrants = dict(_entrants(setups, ablations))
    _alike(setups, entrants)
    first = next(iter(entrants))
    scores, training = {}, {}
    wanted: Sequence[int | None] = [None] if seeds is None else seeds
    learned = {name: [one.of(seed) for seed in wanted] for name, one in entrants.items()}
    state = judged_state(entrants[first].state, [one for some in learned.values() for one in some], part)
    evaluator = evaluator_of(state, part, allowed, stages)
    for name, entrant in entrants.items():
        policies = [policy(one, entrant.state) for one in learned[name]]
        scores[name] = evaluator.score(policies, entrant.state.histories, name)
        took = [read_manifest(one.model_agent_path, "agent").metrics.get("seconds") for one in learned[name]]
        training[name] = {"algorithm": learned[name][0].algorithm.name, "seconds": took}
    others, settings, notes = rules(evaluator, state, baselines, anew)
    scores |= others
    used = seeds or sorted({setup.seed for setup in setups.values()})
    about = protocol(state, part, evaluator, used, baselines) | {"baselines": settings}
    pairs = {f"{name} - {one.beside}": (name, one.beside) for name, one in entrants.items() if name != first}
    result = result_of(scores, evaluator, about, pairs) | {"training": training}
    notes += [*few_hits(scores, evaluator), *_longer(setups), *_more(learned)]
    notes += _unablated(setups, entrants) if ablations else ()
    if len(learned) > 1 and all(len(one) == 1 for one in learned.values()):
        notes.append(ONE_SEED)
    return Comparison(result, state, evaluator, scores, learned, notes)


def _entrants(setups: Mapping[str, Setup], ablations: bool) -> Iterator[tuple[str, Entrant]]:
    """Every setup, each followed by its ablations; a data file is read once."""
    read: dict[Path, Dataset] = {}
    for name, setup in setups.items():
        if setup.data not in read:
            read[setup.data] = Dataset.read(setup.data_path)
        state = State(read[setup.data], setup)
        yield name, Entrant(state, next(iter(setups)))
        if not ablations or setup.algorithm.source != "log" or isinstance(setup.algorithm, NextItem):
            continue
        if {network for moved in setup.algorithm.updates.values() for network in moved} - {"encoder", "actor"}:
            plain = beside(setup, "critic-off").model_copy(update={"algorithm": NextItem()})
            yield f"{name}, {OFF}", Entrant(State(state.dataset, plain, state.space), name, ablated=True)
        if np.ptp(ShuffledSource(state).own[1]):  # permuting equal rewards changes nothing
            changes = {"monitor": "ndcg@10"} if state.monitored == "dcg@10" else {}  # dcg@10 reads the true rewards
            plain = beside(setup, "rewards-shuffled").model_copy(update=changes)
            shuffled = State(state.dataset, plain, state.space)
            yield f"{name}, {SHUFFLED}", Entrant(shuffled, name, shuffled=True, ablated=True)


def _unablated(setups: Collection[str], entrants: Mapping[str, Entrant]) -> Iterator[str]:
    """A note on setups that have no ablation."""
    whole = [name for name in setups if not any(one.ablated and one.beside == name for one in entrants.values())]
    if whole:
        yield f"without ablations: {listed(whole)}, where no critic and no differing rewards of a log can be left out"


def _longer(setups: Mapping[str, Setup]) -> Iterator[str]:
    """A note if some setups may train for longer than others, which may be why they are better."""
    told = {
        name: (f"{one.passes} passes" if one.passes else f"{one.epochs:,} epochs")
        + (f" or {one.seconds:g} s" if one.seconds else "")
        for name, one in setups.items()
    }
    if len(set(told.values())) > 1:
        yield f"limits of training differ: {', '.join(f'{name} {how}' for name, how in told.items())}"


def _more(learned: Mapping[str, Sequence[Setup]]) -> Iterator[str]:
    """A note if some setups were trained a second time, on more events, and others were not."""
    refit = {name: all(refit_on(read_manifest(one.model_agent_path)) for one in some) for name, some in learned.items()}
    if len(set(refit.values())) > 1:
        second = [name for name, on in refit.items() if on]
        yield (
            f"{listed(second)} and the baselines learned from the validation events, too (refit), and the others did "
            "not; `refit, no` or `refit, validation` in all setups makes them alike"
        )


def _alike(setups: Mapping[str, Setup], entrants: Mapping[str, Entrant]) -> None:
    """Raises a `SetupError` where the setups cannot be compared."""
    if taken := sorted({*RIVALS} & entrants.keys()):
        raise SetupError(f"compare: {taken[0]!r} is the name of a baseline; give its setup file another name")
    first, *others = setups
    mine = entrants[first].state
    for name in others:
        how = [(setups[one].evaluation, setups[one].split.seed) for one in (name, first)]
        if how[0] != how[1]:
            raise SetupError(
                f"{name} cannot be compared with {first}: their settings of `evaluation` or split.seed differ; give "
                "both the same"
            )
        theirs = entrants[name].state
        if theirs.split.hash != mine.split.hash:
            raise SetupError(
                f"{name} cannot be compared with {first}: it is judged on other targets ({setups[name].data}, split "
                f"{theirs.split.kind} {theirs.split.hash}) than {first} ({setups[first].data}, split {mine.split.kind} "
                f"{mine.split.hash}); give both the same `data` and `split`"
            )
    owners: dict[Path, str] = {}
    for name, setup in setups.items():
        path = setup.model_agent_path.resolve()
        if path in owners:
            raise SetupError(
                f"{owners[path]} and {name} both save to {setup.model_agent_path}; give each a model_agent_path and a "
                "model_critic_path of its own"
            )
        owners[path] = name


def tradeoff(
    setup: Setup,
    weights: Sequence[float],
    part: Part = "test",
    seeds: Sequence[int] | None = None,
    allowed: Allowed = None,
    stages: Stages = SILENT,
) -> list[tuple[float, Comparison]]:
    """Evaluate a setup on next items at several weights of the spread in its reward: the accuracy that each costs.

    Models are trained where they are missing, in the folder `spread-WEIGHT` beside the setup's own (with a folder in it
    for each seed). Other rewards keep their weights; if there are none, the log's own reward gets weight 1, because a
    weight on the spread alone would only scale the reward.

    Args:
        setup: of an algorithm that learns from the log's rewards.
        weights: of `reward.spread`; duplicates are evaluated once.
        seeds: of training; None: the setup's own.
        part: see `evaluate_next`; `allowed`: likewise.

    Returns:
        Each weight, in ascending order, with the scores of `agent` only; all on the same targets.

    Raises:
        SetupError: the algorithm reads no reward, or the items have no attributes.
    """
    check_weights(setup, weights)
    dataset = Dataset.read(setup.data_path)
    Spread(weight=1.0).check(dataset)
    first = State(dataset, setup)
    evaluator = evaluator_of(first, part, allowed)
    seeds = [setup.seed] if seeds is None else seeds
    steps, found = sorted(set(weights)), list[tuple[float, Comparison]]()
    done = stages.begin("weights of the spread", len(steps))
    for weight in steps:
        changed = with_spread(setup, weight)
        state, setups = State(dataset, changed, first.space), [of_seed(changed, seed) for seed in seeds]
        models = [trained(one, state) for one in setups]
        judged_state(state, models, part)
        policies = [policy(one, state) for one in models]
        scores = {"agent": evaluator.score(policies, state.histories)}
        result = result_of(scores, evaluator, protocol(state, part, evaluator, seeds, ()))
        found.append((weight, Comparison(result, state, evaluator, scores, {"agent": setups})))
        done(1)
    return found


def with_spread(setup: Setup, weight: float) -> Setup:
    """The setup with this weight of the spread in its reward, and with its models and training log beside the
    original."""
    others = [term for term in setup.reward.terms if not isinstance(term, Spread)]
    logged = next((term.weight for term in others if isinstance(term, Logged)), None if others else 1.0)
    reward = setup.reward.model_copy(
        update={
            "spread": setup.reward.spread.model_copy(update={"weight": float(weight)}),
            "logged": setup.reward.logged.model_copy(update={"weight": logged}),
        }
    )
    return beside(setup, f"spread-{weight:g}").model_copy(update={"reward": reward})


def check_weights(setup: Setup, weights: Sequence[float]) -> None:
    """Raises a `SetupError` where weights of the spread are invalid or have no effect."""
    name = setup.algorithm.name
    if isinstance(setup.algorithm, NextItem):
        raise SetupError(
            f"{name} reads no reward, so its weight changes nothing; take an algorithm that learns from it"
        )
    if setup.algorithm.source != "log":
        raise SetupError(
            f"{name} has the spread for its whole reward, so a weight would only scale it; take another algorithm"
        )
    if not all(isfinite(weight) for weight in weights):
        raise SetupError(f"the weights of the spread are {', '.join(map(str, weights))}; give finite numbers")
