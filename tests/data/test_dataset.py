"""The data set in memory, its catalogue, and its splits."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from what_next.data import (
    Catalogue,
    Dataset,
    import_files,
    save,
    split_leave_last_out,
    split_time,
    split_users,
)
from what_next.errors import DataError

LOG = {
    "user_id": [2, 1, 1, 2, 1, 2],
    "item_id": ["b", "a", "b", "a", "c", "c"],
    "timestamp": [10, 20, 10, 20, 30, 20],
    "reward": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
}
ITEMS = {"item_id": ["c", "a", "b"], "title": ["C", "A", "B"], "tempo": [1.0, 2.0, 6.0], "energy": [0.5, 0.25, 0.0]}


@pytest.fixture
def dataset() -> Dataset:
    return Dataset.from_frame(pl.DataFrame(LOG), pl.DataFrame(ITEMS))


def many_users(users: int = 40) -> Dataset:
    rows = [(user, (user * step) % 7, 100 * step + user) for user in range(users) for step in range(1, 3 + user % 5)]
    return Dataset.from_frame(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"))


def test_events_are_by_user_then_time_with_ties_in_file_order(dataset: Dataset) -> None:
    assert dataset.user_ids.to_list() == [1, 2]
    assert dataset.offsets.tolist() == [0, 3, 6]
    assert dataset.items.tolist() == [2, 1, 0, 2, 1, 0]
    assert dataset.rewards.tolist() == [3, 2, 5, 1, 4, 6]
    assert (dataset.timestamps // 10**6).tolist() == [10, 20, 30, 10, 20, 20]
    assert dataset.lengths.tolist() == [3, 3]
    assert dataset.context.shape == (6, 0)


@pytest.mark.parametrize("convert", [pd.DataFrame, pa.table, pl.DataFrame])
def test_pandas_polars_and_pyarrow_give_the_same_data_set(dataset: Dataset, convert) -> None:
    other = Dataset.from_frame(convert(LOG), convert(ITEMS))
    assert other.catalogue.hash() == dataset.catalogue.hash()
    assert other.items.tolist() == dataset.items.tolist()
    assert other.timestamps.tolist() == dataset.timestamps.tolist()
    assert other.rewards.tolist() == dataset.rewards.tolist()


def test_a_pandas_frame_keeps_its_labels(dataset: Dataset) -> None:
    frame = pd.DataFrame(LOG).set_index("user_id")
    frame.columns = pd.Index(["item", 3, 4])
    before = list(frame.columns)
    Dataset.from_frame(frame, time="3", reward="4")
    assert list(frame.columns) == before


def test_saved_and_read_it_is_the_same(tmp_path: Path) -> None:
    log = pl.DataFrame({**LOG, "hour": [1, 2, 3, 4, 5, 6]})
    log.write_parquet(tmp_path / "raw.parquet")
    pl.DataFrame(ITEMS).write_parquet(tmp_path / "table.parquet")
    tables = import_files([tmp_path / "raw.parquet"], tmp_path / "table.parquet")
    save(tables, tmp_path / "x.parquet")
    read, direct = Dataset.read(tmp_path / "x.parquet"), Dataset.from_tables(tables, "x")
    assert read.name == "x"
    for name in ("items", "offsets", "timestamps", "rewards", "context"):
        assert np.array_equal(getattr(read, name), getattr(direct, name)), name
    assert read.context_names == ("hour",)
    assert read.context[:, 0].tolist() == [3, 2, 5, 1, 4, 6]
    assert read.catalogue.hash() == direct.catalogue.hash()
    assert read.catalogue.titles.to_list() == ["C", "A", "B"]


def test_a_data_set_without_its_item_table_or_with_another_is_refused(tmp_path: Path) -> None:
    pl.DataFrame(LOG).write_csv(tmp_path / "log.csv")
    tables = import_files([tmp_path / "log.csv"])
    save(tables, tmp_path / "x.parquet")
    items = tmp_path / "x.items.parquet"
    tables.items.with_columns(tempo=pl.lit(1.0)).write_parquet(items)
    with pytest.raises(DataError, match="belongs to another import"):
        Dataset.read(tmp_path / "x.parquet")
    items.unlink()
    with pytest.raises(DataError, match=r"x\.items\.parquet: no such file"):
        Dataset.read(tmp_path / "x.parquet")


def test_a_truncated_data_set_is_refused(tmp_path: Path) -> None:
    pl.DataFrame(LOG).write_csv(tmp_path / "log.csv")
    path = tmp_path / "x.parquet"
    save(import_files([tmp_path / "log.csv"]), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read"):
        Dataset.read(path)


def test_a_pickled_frame_is_a_data_set(tmp_path: Path, dataset: Dataset) -> None:
    pd.DataFrame(LOG).to_pickle(tmp_path / "clean.pk")
    read = Dataset.read(tmp_path / "clean.pk")
    assert read.rewards.tolist() == dataset.rewards.tolist()


def test_ids_are_found_as_text(dataset: Dataset) -> None:
    assert dataset.user_index(["2", 1, "nobody"]).tolist() == [1, 0, -1]
    assert dataset.catalogue.index(["a", "c", "z"]).tolist() == [1, 0, -1]
    numbered = Dataset.from_frame(pl.DataFrame({"user": [1, 2], "item": [30, 7]})).catalogue
    assert numbered.index(["30", 7, "07"]).tolist() == [1, 0, -1]


def test_standardised_takes_centre_and_scale_from_the_seen_items_only(dataset: Dataset) -> None:
    seen = np.array([True, True, False])
    catalogue = dataset.catalogue.standardised(seen)
    assert catalogue.center.tolist() == [1.5, 0.375]
    assert catalogue.scale.tolist() == [0.5, 0.125]
    assert catalogue.vectors.tolist() == [[-1, 1], [1, -1], [9, -3]]
    assert np.allclose(catalogue.restore(catalogue.vectors[None]), catalogue.attributes)
    assert catalogue.hash() == dataset.catalogue.hash()


def test_a_constant_attribute_is_0_for_all(dataset: Dataset) -> None:
    known = dataset.catalogue.attributes.copy()
    known[:, 0] = 0.1, 0.1, 3e38
    catalogue = replace(dataset.catalogue, attributes=known).standardised(np.array([True, True, False]))
    assert (catalogue.constant, catalogue.informative) == (["tempo"], True)
    assert catalogue.vectors.tolist() == [[0, 1], [0, -1], [0, -3]]
    assert np.allclose(catalogue.restore(catalogue.vectors)[:, 0], 0.1)
    assert not dataset.catalogue.standardised(np.array([2])).informative


def test_standardised_needs_an_item(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="no item of the catalogue has a training event"):
        dataset.catalogue.standardised(np.zeros(3, bool))


def test_the_catalogue_hash_sees_ids_names_and_attributes_but_not_titles() -> None:
    table = pl.DataFrame(ITEMS).with_columns(pl.col("tempo", "energy").cast(pl.Float32))
    start = Catalogue.from_table(table).hash()
    assert Catalogue.from_table(table.with_columns(title=pl.lit("x"))).hash() == start
    changed = [
        table.reverse(),
        table.with_columns(item_id=pl.Series(["c", "a", "bb"])),
        table.rename({"tempo": "pace"}),
        table.with_columns(tempo=pl.col("tempo") + 1e-6),
    ]
    assert len({start, *(Catalogue.from_table(one).hash() for one in changed)}) == 5


def test_describe_counts_what_is_there(dataset: Dataset) -> None:
    facts = dataset.describe()
    assert (facts["users"], facts["items"], facts["rows"]) == (2, 3, 6)
    assert facts["lengths"] == {"min": 3, "median": 3.0, "mean": 3.0, "max": 3}
    assert facts["density"] == 1.0
    assert facts["ties"] == pytest.approx(2 / 6)
    assert facts["time"] == {"first": "1970-01-01T00:00:10Z", "last": "1970-01-01T00:00:30Z"}
    assert facts["attributes"]["tempo"] == {"mean": 3.0, "sd": pytest.approx(np.std([1, 2, 6]))}
    assert facts["reward"]["mean"] == 3.5
    assert facts["reward"]["counts"] == {"1": 1, "2": 1, "3": 1, "4": 1, "5": 1, "6": 1}


def test_two_users_at_one_moment_are_no_tie() -> None:
    frame = pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 3, 1], "time": [1, 5, 5, 9]})
    assert Dataset.from_frame(frame).describe()["ties"] == 0


def test_a_split_by_users_shares_no_user_and_is_fixed_by_its_seed() -> None:
    dataset = many_users()
    split = split_users(dataset, seed=3)
    assert (len(split.test), len(split.validation)) == (8, 4)
    assert not set(split.test) & set(split.validation)
    aside = np.union1d(split.test, split.validation)
    assert not split.known[aside].any()
    assert np.array_equal(np.delete(split.known, aside), np.delete(dataset.lengths, aside))
    assert split.hash == split_users(dataset, seed=3).hash != split_users(dataset, seed=4).hash
    with pytest.raises(DataError, match="take smaller shares"):
        split_users(dataset, test=0.9, validation=0.1)


def test_leave_last_out_keeps_two_events_of_those_who_have_three() -> None:
    dataset = many_users()
    split = split_leave_last_out(dataset)
    assert np.array_equal(split.test, np.flatnonzero(dataset.lengths >= 3))
    assert np.array_equal(split.known[split.test], dataset.lengths[split.test] - 2)
    short = np.flatnonzero(dataset.lengths < 3)
    assert np.array_equal(split.known[short], dataset.lengths[short])
    assert np.array_equal(split.until - split.known, (dataset.lengths >= 3).astype(int))


def test_a_split_by_time_knows_nothing_of_the_future() -> None:
    dataset = many_users()
    split = split_time(dataset, 0.8)
    position = np.arange(dataset.events) - np.repeat(dataset.offsets[:-1], dataset.lengths)
    owner = np.repeat(np.arange(dataset.users), dataset.lengths)
    training = dataset.timestamps[position < split.known[owner]]
    tested = dataset.timestamps[position >= split.until[owner]]
    assert training.max() < tested.min()
    assert (split.known[split.test] > 0).all()
    assert (dataset.lengths > split.until)[split.test].all()
    assert len(tested) / dataset.events == pytest.approx(0.2, abs=0.02)
    with pytest.raises(DataError, match="needs times; set `split, users` or"):
        split_time(Dataset.from_frame(pl.DataFrame({"user": [1, 2], "item": [1, 2]})))


def test_sessions_are_split_by_time_though_none_is_on_both_sides_of_the_cut() -> None:
    """Of a news site, say: each lasts for minutes."""
    sessions = pl.DataFrame({"user": [n // 2 for n in range(20)], "item": [*range(20)], "time": [*range(20)]})
    split = split_time(Dataset.from_frame(sessions), 0.8)
    assert (split.validation.tolist(), split.test.tolist()) == ([6, 7], [8, 9])
    assert split.cold("test").all()
    single = Dataset.from_frame(sessions.with_columns(user=pl.col("item")))
    with pytest.raises(DataError, match=r"nothing came next; set an earlier `split.date` or a smaller"):
        split_time(single, 0.8)
    early = Dataset.from_frame(sessions.with_columns(time=pl.lit(1)))
    with pytest.raises(DataError, match=r"nothing can be learned; set a later `split.date` or a larger"):
        split_time(early, 0.8)


def test_who_has_too_few_events_to_leave_one_out_is_told_the_setting() -> None:
    with pytest.raises(DataError, match=r"no user has three events.* split by users \(`split, users`\)"):
        split_leave_last_out(Dataset.from_frame(pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 2]})))


def test_events_that_tie_with_the_cut_belong_to_the_test() -> None:
    frame = pl.DataFrame({"user": [1] * 5 + [2] * 5, "item": [*range(5)] * 2, "time": [1, 2, 3, 4, 5] * 2})
    # Of ten sorted times the sixth and the eighth begin validation and test: 3 and 4, or 4 and 5 with `<=`.
    split = split_time(Dataset.from_frame(frame), 0.75)
    assert (split.known.tolist(), split.until.tolist()) == ([2, 2], [3, 3])


def test_the_split_hash_changes_with_any_target() -> None:
    log = pl.DataFrame(LOG)
    first = split_leave_last_out(Dataset.from_frame(log, pl.DataFrame(ITEMS))).hash
    # The tie of user 2 the other way round: another last event.
    swapped = log[[0, 1, 2, 5, 4, 3]]
    assert split_leave_last_out(Dataset.from_frame(swapped, pl.DataFrame(ITEMS))).hash != first
