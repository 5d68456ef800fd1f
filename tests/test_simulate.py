"""`what-next simulate`: an agent in a world, beside the references; one clear message for what is wrong."""

import json
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import rich
import torch

import what_next as wn
from what_next.cli.app import main
from what_next.data import Catalogue
from what_next.environment import Report
from what_next.errors import CatalogueError, ModelError, SetupError
from what_next.experiments.simulation import Simulation
from what_next.sources import clicks_in, state_in
from what_next.worlds import preset
from what_next.worlds.base import Episodes

SETUP = """
train, yes
algorithm, ppo
algorithm.over, points
model, mlp
dim, 16
inputs.items, attributes
world, boredom:SlateRerank-Bored-v0
world.ideal, yes
world.users, 16
world.window, 5
world.steps, 400
world.episodes, 20
model_agent_path, agent.safetensors
model_critic_path, critic.safetensors
"""


@pytest.fixture
def setup(tmp_path: Path) -> Path:
    path = tmp_path / "setup.txt"
    path.write_text(SETUP)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["what-next", *map(str, words)])
    return main()


@pytest.mark.medium
def test_it_trains_and_plays_beside_the_references(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", setup, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["world"] == "boredom:SlateRerank-Bored-v0"
    assert set(found["policies"]) == {"ppo", "ppo, drawn", "random", "popular", "greedy", "aware"}
    assert found["training"]["steps"] == 400
    for one in found["policies"].values():
        assert one["low"] <= one["return"] <= one["high"]
        assert (one["episodes"], one["steps"]) == (20, 10)
    assert run(monkeypatch, "simulate", setup, "train=no", "--json") == 0
    loaded = json.loads(capsys.readouterr().out)
    assert loaded["training"] is None
    assert loaded["policies"] == found["policies"]  # the same users, and the model as it was
    assert run(monkeypatch, "simulate", setup, "train=no") == 0
    told = capsys.readouterr().out
    assert "returns of 20 episodes" in told
    assert "ppo was there already, and sees the users' hidden state" in told
    with pytest.raises(ModelError, match="ppo learned by acting in boredom:SlateRerank-Bored-v0, and reads the slates"):
        wn.load(setup.with_name("agent.safetensors"))
    assert run(monkeypatch, "serve", setup) == 2
    assert "ppo learned by acting in boredom:SlateRerank-Bored-v0" in capsys.readouterr().err


def test_names_of_policies_and_worlds_are_neither_markup_nor_emoji_codes(capsys: pytest.CaptureFixture[str]) -> None:
    earned = Episodes(np.ones(2), np.ones(2, np.int64))
    names = {"[/x] :a:": earned, "[/x] :a:, drawn": earned}
    world = preset("boredom:SlateRerank-Bored-v0")
    rich.print(Simulation("gym:a:[/w]", names, "[/x] :a:", ideal=False, report=None, seconds=0.0, played=world))
    told = capsys.readouterr().out
    for part in ("gym:a:[/w]: returns", "[/x] :a:, drawn", "[/x] :a: was there already"):
        assert part in told


@pytest.mark.parametrize(
    ("returns", "told"),
    [([0.003, 0.005], "0.0040"), ([1600.0, 1700.0], "1650.0"), ([2.0, 2.0], "2.0"), ([0.0, 1e-9], "0.000000")],
)
def test_small_returns_have_digits(returns: list[float], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    earned = Episodes(np.array(returns), np.ones(2, np.int64))
    world = preset("boredom:SlateRerank-Bored-v0")
    found = Simulation("shop", {"ppo": earned}, "ppo", ideal=False, report=None, seconds=0.0, played=world)
    rich.print(found)
    assert f" {told} " in capsys.readouterr().out
    assert found.as_json()["policies"]["ppo"]["return"] == pytest.approx(earned.mean, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["inputs.items=attributes"], "and inputs.items is attributes; set it to learned"),
        (
            ["inputs.items=learned", "algorithm=whatnext", "model=lstm"],
            "and whatnext proposes points among them; set algorithm",
        ),
    ],
)
def test_an_agent_that_needs_item_vectors_says_so_of_the_world(tmp_path: Path, words: list[str], told: str) -> None:
    setup = wn.Setup.from_text(SETUP.replace("algorithm.over, points\n", ""), tmp_path, ["data=-", *words])
    with pytest.raises(
        SetupError, match=f"world gym:CartPole-v1: its items have no vectors that tell them apart, {told}"
    ):
        wn.simulate(setup, "gym:CartPole-v1")


@pytest.mark.medium
def test_training_goes_on_with_new_users(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", setup, "--json") == 0
    assert json.loads(capsys.readouterr().out)["histories"] == 400
    assert run(monkeypatch, "train", setup, "world.steps=560", "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["histories"] == 560
    assert run(monkeypatch, "train", setup, "world.window=4", "--resume") == 2
    assert "was trained with world.window=" in capsys.readouterr().err


@pytest.mark.parametrize(("step", "again"), [(2, "train {} --resume"), (80, "simulate {} train=no")])
def test_an_interrupt_in_training_saves_and_plays_nothing(
    step: int, again: str, setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last step is the 80th, of 5 slates: the model is whole, and can be played."""
    learn, taken = wn.Agent.propagate, list[int]()

    def propagate(*given: Any) -> Any:
        taken.append(1)
        if len(taken) == step:
            signal.raise_signal(signal.SIGINT)
        return learn(*given)

    monkeypatch.setattr(wn.Agent, "propagate", propagate)
    page = setup.with_name("page.html")
    assert run(monkeypatch, "simulate", setup, "--json", "--report", page) == 130
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["policies"], found["training"]["steps"], found["stopped"]) == ({}, 5 * step, step < 80)
    assert told.err.endswith(
        f"training was interrupted; the model is saved; go on with `what-next {again}`\n".format(setup)
    )
    assert setup.with_name("agent.safetensors").exists()
    assert not page.exists()


def test_what_comes_next_names_the_setup_and_what_was_set_beside_it(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words that are printed are those that work; without a world, the model is played in its own."""
    setup.write_text(SETUP.replace("world, boredom:SlateRerank-Bored-v0\nworld.ideal, yes\n", ""))
    words = ["world=boredom:SlateRerank-Bored-v0", "world.ideal=yes"]
    assert run(monkeypatch, "train", setup, *words, "train=yes") == 0
    told = capsys.readouterr().out
    assert f"next: what-next simulate {setup} {' '.join(words)} train=no\n" in told
    assert run(monkeypatch, "simulate", setup, "train=no") == 0
    assert "boredom:SlateRerank-Bored-v0: returns of 20 episodes" in capsys.readouterr().out
    stopped = Simulation("boredom", {}, "ppo", False, Report(8, stopped=True), 0.0, preset("boredom"))
    monkeypatch.setattr("what_next.experiments.simulation.simulate", lambda *_, **__: stopped)
    assert run(monkeypatch, "simulate", setup, "--world", "boredom", "--json", "seed=1") == 130
    assert f"go on with `what-next train {setup} seed=1 world=boredom --resume`" in capsys.readouterr().err
    assert run(monkeypatch, "train", setup) == 2
    assert "no world is named; set `world, " in capsys.readouterr().err


@pytest.mark.medium
def test_the_result_is_shown_though_the_page_cannot_be_written(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = setup.with_name("page.html")
    monkeypatch.setattr("what_next.reporting._page", page.mkdir)
    monkeypatch.setattr("what_next.reporting.check", lambda _: None)
    assert run(monkeypatch, "simulate", setup, "--report", page, "--json") == 2
    assert json.loads(capsys.readouterr().out)["world"] == "boredom:SlateRerank-Bored-v0"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--world", "nowhere"], "world 'nowhere' is not known; there are boredom"),
        (["--world", "gym:nothing-v0"], "Gymnasium knows no environment 'nothing-v0'"),
        (["--world", "gym:Blackjack-v1"], "nothing here knows the layout of its observations"),
        (["--world", "boredom:nothing"], "world boredom: no preset 'nothing'"),
        (["world=none"], "no world is named"),
        (["algorithm=next_item"], "it belongs to reinforce, a2c and ppo"),
        (["world.users=0"], "world.users is '0'; allowed: a whole number above 0"),
        (["train=no"], "no such model file"),
    ],
)
def test_a_mistake(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run(monkeypatch, "simulate", setup, *words) == 2
    assert told in capsys.readouterr().err


def test_a_model_of_another_world_is_refused(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", setup, "--json") == 0
    capsys.readouterr()
    assert run(monkeypatch, "simulate", setup, "train=no", "--world", "boredom:SlateTopK-Bored-v0") == 2
    assert "was trained with 10 items and 30 numbers of a user" in capsys.readouterr().err


def test_training_in_another_world_writes_over_no_model(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", setup, "--json") == 0
    model = setup.with_name("agent.safetensors").read_bytes()
    assert run(monkeypatch, "simulate", setup, "--world", "choice") == 2
    told = capsys.readouterr().err
    assert "holds what ppo learned of world boredom:SlateRerank-Bored-v0" in told
    assert "ppo would learn of world choice now" in told
    assert setup.with_name("agent.safetensors").read_bytes() == model


@pytest.mark.medium
def test_no_service_starts_with_what_learned_by_acting(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dqn` may learn from a log, too: the service made a store, and deployed what it could not open."""
    world = ("world=boredom:SingleItem-BoredInf-v0", "algorithm=dqn", "world.epsilon=0.5")
    setup.write_text(SETUP.replace("algorithm.over, points\n", ""))
    assert run(monkeypatch, "simulate", setup, *world, "--json") == 0
    assert run(monkeypatch, "serve", setup, *world, "server.import_data=no") == 2
    assert "dqn learned by acting in boredom:SingleItem-BoredInf-v0" in capsys.readouterr().err
    assert not list(setup.parent.glob("*store*"))


def test_what_needs_a_log_says_that_a_world_has_none(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", setup, "--json") == 0
    told = "the setup names the world boredom:SlateRerank-Bored-v0 and no log (`data`), so there are no users to judge"
    for words in (("evaluate",), ("recommend", "--user", "u1"), ("tune",)):
        assert run(monkeypatch, words[0], setup, *words[1:]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.medium
def test_a_model_that_learned_from_a_log_acts_in_a_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who clicks random items tells what they like: what is learned of it earns more than items at random."""
    world, rng = preset("sessions"), np.random.default_rng(0)
    log = clicks_in("sessions", 30_000, rng)
    words = {"data": "-", "model_agent_path": tmp_path / "a.safetensors", "dim": 16, "passes": 2, "model": "gru"}
    words |= {"item_dropout": 0.1}
    setup = wn.Setup(train=True, algorithm="next_item", split="users", skip="no", **words)
    state = wn.State(log, setup)
    wn.Environment(wn.Agent(setup, state.space), state, setup).run_sim()
    random = wn.play(world.references()["random"], world, 200)
    found = wn.play(wn.load(tmp_path / "a.safetensors"), world, 200)
    assert found.returns.mean() != random.returns.mean()
    path = tmp_path / "setup.txt"
    path.write_text("train, no\nalgorithm, next_item\nmodel_agent_path, a.safetensors\nworld.episodes, 50")
    assert run(monkeypatch, "simulate", path, "--world", "sessions", "--json") == 0
    policies = json.loads(capsys.readouterr().out)["policies"]
    with torch.inference_mode():  # which changes nothing
        again = wn.play(tmp_path / "a.safetensors", world, 50)
    assert policies["next_item"]["return"] == pytest.approx(again.mean, abs=5)
    assert run(monkeypatch, "simulate", path, "--world", "boredom:SlateRerank-Bored-v0") == 2
    assert "knows 1,000 items, and boredom has 10" in capsys.readouterr().err
    with pytest.raises(ModelError, match="learned of another world's items than choice has"):
        wn.play(tmp_path / "a.safetensors", "choice", 50)


@pytest.mark.parametrize("told", ["rewards", "gaps", "context"])
def test_a_world_does_not_tell_what_a_log_tells_besides_items(tmp_path: Path, told: str) -> None:
    rng, world = np.random.default_rng(0), preset("boredom:SlateRerank-Bored-v0")
    columns = {"user_id": np.repeat(np.arange(20), 6), "item_id": rng.integers(10, size=120)}
    columns |= {"timestamp": 1_600_000_000 + np.arange(120) * 60, "reward": rng.random(120), "loud": rng.random(120)}
    words = {"data": "-", "model_agent_path": tmp_path / "a.safetensors", "dim": 8, "passes": 1}
    setup = wn.Setup(train=True, algorithm="next_item", inputs={told: True}, **words)
    state = wn.State(wn.Dataset.from_frame(pl.DataFrame(columns), context=["loud"]), setup)
    wn.Environment(wn.Agent(setup, state.space), state, setup).run_sim()
    with pytest.raises(ModelError, match="learned from rewards, times or context of a log"):
        wn.play(tmp_path / "a.safetensors", world, 5)
    if told != "context":  # an agent that learns there reads all numbers that are shown
        with pytest.raises(SetupError, match=f"inputs.{told} is yes, and that is read from a log"):
            state_in(world, setup)


@pytest.mark.parametrize(
    ("ids", "own", "fits"),
    [
        (["b", "a", "c"], ["b", "a", "c"], True),
        (["a", "b", "c"], ["b", "a", "c"], False),  # in another order
        (["x", "y", "z"], [0, 1, 2], False),
        ([0, 1, 2], ["b", "a", "c"], True),  # by their numbers, as Minari has them
        ([0, 1, 2], ["2", "1", "0"], False),
    ],
)
def test_a_model_of_a_log_knows_the_worlds_items_in_their_order(
    ids: list[str | int], own: list[str | int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = preset("choice", items=3, slots=2)
    monkeypatch.setattr(type(world), "item_ids", own)
    catalogue = Catalogue.from_table(pl.DataFrame({"item_id": ids, "title": [str(one) for one in ids]}))
    setup = wn.Setup(train=True, algorithm="next_item", data="-", model_agent_path="a.safetensors", dim=8)
    log = wn.Dataset.of_events(pl.Series(["u"] * 6), np.arange(6, dtype=np.int32) % 3, catalogue)
    state = wn.State(log, setup)
    policy = wn.LearnedPolicy(wn.Agent(setup, state.space).wake_agent(), state)
    with nullcontext() if fits else pytest.raises(ModelError, match=r"its item 1 is .*, and that of choice is"):
        wn.play(policy, world, 2)


@pytest.mark.medium
def test_the_founding_algorithm_acts_in_a_world_of_single_items(tmp_path: Path) -> None:
    changed = {
        "ppo": "whatnext",
        "algorithm.over, points\nmodel, mlp\n": "",
        "world.ideal, yes\n": "",
        "episodes, 20": "episodes, 4",
    }
    text = SETUP.replace("boredom:SlateRerank-Bored-v0", "choice:worn")
    for old, new in changed.items():
        text = text.replace(old, new)
    found = wn.simulate(wn.Setup.from_text(text, tmp_path, ["data=-"]))
    assert {"whatnext", "whatnext, drawn", "random", "greedy"} <= set(found.episodes)
    assert found.slates == 400
    again = wn.simulate(wn.Setup.from_text(text, tmp_path, ["data=-", "train=no"]))
    for name in ("whatnext", "whatnext, drawn"):  # the same users, and the model as it was
        assert np.array_equal(found.episodes[name].returns, again.episodes[name].returns)


@pytest.mark.medium
def test_a_policy_that_remembers_users_is_told_who_is_gone(tmp_path: Path) -> None:
    setup = wn.Setup.from_text(SETUP, tmp_path, ["world=choice", "model=gru", "world.ideal=no", "data=-"])
    found = wn.simulate(setup)
    assert len(set(found.episodes["ppo"].lengths)) > 1


@pytest.mark.parametrize(
    ("users", "item", "told"),
    [(3, 1000, "item 1000 is not in the catalogue of 1000 items"), (2, 0, "2 slates for 3 users"), (3, 0.5, "float64")],
)
def test_a_policy_whose_slates_are_none_is_told(users: int, item: float, told: str) -> None:
    with pytest.raises(CatalogueError, match=f"world boredom: (slates are )?{told}"):
        wn.play(lambda state, rng: np.full((users, 10), item), "boredom", 3)


@pytest.mark.medium
def test_an_agent_learns_in_other_peoples_environment_and_a_replay_too(
    setup: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sardine", reason="sardine-rec is not installed: pip install 'what-next-rl[dev]'")
    theirs = ["--world", "gym:sardine/SlateRerank-Bored-v0", "--json", "--force"]
    assert run(monkeypatch, "simulate", setup, "world.ideal=no", *theirs) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["world"] == "gym:sardine/SlateRerank-Bored-v0"
    assert set(found["policies"]) == {"ppo", "ppo, drawn", "random", "greedy"}
    setup.write_text(SETUP.replace("algorithm, ppo\nalgorithm.over, points", "algorithm, slateq"))
    assert run(monkeypatch, "simulate", setup, *theirs) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["policies"]) == {"slateq", "random", "greedy"}  # it has nothing to draw by
    assert run(monkeypatch, "simulate", setup, "train=no", *theirs) == 0
    again = json.loads(capsys.readouterr().out)["policies"]
    assert again == found["policies"]  # the same users, and the model as it was
