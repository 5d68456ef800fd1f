"""Confidence sequences: by hand, by the packages of the field, and by simulated looks."""

import math

import numpy as np
import pytest

from what_next.off_policy.confidence_sequences import asymptotic, betting, effect_of, normal_mixture
from what_next.off_policy.weighting import Terms, mean_of, snips

ROWS = np.arange(1, 301)
SCATTERED, CLICKS = (ROWS * ROWS * 7 % 101) / 250, (ROWS * 7919 % 10 < 1).astype(float)
BETTING = [
    (SCATTERED, 20, 95.0, 0.11092, 0.43404),
    (SCATTERED, 100, 95.0, 0.16923, 0.26146),
    (SCATTERED, 300, 95.0, 0.18183, 0.22467),
    (CLICKS, 20, 90.0, 0.0, 0.35537),
    (CLICKS, 100, 90.0, 0.02923, 0.18989),
    (CLICKS, 300, 90.0, 0.05030, 0.15208),
]
"""What confseq 0.0.11 makes of them (`betting_cs`, breaks=100000). It needs Python 3.10 and NumPy 1."""
MIXTURE = [(1.0, 6.69438861706604), (10.0, 10.637547006557504), (100.0, 30.614772188674166), (1e4, 365.65364661848065)]
"""Its two-sided `normal_mixture_bound(v, 0.05, v_opt=50)`, by v."""


class TestConfseq:
    @pytest.mark.parametrize(("values", "rows", "level", "low", "high"), BETTING)
    def test_betting(self, values: np.ndarray, rows: int, level: float, low: float, high: float) -> None:
        assert betting(values[:rows], (0.0, 1.0), level) == pytest.approx((low, high), abs=2e-5)

    @pytest.mark.parametrize(("variance", "bound"), MIXTURE)
    def test_normal_mixture(self, variance: float, bound: float) -> None:
        rho = 50 / (2 * math.log(20) + math.log1p(2 * math.log(20)))  # as it makes it of v_opt
        assert variance * normal_mixture(variance**-0.5, rho**-0.5) == pytest.approx(bound)


class TestNormalMixture:
    def test_by_hand(self) -> None:
        # v = 4, rho = 1: sqrt(5 * (ln 5 + 2 ln 20)) / 4 per unit of the sum, with error 1/2 and effect 1.
        assert normal_mixture(0.5, 1.0) == pytest.approx(math.sqrt(5 * (math.log(5) + 2 * math.log(20))) / 4)

    def test_it_has_the_unit_of_the_estimate(self) -> None:
        assert normal_mixture(5.0, 10.0, 90.0) == pytest.approx(10 * normal_mixture(0.5, 1.0, 90.0))

    def test_it_is_wider_than_an_interval_for_one_look_and_narrowest_where_it_is_said_to_be(self) -> None:
        ratios = [normal_mixture(error, 1.0) / error for error in (0.01, 0.1, 0.34, 1.0, 3.0)]
        assert min(ratios) == ratios[2] == pytest.approx(3.035, abs=0.001)

    def test_nothing_is_known_without_an_effect_and_all_without_an_error(self) -> None:
        assert normal_mixture(0.5, 0.0) == math.inf
        assert normal_mixture(0.0, 1.0) == 0.0


class TestAsymptotic:
    def test_by_hand(self) -> None:
        # Differences 0, 2, 4: mean 2, standard error 2 / sqrt(3).
        found = asymptotic(mean_of(np.array([1.0, 2, 5])), mean_of(np.array([1.0, 0, 1])), effect=1.0)
        half = normal_mixture(2 / math.sqrt(3), 1.0)
        assert found == pytest.approx((2 - half, 2 + half))

    def test_a_ratio_by_its_linear_part(self) -> None:
        rng = np.random.default_rng(0)
        weights, rewards = rng.gamma(2.0, 0.5, 5000), rng.random(5000)
        ours, theirs = snips(weights, rewards), mean_of(rewards)
        low, high = asymptotic(ours, theirs, effect=0.01) or (math.nan, math.nan)
        counts = rng.multinomial(5000, np.full(5000, 1 / 5000), size=1000).astype(float)
        bootstrap = (ours.resampled(counts) - theirs.resampled(counts)).std()
        assert (high - low) / 2 == pytest.approx(normal_mixture(bootstrap, 0.01), rel=0.1)

    def test_the_same_policy_has_no_error(self) -> None:
        one = snips(np.array([1.0, 2, 3]), np.array([0.0, 1, 1]))
        assert asymptotic(one, one, effect=0.1) == (0.0, 0.0)

    def test_nothing_of_one_unit_or_of_no_weight(self) -> None:
        assert asymptotic(mean_of(np.ones(1)), mean_of(np.ones(1)), effect=0.1) is None
        none = Terms(np.zeros(3), np.zeros(3))
        assert asymptotic(none, mean_of(np.ones(3)), effect=0.1) is None


class TestBetting:
    def test_two_rows_by_hand(self) -> None:
        # Both bets are cut to half of the capital over m, so that a row of 1 makes 1 + .5 / m (1 - m) of it.
        # The bets would be 4 and 2.8.
        low, high = betting(np.ones(2), (0.0, 1.0), level=50.0)
        assert high == pytest.approx(1)
        assert (0.5 + 0.5 / low) ** 2 == pytest.approx(4)

    def test_a_shifted_and_stretched_range_shifts_and_stretches_the_bounds(self) -> None:
        values = np.random.default_rng(1).random(300)
        plain, moved = betting(values, (0.0, 1.0)), betting(values * 4 - 3, (-3.0, 1.0))
        assert moved == pytest.approx([one * 4 - 3 for one in plain])

    def test_the_other_way_round_is_the_mirror(self) -> None:
        values = np.random.default_rng(2).beta(1, 9, 300)
        low, high = betting(values, (0.0, 1.0))
        assert betting(1 - values, (0.0, 1.0)) == pytest.approx((1 - high, 1 - low))

    def test_of_nothing_all_is_possible(self) -> None:
        assert betting(np.zeros(0), (-1.0, 2.0)) == (-1.0, 2.0)

    @pytest.mark.medium
    def test_it_is_right_at_all_looks(self) -> None:
        rng, wrong = np.random.default_rng(3), 0
        for _ in range(100):
            values = (rng.random(400) < 0.1).astype(float)
            bounds = [betting(values[:rows], (0.0, 1.0), level=80.0) for rows in range(20, 401, 20)]
            wrong += any(not low <= 0.1 <= high for low, high in bounds)
        assert wrong <= 20


def test_the_effect_is_a_tenth_of_what_is_earned() -> None:
    assert effect_of(np.array([1.0, -1.0, 0, 0]), 2.0) == pytest.approx(0.1)
