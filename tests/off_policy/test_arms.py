"""Two arms by live feedback: by hand, and by simulated users whose truth is known."""

import math

import numpy as np
import pytest

from what_next.off_policy.confidence_sequences import FEW, Contrast, contrast, normal_mixture


def of_users(ours: np.ndarray, theirs: np.ndarray) -> Contrast:
    """Arms whose users had one answer each, with these rewards."""
    rewards = np.concatenate([ours, theirs]).astype(float)
    return contrast(np.arange(len(rewards)), np.arange(len(rewards)) < len(ours), rewards)


def clicks(users: int, count: int) -> np.ndarray:
    return (np.arange(users) < count).astype(float)


class TestByHand:
    def test_a_difference_of_means(self) -> None:
        found = of_users(clicks(100, 60), clicks(100, 40))
        error = math.sqrt(2 * 0.24 / 99)
        half = normal_mixture(error, 0.05)
        assert (found.ours.mean, found.theirs.mean) == (0.6, 0.4)
        assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))

    def test_users_are_the_units(self) -> None:
        # Each user's answers are alike: ten times as many tell no more.
        users, ours = np.repeat(np.arange(200), 10), np.repeat(np.arange(200) < 100, 10)
        rewards = np.repeat(np.concatenate([clicks(100, 60), clicks(100, 40)]), 10)
        found, once = contrast(users, ours, rewards), of_users(clicks(100, 60), clicks(100, 40))
        assert (found.mean, found.low, found.high) == pytest.approx((once.mean, once.low, once.high))
        assert (found.ours.users, found.ours.answers) == (100, 1000)

    def test_the_order_of_rows_is_nothing(self) -> None:
        rng = np.random.default_rng(0)
        users, rewards = rng.integers(300, size=2000), rng.random(2000)
        order = rng.permutation(2000)
        found = [contrast(users[rows], users[rows] % 2 == 0, rewards[rows]) for rows in (np.arange(2000), order)]
        assert (found[0].low, found[0].high) == pytest.approx((found[1].low, found[1].high))

    def test_an_arm_that_brought_nothing_yet_is_not_known_exactly(self) -> None:
        # Of 60 users at one in a hundred, none clicks in 55 of 100 cases.
        found = of_users(clicks(60, 0), clicks(6000, 60))
        assert found.high - found.mean > normal_mixture(math.sqrt(0.01 * 0.98 / 60), 0.001)
        assert found.verdict() == "undecided"

    def test_of_few_users_nothing_is_said(self) -> None:
        found = of_users(clicks(FEW - 1, 0), clicks(1000, 1000))
        assert (found.mean, found.low, found.high) == (-1.0, -math.inf, math.inf)
        assert found.verdict() == "undecided"
        assert f"difference -1 without bounds: {FEW - 1} users in one arm, {FEW} are needed (" in str(found)
        empty = of_users(clicks(0, 0), clicks(100, 50))
        assert math.isnan(empty.ours.mean)
        assert (empty.ours.answers, empty.low, empty.cost) == (0, -math.inf, 0.0)


class TestVerdict:
    def test_worse_beyond_doubt(self) -> None:
        found = of_users(clicks(500, 100), clicks(500, 250))
        assert found.verdict() == "worse"
        assert found.cost == pytest.approx(150)
        assert "0.2 against 0.5 for an answer, difference -0.3 [" in str(found)

    def test_better_by_the_margin(self) -> None:
        found = of_users(clicks(500, 250), clicks(500, 100))
        assert found.verdict() == "better"
        assert found.verdict(margin=found.low) == "undecided"
        assert found.cost == 0

    def test_undecided(self) -> None:
        assert of_users(clicks(500, 100), clicks(500, 105)).verdict() == "undecided"


class TestLooks:
    @staticmethod
    def verdicts(rng: np.random.Generator, better: float, share: float) -> set[str]:
        """What is ever said within 50 looks at users who come back and differ, at a rate of .2 in the second arm."""
        users, ours = 800, rng.random(800) < share
        rates = rng.beta(2, 8, users) * np.where(ours, 1 + better, 1.0)
        who = rng.integers(users, size=8000)
        rewards = (rng.random(8000) < rates[who]).astype(float)
        rows = range(160, 8001, 160)
        return {contrast(who[:row], ours[who[:row]], rewards[:row]).verdict() for row in rows}

    @pytest.mark.medium
    def test_equal_arms_are_hardly_ever_told_apart(self) -> None:
        rng = np.random.default_rng(0)
        wrong = sum(len(self.verdicts(rng, 0.0, share)) > 1 for share in (0.1, 0.5) for _ in range(50))
        assert wrong <= 5

    def test_half_as_good_is_found_out(self) -> None:
        rng = np.random.default_rng(1)
        found = [self.verdicts(rng, -0.5, 0.5) for _ in range(20)]
        assert all("better" not in one for one in found)
        assert sum("worse" in one for one in found) >= 18
