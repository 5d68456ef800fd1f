"""The judge of next items: whose targets, what counts as a hit, and means that are worked by hand."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from what_next.baselines.rules import Popular, RandomItem, Ranking, Rule
from what_next.data import split_leave_last_out, split_time, split_users
from what_next.errors import DataError, SetupError
from what_next.experiments.evaluator import Evaluator
from what_next.experiments.next_items import result_of
from what_next.metrics.beyond import ItemStatistics
from what_next.metrics.next_items import Targets, rank
from what_next.metrics.windows import Sampling
from what_next.types import History, Permitted, Request, Slate

from .conftest import World, build_world

A, B, C, D, E = range(5)


@pytest.fixture(scope="module")
def shop() -> World:
    """Three users of five items; the second one's last item is one that they had before; the third has two events."""
    world = build_world([[0], [1], [3], [7], [12]], [A, B, C, D], [B, E, B, E], [C, A])
    rewards = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], np.float32)
    return world._replace(dataset=replace(world.dataset, rewards=rewards))


class Worths(Ranking):
    """Gives everybody the same scores."""

    def __init__(self, *worths: float) -> None:
        self.items, self.worths = 5, worths

    def worth(self, history: History) -> np.ndarray:
        return np.tile(np.array(self.worths), (len(history.users), 1))


class Fixed(Rule):
    """Recommends the same list to everybody, whatever is excluded; keeps what it was asked."""

    def __init__(self, *items: int) -> None:
        self.items, self.asked = items, []

    def act(self, states, request, rng=None) -> Slate:
        self.asked.append((states, rng, request.permitted.without))
        return Slate(np.tile(np.array(self.items[: request.slots], np.int32), (len(states.users), 1)))


def targets_of(shop: World) -> Targets:
    return Targets.of(shop.dataset, split_leave_last_out(shop.dataset), "test")


class TestTargets:
    def test_the_test_is_the_last_event_and_validation_the_one_before(self, shop: World) -> None:
        split = split_leave_last_out(shop.dataset)
        test, validation = (Targets.of(shop.dataset, split, part) for part in ("test", "validation"))
        assert (test.users.tolist(), test.before.tolist(), test.items.tolist()) == ([0, 1], [3, 3], [D, E])
        assert (validation.before.tolist(), validation.items.tolist()) == ([2, 2], [C, B])
        assert test.rewards.tolist() == [4, 8]

    def test_users_set_aside_are_judged_on_their_last_event_in_either_part(self, shop: World) -> None:
        split = split_users(shop.dataset, test=1 / 3, validation=1 / 3)
        for part in ("test", "validation"):
            found, users = Targets.of(shop.dataset, split, part), getattr(split, part)
            assert found.users.tolist() == users.tolist()
            assert found.before.tolist() == (shop.dataset.lengths[users] - 1).tolist()

    def test_after_a_moment_validation_ends_where_the_test_begins(self) -> None:
        world = build_world([[0], [1], [2], [3]], list(range(4)) * 5)
        data = replace(world.dataset, timestamps=np.arange(20, dtype=np.int64))
        split = split_time(data, 0.8)
        assert Targets.of(data, split, "validation").before.tolist() == [15]
        assert Targets.of(data, split, "test").before.tolist() == [19]

    def test_nobody_is_judged_on_a_first_event(self) -> None:
        data = build_world([[0], [1]], [A], [A, B], [B, A]).dataset
        split = split_users(data, test=0.6, validation=0.0)
        everyone = replace(split, test=np.arange(3, dtype=np.int32), until=np.zeros(3, np.int64))
        found = Targets.of(data, everyone, "test")
        assert found.users.tolist() == [1, 2]

    def test_each_kind_takes_its_own_of_a_users_events(self) -> None:
        world = build_world([[0], [1], [2], [3]], [A, B, C, B, D], [C, D, A], [B])
        data = replace(world.dataset, timestamps=np.array([0, 1, 2, 8, 9, 3, 4, 9, 9], np.int64))
        split = split_time(data, 5 / 9 + 0.01)
        assert split.test.tolist() == [0, 1, 2]
        found = {kind: Targets.of(data, split, "test", kind) for kind in ("last", "random", "successive", "all")}
        assert found["last"].before.tolist() == [4, 2]
        assert found["successive"].users.tolist() == [0, 0, 1]
        assert found["successive"].before.tolist() == [3, 4, 2]
        assert found["successive"].items.tolist() == [B, D, A]
        assert found["all"].before.tolist() == [3, 2]
        assert found["all"].relevant.tolist() == [[B, D], [A, -1]]
        assert {one.without_history for one in found.values()} == {1}  # the third user has nothing to go by
        drawn = {int(Targets.of(data, split, "test", "random", seed).before[0]) for seed in range(20)}
        assert drawn == {3, 4}

    def test_who_came_after_the_cut_is_judged_and_is_cold(self) -> None:
        world = build_world([[0], [1], [2], [3]], [A, B, C, D], [C, B])
        data = replace(world.dataset, timestamps=np.array([0, 1, 2, 9, 8, 9], np.int64))
        split = split_time(data, 0.7)
        assert split.test.tolist() == [0, 1]
        assert split.cold("test").tolist() == [False, True]
        assert Targets.of(data, split, "test").users.tolist() == [0, 1]

    def test_a_split_at_a_date_is_that_at_the_share_of_events_before_it(self) -> None:
        data = build_world([[0], [1]], [A, B] * 5).dataset
        day = 24 * 3600 * 10**6
        data = replace(data, timestamps=np.arange(10, dtype=np.int64) * day)
        split = split_time(data, moment=datetime(1970, 1, 9))
        assert (split.known.tolist(), split.until.tolist()) == ([6], [8])
        assert split.hash == split_time(data, 0.8).hash
        with pytest.raises(DataError, match="20% of the events come before 1970-01-03 00:00"):
            split_time(data, moment=datetime(1970, 1, 3))

    def test_of_a_set_each_item_is_told_apart(self) -> None:
        world = build_world([[0], [1], [2], [3]], [A, B, A, C], [D, A])
        data = replace(
            world.dataset,
            timestamps=np.array([0, 1, 8, 9, 2, 3], np.int64),
            rewards=np.array([1, 1, 5, 100, 1, 1], np.float32),
        )
        targets = Targets.of(data, split_time(data, 0.67), "test", "all")
        assert targets.relevant.tolist() == [[A, C]]
        assert targets.held(data) == 1
        assert targets.rewards is None  # which of the two rewards would a hit earn?

    def test_other_targets_have_another_hash(self, shop: World) -> None:
        targets = targets_of(shop)
        assert targets.hash == targets_of(shop).hash
        assert targets.hash != replace(targets, before=targets.before - 1).hash
        assert targets.hash != targets.of_rows(np.array([1, 0])).hash

    def test_targets_that_the_history_holds_are_told(self, shop: World) -> None:
        assert targets_of(shop).held(shop.dataset) == 1


class TestRank:
    def test_scores_of_ones_own_that_break_the_contract_are_refused_by_name(self, shop: World) -> None:
        for worths, told in (
            ((1.0, 2.0), r"the policy Worths: worth gives scores of shape \(2, 2\); expected \(2, 5\)"),
            ((1.0, 2.0, np.nan, 3.0, 0.0), "the policy Worths: worth gives a score that is not a number"),
        ):
            with pytest.raises(SetupError, match=told):
                rank(Worths(*worths), targets_of(shop), shop.history_of, 2)

    def test_hits_ranks_and_rewards_are_those_worked_by_hand(self, shop: World) -> None:
        found = rank(Fixed(E, D), targets_of(shop), shop.history_of, 2)
        assert found.items.tolist() == [[E, D], [E, D]]
        assert found.hr.tolist() == [1, 1]
        assert found.ndcg.tolist() == pytest.approx([1 / np.log2(3), 1])
        assert found.reward.tolist() == [0, 8]  # the second is the target's own reward; a hit below the top earns none

    def test_the_policy_reads_all_that_comes_before_the_target_and_nothing_else(self, shop: World) -> None:
        policy = Fixed(A)
        rank(policy, targets_of(shop), shop.history_of, 1)
        ((history, rng, exclude),) = policy.asked
        rows = {user: items[:length].tolist() for user, items, length in zip(
            history.users.tolist(), history.items, history.lengths, strict=True)}  # fmt: skip
        assert rows == {0: [A, B, C], 1: [B, E, B]}
        assert rng is None
        assert exclude is history.items

    def test_items_of_the_history_may_be_asked_for(self, shop: World) -> None:
        policy = Fixed(A)
        rank(policy, targets_of(shop), shop.history_of, 1, seen=True)
        assert policy.asked[0][2] is None

    def test_long_histories_are_read_in_parts_and_come_back_in_order(self, shop: World, monkeypatch) -> None:
        data = build_world(np.arange(9)[:, None].tolist(), *([*range(size), size] for size in (3, 7, 5, 2))).dataset
        split = split_leave_last_out(data)
        found = Targets.of(data, split, "test")
        monkeypatch.setattr("what_next.metrics.next_items.EVENTS", 8)

        class Next(Fixed):
            """The item after the history's last: here, the target."""

            def act(self, states, request, rng=None) -> Slate:
                last = states.items[np.arange(len(states.users)), states.lengths - 1]
                return Slate((last + 1)[:, None].astype(np.int32))

        policy = Next()
        assert rank(policy, found, build_world(np.arange(9)[:, None].tolist(), *(
            [*range(size), size] for size in (3, 7, 5, 2))).history_of, 1).hr.tolist() == [1, 1, 1, 1]  # fmt: skip

    def test_only_permitted_items_are_ranked(self, shop: World) -> None:
        allowed = np.array([True, False, False, False, True])
        found = rank(RandomItem(5), targets_of(shop), shop.history_of, 3, seen=True, allowed=allowed)
        assert [sorted(row) for row in found.items.tolist()] == [[-1, A, E], [-1, A, E]]
        assert found.hr.tolist() == [0, 1]


class TestPopular:
    def test_the_items_with_most_training_events_come_first_without_those_excluded(self, shop: World) -> None:
        history = shop.history_of(np.array([0, 1], np.int32), np.zeros(2, np.int64), np.array([1, 1]))
        slate = Popular(np.array([5, 9, 1, 9, 0])).act(
            history, Request(3, permitted=Permitted.of(without=history.items))
        )
        assert slate.items.tolist() == [[B, D, C], [D, A, C]]


def evaluator(shop: World, **more) -> Evaluator:
    statistics = ItemStatistics.of(shop.dataset.catalogue, np.bincount(shop.dataset.items))
    return Evaluator(more.pop("targets", targets_of(shop)), shop.history_of, statistics, **{"ks": (2,), **more})


def told(stick: Evaluator, scores):
    return stick.means({"": scores})[0][""]


def difference(stick: Evaluator, one, other):
    return stick.means({"one": one, "other": other}, {"": ("one", "other")})[1][""]


class TestEvaluator:
    def test_seeds_are_averaged_before_users(self, shop: World) -> None:
        stick = evaluator(shop)
        judged = stick.score([Fixed(E, D), Fixed(A, B)])
        assert judged.values["hr@2"].tolist() == [0.5, 0.5]
        assert judged.values["reward@1"].tolist() == [0, 4]
        assert told(stick, judged)["reward@1"]["mean"] == 2

    def test_a_difference_is_taken_user_by_user(self, shop: World) -> None:
        stick = evaluator(shop)
        one, other = stick.score([Fixed(D, A)]), stick.score([Fixed(E, A)])
        assert difference(stick, one, other)["hr@2"] == pytest.approx({"mean": 0, "low": -1, "high": 1, "n": 2})
        assert difference(stick, one, one)["ndcg@2"] == {"mean": 0, "low": 0, "high": 0, "n": 2}

    def test_coverage_counts_all_slots_of_all_users(self, shop: World) -> None:
        stick = evaluator(shop)
        assert told(stick, stick.score([Fixed(A, B)]))["coverage@2"]["mean"] == 2 / 5
        assert told(stick, stick.score([Fixed(A, B), Fixed(A, -1)]))["coverage@2"]["mean"] == pytest.approx(1.5 / 5)

    def test_chance_is_exact_and_its_slates_are_drawn_by_the_seed(self, shop: World) -> None:
        # The first user may have D or E, and D came; all that the second may have is A, C and D, and E never comes.
        shares = {seed: evaluator(shop, ks=(1,), seed=seed).score([RandomItem(5)]) for seed in range(20)}
        assert all(one.values["hr@1"].tolist() == [1 / 2, 0] for one in shares.values())
        assert {int(one.slates[0, 0, 0]) for one in shares.values()} == {D, E}
        assert np.array_equal(shares[3].slates, evaluator(shop, ks=(1,), seed=3).score([RandomItem(5)]).slates)

    def test_several_lengths_of_slates_are_judged_at_once(self, shop: World) -> None:
        judged = evaluator(shop, ks=(2, 1)).score([Fixed(E, D)])
        assert judged.values["hr@1"].tolist() == [0, 1]
        assert judged.values["hr@2"].tolist() == [1, 1]
        assert judged.values["precision@2"].tolist() == [0.5, 0.5]
        assert judged.slates.shape == (1, 2, 2)

    def test_rows_of_one_user_are_averaged_before_users(self, shop: World) -> None:
        targets = Targets.of(shop.dataset, split_users(shop.dataset, test=0.6, validation=0.0), "test", "successive")
        stick = evaluator(shop, targets=targets)
        judged = stick.score([Fixed(D, E)])
        mean, rows = told(stick, judged)["hr@2"], judged.values["hr@2"]
        assert mean["n"] == len(set(targets.users.tolist())) < len(targets)
        assert mean["mean"] == np.mean([rows[targets.users == user].mean() for user in set(targets.users.tolist())])

    def test_groups_are_means_over_their_own_users(self, shop: World) -> None:
        groups = {"half": {"one": np.array([True, False]), "other": np.array([False, True])}}
        apart = evaluator(shop, groups=groups).by_group({"fixed": evaluator(shop).score([Fixed(D, A)])})
        means = {name: found["policies"]["fixed"]["hr@2"]["mean"] for name, found in apart["half"].items()}
        assert means == {"one": 1, "other": 0}
        assert apart["half"]["one"]["users"] == 1

    def test_the_spread_of_the_top_item_is_measured_where_items_have_attributes(self, shop: World) -> None:
        # The first user's last three events lie at 0, 1 and 3; sigma is that of 0, 1, 3 and 7.
        targets = targets_of(shop)
        latest = shop.history_of(targets.users, np.zeros(2, np.int64), targets.before)
        sampling = Sampling(shop.vectors, 20)
        judged = evaluator(shop, spread=(sampling, latest)).score([Fixed(D, A)])
        pairs = np.array([1, 3, 7, 2, 6, 4]).std(ddof=1)
        without = np.array([1, 3, 2]).std(ddof=1)
        assert judged.values["spread@20"][0] == pytest.approx((pairs - without) / pairs, rel=1e-4)
        assert "spread@20" not in evaluator(shop).score([Fixed(D, A)]).values

    def test_without_logged_rewards_none_are_told(self, shop: World) -> None:
        stick = replace(evaluator(shop), targets=replace(targets_of(shop), rewards=None))
        assert evaluator(shop).score([Fixed(A, B)]).values.keys() - stick.score([Fixed(A, B)]).values == {"reward@1"}


def test_each_learned_policy_is_compared_with_each_rival_that_is_judged_too(shop: World) -> None:
    stick = evaluator(shop)
    names = ("agent", "untrained", "random", "popular")
    result = result_of({name: stick.score([Fixed(D, A)]) for name in names}, stick, {"data": "shop"})
    assert result["data"] == "shop"
    assert list(result["policies"]) == list(names)
    assert list(result["differences"]) == ["agent-random", "agent-popular", "agent-untrained"]
