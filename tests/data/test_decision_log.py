"""Logs of decisions: which column is what, in which order rows stand, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from what_next.data import Options, import_files, save
from what_next.data.decisions.log import DecisionLog, Roles
from what_next.data.decisions.reader import propensities_in, read_log
from what_next.errors import DataError

LOG = {
    "user_id": ["b", "a", "b", "a"],
    "item_id": [7, 5, 5, 9],
    "timestamp": [30, 20, 10, 10],
    "reward": [1.0, 0.0, 2.0, 0.5],
    "propensity": [0.5, 0.25, 1.0, 0.1],
}


@pytest.fixture
def written(tmp_path: Path):
    """`written(columns)`: a CSV file (or another by its ending) of the columns; None leaves one of `LOG` out."""

    def write(columns: dict[str, Any] | None = None, name: str = "log.csv", **changes: Any) -> Path:
        given = {**(LOG if columns is None else columns), **changes}
        frame, path = pl.DataFrame({key: one for key, one in given.items() if one is not None}), tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            frame.write_parquet(path)
        else:
            frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
        return path

    return write


def users(log: DecisionLog) -> list[Any]:
    assert log.user_ids is not None
    return log.user_ids.gather(log.units).to_list()


class TestRows:
    @pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.parquet"])
    def test_a_users_rows_stand_together_in_the_order_of_time(self, written, name: str) -> None:
        log = read_log(written(name=name))
        assert users(log) == ["a", "a", "b", "b"]
        assert log.items.ids.to_list() == [5, 7, 9]
        assert log.actions.tolist() == [2, 0, 0, 1]
        assert log.rewards.tolist() == [0.5, 0.0, 2.0, 1.0]
        assert log.propensities is not None
        assert log.propensities.tolist() == [0.1, 0.25, 1.0, 0.5]
        assert log.order.tolist() == [3, 1, 2, 0]
        assert (len(log), log.count, log.unit) == (4, 2, "user")

    def test_names_are_recognised_whatever_their_case(self, written) -> None:
        columns = dict(zip(["UserID", "Item-ID", "TimeStamp", "Click", "PScore"], LOG.values(), strict=True))
        assert read_log(written(columns)).columns == {
            "user": "UserID", "item": "Item-ID", "time": "TimeStamp", "reward": "Click", "propensity": "PScore",
        }  # fmt: skip

    def test_a_column_that_is_named_goes_before_the_names(self, written) -> None:
        path = written(bought=[3, 4, 5, 6], p=[0.5] * 4)
        log = read_log(path, Roles(reward="bought", propensity="p"))
        assert log.rewards.tolist() == [6, 4, 5, 3]
        assert log.propensities.tolist() == [0.5] * 4

    def test_without_users_every_row_is_a_unit_in_the_order_of_the_file(self, written) -> None:
        log = read_log(written(user_id=None, timestamp=None))
        assert log.units.tolist() == [0, 1, 2, 3]
        assert log.actions.tolist() == [1, 0, 0, 2]
        assert (log.unit, log.user_ids) == ("row", None)

    def test_rows_of_one_time_stay_in_the_order_of_the_file_or_of_their_positions(self, written) -> None:
        same = written(timestamp=[1, 1, 1, 1])
        assert read_log(same).order.tolist() == [1, 3, 0, 2]
        assert read_log(written(timestamp=[1, 1, 1, 1], position=[2, 4, 1, 3])).order.tolist() == [3, 1, 2, 0]
        assert read_log(written(position=[1, 1, 9, 9])).order.tolist() == [3, 1, 2, 0]  # time goes before position

    def test_a_slate_stands_together_where_its_first_row_does(self, written) -> None:
        log = read_log(
            written(
                {
                    "user_id": ["u", "u", "u", "v", "u"],
                    "slate_id": ["s", "r", "s", "s", "t"],
                    "position": [2, 1, 1, 1, 1],
                    "timestamp": [1, 2, 3, 9, 0],
                    "item_id": [1, 2, 3, 4, 5],
                    "reward": [0] * 5,
                    "propensity": [0.5] * 5,
                }
            )
        )
        assert log.order.tolist() == [4, 2, 0, 1, 3]  # t at 0; s from 1 on, its slot 1 first; r at 2; then the other s
        assert log.slates is not None
        assert log.slates.tolist() == [0, 1, 1, 2, 3]
        assert log.places is not None
        assert log.places.tolist() == [0, 0, 1, 0, 0]

    def test_a_number_of_a_slate_is_its_users_own(self, written) -> None:
        log = read_log(written(slate_id=[1, 1, 1, 1]))
        assert log.slates is not None
        assert log.slates.tolist() == [0, 0, 1, 1]

    def test_without_users_slates_are_the_units(self, written) -> None:
        log = read_log(written(user_id=None, slate_id=["y", "x", "y", "x"]))
        assert log.units.tolist() == [0, 0, 1, 1]
        assert log.unit == "slate"
        assert np.array_equal(log.units, log.slates)
        assert log.order.tolist() == [3, 1, 2, 0]

    def test_what_a_user_was_shown_at_one_time_in_different_slots_is_a_slate(self, written) -> None:
        shown = {"user_id": ["u", "v", "u", "u"], "timestamp": [1, 1, 1, 2]}
        log = read_log(written(**shown, position=[2, 1, 1, 1]))
        assert log.order.tolist() == [2, 0, 3, 1]
        assert log.slates is not None
        assert log.slates.tolist() == [0, 0, 1, 2]
        assert read_log(written(**shown, position=[1, 1, 1, 2])).slates is None  # two in one slot are no slate
        assert read_log(written(**shown)).slates is None
        shown["timestamp"] = [1, 1, 2, 3]
        assert read_log(written(**shown, position=[2, 1, 1, 1])).slates is None  # slates of one row are rows

    def test_a_file_without_the_first_slot_shifts_no_other(self, written) -> None:
        for slots, places in (([0, 3, 1, 2], [0, 3, 1, 2]), ([4, 3, 1, 2], [3, 2, 0, 1]), ([4, 3, 3, 4], [3, 2, 2, 3])):
            assert read_log(written(position=slots, user_id=None, timestamp=None)).places.tolist() == places

    def test_some_rows_are_counted_anew(self, written) -> None:
        log = read_log(written(user_id=["b", "a", "b", "c"], slate_id=[1, 2, 3, 4]))
        some = log.of_rows(np.array([False, True, False, True]))
        assert users(log) == ["a", "b", "b", "c"]
        assert users(some) == ["b", "c"]
        assert some.units.tolist() == [0, 1]
        assert some.slates.tolist() == [0, 1]
        assert some.order.tolist() == [2, 3]
        assert some.rewards.tolist() == [2.0, 0.5]

    def test_the_hash_tells_decisions_apart_and_not_files(self, written) -> None:
        one = read_log(written()).hash
        backwards = {name: values[::-1] for name, values in LOG.items()}
        assert read_log(written(backwards, name="other.tsv", note=["x"] * 4)).hash == one
        others = [{"reward": [1.0, 0.0, 2.0, 0.6]}, {"propensity": [0.5, 0.25, 1.0, 0.2]}, {"item_id": [8, 5, 5, 9]}]
        assert len({one, *(read_log(written(**other)).hash for other in others)}) == 4


class TestCatalogue:
    def test_a_table_tells_what_else_could_have_been_chosen(self, written) -> None:
        table = written({"item_id": [9, 8, 7, 5], "price": [1.0, 2.0, 3.0, 4.0], "name": list("wxyz")}, "items.csv")
        log = read_log(written(), items=table)
        assert log.items.ids.to_list() == [9, 8, 7, 5]
        assert log.actions.tolist() == [0, 3, 3, 2]
        assert log.items.vectors is not None
        assert log.items.vectors[:, 0] == pytest.approx((np.arange(1, 5) - 2.5) / np.std([1, 2, 3, 4]))

    def test_the_table_of_an_import_lies_beside_it(self, written, tmp_path: Path) -> None:
        items = written({"item_id": [5, 7, 9, 11], "price": [1.0, 2.0, 3.0, 9.0]}, "items.csv")
        save(import_files([written()], items, Options()), tmp_path / "done.parquet")
        log = read_log(tmp_path / "done.parquet")
        assert log.items.ids.to_list() == [5, 7, 9, 11]
        assert log.propensities == pytest.approx([0.1, 0.25, 1.0, 0.5], rel=1e-6)

    def test_an_import_keeps_chances_that_each_item_has_once_among_its_attributes(self, written, tmp_path) -> None:
        save(import_files([written(propensity=[0.2, 0.5, 0.5, 0.3])], None, Options()), tmp_path / "done.parquet")
        assert "propensity" not in pl.read_parquet(tmp_path / "done.parquet").columns
        for roles in (Roles(), Roles(propensity="propensity")):
            log = read_log(tmp_path / "done.parquet", roles)
            assert log.propensities == pytest.approx([0.3, 0.5, 0.5, 0.2], rel=1e-6)

    def test_an_item_that_the_table_lacks_is_told(self, written) -> None:
        table = written({"item_id": [5, 7], "price": [1.0, 2.0]}, "items.csv")
        with pytest.raises(DataError, match=r"item 9 is not in .*items.csv, the table of what could have been chosen"):
            read_log(written(), items=table)

    @pytest.mark.parametrize(
        ("ids", "told"),
        [
            (["a", "b", "a"], "line 4 is another row of item 'a' (1 such of 3 rows)"),
            (["a", "", "b"], "line 3 has no item id"),
        ],
    )
    def test_a_table_with_an_item_twice_or_without_id_is_refused_with_its_line(
        self, written, tmp_path: Path, ids: list[str], told: str
    ) -> None:
        pl.DataFrame({"item_id": ids, "price": [1, 2, 3]}).write_csv(tmp_path / "table.csv")
        with pytest.raises(DataError, match=re.escape(told)):
            read_log(written(), items=tmp_path / "table.csv")

    def test_many_attributes_are_put_together(self, written) -> None:
        wide = {f"a{number}": np.random.default_rng(number).normal(size=60) for number in range(55)}
        log = read_log(written(), items=written({"item_id": np.arange(60), **wide}, "items.csv"))
        assert log.items.vectors is not None
        assert log.items.vectors.shape == (60, 48)


class TestContext:
    def test_what_is_named_is_scaled_and_words_become_columns(self, written) -> None:
        path = written(age=[10, 20, 30, 40], device=["tv", "web", "web", "app"], timestamp=None, user_id=None)
        log = read_log(path, Roles(context=("age", "device")))
        assert log.context_names == ("age", "device=app", "device=tv")  # the commonest word is the others' absence
        assert log.contexts.mean(axis=0) == pytest.approx(np.zeros(3))
        assert log.contexts.std(axis=0) == pytest.approx(np.ones(3))
        assert log.contexts[:, 0] == pytest.approx((np.arange(4) - 1.5) / np.std(np.arange(4)))

    @pytest.mark.parametrize(
        ("values", "told"),
        [([[1], [2], [1], [2]], "holds List.*, not numbers or words"), ([b"\xff"] * 4, "are no text")],
    )
    def test_lists_and_bytes_are_refused_in_words(self, tmp_path: Path, values: list[object], told: str) -> None:
        path = tmp_path / "log.parquet"
        pl.DataFrame({"item": ["a", "b"] * 2, "reward": 1.0, "propensity": 0.5, "seen": values}).write_parquet(path)
        with pytest.raises(DataError, match=f"column 'seen' .*{told}"):
            read_log(path, Roles(context=("seen",)))

    def test_the_users_own_past_is_known_and_nothing_of_the_row_itself(self, written) -> None:
        log = read_log(written(user_id=["u"] * 4, timestamp=[1, 2, 3, 4], reward=[4, 2, 6, 100]))
        assert log.context_names == ("earlier rows", "earlier reward")
        earned = np.array([0.0, 4.0, 3.0, 4.0])
        assert log.contexts[:, 0] == pytest.approx(scaled(np.log1p(np.arange(4))))
        assert log.contexts[:, 1] == pytest.approx(scaled(earned))

    def test_a_slate_knows_none_of_its_own_rewards(self, written) -> None:
        log = read_log(written(user_id=["u"] * 4, timestamp=[1, 2, 3, 4], reward=[4, 2, 6, 100], slate_id=[1, 1, 2, 2]))
        assert log.contexts[:, 1] == pytest.approx(scaled(np.array([0.0, 0.0, 3.0, 3.0])))

    def test_rows_of_a_user_at_one_time_know_none_of_each_others_rewards(self, written) -> None:
        log = read_log(written(user_id=["u"] * 4, timestamp=[1, 1, 2, 2], reward=[4, 2, 6, 100]))
        assert log.slates is None
        assert log.moments.tolist() == [0, 0, 2, 2]
        assert log.contexts[:, 0] == pytest.approx(scaled(np.log1p([0, 0, 2, 2])))
        assert log.contexts[:, 1] == pytest.approx(scaled(np.array([0.0, 0.0, 3.0, 3.0])))
        other = read_log(written(user_id=["u", "u", "v", "v"], timestamp=[1, 2, 2, 2]))
        assert other.moments.tolist() == [0, 1, 2, 2]

    def test_positions_are_words(self, written) -> None:
        log = read_log(written(position=[3, 1, 1, 2], user_id=None))
        assert log.context_names == ("slot=1", "slot=2")
        assert log.places.tolist() == [2, 0, 0, 1]

    def test_a_number_that_is_missing_is_refused(self, written) -> None:
        with pytest.raises(DataError, match="context column 'age' is not a number in every row"):
            read_log(written(age=[1.0, None, 3.0, 4.0]), Roles(context=("age",)))


def test_a_probability_that_rounding_raised_above_1_is_1(written) -> None:
    """Another program's single precision gave 1.0000001, and the whole log was refused."""
    log = read_log(written(propensity=[0.5, 1 + 1e-12, 1 + 1e-7, 1.0], new=[1 + 1e-6, 0.0, 0.2, 0.3]))
    assert sorted(log.propensities.tolist()) == [0.5, 1.0, 1.0, 1.0]
    assert propensities_in(log, "new").max() == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"propensity": [0.5, 0.0, 0.0, 0.1]}, r"propensity in line 3 .* '0.0', not a number above 0, at most 1"),
            ({"propensity": [0.5, 0.5, 1 + 2e-6, 0.1]}, r"propensity in line 4 .*not a number above 0, at most 1"),
            ({"propensity": [0.5, 0.5, 1.5, 0.1]}, r"propensity in line 4 .*1.5.* \(1 of 4 rows\)"),
            ({"propensity": [0.5, -0.5, 0.0, 0.1]}, r"propensity in line 3 .* \(2 of 4 rows\)"),
            ({"propensity": [0.5, 0.5, float("nan"), 0.1]}, r"propensity in line 4 \(column 'propensity'\) is 'NaN'"),
            ({"propensity": ["high", "0.5", "0.5", "0.1"]}, r"propensity in line 2 .*is 'high', not a number"),
            ({"reward": ["1", "2", "good", "1"]}, r"the reward in line 4 .*is 'good', not a number that is finite"),
            ({"reward": [1.0, None, 3.0, 1.0]}, r"reward in line 3 .*is empty.*\. Write 0 where nothing was earned"),
            ({"reward": [1.0, float("inf"), 3.0, 1.0]}, r"the reward in line 3 .*'inf'"),
            ({"item_id": [1, None, 3, 4]}, r"the item in line 3 .*is empty, not an item id"),
            ({"user_id": ["a", "b", None, "b"]}, r"the user in line 4 .*is empty, not a user id"),
            ({"timestamp": ["2024-01-01", "later", "2024-01-02", "2024-01-03"]}, r"time in line 3 .*later', not a"),
            ({"position": [1.0, 1.5, 2.0, 3.0]}, r"the position in line 3 .*'1.5', not a number that is whole"),
            ({"position": [1, 2, 10**12, 3]}, r"the position in line 4 .*is '10{12}', not .*whole, from 0 to 10,000"),
            ({"position": [1, 2, -1, 3]}, r"the position in line 4 .*'-1', not a number that is whole, from 0"),
            (
                {"user_id": None, "slate_id": [7, 8, 7, 8], "position": [1, 1, 2, 1]},
                r"lines 3 and 5 stand at the same position of the same slate \(columns 'position' and 'slate_id'\)",
            ),
            (
                {name: [values[0]] * 2 + values[2:] for name, values in LOG.items()}
                | {"user_id": ["b"] * 4, "position": [1, 1, 2, 3], "slate_id": [7, 7, 7, 7]},
                r"with --position and --slate\. 1 row is a copy of another in all columns: first leave copies out",
            ),
            ({"propensity": None}, r"no column for the propensity, .*; found 'user_id', .*--behaviour estimated"),
            ({"reward": None}, r"no column for the reward; found .*--reward"),
            ({"item_id": None}, r"no column for the item; found .*--item"),
            ({"item_id": [1, 1, 1, 1]}, r"there is only one item, so nothing to choose"),
        ],
    )  # fmt: skip
    def test_a_log_that_cannot_be_used_is_told_in_one_message(self, written, changes, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            read_log(written(**changes))
        assert "log.csv" in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_columns_that_are_not_there_are_told_with_their_option(self, written) -> None:
        for role in ("reward", "propensity", "user", "position", "slate"):
            with pytest.raises(DataError, match=rf"no column 'mood' \(from --{role}\); found 'user_id'"):
                read_log(written(), Roles(**{role: "mood"}))
        with pytest.raises(DataError, match=r"no column 'mood' \(from --context\)"):
            read_log(written(), Roles(context=("mood",)))

    def test_no_rows_are_no_log(self, written) -> None:
        with pytest.raises(DataError, match="is empty: no rows; expected one row per decision"):
            read_log(written({name: pl.Series(values[:0], dtype=pl.Float64) for name, values in LOG.items()}))

    def test_a_propensity_that_is_not_asked_for_may_be_anything(self, written) -> None:
        log = read_log(written(propensity=[0, 0, 0, 0]), propensities=False)
        assert log.propensities is None
        assert "propensity" not in log.columns


class TestColumnsOfChances:
    def test_they_stand_in_the_order_of_the_rows(self, written) -> None:
        assert propensities_in(read_log(written(new=[0.1, 0.2, 0.3, 0.0])), "new").tolist() == [0.0, 0.2, 0.3, 0.1]

    @pytest.mark.parametrize("value", [1.01, -0.1, None])
    def test_they_are_probabilities(self, written, value: float | None) -> None:
        with pytest.raises(DataError, match=r"the policy in line 3 .*not a number from 0 to 1 \(1 of 4 rows\)"):
            propensities_in(read_log(written(new=[0.1, value, 0.3, 1.0])), "new")


def scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
