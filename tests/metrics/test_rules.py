"""Policies without learning: what they choose, worked by hand, and what they may never choose."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from what_next.baselines.rules import NearestMean, Oracle, Popular, RandomItem, Steer, TrueNext
from what_next.metrics.windows import Sampling, draw_windows
from what_next.types import Greedy, Permitted, Request, Softmax

SQUARE = [[0, 0], [0, 1], [1, 0], [1, 1], [4, 4]]


def spread(points: np.ndarray) -> float:
    """The definition in two passes: the standard deviation of all distances."""
    return np.std([np.linalg.norm(a - b) for a, b in combinations(points, 2)], ddof=1)


def rules(crowd, windows):
    sampling = Sampling(crowd.vectors)
    return {
        "random": RandomItem(len(crowd.vectors)),
        "nearest_mean": NearestMean(sampling),
        "steer": Steer(sampling, 1.0),
        "oracle": Oracle(sampling),
        "true_next": TrueNext({windows.history.items.shape[1]: windows.following}),
    }


def asked(windows, sampler, allowed=None, slots=1):
    return Request(slots, sampler, Permitted.of(allowed, windows.history.items))


def windows_of(world, length=5, **how):
    return draw_windows(world.dataset, world.users, world.history_of, length=length, **how)


def test_the_reward_of_the_last_item_on_the_line(line):
    # Distances within 0, 1, 3: 1, 2, 3, so a spread of 1. With 7: 1, 2, 3, 4, 6, 7, and 7 completes the population.
    whole = np.std([1, 2, 3, 4, 6, 7], ddof=1)
    windows = windows_of(line, 3)
    reward = Sampling(line.vectors).reward(windows.history, windows.following)
    assert reward == pytest.approx([(whole - 1) / whole], rel=1e-6)


def test_no_item_has_no_reward_nor_has_a_sample_of_two(line):
    windows = windows_of(line, 3)
    assert np.isnan(Sampling(line.vectors).reward(windows.history, np.array([-1], np.int32)))
    assert np.isnan(Sampling(line.vectors).reward(windows.history.last(2), np.array([3], np.int32)))


def test_what_every_item_would_make_of_the_spread(crowd):
    windows = windows_of(crowd)
    with_each_item = Sampling(crowd.vectors).with_each_item(windows.history)
    for row in (0, 7, 30):
        sample = crowd.vectors[windows.history.items[row]]
        expected = [spread(np.vstack([sample, vector])) for vector in crowd.vectors]
        assert with_each_item[row] == pytest.approx(expected, abs=1e-5)


def test_the_sample_is_the_latest_events(crowd):
    windows = windows_of(crowd, 20)
    short, whole = Sampling(crowd.vectors, window=4), Sampling(crowd.vectors)
    assert short.with_each_item(windows.history) == pytest.approx(
        whole.with_each_item(windows.history.last(4)), abs=1e-9
    )
    assert short.mean(windows.history) == pytest.approx(crowd.vectors[windows.history.items[:, -4:]].mean(1), abs=1e-6)


def test_steer_takes_the_item_that_brings_the_spread_nearest_to_the_typical(crowd):
    windows = windows_of(crowd)
    chosen = Steer(Sampling(crowd.vectors), 0.9).act(windows.history, Request(2))
    sample = crowd.vectors[windows.history.items[3]]
    gaps = [abs(spread(np.vstack([sample, vector])) - 0.9) for vector in crowd.vectors]
    assert chosen.items[3].tolist() == np.argsort(gaps)[:2].tolist()


def test_the_nearest_to_the_mean_and_the_lower_item_among_equals(world):
    known = world(SQUARE, [1, 2, 4])
    windows = windows_of(known, 2)  # the mean of (0, 1) and (1, 0) is as near to all four corners
    act = NearestMean(Sampling(known.vectors)).act
    assert act(windows.history, Request(4)).items.tolist() == [[0, 1, 2, 3]]
    assert act(windows.history, asked(windows, Greedy(), slots=3)).items.tolist() == [[0, 3, 4]]


def test_equal_scores_go_to_the_lower_item_and_an_item_is_chosen_once(world):
    known = world([[0], [1], [2], [3]], [0, 1])
    history = known.history_of(np.array([0]), np.array([0]), np.array([1]))
    request = Request(4, permitted=Permitted.of(np.array([True, True, True, False])))
    assert Popular(np.array([1, 2, 2, 0])).act(history, request).items.tolist() == [[1, 2, 0, -1]]


@pytest.mark.medium
def test_random_is_uniform_over_what_is_permitted_and_says_so(world):
    known = world([[0], [1], [2], [3], [4]], [0, 1])
    history = known.history_of(np.zeros(30000, np.int32), np.zeros(30000, np.int64), np.ones(30000, np.int64))
    allowed = np.array([True, True, True, False, True])
    request = Request(2, Softmax(), Permitted.of(allowed, history.items))
    slate = RandomItem(5).act(history, request, np.random.default_rng(0))
    pairs = np.bincount(slate.items[:, 0] * 5 + slate.items[:, 1], minlength=25).reshape(5, 5)
    expected = np.zeros((5, 5))
    expected[np.ix_([1, 2, 4], [1, 2, 4])] = 1 / 6
    np.fill_diagonal(expected, 0)
    assert pairs / 30000 == pytest.approx(expected, abs=0.01)
    assert slate.propensities[0] == pytest.approx([1 / 3, 1 / 2])


def test_random_earns_what_a_random_item_earns_on_average(crowd):
    windows = windows_of(crowd)
    sampling, permitted = Sampling(crowd.vectors), ~(windows.history.items[:, :, None] == np.arange(40)).any(1)
    everything = np.stack(
        [sampling.reward(windows.history, np.full(len(windows), item, np.int32)) for item in range(40)], axis=1
    )
    expected = np.average(everything, axis=1, weights=permitted).mean()
    rng = np.random.default_rng(0)
    earned = [
        sampling.reward(
            windows.history, RandomItem(40).act(windows.history, asked(windows, Softmax()), rng).items[:, 0]
        ).mean()
        for _ in range(200)
    ]
    assert np.mean(earned) == pytest.approx(expected, abs=3.5 * np.std(earned) / np.sqrt(200))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_nobody_beats_the_oracle_on_its_own_reward(crowd, seed):
    windows, rng = windows_of(crowd, seed=seed, per_user=3), np.random.default_rng(seed)
    allowed = rng.random(40) < 0.5
    allowed[windows.following] = True
    earned = {
        name: Sampling(crowd.vectors).reward(
            windows.history,
            rule.act(windows.history, asked(windows, rule.sampler, allowed), rng).items[:, 0],
        )
        for name, rule in rules(crowd, windows).items()
    }
    for name, reward in earned.items():
        known = np.isfinite(reward)
        assert (reward[known] <= earned["oracle"][known] + 1e-9).all(), name


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 45), st.booleans())
def test_masks_are_exact_for_every_rule(crowd, seed, slots, each):
    windows, rng = windows_of(crowd, seed=seed, per_user=2), np.random.default_rng(seed)
    allowed = rng.random((len(windows), 40) if each else 40) < rng.random()
    permitted = np.broadcast_to(allowed, (len(windows), 40)).copy()
    np.put_along_axis(permitted, windows.history.items.astype(np.int64), False, axis=1)
    for name, rule in rules(crowd, windows).items():
        request = asked(windows, rule.sampler, allowed, slots)
        slate = rule.act(windows.history, request, rng)
        judged = rule.propensities(windows.history, request, slate.items)
        np.testing.assert_allclose(judged, slate.propensities, rtol=1e-9, err_msg=name)
        for row, items in enumerate(slate.items):
            found = items[items >= 0]
            assert permitted[row, found].all(), name
            assert len(set(found)) == len(found), name
            if name != "true_next":
                assert len(found) == min(slots, permitted[row].sum()), name
                assert (items[len(found) :] == -1).all(), name
        assert np.array_equal(np.isnan(slate.propensities), slate.items < 0), name
        assert slate.fallback is None or not slate.fallback.any(), name


def test_padding_in_exclude_excludes_nothing(crowd):
    windows = windows_of(crowd)
    padding = np.full((len(windows), 2), -1, np.int32)
    for name, rule in rules(crowd, windows).items():
        requests = (Request(1, rule.sampler, permitted) for permitted in (Permitted(), Permitted.of(without=padding)))
        free, padded = (rule.act(windows.history, one, np.random.default_rng(0)).items for one in requests)
        assert np.array_equal(free, padded), name


def test_true_next_names_what_followed_or_nothing(world):
    known = world([[0], [1], [2]], [0, 1, 0, 2])
    windows = windows_of(known, 2)
    rule = TrueNext({2: windows.following})
    slate = rule.act(windows.history, asked(windows, Greedy(), slots=10))
    assert slate.items.tolist() == [[-1], [2]]  # 0 follows 0, 1; 2 follows 1, 0
    with pytest.raises(ValueError, match="1 histories are not the 2 windows"):
        rule.act(known.history_of(np.array([0]), np.array([0]), np.array([2])), Request())


def test_the_choice_does_not_depend_on_how_the_work_is_cut(crowd, monkeypatch):
    windows = windows_of(crowd)

    def choices():
        acting = rules(crowd, windows).items()
        return {
            name: rule.act(windows.history, Request(3, rule.sampler), np.random.default_rng(0)).items.tolist()
            for name, rule in acting
        }

    whole = choices()
    monkeypatch.setattr("what_next.baselines.rules.CHUNK", 50)
    monkeypatch.setattr("what_next.metrics.windows.CHUNK", 37)
    assert whole == choices()
