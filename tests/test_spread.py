"""The spread reward equals the two-pass formula, at every step of a history, and knows no later event."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from what_next.rewards import Samples, population_sigma, prospects, spread_reward
from what_next.rewards.spread import POPULATION, Form, Pairs, damped, learning_target, spread_of

LINE = torch.tensor([[[0.0], [1.0], [3.0]]])
"""Distances 1, 3 and 2: mean 2, standard deviation 1."""


def random_vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_pass(vectors: Tensor, pairs: Pairs = "all") -> float:
    """The definition: all distances in float64, their mean, then the deviations from it."""
    points = vectors.double().numpy()
    first, second = np.triu_indices(len(points), 1)
    if pairs == "consecutive":
        first, second = np.arange(len(points) - 1), np.arange(1, len(points))
    distances = np.sqrt(np.square(points[first] - points[second]).sum(1))
    if len(distances) < 2:
        return 0.0
    return math.sqrt(np.square(distances - distances.mean()).sum() / (len(distances) - 1))


class TestTwoPasses:
    @pytest.mark.medium
    @pytest.mark.parametrize("pairs", ["all", "consecutive"])
    @pytest.mark.parametrize("length", [5, 200, 2000])
    def test_the_spread_and_the_grown_spread_are_those_of_two_passes(self, length: int, pairs: Pairs) -> None:
        vectors, points = random_vectors(1, length, 6), random_vectors(3, 6, seed=1)
        samples = Samples.of(vectors, length, pairs)
        assert samples.spread[0, -1].item() == pytest.approx(two_pass(vectors[0], pairs), rel=1e-4)
        with_item = samples.with_item(points[None, None])[0, -1]
        at = samples.at(torch.full((3,), length - 1), points)
        for place, point in enumerate(points):
            expected = two_pass(torch.cat([vectors[0], point[None]]), pairs)
            assert with_item[place].item() == pytest.approx(expected, rel=1e-4)
            assert at[place].item() == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("length", [5, 200])
    def test_distances_that_hardly_differ_keep_their_spread(self, length: int) -> None:
        # In 500 dimensions all distances are nearly the same: squares subtracted from squares would lose the rest.
        vectors = random_vectors(1, length, 500)
        measured = Samples.of(vectors, length).spread[0, -1].item()
        assert measured == pytest.approx(two_pass(vectors[0]), rel=1e-4)

    @pytest.mark.parametrize("pairs", ["all", "consecutive"])
    @pytest.mark.parametrize("window", [3, 20, 100])
    def test_a_sliding_window_equals_a_recomputation_at_every_step(self, window: int, pairs: Pairs) -> None:
        vectors, points = random_vectors(2, 60, 4), random_vectors(2, 60, 2, 4, seed=1)
        samples = Samples.of(vectors, window, pairs)
        own, shared = samples.with_item(points), samples.with_item(points[:1, :1])
        for row in range(2):
            for step in range(60):
                sample = vectors[row, max(0, step + 1 - window) : step + 1]
                assert samples.spread[row, step].item() == pytest.approx(two_pass(sample, pairs), rel=1e-4, abs=1e-6)
                torch.testing.assert_close(samples.mean[row, step], sample.mean(0), rtol=1e-4, atol=1e-5)
                for choice in range(2):
                    with_item = torch.cat([sample, points[row, step, choice, None]])
                    expected = pytest.approx(two_pass(with_item, pairs), rel=1e-4, abs=1e-6)
                    assert own[row, step, choice].item() == expected
                    place = torch.tensor([row * 60 + step])
                    assert samples.at(place, points[row, step, choice, None]).item() == expected
                    fixed = torch.cat([sample, points[0, 0, choice, None]])
                    assert shared[row, step, choice].item() == pytest.approx(two_pass(fixed, pairs), rel=1e-4, abs=1e-6)

    def test_points_of_one_row_serve_every_history_of_the_batch(self) -> None:
        vectors, points = random_vectors(3, 7, 2), random_vectors(1, 7, 4, 2, seed=1)
        samples = Samples.of(vectors, 5)
        torch.testing.assert_close(samples.with_item(points), samples.with_item(points.expand(3, -1, -1, -1)))

    def test_identical_songs_have_no_spread(self) -> None:
        samples = Samples.of(torch.full((1, 50, 3), 0.7), 20)
        assert samples.spread.abs().max() < 1e-6
        assert samples.with_item(torch.full((1, 1, 1, 3), 0.7)).abs().max() < 1e-6

    def test_identical_songs_after_others_have_no_spread(self) -> None:
        vectors = torch.cat([5 * random_vectors(1, 200, 3), torch.ones(1, 30, 3)], 1)
        assert Samples.of(vectors, 20).spread[0, -10:].max() < 1e-6

    def test_equidistant_songs_have_no_spread(self) -> None:
        samples = Samples.of(torch.eye(40)[None], 40)
        assert samples.spread.max() < 1e-6
        samples = Samples.of(torch.eye(40)[None, :20], 20)
        assert samples.with_item(torch.eye(40)[None, None, 30:31]).max() < 1e-6

    @pytest.mark.parametrize("length", [1, 2])
    @pytest.mark.parametrize("pairs", ["all", "consecutive"])
    def test_fewer_than_two_pairs_have_no_spread(self, length: int, pairs: Pairs) -> None:
        assert Samples.of(random_vectors(1, length, 2), 20, pairs).spread.eq(0).all()
        assert spread_of(random_vectors(length, 2), pairs) == 0


class TestTime:
    @pytest.mark.parametrize("pairs", ["all", "consecutive"])
    def test_nothing_after_a_step_changes_it(self, pairs: Pairs) -> None:
        vectors, points = random_vectors(2, 40, 3), random_vectors(2, 40, 2, 3, seed=1)
        later = vectors.clone()
        later[:, 25:] = 9 * random_vectors(2, 15, 3, seed=2)
        before, after = (Samples.of(some, 10, pairs) for some in (vectors, later))
        torch.testing.assert_close(before.spread[:, :25], after.spread[:, :25])
        torch.testing.assert_close(before.mean[:, :25], after.mean[:, :25])
        for some in (points, points[:1, :1]):
            torch.testing.assert_close(before.with_item(some)[:, :25], after.with_item(some)[:, :25])
        assert (before.spread[:, 25:] - after.spread[:, 25:]).abs().min() > 0.01

    def test_what_lies_before_the_window_changes_nothing(self) -> None:
        vectors = random_vectors(1, 40, 3)
        earlier = vectors.clone()
        earlier[:, :20] += 5
        before, after = (Samples.of(some, 10) for some in (vectors, earlier))
        torch.testing.assert_close(before.spread[:, 29:], after.spread[:, 29:])


class TestReward:
    @pytest.mark.parametrize(
        ("sigma", "form", "expected"),
        [
            # With 0 joining 0, 1, 3 the distances are 1, 3, 2, 0, 1, 3: sqrt((24 - 100 / 6) / 5) = 1.2110601.
            (1.5, "towards", (0.5 - (1.5 - 1.2110601)) / 1.5),
            (1.1, "towards", (0.1 - (1.2110601 - 1.1)) / 1.1),
            (1.5, "change", 0.2110601 / 1.5),
            (0.5, "change", 0.2110601 / 0.5),
        ],
    )
    def test_the_reward_is_the_one_worked_by_hand(self, sigma: float, form: Form, expected: float) -> None:
        samples = Samples.of(LINE, 20)
        reward, usable = spread_reward(samples, samples.with_item(torch.zeros(1, 1, 1, 1)), torch.tensor([sigma]), form)
        assert samples.spread[0, 2].item() == pytest.approx(1)
        assert reward[0, 2, 0].item() == pytest.approx(expected, rel=1e-5)
        assert usable.tolist() == [[False, False, True]]

    def test_a_narrowing_change_counts_like_a_widening_one(self) -> None:
        samples = Samples.of(LINE, 20)
        # With 2 joining 0, 1, 3 the distances are 1, 3, 2, 2, 1, 1: sqrt((20 - 100 / 6) / 5) = 0.8164966.
        with_item = samples.with_item(torch.full((1, 1, 1, 1), 2.0))
        change, _ = spread_reward(samples, with_item, torch.tensor([2.0]), "change")
        towards, _ = spread_reward(samples, with_item, torch.tensor([2.0]), "towards")
        assert change[0, 2, 0].item() == pytest.approx(0.1835034 / 2, rel=1e-5)
        assert towards[0, 2, 0].item() == pytest.approx(-0.1835034 / 2, rel=1e-5)

    def test_neighbours_alone_are_measured_where_pairs_are_consecutive(self) -> None:
        # 0, 1, 3 gives 1 and 2, so 0.7071068; with 0 after it 1, 2 and 3, so 1.
        samples = Samples.of(LINE, 20, "consecutive")
        with_item = samples.with_item(torch.zeros(1, 1, 1, 1))
        reward, _ = spread_reward(samples, with_item, torch.tensor([1.0]))
        assert samples.spread[0, 2].item() == pytest.approx(0.7071068)
        assert with_item[0, 2, 0].item() == pytest.approx(1)
        assert reward[0, 2, 0].item() == pytest.approx(1 - 0.7071068)

    def test_users_without_spread_and_short_samples_are_masked(self) -> None:
        samples = Samples.of(random_vectors(4, 5, 2), 20)
        sigma = torch.tensor([1.0, 0.0, 9e-7, math.nan])
        reward, usable = spread_reward(samples, samples.with_item(random_vectors(1, 1, 3, 2)), sigma)
        assert usable[0].tolist() == [False, False, True, True, True]
        assert not usable[1:].any()
        assert reward.isfinite().all()
        assert reward[~usable].eq(0).all()

    def test_the_target_is_scaled_by_the_sample_and_clipped(self) -> None:
        reward = torch.tensor([[[0.1, -0.2], [0.1, 0.9], [0.01, -0.5]]])
        target = learning_target(reward, torch.tensor([3, 4, 20]), 1.0)
        torch.testing.assert_close(target, torch.tensor([[[0.3, -0.6], [0.4, 1.0], [0.2, -1.0]]]))

    def test_the_sample_never_counts_more_than_its_window(self) -> None:
        assert Samples.of(random_vectors(1, 6, 2), 4).count.tolist() == [1, 2, 3, 4, 4, 4]

    def test_damping_halves_what_a_repeat_earns_and_leaves_its_losses(self) -> None:
        reward = torch.tensor([0.4, -0.4, 0.4, 0.0])
        repeat = torch.tensor([True, True, False, True])
        torch.testing.assert_close(damped(reward, repeat, 0.5), torch.tensor([0.2, -0.4, 0.4, 0.0]))

    @given(
        st.lists(st.tuples(st.floats(-10, 10, width=32), st.booleans()), min_size=1),
        st.floats(0, 1, exclude_min=True, width=32),
    )
    def test_a_damped_reward_never_exceeds_the_undamped_one(
        self, cases: list[tuple[float, bool]], factor: float
    ) -> None:
        reward = torch.tensor([value for value, _ in cases])
        less = damped(reward, torch.tensor([repeat for _, repeat in cases]), factor)
        assert (less <= reward).all()
        assert (less.sign() == reward.sign()).logical_or(less == 0).all()

    def test_prospects_are_the_numbers_worked_by_hand(self) -> None:
        found = prospects(torch.tensor([[1.0]]), torch.tensor([[1.5, 0.5]]), torch.tensor([4]), 2.0)
        torch.testing.assert_close(found, torch.tensor([[[1.5, 2.0, -2.0, -4.0], [0.5, -2.0, -6.0, -4.0]]]))

    def test_prospects_cannot_know_the_sigma_of_the_user(self) -> None:
        assert list(inspect.signature(prospects).parameters) == ["spread", "with_item", "count", "typical"]


class TestPopulation:
    @pytest.mark.parametrize("pairs", ["all", "consecutive"])
    def test_sigma_is_the_spread_of_all_events(self, pairs: Pairs) -> None:
        vectors = random_vectors(300, 3)
        assert population_sigma(vectors, pairs) == pytest.approx(two_pass(vectors, pairs), rel=1e-6)

    def test_repeats_count_as_often_as_they_were_heard(self) -> None:
        vectors = random_vectors(6, 3)
        twice = torch.cat([vectors, vectors[:1]])
        assert population_sigma(twice) == pytest.approx(two_pass(twice), rel=1e-6)
        assert population_sigma(twice) != pytest.approx(population_sigma(vectors), rel=1e-3)

    def test_a_subset_of_1000_fixed_by_the_seed_stands_for_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        vectors, measured = random_vectors(1500, 3), []
        monkeypatch.setattr("what_next.rewards.spread.spread_of", lambda some, _: measured.append(some) or 1.0)
        for seed in (0, 0, 1):
            population_sigma(vectors, seed=seed)
        torch.manual_seed(99)  # the subset follows its own seed, not torch's
        population_sigma(vectors)
        assert [len(some) for some in measured] == [POPULATION] * 4
        assert torch.equal(measured[0], measured[1])
        assert torch.equal(measured[0], measured[3])
        assert not torch.equal(measured[0], measured[2])
        assert len(measured[0].unique(dim=0)) == POPULATION

    def test_the_order_of_events_survives_in_the_subset(self) -> None:
        line = torch.arange(1500.0)[:, None]
        # Neighbours of an ordered subset are near; of a shuffled one they would lie hundreds apart.
        assert population_sigma(line, "consecutive") < 5

    def test_exactly_1000_events_are_taken_whole(self) -> None:
        vectors = random_vectors(POPULATION, 2)
        assert population_sigma(vectors, seed=3) == pytest.approx(two_pass(vectors), rel=1e-6)
