"""The same numbers as Open Bandit Pipeline (`sb-obp`; Saito et al. 2020, arXiv 2008.07146).

The table was computed once with sb-obp 0.5.10; where the library can be imported, it is asked again.
"""

import numpy as np
import pytest

from what_next.metrics.bootstrap import empirical_bernstein
from what_next.off_policy.slates import cascade_weights, slate_ips, slate_snips, whole_weights
from what_next.off_policy.weighting import clipped_ips, dm, dr, ips, marginal_weights, snips, switch_dr

ROWS, ITEMS, LENGTH = 300, 6, 3
SPAN = 15.0
"""Of the weighted rewards; none is larger."""
REWARDS = 460.13783280926805
"""The sum of the input's rewards."""
REFERENCE = {
    "ips": 1.3292601737203442,
    "clipped_ips": 1.0603964176602916,
    "snips": 1.4404229982171872,
    "dm": 1.4811835117840977,
    "dr": 1.3125450633749944,
    "switch_dr": 1.4541787183404844,
    "mips": 1.3715332834092566,
    "independent_ips": 3.9877805211610324,
    "independent_snips": 4.357598995097363,
    "cascade_ips": 4.7349211639972575,
    "cascade_snips": 4.541048459937363,
    "slate_ips": 5.337243636950307,
    "slate_snips": 4.6271283634309945,
    "bernstein_low": 0.6369120460380735,
}


class Input:
    """A seeded log: everything from uniform numbers, which no release of the generator has changed."""

    rng = np.random.default_rng(20240607)
    behaviour = 0.05 + rng.random((ROWS, ITEMS))
    behaviour /= behaviour.sum(axis=1, keepdims=True)
    target = rng.random((ROWS, ITEMS)) ** 2
    target /= target.sum(axis=1, keepdims=True)
    rows = np.arange(ROWS)
    actions = (behaviour.cumsum(axis=1) > rng.random((ROWS, 1))).argmax(axis=1)
    rewards = 3 * rng.random(ROWS)
    model = 3 * rng.random((ROWS, ITEMS))
    clusters = np.array([0, 1, 2, 0, 1, 2])
    slates, positions = np.repeat(np.arange(ROWS // LENGTH), LENGTH), np.tile(np.arange(LENGTH), ROWS // LENGTH)
    propensities = behaviour[rows, actions]
    chances = target[rows, actions]


def ours() -> dict[str, float]:
    log = Input
    weights, rewards, slates, positions = log.chances / log.propensities, log.rewards, log.slates, log.positions
    chosen, expected = log.model[log.rows, log.actions], (log.target * log.model).sum(axis=1)
    cascade, whole = cascade_weights(weights, slates), whole_weights(weights, slates)
    bounds = empirical_bernstein(weights * rewards, (0.0, SPAN), 90.0)
    assert bounds is not None
    terms = {
        "ips": ips(weights, rewards),
        "clipped_ips": clipped_ips(weights, rewards, 1.5),
        "snips": snips(weights, rewards),
        "dm": dm(expected),
        "dr": dr(weights, rewards, chosen, expected),
        "switch_dr": switch_dr(weights, rewards, chosen, expected, 1.5),
        "mips": ips(marginal_weights(log.target, log.behaviour, log.clusters, log.actions), rewards),
        "independent_ips": slate_ips(weights, rewards, slates),
        "cascade_ips": slate_ips(cascade, rewards, slates),
        "slate_ips": slate_ips(whole, rewards, slates),
        "independent_snips": slate_snips(weights, rewards, slates, positions),
        "cascade_snips": slate_snips(cascade, rewards, slates, positions),
        "slate_snips": slate_snips(whole, rewards, slates, positions),
    }
    return {name: one.value for name, one in terms.items()} | {"bernstein_low": bounds[0]}


def theirs() -> dict[str, float]:
    ope = pytest.importorskip("obp.ope", reason="sb-obp is not installed here; the table holds its numbers")
    from obp.ope.helper import estimate_bernstein_lower_bound

    log = Input
    given = {
        "reward": log.rewards,
        "action": log.actions,
        "pscore": log.propensities,
        "action_dist": log.target[:, :, None],
        "position": np.zeros(ROWS, np.int64),
        "estimated_rewards_by_reg_model": log.model[:, :, None],
    }
    embedded = given | {
        "action_embed": log.clusters[log.actions][:, None],
        "pi_b": log.behaviour[:, :, None],
        "p_e_a": np.eye(3)[log.clusters][:, :, None],
        "context": np.zeros((ROWS, 1)),
    }
    one_step = {
        "ips": (ope.InverseProbabilityWeighting(), given),
        "clipped_ips": (ope.InverseProbabilityWeighting(lambda_=1.5), given),
        "snips": (ope.SelfNormalizedInverseProbabilityWeighting(), given),
        "dm": (ope.DirectMethod(), given),
        "dr": (ope.DoublyRobust(), given),
        "switch_dr": (ope.SwitchDoublyRobust(lambda_=1.5), given),
        "mips": (ope.MarginalizedInverseProbabilityWeighting(n_actions=ITEMS), embedded),
    }
    found = {name: one.estimate_policy_value(**these) for name, (one, these) in one_step.items()}
    low = estimate_bernstein_lower_bound(log.rewards * log.chances / log.propensities, SPAN, delta=0.05)
    return found | _theirs_of_slates(ope) | {"bernstein_low": low}


def _theirs_of_slates(ope) -> dict[str, float]:
    log, found = Input, {}
    chances, propensities = (one.reshape(-1, LENGTH) for one in (log.chances, log.propensities))
    whole = [np.repeat(one.prod(axis=1), LENGTH) for one in (chances, propensities)]
    down = [one.cumprod(axis=1).ravel() for one in (chances, propensities)]
    models = {
        "independent": ("IndependentIPS", "_item_position", (log.chances, log.propensities)),
        "cascade": ("RewardInteractionIPS", "_cascade", down),
        "slate": ("StandardIPS", "", whole),
    }
    for name, (kind, ending, (evaluated, logged)) in models.items():
        given = {
            "slate_id": log.slates,
            "reward": log.rewards,
            "position": log.positions,
            f"pscore{ending}": logged,
            f"evaluation_policy_pscore{ending}": evaluated,
        }
        plain = getattr(ope, f"Slate{kind}")(len_list=LENGTH)
        normal = getattr(ope.estimators_slate, f"SelfNormalizedSlate{kind}")(len_list=LENGTH)
        found[f"{name}_ips"] = plain.estimate_policy_value(**given)
        found[f"{name}_snips"] = normal.estimate_policy_value(**given)
    return found


def test_the_input_is_the_one_that_the_table_was_computed_on():
    assert Input.rewards.sum() == pytest.approx(REWARDS, abs=1e-9)
    assert (Input.rewards * Input.chances / Input.propensities).max() < SPAN


def test_the_numbers_are_those_of_the_reference():
    assert ours() == pytest.approx(REFERENCE, abs=1e-6)


def test_the_numbers_are_those_of_the_reference_as_it_is_installed():
    assert ours() == pytest.approx(theirs(), abs=1e-6)
