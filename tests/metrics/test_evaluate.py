"""The judge: hand-made worlds, the shape of its answer, and the same bytes for the same seed."""

import json
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from what_next.baselines.rules import NearestMean, Oracle, RandomItem, Rule, Steer, TrueNext
from what_next.experiments.windows import compare_on_windows
from what_next.metrics.windows import Sampling, draw_windows
from what_next.types import Slate

SHAPE = {"mean", "low", "high", "n"}


class Always(Rule):
    """Recommends the same slate to everybody."""

    def __init__(self, items: Sequence[int], fallback: bool = False) -> None:
        self.items, self.fallback = items, fallback

    def act(self, states, request, rng=None) -> Slate:
        items = np.tile(np.array(self.items, np.int32), (len(states.users), 1))[:, : request.slots]
        return Slate(items, fallback=np.full(items.shape, self.fallback))


def windows_of(world, lengths=(5, 20), **how):
    return {
        length: draw_windows(world.dataset, world.users, world.history_of, length=length, **how) for length in lengths
    }


def judge(world, policies, windows, **how):
    return compare_on_windows(policies, windows, Sampling(world.vectors), **how)


def everyone(world, windows):
    sampling = Sampling(world.vectors)
    items = len(world.vectors)
    return {
        "agent": [RandomItem(items), RandomItem(items), RandomItem(items)],
        "agent_critic": [Steer(sampling, 0.9)],
        "untrained": [RandomItem(items)],
        "random": [RandomItem(items)],
        "nearest_mean": [NearestMean(sampling)],
        "true_next": [TrueNext({length: part.following for length, part in windows.items()})],
        "steer": [Steer(sampling, 1.0)],
        "oracle": [Oracle(sampling)],
    }


def test_every_metric_of_four_items_by_hand(line):
    # The one window of three events is 0, 1, 3; item 7 makes the spread of the whole population of it: see test_rules.
    whole = np.std([1, 2, 3, 4, 6, 7], ddof=1)
    windows = windows_of(line, (3,))
    policies = {"agent": [Always([3], fallback=True), Always([0])], "random": [RandomItem(4)], "oracle": [Always([3])]}
    result = judge(line, policies, windows)
    best = (whole - 1) / whole
    worse = np.std([1, 2, 3, 0, 1, 3], ddof=1)  # the item at 0 once more
    other = (abs(1 - whole) - abs(worse - whole)) / whole
    told = {name: one["mean"] for name, one in result["policies"]["agent"].items()}
    assert told == {
        "spread@3": pytest.approx((best + other) / 2, rel=1e-6),
        "repeats": 1,
        "fallbacks": 0.5,
        "coverage": 0.25,
    }
    assert result["policies"]["random"]["spread@3"]["mean"] == pytest.approx(best, rel=1e-6)  # nothing else is left
    assert result["differences"]["agent-random"]["spread@3"]["mean"] == pytest.approx((other - best) / 2, rel=1e-6)
    assert result["share_of_oracle"]["agent"]["spread@3"]["mean"] == pytest.approx((best + other) / 2 / best, rel=1e-6)
    assert result["windows"] == {"3": {"windows": 1, "users": 1, "too_short": 0}}


def test_hits_and_their_ranks_by_hand(world):
    known = world([[item] for item in range(40)], [*range(21)], [*range(20), 21], [*range(20), 22])
    result = judge(known, {"agent": [Always([21, 30, 20, *range(31, 38)])]}, windows_of(known, (20,)))
    agent = result["policies"]["agent"]
    assert agent["window_hr@10"]["mean"] == pytest.approx(2 / 3)
    assert agent["window_ndcg@10"]["mean"] == pytest.approx((1 + 1 / 2) / 3)
    assert agent["window_hr@10"]["n"] == 3
    assert agent["repeats"]["mean"] == pytest.approx(1 / 3)  # one of them did hear 21 in the end


class InTurn(Rule):
    """Recommends the item whose position is the number of events so far."""

    def act(self, states, request, rng=None) -> Slate:
        assert (states.lengths == states.items.shape[1]).all()
        return Slate(states.lengths[:, None].astype(np.int32), fallback=np.zeros((len(states.lengths), 1), np.bool_))


def test_ten_recommendations_that_are_followed_by_hand(world):
    """Each reward once more, from the distances of all pairs."""
    points = np.random.default_rng(1).normal(size=(30, 2))
    known = world(points.tolist(), [*range(11), 25, 26])
    windows = windows_of(known, (10,))
    found = judge(known, {"agent": [InTurn()], "random": [RandomItem(30)]}, windows)["policies"]["agent"]["followed@10"]
    (first,), (sigma,) = windows[10].history.items[::4], windows[10].history.sigma[::4]
    taken, rewards = [int(item) for item in first], []
    for step in range(10):
        apart = [abs(spread_by_pairs(points[some]) - sigma) for some in (taken, [*taken, 10 + step])]
        taken, rewards = [*taken, 10 + step], [*rewards, (apart[0] - apart[1]) / sigma]
    assert found["mean"] == pytest.approx(np.mean(rewards), rel=1e-4)
    assert found["n"] == 1


def spread_by_pairs(points: np.ndarray) -> float:
    return float(np.std([np.linalg.norm(a - b) for a, b in combinations(points, 2)], ddof=1))


def test_a_next_item_that_nobody_may_name_is_not_held_against_anybody(world):
    known = world([[item] for item in range(40)], [*range(21)], [*range(20), 0])
    policies = {"agent": [Always(range(20, 30))], "true_next": [TrueNext({20: np.array([20, 0], np.int32)})]}
    result = judge(known, policies, windows_of(known, (20,)))
    assert result["policies"]["agent"]["window_hr@10"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 1}
    assert result["policies"]["true_next"]["spread@20"]["n"] == 1
    assert result["differences"]["agent-true_next"]["spread@20"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 1}


def test_the_answer_has_the_shape_that_was_promised(crowd):
    windows = windows_of(crowd)
    result = judge(crowd, everyone(crowd, windows), windows)
    assert list(result) == ["windows", "policies", "differences", "share_of_oracle"]
    metrics = {"spread@5", "spread@20", "window_hr@10", "window_ndcg@10", "coverage", "repeats", "fallbacks"}
    for name, told in result["policies"].items():
        assert set(told) == (metrics - {"window_hr@10", "window_ndcg@10"} if name == "true_next" else metrics)
    baselines = ("random", "untrained", "true_next", "nearest_mean", "steer")
    assert set(result["differences"]) == {f"{one}-{other}" for one in ("agent", "agent_critic") for other in baselines}
    assert set(result["differences"]["agent-random"]) == {"spread@5", "spread@20", "window_hr@10", "window_ndcg@10"}
    assert set(result["share_of_oracle"]["steer"]) == {"spread@5", "spread@20"}
    for part in ("policies", "differences", "share_of_oracle"):
        for told in result[part].values():
            for one in told.values():
                assert set(one) == SHAPE
                assert one["low"] <= one["mean"] <= one["high"]
                assert [type(value) for value in one.values()] == [float, float, float, int]
    assert result["policies"]["agent"]["spread@5"]["n"] == 5
    assert result["policies"]["agent"]["spread@20"]["n"] == 4


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(crowd):
    def bytes_of(seed: int) -> bytes:
        windows = windows_of(crowd, seed=seed)
        return json.dumps(judge(crowd, everyone(crowd, windows), windows, seed=seed), allow_nan=False).encode()

    assert bytes_of(1) == bytes_of(1)
    assert bytes_of(1) != bytes_of(2)


def test_each_seed_of_training_draws_its_own_items(crowd):
    windows, asked = windows_of(crowd), []

    class Noting(RandomItem):
        def act(self, states, request, rng=None):
            slate = super().act(states, request, rng)
            asked.append((states.items.shape[1], request.slots, slate.items[:, 0].tolist()))
            assert np.array_equal(request.permitted.without, states.items)
            return slate

    judge(crowd, {"agent": [Noting(40), Noting(40)]}, windows)
    assert [(length, slots) for length, slots, _ in asked] == [(5, 1), (5, 1), (20, 10), (20, 10)]
    assert asked[0][2] != asked[1][2]


def test_what_cannot_be_told_is_left_out(crowd):
    windows = windows_of(crowd, (5, 30))
    result = judge(crowd, {"agent": [Always([-1])], "random": [RandomItem(40)]}, windows)
    assert result["policies"]["agent"] == {}
    assert result["differences"]["agent-random"] == {}
    assert "spread@30" not in result["policies"]["random"]
    assert result["windows"]["30"] == {"windows": 0, "users": 0, "too_short": 6}
    assert "share_of_oracle" not in result


def test_a_difference_is_that_of_the_means_and_pairs_the_users(crowd):
    windows = windows_of(crowd)
    result = judge(crowd, everyone(crowd, windows), windows)
    one, other = (result["policies"][name]["spread@5"]["mean"] for name in ("agent_critic", "random"))
    assert result["differences"]["agent_critic-random"]["spread@5"]["mean"] == pytest.approx(one - other)
