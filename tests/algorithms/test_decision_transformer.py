"""The decision transformer: what the encoder reads, what it reduces to, and worlds in which it succeeds and fails."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
import torch

from what_next.algorithms.base import LossContext
from what_next.algorithms.decision_transformer import DecisionTransformer, followed, quantiles
from what_next.algorithms.next_item import NextItem
from what_next.types import Events

from .hand import RNG, VECTORS, batch, networks
from .worlds import World, detour, items_of, learn

ITEMS = torch.tensor([[0, 1, 2], [0, 1, -1]])
RETURNS = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
# Known returns are 3, 1 and 1: what follows the last event is not known, and padding is none.
SHARES = torch.tensor([[5 / 6, 1 / 3, 0.0], [1 / 3, 0.0, 0.0]])


def test_a_return_is_known_where_another_event_follows() -> None:
    assert followed(ITEMS).tolist() == [[True, True, False], [True, False, False]]


def test_quantiles_are_shares_of_the_known_returns_where_equal_ones_count_by_half() -> None:
    torch.testing.assert_close(quantiles(RETURNS, followed(ITEMS)), SHARES)


def test_quantiles_do_not_depend_on_the_unit_of_rewards() -> None:
    generator = torch.Generator().manual_seed(0)
    returns = torch.randn(5, 7, generator=generator)
    known = torch.rand(5, 7, generator=generator) < 0.8
    found = quantiles(returns, known)
    assert torch.equal(quantiles(100 * returns - 3, known), found)
    assert 0 <= found.min() < found.max() <= 1
    assert found[known].mean().item() == pytest.approx(0.5)


def test_where_no_return_is_known_every_quantile_is_the_middle() -> None:
    assert quantiles(RETURNS, torch.zeros(2, 3, dtype=torch.bool)).tolist() == [[0.5] * 3] * 2


def test_the_encoder_reads_the_quantile_beside_the_other_numbers_standardised() -> None:
    events = Events(ITEMS, torch.full((2, 3, 1), 7.0))
    found = DecisionTransformer().inputs(events, RETURNS)
    assert torch.equal(found.items, ITEMS)
    assert torch.equal(found.numbers[..., :1], events.numbers)
    # Numbers that are anywhere between 0 and 1 alike have mean 1/2 and variance 1/12.
    torch.testing.assert_close(found.numbers[..., 1], (SHARES - 0.5) * 12**0.5)


def test_when_recommending_it_reads_the_desired_return_at_every_event() -> None:
    found = DecisionTransformer(desired=0.75).inputs(Events(ITEMS, torch.zeros(2, 3, 0)), None)
    torch.testing.assert_close(found.numbers, torch.full((2, 3, 1), 0.25 * 12**0.5))


def test_the_loss_is_that_of_the_supervised_floor() -> None:
    nets, target = networks()
    mine, floor = (
        algorithm.losses(LossContext(nets, target, batch(), items_of(VECTORS), 0, RNG))["actor"].item()
        for algorithm in (DecisionTransformer(), NextItem())
    )
    assert mine == pytest.approx(floor, abs=1e-6)


def test_it_does_what_led_to_the_desired_return() -> None:
    """The same networks: asked for the largest return, they choose otherwise than asked for a small one."""
    found = learn(DecisionTransformer(desired=1.0), detour())
    assert found.agent.setup.model == "transformer"
    assert found.play() == detour().best


@dataclass(frozen=True)
class Lottery(World):
    """What `lottery` pays is luck: ten once in ten times, else nothing; `rewards` has its mean."""

    def log(self, users: int = 300, seed: int = 0) -> pl.DataFrame:
        """See `World.log`."""
        found = super().log(users, seed)
        lucky = np.random.default_rng(seed).random(len(found)) < 0.1
        paid = pl.when(pl.Series(lucky)).then(10.0).otherwise(0.0)
        return found.with_columns(reward=pl.when(pl.col("item_id") == "lottery").then(paid).otherwise(pl.col("reward")))


def test_it_takes_luck_for_merit_whatever_the_encoder() -> None:
    """The largest returns are those of who won, and so it plays: once in ten times to win 10, not 2 for certain."""
    items = ("start", "lottery", "safe", "dust")
    world = Lottery(
        items,
        {("start", "lottery"): 1.0, ("start", "safe"): 2.0},
        {**{item: {"dust": 1.0} for item in items}, "start": {"lottery": 0.5, "safe": 0.5}},
        3,
        best=2.0,
        greedy=2.0,
    )
    assert learn(DecisionTransformer(desired=1.0), world, model="lstm").choose(["start"]) == "lottery"
