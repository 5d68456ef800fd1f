"""Recommendations go from ids to ids: for a history, a user, a frame of events, or everyone."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from rich.console import Console

import what_next as wn
from what_next import Dataset, Environment, Recommender, State
from what_next.cli.options import ids_of
from what_next.data import Catalogue
from what_next.errors import CatalogueError, DataError, ModelError
from what_next.types import Permitted

from .conftest import SetupOf, Trained, listening

EVENTS = {"user_id": ["b", "a", "b", "a", "c"], "item_id": ["i1", "i2", "i3", "nonsense", "nothing"]}


@pytest.fixture(scope="module")
def alone(trained: Trained) -> Recommender:
    """The model with its catalogue, and no log."""
    return wn.load(trained.setup.model_agent_path)


@pytest.fixture(scope="module")
def with_log(trained: Trained, dataset: Dataset) -> Recommender:
    return wn.load(trained.setup.model_agent_path, dataset)


def ids(found: wn.Recommendation) -> list[str]:
    return [item.item_id for item in found.items]


class TestByHistory:
    def test_it_needs_nothing_but_the_agents_file_and_its_catalogue(self, trained: Trained, tmp_path: Path) -> None:
        for name in ("agent.safetensors", "agent.catalogue.parquet"):
            shutil.copy(trained.folder / name, tmp_path)
        found = wn.load(str(tmp_path / "agent.safetensors")).recommend(history=["i1", "i2", "i3"], k=10)
        assert len(set(ids(found))) == 10
        assert found.history == ("Song 1", "Song 2", "Song 3")
        assert found.user is None

    def test_items_come_with_title_and_reasons(self, alone: Recommender, dataset: Dataset) -> None:
        found = alone.recommend(history=["i1", "i2", "i3"], k=3)
        assert list(found.proposal) == ["danceability", "energy", "tempo", "valence"]
        for item in found.items:
            place = int(item.item_id[1:])
            assert item.title == f"Song {place}"
            assert list(item.attributes.values()) == pytest.approx(dataset.catalogue.attributes[place], abs=1e-5)
            assert item.propensity == 1

    def test_the_proposal_is_in_the_attributes_own_units(self, alone: Recommender, dataset: Dataset) -> None:
        found = alone.recommend(history=["i1", "i2", "i3"])
        gaps = np.abs(dataset.catalogue.attributes - np.array(list(found.proposal.values()))).max(1)
        assert gaps.min() < 1e-4  # the proposal is a prototype, and that is an item

    def test_other_histories_ask_for_other_attributes(self, alone: Recommender) -> None:
        histories = [[f"i{place}" for place in np.random.default_rng(seed).permutation(80)[:4]] for seed in range(30)]
        proposals = {tuple(alone.recommend(history=history).proposal.values()) for history in histories}
        assert len(proposals) > 1

    def test_unknown_items_are_reported_not_fatal(self, alone: Recommender) -> None:
        found = alone.recommend(history=["i1", "nonsense", "i3", 99])
        assert found.unknown == ("nonsense", "99")
        assert ids(found) == ids(alone.recommend(history=["i1", "i3"]))

    def test_a_history_of_unknown_items_is_refused(self, alone: Recommender) -> None:
        with pytest.raises(CatalogueError, match="none of the 2 items"):
            alone.recommend(history=["x", "y"])

    def test_nobody_is_refused(self, alone: Recommender) -> None:
        with pytest.raises(CatalogueError, match="give a user, or a history"):
            alone.recommend()

    def test_a_history_of_one_event_works(self, alone: Recommender) -> None:
        assert len(alone.recommend(history=["i5"], k=4).items) == 4

    def test_a_history_longer_than_the_window_works(self, alone: Recommender) -> None:
        latest = [f"i{place}" for place in range(20)]
        longer = [f"i{place}" for place in range(30, 60)] + latest
        assert alone.recommend(history=longer).proposal == alone.recommend(history=latest).proposal
        assert not {f"i{place}" for place in range(30, 60)} & set(ids(alone.recommend(history=longer, k=30)))


class TestMasks:
    def test_seen_items_are_left_out_unless_asked_for(self, alone: Recommender) -> None:
        history = [f"i{place}" for place in range(40)]
        assert not set(ids(alone.recommend(history=history, k=40))) & set(history)
        everything = alone.recommend(history=history, k=80, seen=True)
        assert len(everything.items) == 80
        assert {item.item_id for item in everything.items if item.repeat} == set(history)

    def test_more_than_is_permitted_gives_what_is_permitted(self, alone: Recommender) -> None:
        history = [f"i{place}" for place in range(75)]
        assert sorted(ids(alone.recommend(history=history, k=10))) == ["i75", "i76", "i77", "i78", "i79"]
        assert len(alone.recommend(history=["i1"], k=1000).items) == 79

    def test_only_allowed_items_are_recommended(self, alone: Recommender) -> None:
        found = alone.recommend(history=["i1", "i2", "i3"], k=10, allowed=["i3", "i10", "i11", "unknown"])
        assert sorted(ids(found)) == ["i10", "i11"]

    def test_blocked_items_are_not(self, alone: Recommender) -> None:
        first = ids(alone.recommend(history=["i1", "i2", "i3"], k=5))
        rest = ids(alone.recommend(history=["i1", "i2", "i3"], k=74, blocked=first))
        assert not set(first) & set(rest)
        assert len(rest) == 72

    def test_blocked_goes_before_allowed(self, alone: Recommender) -> None:
        found = alone.recommend(history=["i1"], allowed=["i4", "i5"], blocked=["i5"])
        assert ids(found) == ["i4"]

    @pytest.mark.parametrize(
        "masks", [{"allowed": []}, {"allowed": ["i4"], "blocked": ["i4"]}, {"allowed": ["unknown"]}]
    )
    def test_nothing_allowed_is_refused(self, alone: Recommender, masks: dict[str, list[str]]) -> None:
        with pytest.raises(CatalogueError, match="no item of the catalogue is allowed"):
            alone.recommend(history=["i1"], **masks)

    @pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, pl.Series, pa.array, iter])
    def test_ids_come_as_lists_series_or_arrays(self, alone: Recommender, kind: Callable[[list[str]], Any]) -> None:
        found = alone.recommend(history=["i1"], allowed=kind(["i4", "i5", "i6"]), blocked=kind(["i5"]))
        assert set(ids(found)) == {"i4", "i6"}

    def test_an_array_of_the_id_0_is_not_empty(self) -> None:
        table = pl.DataFrame({"item_id": [0, 1], "title": ["zero", "one"]})
        mask = Catalogue.from_table(table).mask(np.array([0]))
        assert mask is not None
        assert mask.tolist() == [True, False]

    @pytest.mark.parametrize("one", ["i4", 4, 4.0, np.int64(4), np.array(4), object])
    def test_one_id_is_no_list(self, alone: Recommender, one: Any) -> None:
        for ids_given in ((one,), (None, one)):
            with pytest.raises(CatalogueError, match="is found where several ids are expected"):
                alone.catalogue.mask(*ids_given)

    def test_a_list_that_notepad_wrote_blocks_its_first_id(
        self, alone: Recommender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (path := tmp_path / "not.txt").write_bytes(b"\xef\xbb\xbfi4\r\n\xe2\x80\x8bi5\r\n")
        assert ids_of(path, alone.catalogue) == ["i4", "\u200bi5"]
        assert r"left out: '\u200bi5'" in capsys.readouterr().err

    def test_all_that_is_allowed_was_heard(self, alone: Recommender) -> None:
        assert alone.recommend(history=["i1", "i2"], allowed=["i1", "i2"]).items == ()


class TestChance:
    def test_without_a_generator_it_is_always_the_same(self, alone: Recommender) -> None:
        assert alone.recommend(history=["i1", "i2"]) == alone.recommend(history=["i1", "i2"])

    @pytest.mark.medium
    def test_draws_vary_and_tell_their_propensity(self, trained: Trained, dataset: Dataset) -> None:
        setup = trained.setup.model_copy(update={"train": False, "relax": 5.0})
        agent = wn.Agent(setup, trained.state.space).ready_agent()
        state = State(dataset, setup, replace(agent.space, tolerance=1.5))
        recommender = Recommender(wn.LearnedPolicy(agent, state))
        firsts, chances = [], []
        for seed in range(300):
            first = recommender.recommend(history=["i1", "i2", "i3"], k=1, rng=np.random.default_rng(seed)).items[0]
            firsts.append(first.item_id)
            chances.append(first.propensity)
        assert len(set(firsts)) > 3
        assert all(chance is not None and 0 < chance <= 1 for chance in chances)
        for item in set(firsts):
            chance = chances[firsts.index(item)]
            assert firsts.count(item) / 300 == pytest.approx(
                chance, abs=4 * np.sqrt(chance * (1 - chance) / 300) + 1e-9
            )


class TestContext:
    def test_the_situation_changes_what_is_asked_for(self, trained: Trained, alone: Recommender) -> None:
        history, _ = alone.state.history_of(["i1", "i2", "i3"])
        agent = alone.policy.agent
        night = alone.state.with_context(history, {"time_of_day_cos": 1.0, "time_of_day_sin": 0.0})
        day = alone.state.with_context(history, {"time_of_day_cos": -1.0, "time_of_day_sin": 0.0})
        assert not np.array_equal(agent.factorize(night).actor, agent.factorize(day).actor)
        found = alone.recommend(history=["i1", "i2", "i3"], context={"time_of_day_cos": 1.0})
        assert len(found.items) == 10

    def test_unknown_context_is_refused(self, alone: Recommender) -> None:
        with pytest.raises(DataError, match=r"context 'mood' is unknown.*time_of_day_sin"):
            alone.recommend(history=["i1"], context={"mood": 1.0})


class TestByUser:
    def test_a_user_is_recommended_what_their_history_asks_for(self, with_log: Recommender, dataset: Dataset) -> None:
        found = with_log.recommend(user="u7", k=5)
        place = int(dataset.user_index(["u7"])[0])
        events = dataset.items[dataset.offsets[place] : dataset.offsets[place + 1]]
        heard = set(dataset.catalogue.ids.gather(events.tolist()))
        assert found.user == "u7"
        assert len(found.history) == 40
        assert not heard & set(ids(found))

    def test_an_unknown_user_is_told_what_to_do(self, with_log: Recommender, alone: Recommender) -> None:
        with pytest.raises(
            CatalogueError, match=r"user 'me' is not among the 60 users of listening, such as 'u0'; give a history"
        ):
            with_log.recommend(user="me")
        with pytest.raises(CatalogueError, match="loaded without a log, so no user is known; give a history"):
            alone.recommend(user="u1")

    def test_an_unknown_user_with_a_history_works(self, with_log: Recommender) -> None:
        found = with_log.recommend(["i1", "i2"], user="me")
        assert found.user == "me"
        assert found.history == ("Song 1", "Song 2")

    def test_another_catalogue_is_refused(self, trained: Trained) -> None:
        with pytest.raises(CatalogueError, match="another catalogue"):
            wn.load(trained.setup.model_agent_path, Dataset.from_frame(*listening(items=70)))

    def test_a_log_of_two_users_is_enough(self, trained: Trained) -> None:
        log, items = listening()
        two = Dataset.from_frame(log.filter(pl.col("user_id").is_in(["u1", "u2"])), items)
        assert len(wn.load(trained.setup.model_agent_path, two).recommend(user="u1").items) == 10


class TestFrames:
    @pytest.mark.parametrize(
        ("make", "kind"), [(pd.DataFrame, pd.DataFrame), (pl.DataFrame, pl.DataFrame), (pa.table, pa.Table)]
    )
    def test_a_frame_comes_back_in_its_own_library(
        self, alone: Recommender, make: Callable[..., Any], kind: type
    ) -> None:
        found = alone.recommend_frame(make(EVENTS), k=3)
        assert isinstance(found, kind)
        rows = found.to_pylist() if kind is pa.Table else pl.from_dataframe(found).to_dicts()
        assert [(row["user_id"], row["rank"]) for row in rows] == [(who, n) for who in "ab" for n in (1, 2, 3)]
        expected = ids(alone.recommend(["i1", "i3"], k=3))
        assert [row["item_id"] for row in rows if row["user_id"] == "b"] == expected
        assert rows[0]["title"] == f"Song {rows[0]['item_id'][1:]}"

    def test_one_user_is_enough(self, alone: Recommender) -> None:
        found = alone.recommend_frame(pl.DataFrame({"user_id": [7], "item_id": ["i1"]}), k=2)
        assert found["user_id"].to_list() == [7, 7]

    @pytest.mark.parametrize("events", [{"user_id": ["a"], "item_id": ["unknown"]}, {"user_id": [], "item_id": []}])
    def test_nobody_known_gives_no_rows(self, alone: Recommender, events: dict[str, list[str]]) -> None:
        frame = pl.DataFrame(events, schema={"user_id": pl.String, "item_id": pl.String})
        found = alone.recommend_frame(frame)
        assert found.columns == ["user_id", "rank", "item_id", "title"]
        assert len(found) == 0

    def test_missing_columns_are_told(self, alone: Recommender) -> None:
        with pytest.raises(DataError, match="has no column item_id; it has user_id, song"):
            alone.recommend_frame(pl.DataFrame({"user_id": ["a"], "song": ["i1"]}))

    def test_everyone_gets_what_each_gets(
        self, with_log: Recommender, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("what_next.inference.recommender.CHUNK", 25)
        found = with_log.recommend_all(k=4)
        assert found["user_id"].unique(maintain_order=True).to_list() == dataset.user_ids.to_list()
        assert found.group_by("user_id").len()["len"].unique().to_list() == [4]
        for user in ("u0", "u24", "u25", "u59"):
            rows = found.filter(pl.col("user_id") == user)
            assert rows["item_id"].to_list() == ids(with_log.recommend(user=user, k=4))
            assert rows["rank"].to_list() == [1, 2, 3, 4]

    def test_everyone_is_bound_by_the_masks(self, with_log: Recommender) -> None:
        found = with_log.recommend_all(k=10, seen=True, allowed=["i1", "i2", "i3"], blocked=["i2"])
        assert set(found["item_id"]) == {"i1", "i3"}


class TestSelection:
    def test_the_critic_chooses_where_the_model_was_trained_to_be_asked_so(
        self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path
    ) -> None:
        folder, moved = tmp_path / "models", tmp_path / "moved"
        setup = setup_of(folder, epochs=64, selection="critic", tolerance=2.0)
        state = State(dataset, setup)
        Environment(wn.Agent(setup, state.space), state, setup).run_sim()
        shutil.move(folder, moved)
        recommender = wn.load(moved / "agent.safetensors")
        agent, history = recommender.policy.agent, ["i1", "i2", "i3"]
        assert set(agent.nets) == {"actor", "critic"}
        chosen = recommender.recommend(history=history, k=1).items[0]
        known, _ = recommender.state.history_of(history)
        proposal = agent.predict(known)
        assert proposal.score is not None
        near = recommender.state.box.nearest(proposal.points, 77, permitted=Permitted.of(without=known.items))[0]
        outside = np.abs(recommender.catalogue.vectors[near] - proposal.points).max(1) > 2.0
        first = near[np.argsort(outside, kind="stable")][:64]  # those of the box, then the others, nearest first
        values = proposal.score(np.zeros(64, np.int64), first)
        assert chosen.item_id == recommender.catalogue.ids[int(first[values.argmax()])]

    def test_without_its_critic_it_is_refused(self, dataset: Dataset, setup_of: SetupOf, tmp_path: Path) -> None:
        setup = setup_of(tmp_path, epochs=32, selection="critic")
        state = State(dataset, setup)
        Environment(wn.Agent(setup, state.space), state, setup).run_sim()
        for name in ("agent.catalogue.parquet", "critic.safetensors"):  # the critic is read first
            (tmp_path / name).unlink()
            with pytest.raises(ModelError, match=rf"{name}: no such model file; it belongs to .*, and must be copied"):
                wn.load(tmp_path / "agent.safetensors")


class TestShown:
    def test_people_see_titles_and_reasons(self, alone: Recommender) -> None:
        console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        console.print(alone.recommend(history=["i1", "nonsense"], k=3))
        text = console.export_text()
        found = alone.recommend(history=["i1"], k=3)
        assert all(item.title in text for item in found.items)
        assert "not in the catalogue, left out: nonsense" in text
        assert all(name in text for name in found.proposal)
        assert "matches the proposal" in text

    def test_markup_and_emoji_codes_are_shown_as_they_are(self, trained: Trained) -> None:
        item = wn.inference.recommendation.Item("shop:a:0", "[bold]L:b:[/] [red", {":x:[/]": 1.0}, True, False, None)
        found = wn.Recommendation("me [/] :smile:", ("[/b] :o: one",), {":x:[/]": 1.0}, (item,), ("[/x]",))
        console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
        console.print(found)
        text = console.export_text()
        for part in ("shop:a:0", "me [/] :smile:", "[/b] :o: one", "[/x]", ":x:[/]"):
            assert part in text
        assert text.count("[bold]L:b:[/] [red") == 1  # and in the second table
