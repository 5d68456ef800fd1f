"""Each reward gives the numbers that its definition gives by hand."""

import math

import pytest
import torch

from what_next.rewards import (
    NEVER,
    Diversity,
    Logged,
    Novelty,
    ProfileCorrelation,
    Repeat,
    ReturnTime,
    Serendipity,
    Spread,
)

HOUR = 3600 * 10**6
LINE = [[0.0], [1.0], [3.0], [6.0]]


def approx(values: list[float]) -> object:
    return pytest.approx(values, rel=1e-5, abs=1e-6)


class TestDiversity:
    def test_it_is_the_mean_distance_to_the_latest_items_over_the_typical_one(self, heard) -> None:
        log = heard([[0, 1, 2, 3]], vectors=LINE)
        # Distances of 1: 1; of 3: 3 and 2; of 6: 6, 5 and 3. The typical distance in one dimension is the root of 2.
        assert (Diversity().of(log)[0] * math.sqrt(2)).tolist() == approx([0, 1, 2.5, 14 / 3])
        assert (Diversity(window=1).of(log)[0] * math.sqrt(2)).tolist() == approx([0, 1, 2, 3])
        assert (Diversity(window=2).of(log)[0] * math.sqrt(2)).tolist() == approx([0, 1, 2.5, 4])

    def test_more_attributes_have_a_larger_typical_distance(self, heard) -> None:
        log = heard([[0, 1], [1, 1]], vectors=[[0.0, 0.0], [3.0, 4.0]])
        assert Diversity().of(log).tolist() == [approx([0, 2.5]), approx([0, 0])]

    def test_two_random_items_are_about_1_apart(self, heard) -> None:
        vectors = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        log = heard([list(range(2000))], vectors=vectors.tolist())
        assert Diversity().of(log).mean().item() == pytest.approx(1, abs=0.04)


class TestSerendipity:
    def test_it_is_the_diversity_of_liked_items_alone(self, heard) -> None:
        log = heard([[0, 1, 2, 3]], vectors=LINE, rewards=[[5.0, 3.0, -1.0, 5.0]])
        assert (Serendipity().of(log)[0] * math.sqrt(2)).tolist() == approx([0, 1, 0, 14 / 3])
        assert (Serendipity(above=3, window=1).of(log)[0] * math.sqrt(2)).tolist() == approx([0, 0, 0, 3])


class TestNovelty:
    def test_it_is_the_information_in_bits_over_that_of_the_rarest_item(self, heard) -> None:
        log = heard([[0, 1, 2, 3, 4, -1]], popularity=[1 / 2, 1 / 4, 1 / 8, 1 / 8, 0.0])
        assert Novelty().of(log)[0].tolist() == approx([1 / 3, 2 / 3, 1, 1, 1, 0])

    def test_the_only_item_is_not_novel(self, heard) -> None:
        assert Novelty().of(heard([[0, 0]], popularity=[1.0])).tolist() == [[0, 0]]


class TestRepeat:
    def test_a_repeat_costs_less_the_longer_ago_it_was_heard(self, heard) -> None:
        log = heard([[7, 5, 7, 7, 5], [1, 1, 2, -1, -1]])
        assert Repeat().of(log).tolist() == [approx([0, 0, -0.9, -1, -0.81]), approx([0, -1, 0, 0, 0])]
        assert Repeat(fade=1).of(log)[0].tolist() == [0, 0, -1, -1, -1]


class TestReturnTime:
    def test_a_day_is_worth_half_and_three_days_a_quarter(self, heard) -> None:
        times = [[0, 24 * HOUR, 96 * HOUR], [5 * HOUR, 5 * HOUR, 0]]
        log = heard([[0, 1, 2], [0, 1, -1]], times=times, after=[NEVER, 29 * HOUR])
        assert ReturnTime().of(log).tolist() == [approx([0.5, 0.25, 0]), approx([1, 0.5, 0])]
        assert ReturnTime(half=8).of(log)[0].tolist() == approx([0.25, 0.1, 0])

    def test_seconds_are_told_apart_in_this_century(self, heard) -> None:
        now = 1_700_000_000 * 10**6
        log = heard([[0, 1]], times=[[now, now + 10**6]], after=[now + 3 * 10**6])
        assert ReturnTime(half=1 / 3600).of(log)[0].tolist() == approx([1 / 2, 1 / 3])


class TestProfileCorrelation:
    VECTORS = ((1.0, 2.0, 3.0), (3.0, 2.0, 1.0), (1.0, 0.0, 0.0))

    def test_it_is_pearsons_correlation_of_the_mean_vector_with_the_profile(self, heard) -> None:
        log = heard([[0, 1, 2]], vectors=self.VECTORS, profile=[[2.0, 4.0, 6.0]])
        # The sums are (1, 2, 3), (4, 4, 4), which correlates with nothing, and (5, 4, 4): off its mean by
        # (2, -1, -1) / 3, of length sqrt(6) / 3; the profile by (-2, 0, 2), of length sqrt(8); product -6 / 3.
        assert ProfileCorrelation().of(log)[0].tolist() == approx([1, 0, -2 / math.sqrt(6 / 9 * 8)])
        # The last two: (4, 2, 1), off by (5, -1, -4) / 3, of length sqrt(42) / 3; product -18 / 3.
        assert ProfileCorrelation(window=2).of(log)[0, 2].item() == pytest.approx(-6 / math.sqrt(42 / 9 * 8))
        assert ProfileCorrelation(window=1).of(log)[0, 1].item() == pytest.approx(-1)

    def test_a_profile_without_a_shape_correlates_with_nothing(self, heard) -> None:
        log = heard([[0, 1]], vectors=self.VECTORS[:2], profile=[[2.0, 2.0, 2.0]])
        assert ProfileCorrelation().of(log).tolist() == [[0, 0]]


class TestSpread:
    # The distances of 0, 1 and 3 are 1, 3 and 2: spread 1. With 6 come 6, 5 and 3: six numbers, sum 20, squares 84.
    GROWN = math.sqrt((84 - 400 / 6) / 5)

    def test_it_is_the_critics_target_scaled_by_the_sample(self, heard) -> None:
        log = heard([[0, 1, 2, 3]], vectors=LINE, sigma=[2.0])
        expected = 3 * (abs(1 - 2) - abs(self.GROWN - 2)) / 2
        assert Spread().of(log)[0].tolist() == approx([0, 0, 0, expected])
        assert Spread(clip=0.5).of(log)[0, 3].item() == 0.5
        assert Spread(form="change").of(log)[0, 3].item() == pytest.approx(3 * (self.GROWN - 1) / 2)

    def test_a_positive_reward_for_a_repeat_is_damped_and_a_negative_one_is_not(self, heard) -> None:
        # 0 again brings 0, 1 and 3: sum 10, squares 24.
        grown = math.sqrt((24 - 100 / 6) / 5)
        for sigma, factor in ((2.0, 0.5), (0.5, 1.0)):
            log = heard([[0, 1, 2, 0]], vectors=LINE[:3], sigma=[sigma])
            expected = 3 * (abs(1 - sigma) - abs(grown - sigma)) / sigma
            assert Spread(repeat_factor=0.5).of(log)[0, 3].item() == pytest.approx(expected * factor)

    @pytest.mark.parametrize("sigma", [math.nan, 0.0])
    def test_a_user_without_spread_earns_nothing(self, heard, sigma: float) -> None:
        assert Spread().of(heard([[0, 1, 2, 3]], vectors=LINE, sigma=[sigma])).tolist() == [[0, 0, 0, 0]]


def test_the_logged_reward_is_the_logs_and_nothing_at_padding(heard) -> None:
    log = heard([[0, 1, -1]], rewards=[[3.0, -2.0, 7.0]])
    assert Logged().of(log).tolist() == [[3, -2, 0]]
