"""Losses of items that a service showed, worked by hand on the two steps of `hand`."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from what_next.algorithms.base import Algorithm, LossContext
from what_next.algorithms.next_item import NextItem
from what_next.algorithms.reinforce import Reinforce
from what_next.algorithms.sa2c import Sa2c
from what_next.algorithms.sac_rec import SacRec
from what_next.algorithms.snqn import Snqn
from what_next.algorithms.sqn import Sqn
from what_next.losses.rl import self_normalised
from what_next.settings import ALGORITHMS
from what_next.types import Shown, Transitions

from .hand import VECTORS, batch, halves, networks, weighted
from .worlds import items_of

POLICY = (0.0900306, 0.2119416)  # the actor's chance of each item that was shown
ERRORS = (1 + 0.5 * 3 + 1.5, 2 - 1.5)  # the reward and the next value, less the critic's value


def shown(inverse: tuple[float, float] = (0.5, 1.5), returns: tuple[float, float] = (3.0, 2.0)) -> Shown:
    """The two steps: the first item was shown with chance 1/4 and the second with 1/2; only the second was taken."""
    steps: dict[str, Any] = vars(batch()) | {"returns": torch.tensor(returns)}
    return Shown(
        **steps,
        log_propensities=torch.tensor([math.log(0.25), math.log(0.5)]),
        inverse=torch.tensor(inverse),
        weights=torch.tensor([0.0, 2.0]),
    )


def losses(algorithm: Algorithm, steps: Transitions, step: int = 0) -> dict[str, float]:
    nets, targets = networks()
    context = LossContext(nets, targets, steps, items_of(VECTORS), step, np.random.default_rng(0))
    return {name: loss.item() for name, loss in algorithm.losses(context).items()}


@pytest.mark.parametrize("algorithm", [NextItem(), Sqn(), Snqn(), Sa2c()], ids=lambda one: one.name)
def test_what_imitates_weighs_by_reward_over_chance(algorithm: Algorithm) -> None:
    assert losses(algorithm, shown())["actor"] == pytest.approx(weighted(0, 2), rel=1e-5)
    assert losses(algorithm, batch())["actor"] == pytest.approx(weighted(1, 1), rel=1e-5)


@pytest.mark.parametrize(("cap", "ratios"), [(10.0, (4 * POLICY[0], 2 * POLICY[1])), (0.4, (4 * POLICY[0], 0.4))])
def test_reinforce_takes_the_logged_chances_capped_and_over_their_mean(cap: float, ratios: tuple[float, float]) -> None:
    mean = sum(ratios) / 2
    found = losses(Reinforce(weight_cap=cap), shown())
    assert found == {"actor": pytest.approx(weighted(3 * ratios[0] / mean, 2 * ratios[1] / mean), rel=1e-5)}


def test_reinforce_with_slates_pushes_likely_items_less() -> None:
    ratios = (4 * POLICY[0], 2 * POLICY[1])
    top = [2 * (1 - chance) for chance in POLICY]
    wanted = weighted(*(r * k * w / (sum(ratios) / 2) for r, k, w in zip((3, 2), top, ratios, strict=True)))
    assert losses(Reinforce(top=2), shown())["actor"] == pytest.approx(wanted, rel=1e-5)


def test_self_normalised_weights_have_a_mean_of_1_unless_all_are_0() -> None:
    assert self_normalised(torch.tensor([1.0, 3.0])).tolist() == [0.5, 1.5]
    assert self_normalised(torch.zeros(2)).tolist() == [0, 0]
    assert not len(self_normalised(torch.zeros(0)))


def test_no_negatives_are_made_up_where_those_who_were_not_taken_are_known() -> None:
    for algorithm in (Snqn(weight=1.0), Sa2c(weight=1.0)):
        assert losses(algorithm, shown())["critic"] == pytest.approx(halves(*ERRORS), rel=1e-5)
        assert losses(algorithm, batch())["critic"] > halves(*ERRORS)


def test_advantages_count_for_items_as_if_all_were_shown_alike() -> None:
    algorithm = Sa2c(warm_up=0, negatives=2)
    both, first, second = (
        losses(algorithm, shown(inverse))["actor"] for inverse in ((1.0, 1.0), (2.0, 0.0), (0.0, 2.0))
    )
    assert both == pytest.approx(losses(algorithm, batch())["actor"], rel=1e-5)
    assert first != pytest.approx(second)
    assert first + second == pytest.approx(2 * both, rel=1e-5)


def test_values_count_for_items_as_if_all_were_shown_alike() -> None:
    found = losses(SacRec(warm_up=0), shown())["actor"]
    assert found == pytest.approx(weighted(0, 1.5 * 1.5), rel=1e-5)  # values -1.5, of which 0 counts, and 1.5


def test_who_can_learn_from_decisions() -> None:
    able = {name for name, kind in ALGORITHMS.items() if kind.learns_from_decisions()}
    assert able >= {"next_item", "reinforce", "sqn", "sa2c", "snqn", "iql", "cql", "crr", "bcq", "dqn", "td3_bc"}
    assert not able & {"whatnext", "decision_transformer", "a2c", "ppo"}
