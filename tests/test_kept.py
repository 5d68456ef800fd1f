"""What baselines came to is kept beside the data: used again for the same question, and never for another."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from what_next import Setup
from what_next.cli import main
from what_next.experiments import evaluate_next
from what_next.experiments.baselines import Search
from what_next.experiments.kept import Shelf
from what_next.experiments.next_items import evaluator_of, rules
from what_next.settings import Evaluation
from what_next.state import State

from .conftest import SetupOf

TUNED = ["popular_recent", "markov", "item_knn", "ease", "slim"]
Asked = list[tuple[str, str]]


@pytest.fixture
def setup(setup_of: SetupOf, log_file: Path, tmp_path: Path) -> Setup:
    """Of a copy of the log, beside which nothing is kept."""
    for file in log_file.parent.glob("*.parquet"):
        shutil.copy(file, tmp_path)
    return setup_of(tmp_path, algorithm="next_item", data=tmp_path / log_file.name, passes=1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What was chosen, and what was fitted at settings that are known, since it was last emptied."""
    calls: Asked = []
    best, fitted = Search.best, Search.fitted
    monkeypatch.setattr(Search, "best", lambda self, name: calls.append(("best", name)) or best(self, name))
    monkeypatch.setattr(Search, "fitted", lambda self, *args: calls.append(("fitted", args[0])) or fitted(self, *args))
    return calls


def found(setup: Setup, part: str = "test", anew: bool = False):
    state = State.from_setup(setup)
    return rules(evaluator_of(state, part), state, anew=anew)  # type: ignore[arg-type]


def files(setup: Setup) -> list[Path]:
    return sorted((setup.data.parent / f"{setup.data.stem}.baselines").glob("*"))


def test_the_second_time_nothing_is_chosen_and_every_number_is_the_same(setup: Setup, asked: Asked) -> None:
    first, settings, notes = found(setup)
    assert [name for kind, name in asked if kind == "best"] == TUNED
    assert (len(files(setup)), notes) == (len(TUNED), [])
    asked.clear()
    second, again, notes = found(setup)
    assert not asked
    assert settings == again
    assert notes == [
        "popular_recent, markov, item_knn, ease, slim: as they were judged before, kept in "
        f"{setup.data.parent / 'listening.baselines'}; --anew judges them again"
    ]
    assert first.keys() == second.keys()
    for name, scores in first.items():
        assert (scores.slates == second[name].slates).all()
        assert scores.values.keys() == second[name].values.keys()
        for metric, values in scores.values.items():
            np.testing.assert_array_equal(values, second[name].values[metric])


def test_anew_chooses_again(setup: Setup, asked: Asked) -> None:
    found(setup)
    asked.clear()
    assert found(setup, anew=True)[2] == []
    assert [name for kind, name in asked if kind == "best"] == TUNED


def test_other_targets_of_the_same_choice_are_judged_by_the_settings_that_were_chosen(
    setup: Setup, asked: Asked
) -> None:
    _, settings, _ = found(setup)
    asked.clear()
    assert found(setup, "validation")[1] == settings
    assert asked == [("fitted", name) for name in TUNED]


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": Evaluation(seen=True)},
        {"evaluation": Evaluation(k=(5, 10))},
        {"evaluation": Evaluation(targets="random")},
        {"split": {"name": "users"}},
        {"split": {"name": "users", "seed": 3}},
    ],
    ids=lambda change: str(next(iter(change.values()))),
)
def test_another_question_is_another_choice(setup: Setup, asked: Asked, change: dict) -> None:
    changed = Setup.model_validate(setup.model_dump() | change)
    shelves = []
    for one in (setup, changed):
        state = State.from_setup(one)
        shelves.append(Shelf(state, Search(state).targets, evaluator_of(state, "test")))
    assert shelves[0].events == shelves[1].events
    assert shelves[0].choice != shelves[1].choice


def test_allowed_items_other_events_and_other_code_are_other_questions(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State.from_setup(setup)
    targets = Search(state).targets
    plain = Shelf(state, targets, evaluator_of(state, "test"))
    allowed = np.ones(80, np.bool_)
    assert Shelf(state, targets, evaluator_of(state, "test", allowed)).choice != plain.choice
    state.dataset = replace(state.dataset, items=state.dataset.items[::-1].copy())
    assert Shelf(state, targets, evaluator_of(state, "test")).events != plain.events
    monkeypatch.setattr("what_next.experiments.kept._code", lambda: "of tomorrow")
    assert Shelf(State.from_setup(setup), targets, evaluator_of(state, "test")).events != plain.events


def test_other_tags_are_another_question_for_what_goes_by_them(setup: Setup) -> None:
    dataset, paths = State.from_setup(setup).dataset, []
    for word in ("x", "y"):
        tags = pl.Series("tags", [[f"a: {word}"]] * 2 + [None] * 78, dtype=pl.List(pl.String))
        state = State(replace(dataset, catalogue=replace(dataset.catalogue, tags=tags)), setup)
        shelf = Shelf(state, Search(state).targets, evaluator_of(state, "test"))
        paths.append([shelf.path(name).name for name in ("content", "markov")])
    assert paths[0][0] != paths[1][0]
    assert paths[0][1] == paths[1][1]


def test_files_of_other_events_go_when_new_ones_are_written(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    found(setup)
    old = files(setup)
    monkeypatch.setattr("what_next.experiments.kept._code", lambda: "of tomorrow")
    found(setup)
    assert len(files(setup)) == len(TUNED)
    assert not {*old} & {*files(setup)}


@pytest.mark.parametrize("damage", ["cut", "text", "of other items", "of other targets"])
def test_a_damaged_file_is_computed_anew_with_one_line(setup: Setup, asked: Asked, damage: str) -> None:
    from safetensors.numpy import load_file, save_file

    first, settings, _ = found(setup)
    file = next(one for one in files(setup) if "-markov-" in one.name)
    whole, arrays = file.read_bytes(), load_file(file)
    if damage == "cut":
        file.write_bytes(whole[:-100])
    elif damage == "text":
        file.write_text("not a model")
    else:
        changed = arrays["items"] + 80 if damage == "of other items" else arrays["items"][1:]
        save_file(arrays | {"items": changed}, file, {"settings": json.dumps(settings["markov"])})
    asked.clear()
    second, again, notes = found(setup)
    assert {name for _, name in asked} == {"markov"}
    assert again == settings
    assert [note for note in notes if "is damaged" in note and "markov is computed anew" in note] == notes[1:]
    assert (first["markov"].slates == second["markov"].slates).all()
    assert file.read_bytes() == whole  # written again


def test_where_nothing_can_be_written_all_is_judged_and_it_is_said(setup: Setup) -> None:
    (setup.data.parent / f"{setup.data.stem}.baselines").write_text("a file where the folder would be")
    scores, _, notes = found(setup)
    assert len(scores) == 2 + len(TUNED)
    assert len(notes) == len(TUNED)
    assert all("is not kept" in note for note in notes)


@pytest.mark.medium
def test_the_command_says_what_it_took_and_judges_the_same(
    setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["what-next", *words])
        return main()

    file = tmp_path / "setup.txt"
    file.write_text(
        "train, yes, data, listening.parquet, algorithm, next_item, passes, 1, dim, 16, threads, 1\n"
        "model_agent_path, a.safetensors, model_critic_path, c.safetensors\n"
    )
    assert run("evaluate", str(file), "--seeds", "0", "--json") == 0
    first = capsys.readouterr()
    assert "judged before" not in first.err
    assert run("evaluate", str(file), "--seeds", "0", "--json", "--baselines", "markov,ease") == 0
    second = capsys.readouterr()
    assert "markov, ease: as they were judged before" in second.err
    one, other = json.loads(first.out), json.loads(second.out)
    assert all(one["policies"][name] == other["policies"][name] for name in ("agent", "markov", "ease"))
    assert run("evaluate", str(file), "--seeds", "0", "--json", "--anew", "--baselines", "markov") == 0
    assert "judged before" not in capsys.readouterr().err


def test_evaluate_tells_it_in_its_notes(setup: Setup) -> None:
    assert "as they were" not in " ".join(evaluate_next(setup, seeds=[0], baselines=["markov"]).notes)
    assert "markov: as they were" in evaluate_next(setup, seeds=[0], baselines=["markov"]).notes[0]
