"""Learning from what a service showed: what is joined, what a batch holds, and what is said where it cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from what_next.agent import Agent
from what_next.data import Catalogue
from what_next.data.decisions.service_log import EVENT
from what_next.data.files import beside, footer_of
from what_next.errors import DataError, SetupError
from what_next.policy import LearnedPolicy
from what_next.rewards import Events, Spread
from what_next.settings import Setup
from what_next.sources import DecisionSource, LogSource, Mixture, source_of
from what_next.sources.decisions import imitated, inverse_chances
from what_next.state import State
from what_next.types import Batch

from ..serving.shop import logged

ALONE = ("decisions.share=1",)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shop's setup, and the log of serving it."""
    folder = tmp_path_factory.mktemp("shop")
    logged(folder, temperature=1.0)
    return folder


def changed(shop: Path, to: Path, change: Any) -> Path:
    """The log with other rows, its items beside it."""
    log = shop / "log.parquet"
    change(pl.read_parquet(log)).write_parquet(to / "log.parquet", metadata=footer_of(log))
    pl.read_parquet(beside(log, "items")).write_parquet(beside(to / "log.parquet", "items"), metadata=footer_of(log))
    return to / "log.parquet"


def state_of(shop: Path, log: Path, *words: str) -> State:
    return State.from_setup(Setup.read(shop / "setup.txt", [f"data={log}", *words]))


def policy_of(state: State) -> LearnedPolicy:
    return LearnedPolicy(Agent(state.setup, state.space).wake_agent(), state)


def batch_of(source: DecisionSource) -> Batch:
    """All of its decisions."""
    return source.batch(policy_of(source.state), source.groups)


def by_hand(tmp_path: Path, shop: Path) -> Path:
    """Two answers to one user, between which an event arrived, and one to another."""

    def rows(log: pl.DataFrame) -> pl.DataFrame:
        events = log.filter(EVENT & (pl.col("user_id") == "s0")).head(3)
        other = log.filter(EVENT & (pl.col("user_id") == "s1")).head(2)
        shown = log.filter(~EVENT & (pl.col("user_id") == "s0")).head(4)
        more = log.filter(~EVENT & (pl.col("user_id") == "s1")).head(1)
        shown = shown.with_columns(
            item_id=pl.Series(["e0", "o1", "e1", "p0"]),
            slate=pl.Series(["a", "a", "b", "b"]),
            position=pl.Series([1, 2, 1, 2], dtype=pl.Int32),
            propensity=pl.Series([0.5, 0.25, 0.1, 0.4]),
            reward=pl.Series([1, 0, 0, 3], dtype=pl.Float32),
            known=pl.Series([2, 2, 3, 3]),
            timestamp=pl.Series([10, 10, 20, 20]).cast(pl.Datetime("us", "UTC")),
        )
        more = more.with_columns(
            item_id=pl.lit("w0"), slate=pl.lit("c"), position=pl.lit(1, pl.Int32), propensity=pl.lit(0.2),
            reward=pl.lit(1.0, pl.Float32), known=pl.lit(2, pl.Int64),
        )  # fmt: skip
        events = events.with_columns(number=pl.Series([1, 2, 3]), item_id=pl.Series(["east", "p0", "p1"]))
        return pl.concat([events, other.with_columns(number=pl.Series([1, 2])), shown, more])

    return changed(shop, tmp_path, rows)


class TestABatch:
    def test_holds_each_item_with_its_state_its_reward_and_what_followed(self, shop: Path, tmp_path: Path) -> None:
        state = state_of(shop, by_hand(tmp_path, shop), *ALONE, "discount=0.5")
        source = source_of(state)
        assert isinstance(source, DecisionSource)
        batch = batch_of(source)
        shown = batch.impressions
        assert shown is not None
        names = state.space.catalogue.ids
        assert [names[int(one)] for one in shown.actions] == ["e0", "o1", "e1", "p0", "w0"]
        assert batch.lengths.tolist() == [3, 2]  # both answers to one user share a row
        width = batch.items.shape[1]
        assert shown.places.tolist() == [1, 1, 2, 2, width + 1]
        assert shown.following.tolist() == [2, 2, 2, 2, width + 1]
        assert shown.rewards.tolist() == [1, 0, 0, 3, 1]
        assert shown.discounts.tolist() == [0.5, 0.5, 0, 0, 0]
        assert shown.returns.tolist() == [1 + 0.5 * 3, 0.5 * 3, 0, 3, 1]
        assert [names[int(one)] if one >= 0 else None for one in shown.next_actions] == ["e1", "e1", None, None, None]
        assert shown.propensities.tolist() == [0.5, 0.25, 0.1, 0.4, 0.2]
        assert batch.mask.sum(1).tolist() == [2, 1]

    def test_that_ends_between_two_answers_to_a_user_holds_the_state_of_the_second(
        self, shop: Path, tmp_path: Path
    ) -> None:
        state = state_of(shop, by_hand(tmp_path, shop), *ALONE, "discount=0.5")
        source, policy = DecisionSource(state), policy_of(state)
        batch = source.batch(policy, [np.array([0])])
        shown = batch.impressions
        assert shown is not None
        names = state.space.catalogue.ids
        assert [names[int(one)] for one in shown.actions] == ["e0", "o1"]
        assert [names[int(one)] for one in batch.items.flat[shown.following]] == ["p1", "p1"]
        assert shown.places.tolist() == [1, 1]
        assert shown.following.tolist() == [2, 2]
        assert batch.mask.sum() == 1
        assert batch.histories == 1

    def test_with_n_step_2_sums_up_two_answers(self, shop: Path, tmp_path: Path) -> None:
        state = state_of(shop, by_hand(tmp_path, shop), *ALONE, "discount=0.5", "n_step=2")
        shown = batch_of(DecisionSource(state)).impressions
        assert shown is not None
        assert shown.rewards.tolist() == [2.5, 1.5, 0, 3, 1]
        assert shown.discounts.tolist() == [0, 0, 0, 0, 0]
        assert shown.step_discounts.tolist() == [0.5, 0.5, 0, 0, 0]

    def test_shows_the_reward_of_an_item_whatever_is_summed_up(self, shop: Path, tmp_path: Path) -> None:
        state = state_of(shop, by_hand(tmp_path, shop), *ALONE, "discount=0.5", "n_step=2")
        agent = policy_of(state).agent
        assert agent.propagate(batch_of(DecisionSource(state))).reward == (1 + 0 + 0 + 3 + 1) / 5

    def test_is_a_value_that_another_process_reads(self, shop: Path, tmp_path: Path) -> None:
        state = state_of(shop, by_hand(tmp_path, shop), *ALONE)
        batch = batch_of(DecisionSource(state))
        again = Batch.of_arrays(batch.arrays())
        assert again.impressions is not None
        for name, values in batch.arrays().items():
            np.testing.assert_array_equal(again.arrays()[name], values)

    def test_of_a_pass_are_the_same_for_the_same_seed_and_hold_each_decision_once(self, shop: Path) -> None:
        state = state_of(shop, shop / "log.parquet", *ALONE, "batch_size=none", "batch_targets=100")
        one, other, policy, rng = (
            DecisionSource(state),
            DecisionSource(state),
            policy_of(state),
            np.random.default_rng(),
        )
        count = len(one._order(0))
        batches = [one.next_batch(policy, rng) for _ in range(count)]
        shown = np.concatenate([batch.impressions.actions for batch in batches if batch.impressions is not None])
        assert len(shown) == len(one.rows)
        assert np.bincount(shown).tolist() == np.bincount(one.answers.actions[one.rows]).tolist()
        other.resume(0, count + 2)
        one.next_batch(policy, rng), one.next_batch(policy, rng)
        for _ in range(3):
            mine, theirs = one.next_batch(policy, rng), other.next_batch(policy, rng)
            np.testing.assert_array_equal(mine.items, theirs.items)


def with_attributes(log: Path) -> Path:
    """The log, its items with two attributes."""
    path, rng = beside(log, "items"), np.random.default_rng(3)
    items = pl.read_parquet(path)
    items = items.with_columns(pl.Series(name, rng.normal(size=len(items))) for name in ("tempo", "energy"))
    items.write_parquet(path)
    footer = footer_of(log) | {"what_next.catalogue": Catalogue.from_table(items).hash()}
    footer.pop("ARROW:schema", None)
    pl.read_parquet(log).write_parquet(log, metadata=footer)
    return log


class TestRewards:
    def test_count_where_an_item_was_taken(self, shop: Path, tmp_path: Path) -> None:
        words = ("reward.novelty.weight=2", "reward.logged.weight=1")
        source = DecisionSource(state_of(shop, by_hand(tmp_path, shop), *ALONE, *words))
        catalogue, counts = source.state.space.catalogue, source.state.space.counts
        assert counts is not None
        p0 = counts[catalogue.index(["p0"])[0]] / counts.sum()
        assert p0 > 0
        largest = -np.log2(counts[counts > 0].min() / counts.sum())
        novelty = -np.log2(p0) / largest  # that of e0 and w0, which nobody heard, is 1
        assert source.gains.tolist() == pytest.approx([1 + 2, 0, 0, 3 + 2 * novelty, 1 + 2], rel=1e-5)
        assert source.returns[0] == pytest.approx(3 + source.setup.discount * source.gains[2:4].sum())

    def test_of_spread_are_those_of_hearing_the_item_after_what_was_known(self, shop: Path, tmp_path: Path) -> None:
        log = with_attributes(by_hand(tmp_path, shop))
        state = state_of(shop, log, *ALONE, "reward.spread.weight=1", "reward.logged.weight=0.5")
        source = DecisionSource(state)
        catalogue = state.space.catalogue
        known = source.answers.heard.items[source.answers.known[1]]  # of the answer that showed e1 and p0
        items = torch.tensor([[*known.tolist(), int(catalogue.index(["p0"])[0])]])
        events = Events(
            items=items, rewards=torch.zeros(1, 4), times=None, vectors=torch.from_numpy(catalogue.vectors),
            popularity=torch.zeros(len(catalogue)), sigma=torch.from_numpy(state.sigma(source.answers.users[1:2])),
        )  # fmt: skip
        spread = float(Spread().of(events)[0, 3])
        assert spread != 0
        assert source.gains.tolist() == pytest.approx([0.5, 0, 0, 1.5 + spread, 0.5], rel=1e-5)

    def test_that_the_data_cannot_have_are_refused(self, shop: Path) -> None:
        with pytest.raises(SetupError, match=r"reward\.spread needs attributes"):
            source_of(state_of(shop, shop / "log.parquet", *ALONE, "reward.spread.weight=1"))


class TestWeights:
    def test_are_inverse_chances_over_their_mean_and_capped(self) -> None:
        chances = np.array([0.5, 0.25, 0.25, 0.01])  # 2, 4, 4, 100: mean 27.5
        assert inverse_chances(chances, 1000.0) == pytest.approx(np.array([2, 4, 4, 100]) / 27.5)
        capped = np.array([2 / 27.5, 4 / 27.5, 4 / 27.5, 1.0])
        assert inverse_chances(chances, 1.0) == pytest.approx(capped / capped.mean())
        assert not len(inverse_chances(np.zeros(0), 1.0))

    def test_of_imitation_are_what_was_earned_over_the_chance(self) -> None:
        inverse = np.array([0.5, 1.5, 1.0], np.float32)
        found = imitated(inverse, np.array([2.0, 1.0, -3.0]))  # 1, 1.5, 0: mean 5 / 6
        assert found == pytest.approx([1.2, 1.8, 0])
        assert not imitated(inverse, np.zeros(3)).any()


class TestWhichSource:
    def test_half_and_half_is_the_default_and_why_is_said(self, shop: Path) -> None:
        source = source_of(state_of(shop, shop / "log.parquet"))
        assert isinstance(source, Mixture)
        assert source.shares.tolist() == [0.5, 0.5]
        values, reasons = source.chosen
        assert values["decisions"] == 300
        assert any("decisions.share 0.5 by default: of 300 answers" in one for one in reasons)
        assert not source.foreseen

    def test_events_alone_where_the_setup_says_so_and_where_the_data_is_no_log_of_a_service(self, shop: Path) -> None:
        assert type(source_of(state_of(shop, shop / "log.parquet", "decisions.share=0"))) is LogSource
        assert type(source_of(state_of(shop, shop / "shop.parquet"))) is LogSource

    def test_events_beside_decisions_are_those_that_came_before_any(self, shop: Path) -> None:
        state = state_of(shop, shop / "log.parquet")
        source = source_of(state)
        assert isinstance(source, Mixture)
        events = source.sources[1]
        assert isinstance(events, LogSource)
        assert len(events.users) == 100  # the 60 heard all that they heard before anything was shown
        late = state.dataset.user_index(["s3"])[0]
        assert events.known[late] == 4

    def test_decisions_of_another_file_join_data_with_the_same_items(self, shop: Path) -> None:
        log = shop / "log.parquet"
        source = source_of(state_of(shop, shop / "shop.parquet", f"decisions.log={log}"))
        assert isinstance(source, Mixture)
        assert len(source.sources[0].decisions) == 300  # type: ignore[attr-defined]


class TestTheSplit:
    def test_users_who_are_set_aside_teach_nothing(self, shop: Path) -> None:
        state = state_of(shop, shop / "log.parquet", *ALONE, "split.test=0.4")
        source = DecisionSource(state)
        users = np.unique(source.answers.users[source.decisions])
        assert (state.split.known[users] > 0).all()
        assert 100 < len(source.decisions) < 300

    def test_nor_does_what_came_after_a_last_event_that_is_held_back(self, shop: Path, tmp_path: Path) -> None:
        source = DecisionSource(state_of(shop, by_hand(tmp_path, shop), *ALONE, "split=leave_last_out"))
        names = [source.state.space.catalogue.ids[int(one)] for one in source.answers.actions[source.rows]]
        assert names == ["w0"]  # both answers to s0 knew its second event; s1 has too few events to be judged
        assert "2 answers left out: the split leave_last_out holds back" in source.chosen[1][0]


class TestMistakes:
    def test_no_exploration(self, shop: Path, tmp_path: Path) -> None:
        log = changed(shop, tmp_path, lambda rows: rows.with_columns(pl.col("propensity").clip(1.0)))
        with pytest.raises(DataError, match=r"no decisions that can be weighed .* without exploration"):
            source_of(state_of(shop, log, *ALONE))
        source = source_of(state_of(shop, log))
        assert type(source) is LogSource
        assert "events alone are learned from, since" in source.chosen[1][0]

    def test_no_feedback(self, shop: Path, tmp_path: Path) -> None:
        log = changed(
            shop, tmp_path, lambda rows: rows.with_columns(pl.when(EVENT).then("reward").otherwise(0.0).alias("reward"))
        )
        with pytest.raises(DataError, match=r"all 900 items that were shown brought 0.*send feedback"):
            source_of(state_of(shop, log, *ALONE))

    def test_another_catalogue(self, shop: Path, log_file: Path) -> None:
        with pytest.raises(DataError, match=r"items that were shown, such as '\w+', are not in the catalogue"):
            source_of(state_of(shop, log_file, f"decisions.log={shop / 'log.parquet'}"))

    def test_no_log_of_a_service(self, shop: Path) -> None:
        with pytest.raises(DataError, match="is no exported log of a service"):
            source_of(state_of(shop, shop / "shop.parquet", *ALONE))

    @pytest.mark.parametrize("name", ["whatnext", "decision_transformer"])
    def test_an_algorithm_that_cannot(self, shop: Path, name: str, log_file: Path) -> None:
        model = ["model=lstm"] if name == "whatnext" else ["model=transformer"]
        words = [f"algorithm={name}", "batch_size=8", *model]
        with pytest.raises(SetupError, match=f"decisions.share is 1, and the algorithm {name} "):
            source_of(state_of(shop, log_file, *words, *ALONE))
        assert not isinstance(source_of(state_of(shop, log_file, *words)), Mixture)
