"""On worlds with known values: estimates converge, intervals cover, and sound logs are never refused.

Every log of the intervals' tests has 2,000 decisions and weights below 10.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from what_next.off_policy.decisions import Options
from what_next.off_policy.estimate import estimate
from what_next.off_policy.reward_model import cross_fit
from what_next.off_policy.weighting import clipped_ips, dm, dr, growing_threshold, ips, snips, switch_dr

from .bandits import Bandit, bandit, softmax

ROWS = 2000
LINEAR, CURVED = bandit(), bandit(linear=False)


def covered(repetitions: int, resamples: int) -> tuple[Counter, Counter]:
    """How often the bootstrap's intervals hold the value, and how often the bounds of Bernstein do."""
    held, bounded = Counter(), Counter()
    for seed in range(repetitions):
        decisions, target, behaviour = LINEAR.draw(ROWS, seed)
        options = Options(behaviour=behaviour, clusters=LINEAR.clusters)
        result = estimate(decisions, target, replace(options, resamples=resamples, seed=seed))
        for name, one in result["estimates"].items():
            assert one["refused"] is None
            held[name] += one["low"] <= LINEAR.value <= one["high"]
            if one["bernstein_low"] is not None:
                bounded[name] += one["bernstein_low"] <= LINEAR.value <= one["bernstein_high"]
    return held, bounded


def test_weights_are_below_ten():
    for world in (LINEAR, CURVED):
        assert 6 < (world.target / world.behaviour).max() < 10
        assert abs(world.value - (world.behaviour * world.rewards).sum(axis=1).mean()) > 0.04


@pytest.mark.medium
def test_intervals_hold_the_value():
    held, bounded = covered(100, 200)
    assert set(held) == {"ips", "clipped_ips", "snips", "dm", "dr", "switch_dr", "mips"}
    assert min(held.values()) >= 88
    assert set(bounded) == {"ips", "clipped_ips", "mips"}
    assert min(bounded.values()) >= 95


@pytest.mark.slow
def test_intervals_hold_the_value_as_often_as_they_say():
    held, bounded = covered(1000, 1000)
    assert len(held) == 7
    assert min(held.values()) >= 930
    assert max(held.values()) <= 970
    assert min(bounded.values()) >= 950


def skewed(spread: float) -> Bandit:
    """A world whose behaviour policy hardly shows some items, the more so the larger the spread."""
    rng = np.random.default_rng(2)
    behaviour, rewards = softmax(spread * rng.normal(size=(3, 10))), rng.beta(1.2, 4, (3, 10))
    return Bandit(np.zeros((3, 1)), np.eye(10), rewards, behaviour, np.full((3, 10), 0.1), np.arange(10))


@pytest.mark.parametrize(("spread", "noted", "least", "most"), [(0.5, 0, 0.9, 1.0), (1.6, 120, 0.5, 0.87)])
def test_intervals_that_few_rows_carry_are_said_to_be_too_narrow_and_are(
    spread: float, noted: int, least: float, most: float
):
    world, held, notes = skewed(spread), 0, 0
    for seed in range(120):
        decisions, target, _ = world.draw(ROWS, seed)
        found = estimate(decisions, target, Options(only="ips", resamples=200, seed=seed, force=True))
        one = found["estimates"]["ips"]
        held += one["low"] <= world.value <= one["high"]
        notes += any("ips: few units have most of the squared weight" in note for note in found["notes"])
    assert notes == noted
    assert least <= held / 120 <= most


def test_what_a_log_lacks_of_a_policy_is_told():
    lacking, rows = bandit(), 4000
    target = np.full((12, 10), 0.1)
    behaviour = np.full((12, 10), (1 - 1e-9) / 9)
    behaviour[:, 9] = 1e-9  # which no log of this length holds
    for world, told in ((replace(lacking, target=target, behaviour=behaviour), True), (lacking, False)):
        decisions, aimed, _ = world.draw(rows, 0)
        notes = estimate(decisions, aimed, Options(only="snips", resamples=10))["notes"]
        assert any("the mean weight is 0.900" in note for note in notes) == told


def covered_by_averages(repetitions: int, resamples: int) -> int:
    """How often the interval of `mips` holds the value where its weights are averages over the log itself.

    The reward hangs on the cluster alone, and the behaviour policy shows the two items of a cluster unequally.
    """
    clusters = np.array([0, 0, 1, 1, 2, 2])
    behaviour = np.array([[0.4, 0.05, 0.15, 0.15, 0.05, 0.2]])
    target = np.array([[0.05, 0.35, 0.05, 0.1, 0.3, 0.15]])
    world = Bandit(np.zeros((1, 1)), np.eye(6), np.array([[0.9, 0.5, 0.2]])[:, clusters], behaviour, target, clusters)
    held = 0
    for seed in range(repetitions):
        decisions, aimed, _ = world.draw(ROWS, seed)
        told = estimate(decisions, aimed, Options(clusters=clusters, only="mips", resamples=resamples))
        one = told["estimates"]["mips"]
        assert one["refused"] is None
        held += one["low"] <= world.value <= one["high"]
    return held


def test_averaged_weights_are_not_taken_to_be_known():
    assert covered_by_averages(60, 200) >= 51  # with fixed weights: 28


@pytest.mark.slow
def test_intervals_of_averaged_weights_hold_the_value_as_often_as_they_say():
    assert 930 <= covered_by_averages(1000, 1000) <= 970


@pytest.mark.slow
@pytest.mark.parametrize("world", [LINEAR, CURVED])
@pytest.mark.parametrize("known", [True, False])
def test_a_sound_log_is_never_refused(world: Bandit, known: bool):
    for seed in range(1000):
        decisions, target, behaviour = world.draw(ROWS, seed)
        options = Options(behaviour=behaviour if known else None)
        found = estimate(decisions, target, replace(options, resamples=1, seed=seed))["estimates"]
        assert not any(one["refused"] for one in found.values())


def errors(world: Bandit, rows: int, seeds: int = 12, model: bool = True, wrong: float = 1.0) -> dict[str, float]:
    """The root mean square error of each estimator; `wrong` is what propensities are multiplied by."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        log, target, _ = world.draw(rows, seed)
        weights, threshold = target.chances / (wrong * log.propensities), growing_threshold(rows)
        logged, expected = log.vectors[log.actions], target.expected
        if not model:  # all items alike
            logged, expected = np.zeros_like(logged), np.zeros_like(expected)
        told = cross_fit(log.contexts, logged, expected, log.rewards, np.arange(rows) % 2, penalties=(1.0,))
        made = {
            "ips": ips(weights, log.rewards),
            "clipped_ips": clipped_ips(weights, log.rewards, threshold),
            "snips": snips(weights, log.rewards),
            "dm": dm(told.expected),
            "dr": dr(weights, log.rewards, told.chosen, told.expected),
            "switch_dr": switch_dr(weights, log.rewards, told.chosen, told.expected, threshold),
            "clipped_at_5": clipped_ips(weights, log.rewards, 5.0),
            "switched_at_5": switch_dr(weights, log.rewards, told.chosen, told.expected, 5.0),
        }
        for name, terms in made.items():
            found.setdefault(name, []).append(terms.value - world.value)
    return {name: float(np.sqrt(np.mean(np.square(off)))) for name, off in found.items()}


def test_where_propensities_and_model_are_right_all_converge():
    few, many = errors(LINEAR, 400), errors(LINEAR, 40_000)
    for name in ("ips", "clipped_ips", "snips", "dm", "dr", "switch_dr"):
        assert many[name] < 0.006
        assert many[name] < 0.25 * few[name]  # a hundred times the log: a tenth is expected


def test_where_the_model_is_wrong_the_direct_method_alone_stays_off():
    found = errors(CURVED, 40_000, seeds=6, model=False)
    assert found["dm"] > 0.03
    for name in ("ips", "clipped_ips", "snips", "dr", "switch_dr"):
        assert found[name] < 0.012


def test_where_the_propensities_are_wrong_doubly_robust_has_the_model():
    found = errors(LINEAR, 40_000, seeds=6, wrong=0.7)
    assert found["ips"] > 0.1
    for name in ("dm", "dr", "switch_dr"):
        assert found[name] < 0.01
    assert found["snips"] < 0.01  # the same factor everywhere: normalised away


def test_a_growing_threshold_converges_where_a_fixed_one_stays_off():
    world = rare()
    few, many = errors(world, 1000, model=False), errors(world, 100_000, seeds=6, model=False)
    for name in ("clipped_ips", "switch_dr"):
        assert few[name] > 0.2  # the weight of 180 is above the root of 1,000
        assert many[name] < 0.05
    assert many["clipped_at_5"] > 0.5
    assert many["switched_at_5"] > 0.2


def rare() -> Bandit:
    """A target that shows almost always what the log shows once in 200 times, and what earns most."""
    behaviour = np.array([[0.005, 0.495, 0.5]])
    target, rewards = np.array([[0.9, 0.05, 0.05]]), np.array([[0.9, 0.2, 0.4]])
    return Bandit(np.zeros((1, 1)), np.eye(3), rewards, behaviour, target, np.arange(3))
