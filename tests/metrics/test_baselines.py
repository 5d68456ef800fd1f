"""Baselines by counting: numbers worked by hand, and nothing read that training may not know."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from what_next.baselines import BASELINES, Content, Ease, ItemKnn, Markov, PopularPersonal, PopularRecent, Slim, counts
from what_next.baselines.counts import TIE, Known, Rows, likelihood_ratios, parts
from what_next.baselines.slim import regression
from what_next.baselines.tags import PRIOR
from what_next.data import Dataset
from what_next.data.batches import ranges
from what_next.errors import DataError
from what_next.types import History, Permitted, Request

from .conftest import build_world

A, B, C, D, E = range(5)
DAY = 24 * 3600 * 10**6
NAMES = list(BASELINES)


def log(items: int, *histories: Sequence[int], times: Sequence[int] | None = None) -> Dataset:
    """A log of a catalogue of some items, of which every fourth have a tag in common; times, where there are some, in
    days, of all events."""
    data = build_world([[float(item)] for item in range(items)], *histories).dataset
    tags = pl.Series("tags", [[f"kind: {item % 4}"] for item in range(items)])
    data = replace(data, catalogue=replace(data.catalogue, tags=tags))
    return data if times is None else replace(data, timestamps=np.array(times, np.int64) * DAY)


def heard(*histories: Sequence[int]) -> History:
    """Histories of users that no log holds, padded at the end."""
    items = np.full((len(histories), max(map(len, histories))), -1, np.int32)
    for row, history in enumerate(histories):
        items[row, : len(history)] = history
    return History(
        np.full(len(items), -1, np.int32),
        items,
        np.array([len(one) for one in histories], np.int64),
        np.zeros(items.shape, np.float32),
        np.zeros((*items.shape, 0), np.float32),
        np.full(len(items), np.nan, np.float32),
    )


def scores(policy, *histories: Sequence[int]) -> np.ndarray:
    return policy.worth(heard(*histories))


def random_log(seed: int = 0, items: int = 12, users: int = 9) -> Dataset:
    """Some users with few events, some with many, repeats among them; times ascend; two items never occur."""
    rng = np.random.default_rng(seed)
    data = log(items, *(rng.integers(items - 2, size=size) for size in rng.integers(1, 15, size=users)))
    times = np.concatenate([np.sort(rng.integers(10**7, size=size)) for size in data.lengths])
    return replace(data, timestamps=times * 10**6)


class TestKnown:
    def test_the_leading_events_of_each_user_are_known_and_how_many_follow_them(self) -> None:
        events = Known.of(log(4, [A, B, C], [D, D], [B], times=[0, 1, 2, 3, 4, 5]), np.array([2, 0, 1]))
        assert events.users.tolist() == [0, 0, 2]
        assert events.items.tolist() == [A, B, B]
        assert (events.times // DAY).tolist() == [0, 1, 5]
        assert events.after.tolist() == [1, 0, 0]
        assert events.counts.tolist() == [1, 2, 0, 0]
        assert events.shares.tolist() == [1 / 3, 2 / 3, 0, 0]

    def test_a_user_has_an_item_once(self) -> None:
        users, items = Known.of(log(3, [C, A, C], [C]), np.array([3, 1])).pairs
        assert list(zip(users.tolist(), items.tolist(), strict=True)) == [(0, A), (0, C), (1, C)]

    def test_ranges_stand_one_after_another(self) -> None:
        assert ranges(np.array([5, 9, 0]), np.array([2, 0, 3])).tolist() == [5, 6, 0, 1, 2]

    @given(st.lists(st.integers(0, 9)), st.integers(1, 12))
    def test_parts_hold_everything_once_and_as_much_as_may_be_at_work(self, work: list[int], most: int) -> None:
        found = list(parts(np.array(work, np.int64), most))
        assert [place for part in found for place in range(part.start, part.stop)] == list(range(len(work)))
        assert all(sum(work[part]) <= most or part.stop - part.start == 1 for part in found)
        assert all(sum(work[part.start : part.stop + 1]) > most for part in found[:-1])  # and as much as may be


class TestPopularRecent:
    def test_an_event_counts_half_after_each_half_life_before_the_last(self) -> None:
        data = log(3, [A, B, C], [A, C], times=[0, 30, 60, 30, 45])
        policy = PopularRecent.fit(data, data.lengths, half_life_days=30.0, half_life_events=1.0)
        assert policy.weights == pytest.approx([1 / 4 + 1 / 2, 1 / 2, 1 + 2**-0.5], abs=1e-8)

    def test_the_last_event_is_the_last_that_training_may_know(self) -> None:
        data = log(2, [A, B], [A], times=[0, 60, 30])
        policy = PopularRecent.fit(data, np.array([1, 1]), half_life_days=30.0)
        assert policy.weights == pytest.approx([1 / 2 + 1, 0], abs=1e-8)

    def test_without_times_an_event_ages_by_those_of_its_user_that_follow(self) -> None:
        data = log(3, [A, B, C], [A, B])
        policy = PopularRecent.fit(data, data.lengths, half_life_days=1e-9, half_life_events=1.0)
        assert policy.weights == pytest.approx([1 / 4 + 1 / 2, 1 / 2 + 1, 1], abs=1e-8)

    def test_items_whose_events_are_all_long_past_keep_the_order_of_their_number(self) -> None:
        data = log(3, [A, B, B, C], times=[0, 0, 0, 10**5])
        found = scores(PopularRecent.fit(data, data.lengths, half_life_days=1.0), [C])[0]
        assert np.argsort(-found.astype(np.float32)).tolist() == [C, B, A]

    def test_everybody_is_told_the_same(self) -> None:
        found = scores(PopularRecent.fit(random_log(), random_log().lengths), [A], [B, C], [])
        assert (found == found[0]).all()


def together(pairs: dict[tuple[int, int], int], items: int) -> Rows:
    """Counts that are as often one way as the other."""
    both = [pair for pair, times in pairs.items() for pair in [pair, pair[::-1]] * times]
    return Rows.counted(*np.array(both, np.int32).T, items)


def dense(rows: Rows) -> np.ndarray:
    found = np.zeros((len(rows.offsets) - 1,) * 2)
    found[rows.rows, rows.columns] = rows.values
    return found


class TestAssociations:
    @pytest.mark.parametrize(
        ("pairs", "ratio"),
        [
            ({(A, B): 1}, 2.772589),
            ({(A, B): 10}, 27.72589),
            ({(A, B): 5, (A, C): 1995, (C, D): 49_000}, 39.33052),
            ({(A, B): 1000, (A, C): 1000, (B, C): 1000, (C, D): 48_500}, 5734.343),
            ({(A, B): 1000, (A, C): 1000, (B, C): 1000, (C, D): 48_000}, 5714.932),
        ],
    )
    def test_the_likelihood_ratio_is_that_of_published_tables(
        self, pairs: dict[tuple[int, int], int], ratio: float
    ) -> None:
        """The tables are (1, 0, 0, 1), (10, 0, 0, 10), (5, 1995, 0, 100000) and (1000, 1000, 1000, 100000 or 99000) of
        the tests of Mahout's `LogLikelihood`."""
        found = dense(likelihood_ratios(together(pairs, 4)))
        assert found[A, B] == found[B, A] == pytest.approx(ratio, rel=1e-6)

    def test_what_is_together_no_more_often_than_by_chance_is_nothing(self) -> None:
        found = dense(likelihood_ratios(together({(A, B): 1, (A, C): 9, (B, D): 9, (C, D): 1}, 4)))
        assert found[A, B] == found[C, D] == 0
        assert found[A, C] == found[B, D] > 0

    def test_items_of_a_history_go_together_in_any_order(self) -> None:
        data = log(5, [A, B, A], [C, B], [D])  # a history counts once, and A does not go with itself
        expected = likelihood_ratios(together({(A, B): 1, (B, C): 1}, 5))
        assert dense(Known.of(data, data.lengths).associations) == pytest.approx(dense(expected))

    def test_an_item_stands_in_as_many_histories_as_hold_it(self) -> None:
        data = log(4, [A, B, A], [B, C], [B])
        found = dense(Known.of(data, data.lengths).cooccurrences)
        assert found == pytest.approx(np.array([[1, 1, 0, 0], [1, 3, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]))

    def test_long_histories_are_cut_or_only_some_users_counted_as_memory_allows(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = log(5, [A, B, C, D, E], [E, D, C, B, A])
        monkeypatch.setattr(counts, "PART", 2)
        monkeypatch.setattr(counts, "KEPT", 30)  # ten events in parts of three: the last three stand together
        cut = dense(Known.of(data, data.lengths).cooccurrences)
        assert (cut[A, B], cut[A, C], cut[C, D], cut[C, E], cut[B, D], cut[A, A]) == (2, 1, 1, 1, 0, 2)
        monkeypatch.setattr(counts, "KEPT", 19)  # even parts of two are too many pairs: one user in two is counted
        some = dense(Known.of(log(5, [A, B, A, B, A], [C, D, C, D, C]), data.lengths).cooccurrences)
        assert some[A, B] > 0
        assert some[C, D] == 0

    def test_a_log_of_single_events_has_none(self) -> None:
        data = log(3, [A], [B])
        assert not len(Known.of(data, data.lengths).associations.values)


class TestRegression:
    data = log(6, [A, B, C], [B, A], [C, D, E], [D, E], [A, C, D, E], [B, A, E], [C, B], [D, E, A])

    def solved(self, penalty: float, near: Callable[[int], list[int]]) -> np.ndarray:
        """The same weights by least squares on the users, with the penalty as further rows."""
        had = np.zeros((self.data.users, 6))
        had[np.repeat(np.arange(self.data.users), self.data.lengths), self.data.items] = 1
        weights = np.zeros((6, 6))
        for item in range(6):
            some = near(item)
            rows = np.vstack([had[:, some], penalty**0.5 * np.eye(len(some))])
            aims = np.append(had[:, item], np.zeros(len(some)))
            weights[some, item] = np.linalg.lstsq(rows, aims, rcond=None)[0]
        return weights.clip(0)

    def test_an_item_is_predicted_from_those_associated_with_it(self) -> None:
        known = Known.of(self.data, self.data.lengths)
        associated = dense(known.associations) > 0
        assert 0 < associated.sum() < 20
        expected = self.solved(0.5, lambda item: np.flatnonzero(associated[:, item]).tolist())
        assert dense(regression(known, 0.5)) == pytest.approx(expected, abs=1e-6)

    def test_from_all_others_it_is_ease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = Known.of(self.data, self.data.lengths)
        everything = Rows.counted(*(one.ravel().astype(np.int32) for one in np.nonzero(1 - np.eye(6))), 6)
        monkeypatch.setitem(known.__dict__, "associations", everything)
        expected = Ease.fit(self.data, self.data.lengths, penalty=0.5).weights.numpy().clip(0)
        assert 0 < (expected > 0).sum() < 20
        assert dense(regression(known, 0.5)) == pytest.approx(expected, abs=1e-5)

    def test_from_few_it_is_from_the_surest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        known = Known.of(self.data, self.data.lengths)
        sure = dense(known.associations)
        monkeypatch.setattr(counts, "NEIGHBOURS", (1, 1))
        expected = self.solved(0.5, lambda item: [int(sure[:, item].argmax())] if sure[:, item].any() else [])
        assert dense(regression(known, 0.5)) == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(("items", "most"), [(1, 64), (2**14, 64), (2**16, 32), (2**18, 16), (2**20, 16)])
    def test_from_fewer_where_there_are_many_items(self, items: int, most: int) -> None:
        assert counts.neighbours_of(items) == most

    def test_systems_that_do_not_fit_into_memory_at_once_are_solved_in_parts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = Known.of(self.data, self.data.lengths)
        whole = dense(regression(known, 0.5))
        assert len(known.neighbourhoods) == 2
        del known.__dict__["neighbourhoods"]
        monkeypatch.setattr(counts, "WORK", 5)
        assert dense(regression(known, 0.5)) == pytest.approx(whole)
        assert len(known.neighbourhoods) > 2


class TestSlim:
    data = TestRegression.data

    def test_it_sums_the_weights_of_the_history_and_earlier_items_weigh_less(self) -> None:
        weights = dense(regression(Known.of(self.data, self.data.lengths), 0.5))
        policy = Slim.fit(self.data, self.data.lengths, penalty=0.5, decay=0.8)
        expected = 0.8 * weights[A] + weights[C]
        assert (expected > 0).sum() > 2
        assert scores(policy, [A, C])[0] == pytest.approx(expected, abs=1e-6)
        assert scores(policy.decayed(1.0), [A, C])[0] == pytest.approx(weights[A] + weights[C], abs=1e-6)

    def test_without_a_history_popularity_decides(self) -> None:
        events = np.bincount(self.data.items, minlength=6)
        expected = TIE * events / events.sum()
        assert scores(Slim.fit(self.data, self.data.lengths), [])[0] == pytest.approx(expected, rel=1e-12)


class TestPopularPersonal:
    data = log(4, [D, D, D, C], [C, B])

    def test_an_event_counts_less_for_each_that_came_after_it(self) -> None:
        found = scores(PopularPersonal.fit(self.data, self.data.lengths, decay=0.5), [A, B, A, B, B], [A])
        assert found[0] == pytest.approx([1 / 16 + 1 / 4, 1 / 8 + 1 / 2 + 1, 0, 0], abs=1e-8)
        assert found[1] == pytest.approx([1, 0, 0, 0], abs=1e-8)

    def test_the_users_own_come_first_and_then_what_all_had_most(self) -> None:
        found = scores(PopularPersonal.fit(self.data, self.data.lengths), [A, B, B])[0]
        assert np.argsort(-found.astype(np.float32), kind="stable").tolist() == [B, A, D, C]


class TestMarkov:
    data = log(4, [A, B, A, B], [A, C], [C])
    """Steps: A to B twice, B to A, A to C; shares: A 3/7, B 2/7, C 2/7, D 0."""

    def test_transitions_are_counted_within_users_and_smoothed_towards_popularity(self) -> None:
        policy = Markov.fit(self.data, self.data.lengths, smoothing=2.0, decay=0.0)
        after_a = [(0 + 6 / 7) / 5, (2 + 4 / 7) / 5, (1 + 4 / 7) / 5, 0]
        after_b = [(1 + 6 / 7) / 3, (4 / 7) / 3, (4 / 7) / 3, 0]
        assert scores(policy, [B, A], [A, B])[0] == pytest.approx(after_a)
        assert scores(policy, [B, A], [A, B])[1] == pytest.approx(after_b)

    def test_after_what_nothing_is_known_of_popularity_decides(self) -> None:
        policy = Markov.fit(self.data, self.data.lengths, decay=0.0)
        shares = [3 / 7, 2 / 7, 2 / 7, 0]
        for row in scores(policy, [], [D], [A, C]):  # nothing follows C
            assert row == pytest.approx(shares)

    def test_each_event_weighs_by_the_decay_beside_the_one_after_it(self) -> None:
        policy = Markov.fit(self.data, self.data.lengths, smoothing=2.0, decay=0.5)
        plain = policy.decayed(0.0)
        mixed = (scores(plain, [B]) + scores(plain, [A]) / 2 + scores(plain, [C]) / 4) / 1.75
        assert scores(policy, [C, A, B]) == pytest.approx(mixed)

    def test_the_last_ten_events_are_looked_at_and_none_before_them(self) -> None:
        policy = Markov.fit(self.data, self.data.lengths, decay=1.0)
        tail = [A, B, C] * 3 + [A]
        assert np.array_equal(scores(policy, [B, *tail]), scores(policy, [C, *tail]))
        assert not np.allclose(scores(policy, [B, *tail[1:]]), scores(policy, [C, *tail[1:]]))

    @settings(max_examples=30)
    @given(st.integers(0, 99), st.lists(st.integers(0, 11), max_size=15), st.floats(0, 1), st.floats(0.01, 100))
    def test_scores_are_a_distribution(self, seed: int, history: list[int], decay: float, smoothing: float) -> None:
        data = random_log(seed)
        found = scores(Markov.fit(data, data.lengths, smoothing=smoothing, decay=decay), history)[0]
        assert found.min() >= 0
        assert found.sum() == pytest.approx(1)


class TestItemKnn:
    data = log(4, [A, B, B], [A, B], [A, C], [A])
    """Users: A 4, B 2, C 1, D none; A and B share two, A and C one."""

    def test_similarity_is_the_cosine_shrunk_and_a_repeated_item_counts_once(self) -> None:
        for shrinkage in (0.0, 3.0):
            policy = ItemKnn.fit(self.data, self.data.lengths, shrinkage=shrinkage, decay=1.0)
            near_b, near_c = 2 / (8**0.5 + shrinkage), 1 / (2 + shrinkage)
            assert scores(policy, [A])[0] == pytest.approx([0, near_b, near_c, 0], abs=1e-7)
            assert scores(policy, [B])[0] == pytest.approx([near_b, 0, 0, 0], abs=1e-7)
            assert scores(policy, [B, C])[0] == pytest.approx([near_b + near_c, 0, 0, 0], abs=1e-7)

    def test_an_item_of_the_history_counts_once_and_by_what_came_after_its_last_event(self) -> None:
        policy = ItemKnn.fit(self.data, self.data.lengths, shrinkage=0.0, decay=0.5)
        near_b, near_c = 2 / 8**0.5, 1 / 2
        assert scores(policy, [B, C, C])[0] == pytest.approx([near_b / 4 + near_c, 0, 0, 0], abs=1e-7)
        assert scores(policy, [C, B, C, D])[0] == pytest.approx([near_b / 4 + near_c / 2, 0, 0, 0], abs=1e-7)
        assert scores(policy.decayed(1.0), [B, C, C])[0] == pytest.approx([near_b + near_c, 0, 0, 0], abs=1e-7)

    def test_each_item_keeps_its_nearest_and_the_lower_among_equals(self) -> None:
        data = log(5, [A, B, C, D], [A, D], [E])
        near = {kept: scores(ItemKnn.fit(data, data.lengths, neighbours=float(kept)), [A])[0] for kept in (1, 2, 3)}
        assert (near[1] > 1e-3).tolist() == [False, False, False, True, False]
        assert (near[2] > 1e-3).tolist() == [False, True, False, True, False]
        assert (near[3] > 1e-3).tolist() == [False, True, True, True, False]

    def test_where_nobody_votes_popularity_decides(self) -> None:
        policy = ItemKnn.fit(self.data, self.data.lengths)
        for row in scores(policy, [], [D]):
            assert row == pytest.approx(TIE * np.array([4, 3, 1, 0]) / 8, rel=1e-12)

    @settings(max_examples=30)
    @given(st.integers(0, 999), st.floats(0, 50), st.integers(1, 12))
    def test_scores_are_those_of_the_dense_matrix(self, seed: int, shrinkage: float, kept: int) -> None:
        data = random_log(seed)
        had = np.zeros((data.users, 12))
        had[np.repeat(np.arange(data.users), data.lengths), data.items] = 1
        norms = np.sqrt(had.sum(axis=0))
        similar = (had.T @ had / (np.outer(norms, norms) + shrinkage + 1e-300)).astype(np.float32)
        np.fill_diagonal(similar, 0)
        ranks = np.argsort(np.argsort(-similar, axis=1, kind="stable"), axis=1)
        similar[ranks >= kept] = 0
        policy = ItemKnn.fit(data, data.lengths, shrinkage=shrinkage, neighbours=float(kept), decay=1.0)
        expected = similar[[1, 4, 7]].sum(axis=0) + TIE * Known.of(data, data.lengths).shares
        assert scores(policy, [4, 1, 7])[0] == pytest.approx(expected, rel=1e-5)


class TestEase:
    data = log(3, [A], [A, B, A], [B, C])
    """X'X is ((2, 1, 0), (1, 2, 1), (0, 1, 1))."""

    def test_the_weights_are_the_closed_form_by_hand(self) -> None:
        # X'X + I has the determinant 13 and the inverse ((5, -2, 1), (-2, 6, -3), (1, -3, 8)) / 13.
        weights = Ease.fit(self.data, self.data.lengths, penalty=1.0).weights
        expected = [[0, 1 / 3, -1 / 8], [2 / 5, 0, 3 / 8], [-1 / 5, 1 / 2, 0]]
        assert weights.numpy() == pytest.approx(np.array(expected), abs=1e-7)

    def test_scores_sum_what_each_distinct_item_of_the_history_says(self) -> None:
        policy = Ease.fit(self.data, self.data.lengths, penalty=1.0)
        found = scores(policy, [A, C, A], [], [B])
        assert found[0] == pytest.approx([-1 / 5, 1 / 3 + 1 / 2, -1 / 8], abs=1e-7)
        assert found[1] == pytest.approx(TIE * np.array([3, 2, 1]) / 6, rel=1e-12)
        assert found[2] == pytest.approx([2 / 5, 0, 3 / 8], abs=1e-7)

    @settings(max_examples=30)
    @given(st.integers(0, 999), st.floats(0.5, 500))
    def test_no_item_predicts_itself_and_no_other_weight_could_be_better(self, seed: int, penalty: float) -> None:
        # The gradient of |X - XB|^2 + penalty |B|^2, without the diagonal, which the constraint holds at 0.
        data = random_log(seed)
        had = np.zeros((data.users, 12))
        had[np.repeat(np.arange(data.users), data.lengths), data.items] = 1
        weights = Ease.fit(data, data.lengths, penalty=penalty).weights.numpy().astype(np.float64)
        assert (np.diag(weights) == 0).all()
        gradient = had.T @ (had @ weights - had) + penalty * weights
        np.fill_diagonal(gradient, 0)
        assert np.abs(gradient).max() < 1e-4

    def test_a_large_catalogue_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Ease.fits(15_000)
        assert not Ease.fits(15_001)
        monkeypatch.setattr("what_next.baselines.ease.MOST", 2)
        with pytest.raises(DataError, match=r"world: EASE solves for every pair of items, and 3 items are more than 2"):
            Ease.fit(self.data, self.data.lengths)

    def test_of_the_most_popular_items_alone_the_weights_are_those_of_a_log_without_the_others(self) -> None:
        data = log(4, [D, A], [A, B, A], [B, D, C], [D])  # C is heard once, the others more often
        some, without = Ease.fit(data, data.lengths, penalty=1.0, most=3), log(3, [2, A], [A, B, A], [B, 2], [2])
        assert some.weights.numpy() == pytest.approx(Ease.fit(without, without.lengths, penalty=1.0).weights.numpy())
        found, alone = scores(some, [A, C, D])[0], scores(Ease.fit(without, without.lengths, penalty=1.0), [A, 2])[0]
        assert found[[A, B, D]] == pytest.approx(alone, abs=1e-7)
        assert found[C] == pytest.approx(TIE * 1 / 9)

    def test_single_precision_is_near_and_only_for_large_well_conditioned_systems(self, monkeypatch) -> None:
        data = random_log(users=30)
        whole = Ease.fit(data, data.lengths, penalty=5.0).weights.numpy()
        monkeypatch.setattr("what_next.baselines.ease.LARGE", 5)
        single = Ease.fit(data, data.lengths, penalty=5.0).weights.numpy()
        assert single == pytest.approx(whole, abs=1e-5)
        assert (single != whole).any()
        monkeypatch.setattr("what_next.baselines.ease.CONDITION", 1.0)
        assert (Ease.fit(data, data.lengths, penalty=5.0).weights.numpy() == whole).all()

    def test_rows_lie_in_one_piece(self) -> None:
        assert Ease.fit(self.data, self.data.lengths).weights.is_contiguous()


class TestContent:
    def test_the_tags_of_the_history_are_summed(self) -> None:
        data = log(6, [0, 4, 1, 5])  # of one kind are 0 and 4, 1 and 5; 2 and 3 are alone
        of_all = 2 / 3  # of three steps that could keep the kind, two do: 0 to 4, and 1 to 5, but not 4 to 1
        first, second = (1 + PRIOR * of_all) / (2 + PRIOR), (1 + PRIOR * of_all) / (1 + PRIOR)
        content = Content.fit(data, data.lengths, decay=0.5)
        alike = np.array([[0.5 * first, second, 0, 0, 0.5 * first, second], [0] * 6])
        wanted = alike + TIE * np.array([1, 1, 0, 0, 1, 1]) / 4
        assert scores(content, [4, 1], []) == pytest.approx(wanted, rel=1e-6)
        assert scores(content.decayed(1.0), [4, 1])[0, 0] == pytest.approx(first, rel=1e-6)

    def test_without_tags_popularity_is_all_there_is(self) -> None:
        data = log(6, [0, 4, 1, 5, 2])
        data = replace(data, catalogue=replace(data.catalogue, tags=None))
        found = scores(Content.fit(data, data.lengths), [4, 1])
        assert found[0] == pytest.approx(TIE * np.array([1, 1, 1, 0, 1, 1]) / 5)


HISTORIES = ([A, B, C], [], [11, 3, 3], [7], [5, 4, 3, 2, 1, 0, 5, 6, 7, 8, 9, 10])
"""Of unknown users; items 10 and 11 occur in no log."""


def changed(data: Dataset, known: np.ndarray) -> Dataset:
    """Another log with the same leading events: items, times, rewards and the number of the others differ."""
    rng, histories, times = np.random.default_rng(5), [], []
    for start, count in zip(data.offsets, known, strict=False):
        more = int(rng.integers(1, 6))
        histories.append([*data.items[start : start + count], *rng.integers(12, size=more)])
        times += [*data.timestamps[start : start + count], *(2 * data.timestamps.max() + np.arange(more))]
    other = log(12, *histories)
    return replace(other, timestamps=np.array(times), rewards=rng.random(len(times)).astype(np.float32))


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_what_training_may_not_know_changes_no_byte_of_any_score(name: str, times: bool) -> None:
    data = random_log(users=30)
    known = np.maximum(data.lengths - 3, 0)
    known[:4] = 0  # set aside whole
    other = changed(data, known)
    if not times:
        data, other = replace(data, timestamps=None), replace(other, timestamps=None)
    fit = BASELINES[name]
    mine, theirs = (scores(fit(one, known), *HISTORIES) for one in (data, other))
    assert mine.tobytes() == theirs.tobytes()
    assert mine.tobytes() != scores(fit(data, data.lengths), *HISTORIES).tobytes()


@pytest.mark.parametrize("name", NAMES)
class TestEveryBaseline:
    @settings(max_examples=20)
    @given(seed=st.integers(0, 999))
    def test_scores_are_finite_and_a_row_for_each_history(self, name: str, seed: int) -> None:
        data = random_log(seed)
        found = scores(BASELINES[name](data, data.lengths), *HISTORIES)
        assert found.shape == (len(HISTORIES), 12)
        assert np.isfinite(found).all()

    def test_a_history_is_scored_alone_as_beside_others(self, name: str) -> None:
        data = random_log()
        policy = BASELINES[name](data, data.lengths)
        together = scores(policy, *HISTORIES)
        for row, history in zip(together, HISTORIES, strict=True):
            assert scores(policy, history)[0] == pytest.approx(row, rel=1e-6)

    def test_an_empty_history_and_one_of_unseen_items_get_the_popular_ones(self, name: str) -> None:
        data = random_log(users=30)
        policy = BASELINES[name](data, data.lengths)
        if name == "popular_recent":
            return
        counts = np.bincount(data.items, minlength=12)
        unseen = [[]] if name in ("popular_personal", "content") else [[], [10], [11, 10]]
        for row in scores(policy, *unseen).astype(np.float32):  # as they are ranked
            assert (counts[np.argsort(-row, kind="stable")] == np.sort(counts)[::-1]).all()

    def test_nothing_to_train_on_makes_no_difference_between_items(self, name: str) -> None:
        data = random_log()
        heard = [[]] if name == "popular_personal" else HISTORIES
        assert (scores(BASELINES[name](data, np.zeros_like(data.lengths)), *heard) == 0).all()

    def test_little_work_at_a_time_finds_the_same(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = random_log(users=30)
        whole = scores(BASELINES[name](data, data.lengths), *HISTORIES)
        monkeypatch.setattr("what_next.baselines.counts.WORK", 5)
        assert scores(BASELINES[name](data, data.lengths), *HISTORIES) == pytest.approx(whole, rel=1e-6)

    def test_it_recommends_none_of_what_is_left_out(self, name: str) -> None:
        data = random_log()
        history = heard(*HISTORIES)
        slate = (
            BASELINES[name](data, data.lengths)
            .act(history, Request(12, permitted=Permitted.of(without=history.items)))
            .items
        )
        for row, known in zip(slate, HISTORIES, strict=True):
            assert set(row[row >= 0].tolist()) == set(range(12)) - set(known)
