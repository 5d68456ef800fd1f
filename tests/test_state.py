"""The State draws histories that training may know, and finds the items that match a proposal."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Dataset, State
from what_next.errors import CatalogueError, DataError
from what_next.rewards import population_sigma
from what_next.types import History, Permitted, Request, Softmax, repeats

from .conftest import SetupOf, Trained, listening

SPLITS = ["users", "leave_last_out", "time"]


@pytest.fixture
def state_of(dataset: Dataset, setup_of: SetupOf) -> Any:
    return lambda **changes: State(dataset, setup_of(Path("models"), **changes))


def heard(dataset: Dataset, user: int) -> np.ndarray:
    return dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]].copy()


class TestHistories:
    @pytest.mark.parametrize("split", SPLITS)
    def test_only_events_that_training_may_know_are_drawn(self, state_of: Any, split: str) -> None:
        state = state_of(split=split, window=None)
        history = state.get_random_user_history(500, np.random.default_rng(0))
        for row, user in enumerate(history.users):
            known = state.split.known[user]
            assert history.lengths[row] == known
            assert np.array_equal(history.items[row, :known], heard(state.dataset, user)[:known])

    def test_users_set_aside_are_never_drawn(self, state_of: Any) -> None:
        state = state_of()
        drawn = state.get_random_user_history(2000, np.random.default_rng(0)).users
        assert len(state.split.test) == 12
        assert len(state.split.validation) == 6
        assert not np.isin(drawn, [*state.split.test, *state.split.validation]).any()
        assert set(drawn) == set(state.train_users)
        assert len(state.train_users) == 42

    @pytest.mark.parametrize("split", SPLITS)
    def test_windows_are_runs_of_a_history_with_three_events_or_more(self, state_of: Any, split: str) -> None:
        state = state_of(split=split, window=7)
        history = state.get_random_user_history(300, np.random.default_rng(0))
        assert history.items.shape[1] == 7
        assert history.lengths.min() >= 3
        for row, user in enumerate(history.users):
            events = heard(state.dataset, user)[: state.split.known[user]]
            runs = np.lib.stride_tricks.sliding_window_view(events, int(history.lengths[row]))
            assert (runs == history.items[row, : history.lengths[row]]).all(1).any()

    def test_windows_start_anywhere(self, state_of: Any) -> None:
        state = state_of(window=20)
        history = state.get_random_user_history(3000, np.random.default_rng(0))
        ends = [
            np.array_equal(row[-1:], heard(state.dataset, user)[-1:])
            for row, user in zip(history.items, history.users, strict=True)
        ]
        assert 0.02 < np.mean(ends) < 0.12  # 1 of 21 starts, and chance repeats of the last item

    def test_short_histories_are_padded_and_nobody_with_two_events_is_drawn(self, setup_of: SetupOf) -> None:
        log, items = listening(users=10, events=12)
        lengths = {"u0": 2, "u1": 3, "u2": 5}
        few = log.with_columns(pl.int_range(pl.len()).over("user_id").alias("n"), pl.lit(12).alias("most"))
        few = few.with_columns(pl.col("user_id").replace_strict(lengths, default=12).alias("most"))
        few = few.filter(pl.col("n") < pl.col("most")).drop("n", "most")
        state = State(Dataset.from_frame(few, items), setup_of(Path("m"), split={"test": 0, "validation": 0}, window=6))
        history = state.get_random_user_history(500, np.random.default_rng(0))
        names = state.dataset.user_ids.gather(history.users).to_list()
        assert "u0" not in names
        assert {int(n) for name, n in zip(names, history.lengths, strict=True) if name == "u1"} == {3}
        assert ((history.items >= 0) == (np.arange(6) < history.lengths[:, None])).all()
        assert history.rewards[history.items < 0].tolist() == [0] * int((history.items < 0).sum())

    def test_the_same_generator_draws_the_same(self, state_of: Any) -> None:
        first, again, other = (
            state_of().get_random_user_history(50, np.random.default_rng(seed)) for seed in (3, 3, 4)
        )
        assert np.array_equal(first.items, again.items)
        assert not np.array_equal(first.items, other.items)

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_split_is_fixed_by_its_seed(self, state_of: Any, split: str) -> None:
        assert state_of(split=split).split.hash == state_of(split=split, seed=9).split.hash
        other = state_of(split={"name": split, "seed": 5}).split.hash
        assert (other != state_of(split=split).split.hash) == (split == "users")

    def test_rewards_and_the_time_of_day_come_with_their_events(self, state_of: Any) -> None:
        state = state_of()
        history = state.get_user_history(np.array([7], np.int32))
        start, stop = state.dataset.offsets[7:9]
        assert np.array_equal(history.rewards[0], state.dataset.rewards[start:stop])
        angle = 2 * np.pi * (state.dataset.timestamps[start:stop] % 86_400_000_000) / 86_400_000_000
        np.testing.assert_allclose(history.context[0], np.stack([np.sin(angle), np.cos(angle)], 1), atol=1e-5)

    def test_the_latest_events_of_a_history_keep_their_order(self, state_of: Any) -> None:
        state = state_of()
        history = state.histories(np.array([0, 1], np.int32), np.array([0, 5]), np.array([30, 4]))
        latest = history.last(6)
        assert latest.items[0].tolist() == history.items[0, 24:30].tolist()
        assert latest.items[1].tolist() == [*history.items[1, :4], -1, -1]
        assert latest.lengths.tolist() == [6, 4]
        assert latest.rewards[0].tolist() == history.rewards[0, 24:30].tolist()


class TestGivenHistories:
    def test_unknown_items_are_told_and_left_out(self, trained: Trained) -> None:
        history, unknown = trained.state.history_of(["i3", "nonsense", "i5", 77])
        assert history.items.tolist() == [trained.state.space.catalogue.index(["i3", "i5"]).tolist()]
        assert unknown == ["nonsense", "77"]
        assert history.users.tolist() == [-1]
        assert np.isnan(history.sigma).all()

    @pytest.mark.parametrize(
        ("ids", "told"),
        [
            (["x", "y"], "none of the 2 items of the history is in"),
            (["x"], "the history's only item is not in the catalogue of .*, such as '"),
            ([], "the history is empty"),
        ],
    )
    def test_a_history_without_a_known_item_is_refused(self, trained: Trained, ids: list[str], told: str) -> None:
        with pytest.raises(CatalogueError, match=told):
            trained.state.history_of(ids)

    def test_context_is_set_at_the_last_event_alone(self, trained: Trained) -> None:
        history = trained.state.histories(np.array([0, 1], np.int32), np.array([0, 0]), np.array([5, 3]))
        changed = trained.state.with_context(history, {"time_of_day_cos": 9.0})
        places = np.argwhere(changed.context != history.context)
        assert places.tolist() == [[0, 4, 1], [1, 2, 1]]
        assert changed.context.max() == 9
        with pytest.raises(DataError, match=r"'mood' is unknown.*time_of_day_sin, time_of_day_cos"):
            trained.state.with_context(history, {"mood": 1.0})
        for wrong in (np.nan, -np.inf, 1e39):
            with pytest.raises(DataError, match=r"context 'time_of_day_cos' is .*; expected a finite number"):
                trained.state.with_context(history, {"time_of_day_cos": wrong})


class TestStatistics:
    def test_sigma_is_the_spread_of_all_events_also_of_users_set_aside(self, state_of: Any) -> None:
        state = state_of()
        users = np.array([state.train_users[0], state.split.test[0], state.split.validation[0]], np.int32)
        vectors = torch.from_numpy(state.space.catalogue.vectors)
        expected = [population_sigma(vectors[heard(state.dataset, user)]) for user in users]
        np.testing.assert_allclose(state.sigma(users), expected, rtol=1e-6)
        assert np.isnan(state.sigma(np.array([-1], np.int32))).all()

    @pytest.mark.parametrize("split", ["leave_last_out", "time"])
    def test_sigma_knows_the_events_of_training_alone(self, state_of: Any, split: str) -> None:
        state = state_of(split=split)
        vectors = torch.from_numpy(state.space.catalogue.vectors)
        for user in state.split.test[:5]:
            known = heard(state.dataset, user)[: state.split.known[user]]
            assert 0 < len(known) < state.dataset.lengths[user]
            assert state.sigma(np.array([user]))[0] == pytest.approx(population_sigma(vectors[known]), rel=1e-6)

    def test_scaling_is_taken_from_items_with_a_training_event_alone(self, setup_of: SetupOf) -> None:
        log, items = listening()
        extra = items.head(1).with_columns(item_id=pl.lit("late"), danceability=pl.lit(1e6))
        plain = State(Dataset.from_frame(log, items), setup_of(Path("m")))
        grown = State(Dataset.from_frame(log, pl.concat([items, extra])), setup_of(Path("m")))
        assert np.array_equal(plain.space.catalogue.scale, grown.space.catalogue.scale)
        assert len(grown.space.seen) == len(plain.space.seen)
        assert grown.space.catalogue.vectors[grown.space.catalogue.index(["late"])[0], 0] > 1e5

    def test_at_the_tolerance_about_half_of_the_items_match_another_one(self, state_of: Any) -> None:
        state = state_of()
        vectors = state.space.catalogue.vectors[state.space.seen]
        gaps = np.abs(vectors[:, None] - vectors).max(2)
        np.fill_diagonal(gaps, np.inf)
        # It is measured on some items, each beside the others of the catalogue alone.
        assert 0.35 < (gaps.min(1) <= state.space.tolerance).mean() < 0.85

    def test_items_that_are_alike_do_not_narrow_the_tolerance(self, setup_of: SetupOf) -> None:
        log, items = listening()
        alike = items.with_columns(pl.col("item_id") + "b")
        twice = pl.concat([log, log.with_columns(pl.col("item_id") + "b")])
        plain, doubled = (
            State(Dataset.from_frame(*of), setup_of(Path("m")))
            for of in ((log, items), (twice, pl.concat([items, alike])))
        )
        assert doubled.space.tolerance == pytest.approx(plain.space.tolerance, rel=0.3)
        assert plain.space.tolerance > 0.1

    def test_the_tolerance_of_the_setup_goes_before(self, state_of: Any) -> None:
        assert state_of(tolerance=0.33).space.tolerance == 0.33

    def test_the_typical_spread_is_the_mean_over_training_users(self, state_of: Any) -> None:
        state = state_of()
        assert state.space.typical == pytest.approx(state.sigma(state.train_users).mean(), rel=1e-5)


class TestProduce:
    def test_items_lie_in_the_box_or_are_marked(self, trained: Trained) -> None:
        state, rng = trained.state, np.random.default_rng(0)
        points = rng.normal(size=(300, 4)).astype(np.float32)
        product = state.produce(points, 0.0, rng)
        vectors = state.space.catalogue.vectors
        gaps = np.abs(vectors[product.items[:, 0]] - points).max(1)
        assert np.array_equal(gaps > state.space.tolerance, product.fallback[:, 0])
        inside = (np.abs(vectors - points[:, None]).max(2) <= state.space.tolerance).sum(1)
        assert np.array_equal(product.matches[:, 0], inside)
        assert 0 < product.fallback.mean() < 1

    def test_one_attribute_may_lie_within_half_of_relax(self, trained: Trained) -> None:
        state, rng = trained.state, np.random.default_rng(0)
        points = rng.normal(size=(300, 4)).astype(np.float32)
        product = state.produce(points, 4.0, rng)
        gaps = np.sort(np.abs(state.space.catalogue.vectors[product.items[:, 0]] - points), axis=1)
        found = ~product.fallback[:, 0]
        assert (gaps[found, :-1] <= state.space.tolerance).all()
        assert (gaps[found, -1] <= 2).all()
        assert (gaps[found, -1] > state.space.tolerance).any()

    def test_the_relax_of_the_setup_is_the_default(self, dataset: Dataset, setup_of: SetupOf, trained: Trained) -> None:
        points = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
        relaxed = State(dataset, setup_of(Path("m"), relax=4.0))
        matches = [state.produce(points, None, np.random.default_rng(1)).matches for state in (relaxed, trained.state)]
        assert matches[0].sum() > matches[1].sum()

    def test_a_grid_is_as_its_points_one_by_one(self, trained: Trained) -> None:
        points = np.random.default_rng(0).normal(size=(5, 7, 4)).astype(np.float32)
        grid = trained.state.produce(points, 0.0, None, request=Request(3))
        flat = trained.state.produce(points.reshape(35, 4), 0.0, None, request=Request(3))
        assert grid.items.shape == grid.matches.shape == grid.fallback.shape == (5, 7, 3)
        assert np.array_equal(grid.items.reshape(35, 3), flat.items)

    def test_without_a_generator_the_nearest_come_first(self, trained: Trained) -> None:
        vectors = trained.state.space.catalogue.vectors
        product = trained.state.produce(vectors[[4, 9]], 0.0, None, request=Request(2))
        assert product.items[:, 0].tolist() == [4, 9]
        assert (product.items[:, 1] != product.items[:, 0]).all()

    def test_repeats_are_what_was_heard_up_to_the_step(self, trained: Trained) -> None:
        history, _ = trained.state.history_of(["i5", "i6", "i5", "i1"])
        assert repeats(np.array([[[6], [6], [7], [6]]]), history)[..., 0].tolist() == [[False, True, False, True]]
        assert repeats(np.array([[6]]), history).tolist() == [[True]]
        assert repeats(np.array([[7]]), history).tolist() == [[False]]

    def test_no_item_is_no_repeat_of_padding(self, trained: Trained) -> None:
        history = trained.state.histories(np.array([0, 1], np.int32), np.array([0, 0]), np.array([1, 2]))
        for shape in ((2, 1), (2, 2, 1)):
            assert not repeats(np.full(shape, -1), history).any()

    def test_masks_are_exact(self, trained: Trained) -> None:
        rng = np.random.default_rng(0)
        points = rng.normal(size=(200, 4)).astype(np.float32)
        allowed = np.zeros(80, np.bool_)
        allowed[10:20] = True
        exclude = np.tile(np.array([10, 11, 12, -1], np.int32), (200, 1))
        request = Request(9, Softmax(), Permitted.of(allowed, exclude))
        items = trained.state.produce(points, 1.0, rng, request=request).items
        assert all(sorted(row) == [-1, -1, *range(13, 20)] for row in items.tolist())

    def test_propensities_are_one_over_the_matches(self, trained: Trained) -> None:
        rng = np.random.default_rng(0)
        points = rng.normal(size=(100, 4)).astype(np.float32)
        product = trained.state.produce(points, 0.0, rng, request=Request(sampler=Softmax()))
        assert product.propensities is not None
        expected = 1 / np.maximum(product.matches, 1)
        np.testing.assert_allclose(product.propensities, expected)
        assert trained.state.produce(points, 0.0, rng).propensities is None

    def test_predict_is_the_founding_texts_other_name(self) -> None:
        assert State.predict is State.produce


class TestRefusals:
    def test_no_attributes(self, dataset: Dataset, setup_of: SetupOf) -> None:
        log, _ = listening()
        with pytest.raises(DataError, match="no attributes"):
            State(Dataset.from_frame(log.drop("reward"), name="bare"), setup_of(Path("m")))

    def test_nobody_with_three_events(self, setup_of: SetupOf) -> None:
        with pytest.raises(DataError, match=r"no training user has 3 events.*or a smaller split\.test"):
            State(Dataset.from_frame(*listening(events=2)), setup_of(Path("m")))

    def test_three_events_of_each_user_of_which_two_are_held_back(self, setup_of: SetupOf) -> None:
        setup = setup_of(Path("m"), split="leave_last_out", algorithm="sqn")
        with pytest.raises(DataError, match=r"no training user has 2 events.*or `split, users`: of each user"):
            State(Dataset.from_frame(*listening(events=3)), setup)

    @pytest.mark.parametrize("split", ["users", "leave_last_out"])
    def test_one_event_of_each_user(self, split: str, setup_of: SetupOf) -> None:
        data = Dataset.from_frame(*listening(events=1))
        with pytest.raises(
            DataError, match="every user has one, so nothing came next: name another column as the user"
        ):
            State(data, setup_of(Path("m"), split=split))

    def test_another_catalogue(self, trained: Trained, setup_of: SetupOf) -> None:
        other = State(Dataset.from_frame(*listening(items=70)), setup_of(Path("m")))
        with pytest.raises(CatalogueError, match=r"another catalogue \(80 items.*70 items"):
            other.within(trained.state.space)

    def test_a_state_needs_no_setup(self, dataset: Dataset) -> None:
        assert isinstance(State(dataset).get_random_user_history(3, np.random.default_rng(0)), History)
