"""A frame becomes a model in one call; the model recommends, is judged, saved, and loaded again."""

import pickle
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar, Literal

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch import Tensor

import what_next as wn
from what_next.algorithms import Algorithm
from what_next.algorithms.base import LossContext
from what_next.data.dataset import to_polars
from what_next.errors import CatalogueError, DataError, Lines, ModelError, SetupError, WhatNextError
from what_next.training import checkpoint
from what_next.types import Transitions

from ..forked import Forked
from ..shapes import unchecked

SMALL = {"passes": 4, "dim": 16, "threads": 1, "verbose": False}
ITEMS = 30
Kind = Callable[[pl.DataFrame], Any]
LIBRARIES: dict[str, Kind] = {
    "pandas": lambda frame: pd.DataFrame(frame.to_dict(as_series=False)),
    "polars": lambda frame: frame,
    "pyarrow": lambda frame: pa.table(frame.to_dict(as_series=False)),
}


def shopping(users: int = 60, seed: int = 0) -> pl.DataFrame:
    """Who buys product n buys n + 1 next, all around; rows in no order, so that times alone tell it."""
    rng = np.random.default_rng(seed)
    rows = [
        (1000 + user, (start + step) % ITEMS, 1_600_000_000 + 10**5 * user + 60 * step, float(rng.integers(1, 6)))
        for user in range(users)
        for start in [int(rng.integers(ITEMS))]
        for step in range(int(rng.integers(6, 16)))
    ]
    frame = pl.DataFrame(rows, schema=["Customer", "Product", "When", "Stars"], orient="row")
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


@pytest.fixture(scope="module")
def model() -> wn.Model:
    return wn.fit(LIBRARIES["pandas"](shopping()), **SMALL)


def ids(found: wn.Recommendation) -> list[str]:
    return [item.item_id for item in found.items]


class TestFrames:
    @pytest.mark.medium
    @pytest.mark.parametrize("library", LIBRARIES)
    def test_of_any_library_are_read_with_odd_names_and_answered_in_that_library(
        self, library: str, model: wn.Model, capsys: pytest.CaptureFixture[str]
    ) -> None:
        frame = LIBRARIES[library](shopping())
        found = wn.fit(frame, **(SMALL | {"passes": 1, "verbose": True}))
        told = capsys.readouterr().out
        for role, column in {"user": "Customer", "item": "Product", "time": "When", "reward": "Stars"}.items():
            assert f"{role}: {column} (by its name" in told
        answer = found.recommend(frame, k=3)
        assert type(answer) is type(frame)
        polars = pl.DataFrame(answer if library != "pandas" else answer.to_dict("list"))
        assert polars.columns == ["user_id", "rank", "item_id", "title"]
        assert len(polars) == 3 * 60
        assert found.state.dataset.events == model.state.dataset.events

    @pytest.mark.medium
    def test_without_times_the_order_of_the_rows_is_that_of_the_events(self) -> None:
        frame = shopping().sort("Customer", "When").drop("When", "Stars")
        found = wn.fit(frame, **SMALL)
        assert found.state.dataset.timestamps is None
        assert ids(found.recommend([3, 4, 5], k=1)) == ["6"]

    @pytest.mark.medium
    def test_ids_of_texts_and_columns_that_are_named(self) -> None:
        frame = shopping().select(
            pl.format("kunde {}", "Customer").alias("Kunde"),
            pl.format("p{}", "Product").alias("Ding"),
            pl.col("When").alias("Zeit"),
        )
        found = wn.fit(frame, user="Kunde", item="Ding", time="Zeit", **SMALL)
        assert ids(found.recommend(["p3", "p4", "p5"], k=1)) == ["p6"]
        assert found.recommend("kunde 1003", k=2).user == "kunde 1003"
        assert found.recommend(frame, k=1).height == 60  # called as in training

    @pytest.mark.medium
    def test_sessions_are_cut_by_a_gap_as_on_the_command_line(self) -> None:
        frame = shopping().with_columns(pl.col("When") + 600 * (pl.int_range(pl.len()).over("Customer") > 2))
        users = [wn.fit(frame, session_gap=gap, **SMALL).state.dataset.users for gap in ("5m", timedelta(minutes=5))]
        assert users[0] == users[1] > 60

    @pytest.mark.medium
    def test_items_bring_titles_and_attributes(self) -> None:
        items = pl.DataFrame(
            {
                "product_id": range(ITEMS),
                "title": [f"Thing {n}" for n in range(ITEMS)],
                "price": np.arange(ITEMS) ** 1.5,
            }
        )
        found = wn.fit(shopping(), items=items, **SMALL)
        assert found.catalogue.names == ("price",)
        assert found.recommend([3, 4, 5], k=1).items[0].title == "Thing 6"

    @pytest.mark.medium
    def test_a_data_set_that_was_made_before(self) -> None:
        dataset = wn.Dataset.from_frame(shopping())
        found = wn.fit(dataset, **SMALL)
        assert ids(found.recommend([3, 4, 5], k=1)) == ["6"]
        for name, mine in vars(wn.Dataset.read(found.setup.data)).items():
            if isinstance(mine, np.ndarray):
                np.testing.assert_array_equal(mine, getattr(dataset, name))

    @pytest.mark.medium
    def test_a_file(self, tmp_path: Path, model: wn.Model) -> None:
        shopping().write_csv(tmp_path / "plays.csv")
        found = wn.fit(tmp_path / "plays.csv", **SMALL)
        assert found.catalogue.hash() == model.catalogue.hash()


@pytest.mark.medium
def test_an_attribute_that_tells_nothing_of_what_was_bought_bars_nothing_but_its_rewards() -> None:
    """Only what nobody bought is not sold here."""
    bought = shopping()["Product"].unique()
    items = pl.DataFrame({"Product": [*bought, ITEMS], "sold": [1.0] * len(bought) + [0.0]})
    model = wn.fit(shopping(), items=items, **SMALL)
    assert model.catalogue.constant == ["sold"]
    assert "spread@20" not in model.evaluate(baselines=["popular"])["agent"]
    with pytest.raises(SetupError, match=r"reward\.spread needs attributes"):
        wn.fit(shopping(), "reinforce", items=items, reward_spread_weight=1.0, **SMALL)


class TestRecommend:
    def test_it_learned_what_comes_next(self, model: wn.Model) -> None:
        for history in ([3, 4, 5], np.array([3, 4, 5]), torch.tensor([3, 4, 5]), pl.Series([3, 4, 5]), ("3", "4", "5")):
            assert ids(model.recommend(history, k=1)) == ["6"]

    def test_a_user_is_an_id_and_the_same_as_by_name(self, model: wn.Model) -> None:
        assert model.recommend(1003, k=4) == model.recommend(user="1003", k=4)

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("reads", "lacking", "called"),
        [
            ({"inputs_context": True}, None, ""),
            ({"inputs_rewards": True}, "reward", "Stars"),
            ({"inputs_gaps": True}, "time", "When"),
        ],
        ids=["context", "rewards", "gaps"],
    )
    def test_a_frame_of_events_says_all_that_the_model_reads(
        self, reads: dict[str, bool], lacking: str | None, called: str
    ) -> None:
        log = shopping().with_columns(shelf=pl.col("Product") % 7)
        log = log.with_columns((pl.col("Customer") * 31 % 11).cast(pl.Float64).alias("Wet") + pl.col("When") % 5)
        model = wn.fit(log, linear=False, **SMALL, **reads)
        known = model.recommend(log.select("Customer").unique(maintain_order=True).sort("Customer"), k=5)
        assert model.recommend(log, k=5).sort("user_id", "rank").equals(known)
        if lacking:
            with pytest.raises(
                DataError, match=rf"no column for the {lacking}, which the model reads .*call it '{called}'"
            ):
                model.recommend(log.drop(called), k=5)
        else:
            blind = model.recommend(log.drop("Wet", "Stars"), k=5).sort("user_id", "rank")
            assert not blind.equals(known)
            gaps = log.with_columns(pl.when(pl.col("Customer") > 1005).then("Wet").alias("Wet"))
            assert not model.recommend(gaps, k=5).is_empty()

    def test_a_frame_is_sorted_by_its_times_and_says_the_same_as_the_history(self, model: wn.Model) -> None:
        frame = pl.DataFrame({"Customer": ["new"] * 2, "Product": [3, 20], "When": [20, 10]})
        answer = model.recommend(frame, k=3)["item_id"].cast(pl.String).to_list()
        assert answer == ids(model.recommend([20, 3], k=3)) != ids(model.recommend([3, 20], k=3))

    def test_a_frame_of_users_alone_takes_their_histories(self, model: wn.Model) -> None:
        answer = model.recommend(pl.DataFrame({"Customer": [1003, 1001, 1003]}), k=2)
        assert answer["user_id"].to_list() == [1003, 1003, 1001, 1001]
        for user in (1003, 1001):
            mine = answer.filter(user_id=user)["item_id"].cast(pl.String).to_list()
            assert mine == ids(model.recommend(user, k=2))

    def test_blocked_items_are_left_out_of_frames_as_well(self, model: wn.Model) -> None:
        frame = pl.DataFrame({"user_id": ["new"] * 3, "item_id": [3, 4, 5]})
        assert model.recommend(frame, k=1, blocked=[6])["item_id"].to_list() != [6]

    @pytest.mark.parametrize(
        "kind", [*LIBRARIES.values(), lambda frame: frame.to_numpy(), lambda _: {"item_id": [6]}, lambda _: [[6]]]
    )
    def test_what_holds_ids_somewhere_within_is_no_list_of_ids(self, kind: Kind, model: wn.Model) -> None:
        strange = kind(pl.DataFrame({"item_id": [6]}))
        for how in ({"blocked": strange}, {"allowed": strange}):
            with unchecked(), pytest.raises(CatalogueError, match="found where"):
                model.recommend([3, 4, 5], **how)

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_of_no_events_the_answer_has_no_rows_and_the_usual_kinds_of_columns(
        self, library: str, model: wn.Model
    ) -> None:
        frames = [pl.DataFrame({"Customer": ["a"] * rows, "Product": [3] * rows}) for rows in (0, 1)]
        none, some = (model.recommend(LIBRARIES[library](frame)) for frame in frames)
        kinds = [list(map(str, nw.from_native(one).schema.values())) for one in (none, some)]
        assert len(none) == 0
        assert kinds[0][1:] == kinds[1][1:]  # users have the kind of those that were given

    def test_times_are_read_as_in_training_by_the_loaded_model_as_well(self, tmp_path: Path) -> None:
        days = pl.from_epoch("When").dt.strftime("%d/%m/%Y %H:%M")
        found = wn.fit(shopping().with_columns(days), time_format="dmy", **(SMALL | {"passes": 1}))
        doubtful = ["02/01/2024", "01/02/2024"]  # of January and February
        frame = pl.DataFrame({"Customer": ["a"] * 2, "Product": [4, 3], "When": doubtful})
        backwards = frame.with_columns(pl.Series("When", doubtful[::-1]))
        answer = found.recommend(frame)
        assert not answer.equals(found.recommend(backwards))
        loaded = wn.load(found.save(tmp_path))
        assert loaded.recommend(frame).equals(answer)
        (tmp_path / "frame.json").write_text("[]")
        with pytest.raises(ModelError, match=r"frame.json: is damaged"):
            wn.load(tmp_path)
        (tmp_path / "frame.json").unlink()  # as folders were before
        with pytest.raises(DataError, match="time_format='dmy'"):
            wn.load(tmp_path).recommend(frame.rename({"Customer": "user", "Product": "item", "When": "time"}))


def in_a_fork(act: Callable[[], Any]) -> Any:
    """What comes of it in a process that is forked, or is told there; None where it waits for ever."""
    here, there = get_context("fork").Pipe()

    def run() -> None:
        try:
            there.send(act())
        except WhatNextError as error:
            there.send(str(error))

    child = get_context("fork").Process(target=run)
    child.start()
    try:
        return here.recv() if here.poll(20) else None
    finally:
        child.kill()
        child.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("asked", [[3, 4, 5], 1003, "nobody"])
def test_a_process_that_is_forked_recommends_the_same(asked: Any, model: wn.Model) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # which a child does not have
    try:
        if asked == "nobody":
            assert "give a history" in in_a_fork(lambda: model.recommend(asked))
        else:
            assert in_a_fork(lambda: model.recommend(asked)) == model.recommend(asked)
    finally:
        torch.set_num_threads(threads)


NEED_POLARS: dict[str, Callable[[wn.Model, Any], object]] = {
    "fit": lambda _, log: wn.fit(log, **SMALL),
    "load": lambda model, _: wn.load(model.setup.model_agent_path),
    "evaluate": lambda model, _: model.evaluate(verbose=False, anew=True),
    "recommend": lambda model, log: model.recommend(log),
    "recommend_frame": lambda model, log: model.recommend_frame(log),
    "recommend_all": lambda model, _: model.recommend_all(),
    "looking for several users": lambda model, _: model.recommend_users([1003, 1001]),
    "Dataset.from_frame": lambda _, log: wn.Dataset.from_frame(log),
    "reading": lambda model, _: wn.Dataset.read(model.setup.data),
}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("what", NEED_POLARS)
def test_what_a_forked_process_would_wait_for_is_refused(what: str, model: wn.Model) -> None:
    log = LIBRARIES["pandas"](shopping())
    told = in_a_fork(lambda: NEED_POLARS[what](model, log))
    assert re.match(f"{what}.* would wait for ever in this process, .* spawn or forkserver", told)


@pytest.mark.medium
def test_a_process_that_was_forked_before_polars_worked_may_do_all(forked: Forked, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(shopping().write_csv().encode())
    code = (
        "import os, what_next as wn; wn.fit\n"
        "if child := os.fork(): raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        f"wn.fit('log.csv', **{SMALL | {'passes': 1}}).recommend(1003)"
    )
    assert forked.run(code=code, folder=tmp_path).returncode == 0


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "another device": lambda: torch.device("meta"),
}


@pytest.mark.medium
@pytest.mark.parametrize("mode", MODES)
def test_whatever_pytorch_is_set_to_all_is_the_same_then_and_later(mode: str, model: wn.Model, tmp_path: Path) -> None:
    saved, mine = model.save(tmp_path), model.recommend([3, 4, 5])
    with MODES[mode]():
        before = torch.empty(0)
        fitted, again = wn.fit(shopping(), **SMALL), wn.load(saved)
        for one in (fitted, again):
            assert len(one.recommend_all(2)) == 120
            assert one.recommend([3, 4, 5]) == mine
        assert "agent" in again.evaluate(baselines=(), verbose=False)
        after = torch.empty(0)
    assert again.recommend([3, 4, 5]) == mine
    kinds = [(one.dtype, one.device, one.is_inference()) for one in (before, after)]
    assert kinds[0] == kinds[1]


@pytest.mark.medium
def test_the_numbers_that_others_draw_go_on_as_if_nothing_was_trained(model: wn.Model, tmp_path: Path) -> None:
    saved = model.save(tmp_path)
    acts: list[Callable[[], object]] = [
        lambda: None,
        lambda: wn.fit(shopping(), **SMALL | {"passes": 1}),
        lambda: wn.load(saved),
        lambda: model.evaluate(baselines=(), anew=True, verbose=False),
    ]
    drawn = []
    for act in acts:
        torch.manual_seed(7)
        act()
        drawn.append(torch.rand(1).item())
    assert len(set(drawn)) == 1


class TestKeeping:
    def test_it_goes_to_other_processes_judged_or_not(self, model: wn.Model) -> None:
        results = model.evaluate(baselines=(), verbose=False)
        again = pickle.loads(pickle.dumps(model))
        assert again.recommend([3, 4, 5]) == model.recommend([3, 4, 5])
        assert dict(pickle.loads(pickle.dumps(results))) == dict(results)

    def test_saved_and_loaded_it_is_the_same(self, model: wn.Model, tmp_path: Path) -> None:
        again = wn.load(model.save(tmp_path / "models"))
        assert again.recommend([3, 4], k=5) == model.recommend([3, 4], k=5)
        assert again.recommend(1003) == model.recommend(1003)
        one, other = (found.evaluate(baselines=(), verbose=False) for found in (again, model))
        assert dict(one) == dict(other)
        model.save(tmp_path / "models")  # once more over itself

    def test_the_command_line_takes_the_folder(self, model: wn.Model, tmp_path: Path) -> None:
        model.save(tmp_path)
        read = wn.Setup.read(tmp_path / "setup.txt")
        trained = wn.load(tmp_path).setup.model_copy(update={"train": True})
        assert read == trained
        assert "temp" not in (tmp_path / "setup.txt").read_text()

    def test_a_folder_of_ones_own_is_not_written_over_by_another_algorithm(self, tmp_path: Path) -> None:
        one = wn.fit(shopping(), folder=tmp_path, **(SMALL | {"passes": 1}))
        before = (tmp_path / "data.parquet").read_bytes()
        with pytest.raises(ModelError, match="give another folder, or overwrite=True"):
            wn.fit(shopping(seed=1), "sqn", folder=tmp_path, **(SMALL | {"passes": 1}))
        assert (tmp_path / "data.parquet").read_bytes() == before
        assert wn.load(tmp_path).recommend([1, 2]) == one.recommend([1, 2])

    @pytest.mark.medium
    @pytest.mark.parametrize("end", ["are gone", "holds another model now"])
    def test_whose_files_are_another_models_or_none_is_refused_and_shows_what_it_is(
        self, end: str, tmp_path: Path
    ) -> None:
        one = wn.fit(shopping(), folder=tmp_path / "here", **SMALL)
        shown = repr(one).partition("; kept in")
        if end == "are gone":
            rmtree(tmp_path / "here")
        else:
            wn.fit(shopping(), folder=tmp_path / "here", **SMALL | {"passes": 1, "seed": 2})
        for act in (lambda: one.save(tmp_path / "there"), lambda: one.evaluate(verbose=False), one.report):
            with pytest.raises(ModelError, match=f"{end}.* again"):
                act()
        assert not (tmp_path / "there").exists()
        assert repr(one).partition("; kept in") == (*shown[:2], " no file any more)")

    def test_whose_file_a_resumed_run_wrote_anew_is_refused(self, tmp_path: Path) -> None:
        one = wn.fit(shopping(), folder=tmp_path, **SMALL | {"passes": 1})
        checkpoint.conclude(one.policy.agent, {"hr@10": 1.0})
        with pytest.raises(ModelError, match="holds another model now"):
            one.save(tmp_path / "there")

    def test_pickled_before_it_knew_its_file_it_still_recommends(self, model: wn.Model, tmp_path: Path) -> None:
        saved = wn.load(model.save(tmp_path / "saved"))
        shown = repr(saved)
        del saved.manifest
        pickled = pickle.dumps(saved)
        assert repr(pickle.loads(pickled)) == shown
        rmtree(tmp_path / "saved")
        again = pickle.loads(pickled)
        assert again.recommend([3, 4, 5]) == model.recommend([3, 4, 5])
        assert repr(again).endswith("kept in no file any more)")
        with pytest.raises(ModelError, match="are gone"):
            again.save(tmp_path)

    @pytest.mark.medium
    def test_data_are_not_written_over_by_others_of_the_same_items(self, model: wn.Model, tmp_path: Path) -> None:
        how: dict[str, Any] = {"folder": tmp_path / "fit", **SMALL, "passes": 1}
        others = shopping().with_columns(pl.col("Customer") + 1)
        for _ in range(2):  # a cell that is run again
            wn.fit(shopping(), **how)
        saved = model.save(tmp_path / "saved")
        for act in (lambda: wn.fit(others, **how), lambda: wn.fit(others, **SMALL | {"passes": 1}).save(saved)):
            with pytest.raises(ModelError, match=r"data\.parquet: holds other data.*overwrite=True"):
                act()
        wn.fit(others, overwrite=True, **how)
        assert 1000 not in wn.load(tmp_path / "fit").state.dataset.user_ids

    def test_saved_without_its_data_it_leaves_none_of_before(self, model: wn.Model, tmp_path: Path) -> None:
        model.save(tmp_path)
        with pytest.raises(ModelError, match=r"data\.parquet: .* without data; .*overwrite=True"):
            model.save(tmp_path, data=False)
        (tmp_path / "setup.txt").write_text("# my own\n")
        model.save(tmp_path, data=False, overwrite=True)
        assert not list(tmp_path.glob("data*"))
        assert (tmp_path / "setup.txt").read_text() == "# my own\n"
        assert wn.load(tmp_path).recommend([3, 4]) == model.recommend([3, 4])

    @pytest.mark.medium
    def test_a_tilde_is_the_home(self, model: wn.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert model.save("~/saved") == tmp_path / "saved"
        assert wn.load("~/saved").recommend([3, 4]) == model.recommend([3, 4])
        assert wn.fit(shopping(), folder="~", **SMALL | {"passes": 1}).setup.data == tmp_path / "data.parquet"

    def test_without_its_data_it_recommends_after_histories_alone(self, model: wn.Model, tmp_path: Path) -> None:
        alone = wn.load(model.save(tmp_path, data=False))
        assert alone.recommend([3, 4, 5]) == model.recommend([3, 4, 5])
        with pytest.raises(CatalogueError, match="loaded without a log"):
            alone.recommend(1003)
        with pytest.raises(ModelError, match="saved without its data"):
            alone.evaluate()

    @pytest.mark.medium
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_temporary_folder_goes_with_its_model(self, recwarn: pytest.WarningsRecorder) -> None:
        found = [wn.fit(shopping(), **(SMALL | {"passes": 1}))]
        folder = found[0].setup.model_agent_path.parent
        pickle.loads(pickle.dumps(found[0]))
        in_a_fork(found.clear)
        assert folder.is_dir()
        found.clear()
        assert not folder.exists()
        assert not [one for one in recwarn if one.category is ResourceWarning]


class Liked(Algorithm):
    """Cross entropy of what came next, weighted by the reward."""

    name: Literal["liked_here"] = "liked_here"
    temperature: float = 1.0
    updates: ClassVar[Mapping[str, tuple[str, ...]]] = {"actor": ("encoder", "actor")}

    def losses(self, context: LossContext[Transitions]) -> dict[str, Tensor]:
        return {"actor": context.cross_entropy((context.batch.rewards / self.temperature).exp().clamp(max=20.0))}


@pytest.mark.medium
def test_an_algorithm_of_ones_own_is_trained_judged_saved_and_loaded(tmp_path: Path) -> None:
    model = wn.fit(shopping(), Liked(temperature=2.0), **SMALL)
    assert "agent" in model.evaluate(baselines=(), verbose=False)
    model.save(tmp_path)
    assert not (tmp_path / "setup.txt").exists()  # no file can name it
    again = wn.load(tmp_path, algorithm=Liked)
    assert again.setup.algorithm == Liked(temperature=2.0)
    assert again.recommend([3, 4, 5]) == model.recommend([3, 4, 5])
    with pytest.raises(ModelError, match="algorithm=Class"):
        wn.load(tmp_path)


class WithSpare(Liked):
    """Has a network that no loss updates."""

    def networks(self, *given: Any) -> dict[str, torch.nn.Module]:
        return {**super().networks(*given), "spare": torch.nn.Linear(3, 3)}


def test_a_network_that_no_loss_updates_is_saved_too(tmp_path: Path) -> None:
    wn.fit(shopping(), WithSpare(), folder=tmp_path, **SMALL | {"passes": 1})
    assert wn.load(tmp_path, algorithm=WithSpare).recommend([1, 2], k=3)


class TestWhileItTrains:
    @pytest.mark.medium
    def test_each_step_and_save_is_told(self) -> None:
        steps, saves = [], []
        found = wn.fit(shopping(), on_step=steps.append, on_save=saves.append, **SMALL)
        assert found.training is not None
        assert tuple(steps) == found.training.steps
        assert saves[-1]["ndcg@10"] > 0.9

    def test_a_step_that_says_so_ends_it_and_the_model_is_the_best_so_far(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        seen = []
        found = wn.fit(
            shopping(), on_step=lambda step: seen.append(step) or len(seen) == 70, **SMALL | {"verbose": True}
        )
        assert len(seen) == 70
        assert found.training is not None
        assert found.training.stopped
        assert len(found.recommend([3, 4], k=5).items) == 5
        assert "this is the best so far" in capsys.readouterr().out

    def test_an_interrupt_gives_the_model_back(self) -> None:
        seen = []

        def interrupt(step: object) -> None:
            seen.append(step)
            if len(seen) == 70:
                signal.raise_signal(signal.SIGINT)

        found = wn.fit(shopping(), on_step=interrupt, **SMALL)
        assert len(seen) == 70
        assert len(found.recommend([3, 4], k=5).items) == 5

    @pytest.mark.medium
    def test_nothing_is_printed_where_nobody_wants_it(self, capfd: pytest.CaptureFixture[str]) -> None:
        wn.fit(shopping(), **(SMALL | {"passes": 1}))
        printed = capfd.readouterr()
        assert (printed.out, printed.err) == ("", "")


def test_what_is_shown_is_short_and_escaped(model: wn.Model) -> None:
    results = model.evaluate(baselines=("popular",), verbose=False)
    found = model.recommend([3, 4, 5], k=2)
    assert repr(found) == "What next for the given history?\n1. 6 (6)\n2. 7 (7)"
    assert "agent" in repr(results)
    assert "<svg" in results._repr_html_()
    for thing in (model, found, results, model.state.dataset):
        assert len(repr(thing).splitlines()) < 12
        assert thing._repr_html_().count("<table") == 1
    odd = wn.Recommendation("<b>", ("<i>",), {}, ())
    assert "<b>" not in odd._repr_html_()
    assert "<i>" not in odd._repr_html_()


def test_a_result_is_read_by_policy_and_metric(model: wn.Model) -> None:
    results = model.evaluate(baselines=("popular",), verbose=False)
    assert results["agent"]["ndcg@10"]["mean"] > results["popular"]["ndcg@10"]["mean"]
    row = results.frame().filter(policy="agent", metric="ndcg@10").row(0, named=True)
    assert {name: row[name] for name in ("mean", "low", "high", "n")} == results["agent"]["ndcg@10"]
    assert model.evaluate(baselines=["popular"], verbose=False) is results  # judged once
    none = model.evaluate(baselines=[], verbose=False)
    assert none is model.evaluate(baselines=(), verbose=False)
    assert "popular" not in none


@pytest.mark.medium
def test_the_report_is_a_page_that_a_notebook_shows(model: wn.Model, tmp_path: Path) -> None:
    page = model.report(tmp_path / "page.html", verbose=False)
    assert "<!doctype html>" in page.path.read_text()
    assert page._repr_html_().startswith("<iframe srcdoc=")


REFUSED: dict[str, tuple[Callable[[wn.Model, pl.DataFrame], object], type[WhatNextError], str]] = {
    "an empty history": (lambda model, _: model.recommend([]), CatalogueError, "the history is empty; give the ids"),
    "an unknown user": (lambda model, _: model.recommend("who"), CatalogueError, "give a history of item ids instead"),
    "nobody": (lambda model, _: model.recommend(), CatalogueError, "give a user, or a history"),
    "k of 0": (lambda model, _: model.recommend([3], k=0), DataError, "k is 0"),
    "a frame of items": (
        lambda model, log: model.recommend(log.select("Product", "Stars")),
        DataError,
        "no column for the user; it has Product, Stars; call it 'Customer'",
    ),
    "bytes that are no text": (
        lambda model, _: model.recommend(pl.DataFrame({"Customer": [b"\xff"], "Product": [3]})),
        DataError,
        "column 'Customer' holds bytes that are no text in UTF-8",
    ),
    "k of 0 for all": (lambda model, _: model.recommend_all(0), DataError, "k is 0"),
    "k of 0 for some": (lambda model, _: model.recommend_users([1003], 0), DataError, "k is 0"),
    "a word for seen": (lambda model, _: model.recommend([3], seen="no"), DataError, "seen is 'no'; expected True"),
    "users for one": (lambda model, _: model.recommend(user=[1003, 1001]), DataError, "one id; recommend_users"),
    "a mapping for a frame": (lambda model, _: model.recommend_frame({"a": 1}), DataError, "dict found where a frame"),
    "a frame for a data set": (lambda _, log: wn.load(".", log), DataError, "what_next.Dataset.from_frame"),
    "no path": (lambda _, __: wn.load(None), DataError, "None is found where a path is expected"),
    "nobody's home": (lambda model, _: model.save("~nobody here/x"), DataError, "where a path is expected"),
    "data of other items": (
        lambda model, log: wn.load(
            model.setup.model_agent_path.parent, wn.Dataset.from_frame(log.with_columns(pl.col("Product") + 1))
        ),
        CatalogueError,
        "train on these data with what_next.fit$",
    ),
    "a column of another role": (
        lambda _, log: wn.fit(log, user="Product"),
        DataError,
        r"no column for the item \('Product' is the user already\); found",
    ),
    "processes": (lambda _, log: wn.fit(log, cluster="ray"), SetupError, "cluster is 'ray'.*leave it out"),
    "a lazy frame": (lambda model, log: model.recommend(log.lazy()), DataError, "collect it"),
    "an event without a time": (
        lambda model, _: model.recommend(pl.DataFrame({"user": [1] * 3, "item": [3, 4, 5], "time": [1, None, 2]})),
        DataError,
        r"column 'time' holds None in row 2, which is not a time \(1 of 3 rows\)",
    ),
    "no time at all": (
        lambda model, _: model.recommend(pl.DataFrame({"user": [1, 1], "item": [3, 4], "time": ["x", "y"]})),
        DataError,
        "holds 'x' in row 1, which is not a time",
    ),
    "an array without an axis": (lambda model, _: model.recommend(np.array("3")), CatalogueError, "give a list"),
    "a number that draws nothing": (lambda model, _: model.recommend([3], rng=-1), DataError, "rng is -1; expected"),
    "a word that draws nothing": (lambda model, _: model.recommend([3], rng="a"), DataError, "rng is 'a'; expected"),
    "a user beside a frame": (lambda model, log: model.recommend(log, user=1), DataError, "users of its own"),
    "a baseline that there is not": (
        lambda model, _: model.evaluate(baselines=["best"]),
        DataError,
        "there are random",
    ),
    "the word for no baselines": (lambda model, _: model.evaluate(baselines="none"), DataError, r"\(\) is for none$"),
    "an algorithm's name where its class is meant": (
        lambda model, _: wn.load(model.setup.model_agent_path, algorithm="sqn"),
        SetupError,
        "algorithm is 'sqn'; expected the class of an algorithm of your own; leave it out",
    ),
    "a mistyped setting": (
        lambda _, log: wn.fit(log, learning_rat=1),
        SetupError,
        "fit: there is no setting 'learning_rat'; the nearest is 'learning_rate'",
    ),
    "a setting out of range": (lambda _, log: wn.fit(log, seed=-1), SetupError, "fit: seed is -1; allowed"),
    "a mistyped setting of an object": (
        lambda _, __: wn.algorithms.Sqn(wieght=0.3),
        SetupError,
        "Sqn: there is no setting 'wieght'; the nearest is 'weight'; allowed: name, weight, tau",
    ),
    "a setting of an object that is out of range": (
        lambda _, __: wn.algorithms.Sqn(weight=-1),
        SetupError,
        "Sqn: weight is -1: Input should be greater than or equal to 0",
    ),
    "an unknown algorithm": (lambda _, log: wn.fit(log, "sqm"), SetupError, "algorithm is 'sqm'; allowed"),
    "a setting of an object": (
        lambda _, log: wn.fit(log, Liked(), **{"algorithm.temperature": 1}),
        SetupError,
        "give it to the object",
    ),
    "no attributes": (
        lambda _, log: wn.fit(log, "whatnext", verbose=False),
        DataError,
        r"give the log's own \(attributes=...\) or a frame of items \(items=...\)",
    ),
    "no item": (
        lambda _, log: wn.fit(log.drop("Product")),
        DataError,
        "for the item.*name it with item=...$",
    ),
    "a number for a column": (lambda _, log: wn.fit(log, user=5), DataError, r"no column '5' \(from user=...\)"),
    "a gap without a unit": (lambda _, log: wn.fit(log, session_gap=30), DataError, "such as '30m'"),
    "a filling that there is not": (lambda _, log: wn.fit(log, fill="mean"), DataError, "expected median"),
    "one id for many": (lambda model, _: model.recommend([3], blocked="45"), CatalogueError, "give a list of item ids"),
    "a part that there is not": (lambda model, _: model.evaluate("train"), DataError, "expected validation or test"),
    "a column that there is not": (lambda _, log: wn.fit(log, user="Kunde"), DataError, r"\(from user=...\)"),
    "two meanings of a date": (
        lambda _, log: wn.fit(log.with_columns(When=pl.lit("01/02/2024"))),
        DataError,
        r"time_format='dmy' \(European\) or mdy \(US\), or ymd$",
    ),
    "a date as a number": (
        lambda _, log: wn.fit(log.with_columns(When=pl.lit(20240201))),
        DataError,
        "give time_format='%Y%m%d', or time_format='s' if",
    ),
    "no rows": (lambda _, log: wn.fit(log.head(0)), DataError, "is empty: no rows"),
    "no frame": (lambda _, log: wn.fit([1, 2]), DataError, "list found where a frame.* is expected$"),
    "a lazy frame to learn from": (
        lambda _, log: wn.fit(log.lazy()),
        DataError,
        "LazyFrame found where.* is expected; collect it first",
    ),
    "a gap that is none": (
        lambda _, log: wn.fit(log, session_gap="30 beers"),
        DataError,
        "session_gap='30 beers': exp",
    ),
    "nothing": (lambda _, log: wn.fit(None), DataError, "NoneType found where a frame"),
    "a folder without a model": (lambda _, log: wn.load("."), ModelError, "holds no model"),
    "a file that there is not": (lambda _, log: wn.load("gone"), ModelError, "train one with what_next.fit"),
}


def test_columns_that_are_numbers_are_named_by_numbers_and_a_text_alone_is_one_name() -> None:
    frame = pd.DataFrame([["NA", "x", 1, 0.5], ["N", "y", 2, 0.7], ["A", "x", 3, 0.6]])
    with unchecked():
        found = wn.Dataset.from_frame(frame, user=0, item=np.int64(1), time=2, context="3", missing="NA")
    assert found.user_ids.to_list() == ["A", "N"]  # which are parts of what is no id
    assert list(found.context_names) == ["3"]


@pytest.mark.parametrize("what", REFUSED)
def test_a_mistake_is_told_in_pythons_words(what: str, model: wn.Model) -> None:
    act, kind, told = REFUSED[what]
    with unchecked(), pytest.raises(kind, match=told) as raised:
        act(model, shopping())
    assert "--" not in str(raised.value)
    assert "what-next " not in str(raised.value)


def test_ids_of_pandas_columns_with_gaps_are_those_of_whole_numbers(model: wn.Model) -> None:
    user = model.state.dataset.user_ids[0]
    assert model.recommend(float(user), 3) == model.recommend(user, 3)
    assert model.recommend([3.0, np.float32(4)], 3).items == model.recommend([3, 4], 3).items


def test_more_than_there_is_are_all(model: wn.Model) -> None:
    assert model.recommend([3, 4], 2**40).items == model.recommend([3, 4], ITEMS).items


def test_a_frame_of_pandas_stays_as_it_is_and_may_hold_what_arrow_lacks() -> None:
    frame = pd.DataFrame({0: ["a", "b", "a"], 1: pd.arrays.SparseArray([0, 1, 1]), 2: [1j, 2j, 3j]})
    found = to_polars(frame)
    assert found.rows() == [("a", 0, "1j"), ("b", 1, "2j"), ("a", 1, "3j")]
    assert frame.columns.to_list() == [0, 1, 2]
    frame[0] = pd.Series(["a", "b\udcff", "c"], dtype=object)
    with pytest.raises(DataError, match=r"column '0': .* is no text that UTF-8 can hold"):
        to_polars(frame)


def test_ids_in_bytes_are_texts_and_what_is_no_id_is_told(model: wn.Model) -> None:
    frame = pl.DataFrame({"user": ["a", "a"], "item": ["3", "4"]})
    asked = model.recommend(frame.with_columns(pl.col("item").cast(pl.Binary)), 2)
    assert asked.equals(model.recommend(frame, 2))
    objects = pl.DataFrame({"user": ["a", "b"], "item": pl.Series([object(), object()], dtype=pl.Object)})
    for strange in (objects, pd.DataFrame({"user": ["a", "b"], "item": pd.cut(np.arange(2), 2)})):
        with pytest.raises(DataError, match=r"column 'item' holds .*, which cannot be an id"):
            wn.fit(strange, **SMALL)


@pytest.mark.parametrize(("columns", "told"), [(["user", "item", "user"], "'user' 2 times"), (["a", "b"], "no column")])
def test_columns_that_cannot_be_told_apart_are_refused(columns: list[str], told: str) -> None:
    with pytest.raises(DataError, match=told):
        wn.fit(pd.DataFrame([list(range(len(columns)))], columns=columns))


@pytest.mark.medium
def test_the_page_judges_recommendations_of_another_program_on_the_same_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()
    page = page[page.index("## A model of your own") : page.index("## The report")]
    given, judged = re.findall(r"```text\n(.*?)```", page, re.S)
    monkeypatch.chdir(tmp_path)
    model = wn.fit(shopping(), folder=tmp_path, **SMALL)
    names: dict[str, Any] = {}
    exec(compile(given, "docs/evaluation.md", "exec"), names)
    # What training knows: all but the last two events of each; what is to be answered: all but the last.
    users, events = 60, len(shopping())
    assert [pl.read_csv(one).height for one in ("learn.csv", "histories.csv")] == [events - 2 * users, events - users]
    answers = model.recommend(pl.read_csv("histories.csv").select("user_id", "item_id", "timestamp"), k=10)
    answers.select("user_id", "item_id", "rank").write_csv("mine.csv")
    exec(compile(judged, "docs/evaluation.md", "exec"), names)
    agent = model.evaluate(baselines=(), verbose=False)["agent"]["ndcg@10"]
    assert names["means"]["mine"]["ndcg@10"] == names["means"]["What Next?"]["ndcg@10"] == agent
    assert names["differences"]["mine - What Next?"]["ndcg@10"]["high"] == 0


@pytest.mark.medium
def test_what_is_warned_of_in_a_frame_is_told_in_pythons_words(capsys: pytest.CaptureFixture[str]) -> None:
    wn.fit(shopping().drop("When"), **SMALL | {"verbose": True, "passes": 1})
    told = capsys.readouterr().out
    assert "numbers them, with time=..., or say time='' if there is none" in told
    assert "data import" not in told


def test_what_is_told_while_it_trains_is_in_pythons_words_too(capsys: pytest.CaptureFixture[str]) -> None:
    told = "`linear, no` leaves it out"
    wn.fit(shopping(), **SMALL | {"passes": 1}, on_step=lambda step: Lines().print(told))
    assert "`linear=False` leaves it out" in capsys.readouterr().err
    Lines().print(told)
    assert capsys.readouterr().err == f"{told}\n"


def test_what_is_to_be_known_of_results_stands_below_them_in_pythons_words() -> None:
    """Everybody ends with what they began with, which is not recommended again."""
    events = [(f"u{user}", f"i{item}") for user in range(8) for item in (user, 9, 8, user)]
    frame = pl.DataFrame(events, ["user", "item"], orient="row")
    results = wn.fit(frame, **SMALL | {"passes": 1}, time="").evaluate(baselines=(), verbose=False)
    (vain,) = (one for one in results.notes if "compares nothing" in one)
    assert vain.endswith("; take `evaluation_seen=True`")
    assert f"\nnote: {vain}" in repr(results)
    assert vain in results._repr_html_()


@pytest.mark.parametrize(("given", "seen"), [({}, True), ({"evaluation_seen": False}, False)])
def test_where_most_events_are_repeats_known_items_are_recommended(
    given: dict[str, Any], seen: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `what-next init` has it."""
    events = [(f"u{user}", f"i{user % 3 + step % 2}") for user in range(12) for step in range(8)]
    frame = pl.DataFrame(events, ["user", "item"], orient="row")
    model = wn.fit(frame, **SMALL | {"passes": 1, "verbose": True} | given, time="")
    assert model.setup.evaluation.seen == seen
    assert ("evaluation_seen True: 75% of the events" in capsys.readouterr().out) == seen
    assert len(model.recommend(["i0", "i1"], k=4).items) == (4 if seen else 2)


def test_no_events_with_times_get_no_recommendations(model: wn.Model) -> None:
    found = model.recommend(LIBRARIES["polars"](shopping()).head(0))
    assert isinstance(found, pl.DataFrame)
    assert found.columns == ["user_id", "rank", "item_id", "title"]
    assert not len(found)


@pytest.mark.parametrize("settings", [{"algorithm": "ppo"}, {"algorithm": "dqn", "world": "choice"}])
def test_an_algorithm_that_acts_is_not_fitted_to_data(settings: dict[str, Any]) -> None:
    events = pl.DataFrame({"user": ["a", "a", "b", "b"], "item": ["x", "y", "x", "z"]})
    with pytest.raises(SetupError, match=r"learns by acting in a world here.*train it by wn.simulate\(setup, world\)"):
        wn.fit(events, settings.pop("algorithm"), verbose=False, **settings)
