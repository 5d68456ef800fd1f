"""`skip`: in logs of short histories the last item goes straight into the state; a model stays what it was built as."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import what_next as wn
from what_next import Environment, Setup, State
from what_next.training.artefacts import read_models


def log(folder: Path, events: int) -> Path:
    """Twenty users who walk round a circle of ten items."""
    rows = [(user, (user + step) % 10, step) for user in range(20) for step in range(events)]
    path = folder / "log.csv"
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(path)
    return path


def setup(folder: Path, data: Path, *overrides: str) -> Setup:
    text = f"train, yes, data, {data}, algorithm, next_item, dim, 8, passes, 1, split, leave_last_out, "
    return Setup.from_text(text + "model_agent_path, agent.safetensors", folder, overrides)


def built_with_skip(path: Path) -> bool:
    return "encoder.skip.weight" in read_models(path).tensors


@pytest.mark.parametrize(("skip", "mean", "events", "passed"), [
    ("auto", 20.0, 40, True), ("auto", 20.1, 199_999, False), ("auto", 20.1, 200_000, True), ("auto", 0.0, 0, False),
    ("yes", 100.0, 40, True), ("no", 5.0, 200_000, False),
])  # fmt: skip
def test_histories_and_the_log_decide_unless_it_is_set(
    tmp_path: Path, skip: str, mean: float, events: int, passed: bool
) -> None:
    made = setup(tmp_path, log(tmp_path, 4), f"skip={skip}")
    counts = np.full(10, events / 10).astype(np.int32)
    counts[0] += events - counts.sum()
    assert made.skips(replace(State.from_setup(made).space, counts=counts, events_per_user=mean)) is passed


@pytest.mark.parametrize(("asked", "events", "items", "share"), [
    ("none", 199_999, 2, 0.5), ("none", 200_000, 2, 0.3),
    ("none", 200_000, 20_000, 0.3), ("none", 200_000, 20_001, 0.5),
    ("0.1", 199_999, 2, 0.1), ("0", 200_000, 2, 0.0),
])  # fmt: skip
def test_less_is_dropped_in_a_large_log(tmp_path: Path, asked: str, events: int, items: int, share: float) -> None:
    made = setup(tmp_path, log(tmp_path, 8), f"dropout={asked}")
    space = State.from_setup(made).space
    counts = np.ones(items, np.int32)
    counts[0] += events - items
    assert made.dropped(replace(space, counts=counts)) == share


def test_training_says_that_less_is_dropped_in_a_large_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("what_next.settings.setup.LARGE", 40)
    monkeypatch.setattr("what_next.sources.log.LARGE", 40)
    environment = Environment.from_setup(setup(tmp_path, log(tmp_path, 8)))
    environment.run_sim()
    assert environment.agent.nets["encoder"].sizes.dropout == 0.3
    assert "dropout 0.3: the log has at least 40 training events, and 10 of an item on average" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(("asked", "events", "share"), [
    ("none", 20.0, 0.1), ("none", 20.1, 0.0), ("none", 0.0, 0.0), ("0.3", 100.0, 0.3), ("0", 5.0, 0.0),
])  # fmt: skip
def test_it_also_decides_whether_items_are_read_as_unknown(asked: str, events: float, share: float) -> None:
    text = f"train, no, data, -, algorithm, next_item, model_agent_path, a.safetensors, item_dropout, {asked}"
    assert Setup.from_text(text).unknown(events) == share


@pytest.mark.parametrize(("events", "passed"), [(8, True), (30, False)])
def test_training_decides_by_its_log_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], events: int, passed: bool
) -> None:
    made = setup(tmp_path, log(tmp_path, events))
    Environment.from_setup(made).run_sim()
    assert built_with_skip(made.model_agent_path) is passed
    mean = events - 2  # the last two events are held back
    compared = "at most 20" if passed else "more than 20"
    assert f"{mean:.1f} events on average, {compared}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.medium
@pytest.mark.parametrize("first", ["yes", "no"])
def test_a_model_stays_what_it_was_built_as(tmp_path: Path, first: str) -> None:
    """Loaded, resumed, and as the origin of another, whatever the setup leaves to the data or says by then."""
    data = log(tmp_path, 8)
    made = setup(tmp_path, data, f"skip={first}")
    Environment.from_setup(made).run_sim()
    other = "no" if first == "yes" else "yes"
    for skip in ("auto", other):
        again = setup(tmp_path, data, f"skip={skip}", "passes=2")
        Environment.from_setup(again, resume=True).run_sim()
        assert built_with_skip(made.model_agent_path) is (first == "yes")
    state = wn.State.open(made, origin=made.model_agent_path)
    grown = setup(tmp_path, data, "model_agent_path=grown.safetensors")
    Environment(wn.Agent(grown, state.space), state, grown, origin=made.model_agent_path).run_sim()
    assert built_with_skip(tmp_path / "grown.safetensors") is (first == "yes")
    before = wn.load(made.model_agent_path).recommend(history=["1", "2"], k=3)
    session = wn.load(tmp_path / "grown.safetensors").recommend(history=["1", "2"], k=3)
    assert len({one.item_id for one in before.items}) == len({one.item_id for one in session.items}) == 3


@pytest.mark.medium
def test_a_short_chain_is_learned_sooner(tmp_path: Path) -> None:
    """After equally many steps, the item that always follows is surer of its place where the last one is passed on."""
    data = log(tmp_path, 8)
    found = {}
    for skip in ("yes", "no"):
        made = setup(tmp_path, data, f"skip={skip}", "passes=15", f"model_agent_path={skip}.safetensors", "dropout=0")
        report = Environment.from_setup(made).run_sim()
        found[skip] = np.mean([step.losses["actor"] for step in report.steps[-5:]])
    assert found["yes"] < 0.9 * found["no"]


def songs(events: int) -> wn.Dataset:
    """Twenty users who each hear four songs of their own; training has each song `events` times."""
    rows = [(user, user * 4 + step % 4, step) for user in range(20) for step in range(4 * events + 2)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(80), "tempo": np.random.default_rng(0).normal(size=80)})
    return wn.Dataset.from_frame(log, items, name="songs")


@pytest.mark.medium
@pytest.mark.parametrize(("events", "both"), [(5, True), (6, False)])
def test_attributes_are_read_where_items_are_rare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], events: int, both: bool
) -> None:
    """By default, and the model stays so where it is loaded and where its run goes on."""
    made, dataset = setup(tmp_path, Path("-"), "skip=no"), songs(events)
    for passes, resume in ((1, False), (2, True)):
        setting = made.model_copy(update={"passes": passes})
        state = wn.State(dataset, setting)
        report = Environment(wn.Agent(setting, state.space), state, setting, resume=resume).run_sim()
        assert round(report.passes) == passes
        assert ("encoder.items.map" in read_models(made.model_agent_path).tensors) is both
        assert ("inputs.items both" in " ".join(capsys.readouterr().err.split())) is both
    assert len(wn.load(made.model_agent_path).recommend(history=["1", "2"], k=3).items) == 3


@pytest.mark.parametrize(("new", "made_of"), [(0.4, "learned"), (0.6, "attributes")])
def test_attributes_alone_are_read_where_most_of_what_is_to_be_told_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], new: float, made_of: str
) -> None:
    """Twenty songs that everybody hears; then a song of their own, which some of them had before."""
    rows = [(user, item, step) for user in range(20) for step, item in enumerate(range(20))]
    rows += [(user, 20 + user if user < 20 * new else user, 20) for user in range(20)]
    rows += [(user, 0, 21) for user in range(20)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(40), "tempo": np.random.default_rng(0).normal(size=40)})
    made = setup(tmp_path, Path("-"), "skip=no")
    state = wn.State(wn.Dataset.from_frame(log, items, name="new"), made)
    assert state.space.cold == pytest.approx(new)
    Environment(wn.Agent(made, state.space), state, made).run_sim()
    assert ("encoder.items.learned" not in read_models(made.model_agent_path).tensors) is (made_of == "attributes")
    said = f"inputs.items attributes: the items of {new:.0%} of the validation targets" in capsys.readouterr().err
    assert said is (made_of == "attributes")


def test_who_comes_with_a_single_event_does_not_make_what_is_judged_new(tmp_path: Path) -> None:
    rows = [(user, (user + step) % 10, step) for user in range(20) for step in range(20)]
    rows += [(20 + user, 10 + user, 12) for user in range(60)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": range(70), "tempo": np.random.default_rng(0).normal(size=70)})
    made = setup(tmp_path, Path("-"), "split=time", "split.quantile=0.8", "split.validation=0.5")
    assert wn.State(wn.Dataset.from_frame(log, items, name="newcomers"), made).space.cold == 0


@pytest.mark.medium
def test_weights_made_of_attributes_are_trained_on_where_nothing_is_new_any_more(tmp_path: Path) -> None:
    """The model stays what it was built as, whatever the log would decide now."""
    items = pl.DataFrame({"item_id": range(40), "tempo": np.random.default_rng(0).normal(size=40)})
    for name, first in (("cold", 20), ("warm", 0)):
        rows = [(user, item, step) for user in range(20) for step, item in enumerate(range(20))]
        rows += [(user, (first + user) % 40, 20) for user in range(20)] + [(user, 0, 21) for user in range(20)]
        log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
        made = setup(tmp_path / name, Path("-"), "skip=no")
        state = wn.State(wn.Dataset.from_frame(log, items, name=name), made)
        assert (state.space.cold > 0.5) is (name == "cold")
        origin = None if name == "cold" else tmp_path / "cold" / "agent.safetensors"
        Environment(wn.Agent(made, state.space), state, made, origin=origin).run_sim()
        assert "encoder.items.learned" not in read_models(made.model_agent_path).tensors


@pytest.mark.parametrize(("again", "said"), [(True, True), (False, False)])
def test_where_people_repeat_themselves_it_is_said_that_repeats_are_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], again: bool, said: bool
) -> None:
    rows = [(user, (user + step) % (4 if again else 40), step) for user in range(20) for step in range(12)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "log.csv")
    Environment.from_setup(setup(tmp_path, tmp_path / "log.csv")).run_sim()
    assert ("of 100% of the validation users" in " ".join(capsys.readouterr().err.split())) is said
