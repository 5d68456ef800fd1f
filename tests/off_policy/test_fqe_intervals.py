"""Intervals around fitted Q evaluation, without refits."""

import numpy as np
import pytest

from what_next.off_policy.fqe import fqe

from .worlds import TINY, World, covers, first_states_decide, random_log, resampled, sessions, some_of


def test_the_means_of_first_values_and_of_influences_are_the_estimate():
    decisions, target = random_log()
    found = fqe(decisions, target, 0.8)
    first = np.flatnonzero(np.diff(decisions.units, prepend=-1))
    assert np.array_equal(found.initial, found.values[first])
    assert found.influence.mean() == pytest.approx(found.initial.mean())


def test_an_influence_is_what_a_little_more_of_a_trajectory_does_to_the_estimate():
    decisions, target = random_log(units=40)
    found, unit, copies = fqe(decisions, target, 0.8, ridge=TINY), 7, 400
    more = some_of(decisions, target, np.append(np.tile(np.arange(40), copies), unit))
    moved = fqe(*more, 0.8, ridge=TINY).initial.mean() - found.initial.mean()
    assert moved * (40 * copies + 1) == pytest.approx(found.influence[unit] - found.initial.mean(), rel=0.01)


def coverage(
    world: World, kind: str, repetitions: int, resamples: int, units: int = 2000, discount: float = 0.9
) -> float:
    """How often the intervals of logs drawn anew hold the exact value."""
    value, counts = world.value(discount), resampled(units, resamples)
    logs = (world.draw(units, seed=5000 + repetition) for repetition in range(repetitions))
    held = [covers(value, counts @ getattr(fqe(log.decisions, log.target, discount), kind) / units) for log in logs]
    return float(np.mean(held))


def test_intervals_from_first_states_hold_the_value_where_these_decide():
    assert coverage(first_states_decide(), "initial", 40, 500) >= 0.88


@pytest.mark.medium
def test_intervals_from_influences_hold_the_value_where_rewards_are_noisy_and_those_from_first_states_do_not():
    assert coverage(sessions(), "influence", 40, 500) >= 0.88
    assert coverage(sessions(), "initial", 40, 500) < 0.88


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "kind"),
    [(first_states_decide(), "initial"), (first_states_decide(), "influence"), (sessions(), "influence")],
)
def test_intervals_hold_the_exact_value_as_often_as_they_say(world, kind):
    assert 0.93 <= coverage(world, kind, 200, 2000) <= 0.97
