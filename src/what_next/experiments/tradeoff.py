"""What does the founding reward cost? The same setup trained at several weights of the spread, on the same users."""

from collections.abc import Sequence
from math import isfinite

from what_next.algorithms import NextItem
from what_next.data import Dataset
from what_next.data.splits import Part
from what_next.data.stages import SILENT, Stages
from what_next.errors import SetupError
from what_next.experiments.baselines import Allowed
from what_next.experiments.models import beside, of_seed, policy, trained
from what_next.experiments.next_items import Comparison, evaluator_of, protocol, result_of
from what_next.rewards import Logged, Spread
from what_next.settings import Setup
from what_next.state import State


def tradeoff(
    setup: Setup,
    weights: Sequence[float],
    part: Part = "test",
    seeds: Sequence[int] | None = None,
    allowed: Allowed = None,
    stages: Stages = SILENT,
) -> list[tuple[float, Comparison]]:
    """Judge a setup on next items at several weights of the spread in its reward: how much accuracy each costs.

    Each model is trained where it is missing, in the folder `spread-WEIGHT` beside the setup's own (and there in one
    for each seed). What else earns keeps its weight; where nothing else does, the log's own reward counts once, since a
    weight alone would only scale.

    Args:
        setup: of an algorithm that learns from the log's rewards.
        weights: of `reward.spread`; each is judged once.
        part: tune on validation; report the test.
        seeds: of training; None: the setup's own.
        allowed: items that may be recommended; None for all.
        stages: shows how far the work is.

    Returns:
        Each weight, in ascending order, with the scores of `agent` alone; all on the same targets.

    Raises:
        SetupError: the algorithm reads no reward, or the items have no attributes.
    """
    check(setup, weights)
    dataset = Dataset.read(setup.data)
    Spread(weight=1.0).check(dataset)
    first = State(dataset, setup)
    evaluator = evaluator_of(first, part, allowed)
    seeds = [setup.seed] if seeds is None else seeds
    steps, found = sorted(set(weights)), list[tuple[float, Comparison]]()
    done = stages.begin("weights of the spread", len(steps))
    for weight in steps:
        changed = with_spread(setup, weight)
        state, setups = State(dataset, changed, first.space), [of_seed(changed, seed) for seed in seeds]
        policies = [policy(trained(one, state), state) for one in setups]
        scores = {"agent": evaluator.score(policies, state.histories)}
        result = result_of(scores, evaluator, protocol(state, part, evaluator, seeds, ()))
        found.append((weight, Comparison(result, state, evaluator, scores, {"agent": setups})))
        done(1)
    return found


def with_spread(setup: Setup, weight: float) -> Setup:
    """The setup with that weight of the spread in its reward, its models and its log of training beside its own."""
    others = [term for term in setup.reward.terms if not isinstance(term, Spread)]
    logged = next((term.weight for term in others if isinstance(term, Logged)), None if others else 1.0)
    reward = setup.reward.model_copy(
        update={
            "spread": setup.reward.spread.model_copy(update={"weight": float(weight)}),
            "logged": setup.reward.logged.model_copy(update={"weight": logged}),
        }
    )
    return beside(setup, f"spread-{weight:g}").model_copy(update={"reward": reward, "log": None})


def check(setup: Setup, weights: Sequence[float]) -> None:
    """Raises a `SetupError` where there is nothing to weigh."""
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
