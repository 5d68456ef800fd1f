"""Baselines at their best: settings are chosen on validation alone, and real data are far from chance."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from what_next import Dataset, Setup, State
from what_next.baselines import BASELINES
from what_next.baselines.rules import Popular, RandomItem, Ranking
from what_next.experiments import baselines
from what_next.experiments.baselines import EVERY, GRIDS, Search, had, searched
from what_next.experiments.next_items import evaluator_of, protocol
from what_next.metrics.next_items import Targets, rank
from what_next.types import Permitted


def state_of(dataset: Dataset, **settings: object) -> State:
    setup = Setup(train=False, data="log.parquet", algorithm="next_item", model_agent_path="a.safetensors", **settings)
    return State(dataset, setup)


def tuned(state: State, allowed: np.ndarray | None = None) -> dict[str, tuple[Ranking, dict[str, float]]]:
    search = Search(state, allowed)
    return {name: search.best(name) for name in had(state, EVERY)}


def some_scores(policy, state: State) -> np.ndarray:
    users = np.arange(20, dtype=np.int32)
    return policy.scores(state.histories(users, np.zeros(20, np.int64), np.full(20, 15)), Permitted()).numpy()


class TestTuned:
    def test_every_baseline_is_the_one_of_the_settings_that_are_told(self, dataset: Dataset) -> None:
        state = state_of(dataset, evaluation={"seen": True})
        found = tuned(state)
        assert list(found) == ["popular_recent", "popular_personal", "markov", "item_knn", "ease", "slim"]
        for name, (policy, settings) in found.items():
            assert all(value in GRIDS[name][setting] for setting, value in settings.items())
            again = BASELINES[name](dataset, state.split.known, **settings)
            assert some_scores(policy, state).tobytes() == some_scores(again, state).tobytes()

    def test_the_value_with_the_highest_ndcg_on_validation_is_chosen(self, dataset: Dataset) -> None:
        state = state_of(dataset)
        targets = Targets.of(dataset, state.split, "validation")
        reached = {
            penalty: rank(BASELINES["ease"](dataset, state.split.known, penalty=penalty), targets, state.histories)
            for penalty in GRIDS["ease"]["penalty"]
        }
        told = tuned(state)["ease"][1]["penalty"]
        assert reached[told].ndcg.mean() == max(ranks.ndcg.mean() for ranks in reached.values())

    def test_the_penalty_of_ease_is_chosen_with_the_most_popular_items_and_fitted_to_all(
        self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state, asked, fit = state_of(dataset), [], BASELINES["ease"]

        def fitted(*log, **more):
            asked.append(more.get("most"))
            return fit(*log, **more)

        monkeypatch.setattr(baselines, "POPULAR", 50)
        monkeypatch.setattr(baselines, "BASELINES", {"ease": fitted})
        policy, settings = tuned(state)["ease"]
        assert asked == [50] * len(GRIDS["ease"]["penalty"]) + [None]
        assert (
            some_scores(policy, state).tobytes()
            == some_scores(fit(dataset, state.split.known, **settings), state).tobytes()
        )
        assert searched(state, ["ease"])["most_popular"] == {"ease": 50}

    def test_settings_are_chosen_one_after_another_each_beside_the_best_so_far(
        self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []
        worth = {(0.4, 10): 1, (0, 10): 3, (0.2, 10): 3, (0.6, 10): 2, (0.8, 10): 0, (0, 1): 2, (0, 100): 4}

        def told(policy, *_, **more):
            asked.append((policy.decay, policy.smoothing))
            return type("Told", (), {"ndcg": np.array([worth[asked[-1]]])})()

        monkeypatch.setattr(baselines, "rank", told)
        monkeypatch.setattr(baselines, "BASELINES", {"markov": BASELINES["markov"]})
        policy, settings = tuned(state_of(dataset))["markov"]
        assert asked == list(worth)
        assert settings == {"decay": 0, "smoothing": 100}
        assert (policy.decay, policy.smoothing) == (0, 100)

    def test_test_events_change_nothing(self, dataset: Dataset) -> None:
        items, times = dataset.items.copy(), dataset.timestamps.copy()
        items[dataset.offsets[1:] - 1] = np.random.default_rng(1).integers(80, size=dataset.users)
        times[dataset.offsets[1:] - 1] += 10**15
        mine, other = state_of(dataset), state_of(replace(dataset, items=items, timestamps=times))
        found, again = tuned(mine), tuned(other)
        for name, (policy, settings) in found.items():
            assert again[name][1] == settings
            assert some_scores(policy, mine).tobytes() == some_scores(again[name][0], mine).tobytes()

    def test_without_validation_users_settings_stay_at_their_first_and_nothing_is_fitted_twice(
        self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fitted = []
        once = {name: lambda *log, name=name, **more: fitted.append(name) or BASELINES[name](*log, **more)
                for name in BASELINES}  # fmt: skip
        monkeypatch.setattr(baselines, "BASELINES", once)
        state = state_of(dataset, split={"name": "users", "validation": 0.0})
        settings = {name: chosen for name, (_, chosen) in tuned(state).items()}
        assert settings["ease"] == {"penalty": 300}
        assert settings["markov"] == {"decay": 0.4, "smoothing": 10}
        assert settings["item_knn"] == {"decay": 0.8, "shrinkage": 10, "neighbours": 100}
        assert settings["popular_recent"] == {"half_life_days": 30}
        assert fitted == [name for name in BASELINES if name not in ("popular_personal", "content")]

    def test_a_log_without_times_counts_half_lives_in_events(self, dataset: Dataset) -> None:
        state = state_of(replace(dataset, timestamps=None), split={"name": "users", "validation": 0.0})
        assert tuned(state)["popular_recent"][1] == {"half_life_events": 10}

    def test_of_what_the_user_had_nothing_is_judged_where_it_is_not_recommended_again(self, dataset: Dataset) -> None:
        state = state_of(dataset)
        assert list(tuned(state)) == ["popular_recent", "markov", "item_knn", "ease", "slim"]
        evaluator = evaluator_of(state, "test")
        assert protocol(state, "test", evaluator, [0])["left_out"] == {}
        assert (
            "evaluation.seen"
            in protocol(state, "test", evaluator, [0], ["popular_personal"])["left_out"]["popular_personal"]
        )

    def test_a_catalogue_too_large_for_ease_does_without(
        self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("what_next.baselines.ease.MOST", 79)
        assert list(tuned(state_of(dataset))) == ["popular_recent", "markov", "item_knn", "slim"]

    def test_settings_are_judged_as_the_setup_says(self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def ranked(policy, targets, histories, k, **how):
            asked.append((k, how))
            return rank(policy, targets, histories, k, **how)

        monkeypatch.setattr(baselines, "rank", ranked)
        allowed = np.arange(80) % 2 == 0
        tuned(state_of(dataset, evaluation={"k": [3], "seen": True}), allowed)
        assert all(k == 3 and how["seen"] and how["allowed"] is allowed for k, how in asked)

    def test_of_many_validation_users_the_same_ones_choose(
        self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def ranked(policy, targets, *more, **how):
            asked.append(targets)
            return rank(policy, targets, *more, **how)

        monkeypatch.setattr(baselines, "MOST", 7)
        monkeypatch.setattr(baselines, "rank", ranked)
        for _ in range(2):
            tuned(state_of(dataset))
        assert {tuple(targets.users.tolist()) for targets in asked} == {tuple(asked[0].users.tolist())}
        assert len(asked[0]) == 7


@pytest.fixture(scope="module")
def films(shared_data: Path) -> State:
    log = pl.read_csv(shared_data / "ml-100k" / "ml-100k.inter", separator="\t")
    log = log.rename({name: name.partition(":")[0] for name in log.columns}).rename({"rating": "reward"})
    return state_of(Dataset.from_frame(log, name="ml-100k"), inputs={"items": "learned"})


@pytest.mark.slow
def test_on_real_data_each_baseline_is_far_from_chance_and_the_order_of_events_tells_most(films: State) -> None:
    targets = Targets.of(films.dataset, films.split, "test")
    policies = {"popular": Popular(films.space.counts), **{name: policy for name, (policy, _) in tuned(films).items()}}
    reached = {name: rank(policy, targets, films.histories).ndcg.mean() for name, policy in policies.items()}
    chance = rank(RandomItem(len(films.dataset.catalogue)), targets, films.histories).ndcg.mean()
    assert min(reached.values()) > 8 * chance
    assert min(reached[name] for name in ("markov", "item_knn")) > 2 * reached["popular"]
    assert reached["ease"] > 1.4 * reached["popular"]


@pytest.mark.medium
def test_untuned_each_is_far_from_chance_already(films: State) -> None:
    targets = Targets.of(films.dataset, films.split, "test")
    chance = rank(RandomItem(len(films.dataset.catalogue)), targets, films.histories).ndcg.mean()
    for fit in BASELINES.values():
        policy = fit(films.dataset, films.split.known)
        assert rank(policy, targets, films.histories).ndcg.mean() > 8 * chance
