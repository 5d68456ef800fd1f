"""Algorithms, rewards, encoders and sources of another installed package are named in a setup, and trained with."""

import json
import re
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

import what_next as wn
from what_next.algorithms import NextItem
from what_next.errors import SetupError
from what_next.models.encoders import GruEncoder
from what_next.rewards import Repeat
from what_next.settings import plugins, register
from what_next.settings.setup import known_algorithms
from what_next.worlds import Sessions, World, known_worlds

from .conftest import listening
from .forked import Forked

PACKAGE = '''
from typing import ClassVar, Literal
{imports}


class Mine(NextItem):
    """Next items, from batches of a source of its own."""

    name: Literal["mine"] = "mine"
    source: ClassVar[str] = "mine_source"
    layers: tuple[int, ...] = Field(default=(16, 8), description="of nothing")


class Loved(Reward):
    """A reward of as much as its setting says, for every event."""

    needs: ClassVar = ()
    worth: float = Field(default=2.0, description="of an event")

    @property
    def range(self):
        return self.worth, self.worth

    def of(self, log):
        return torch.full(log.items.shape, self.worth) * log.real


class Last(GruEncoder):
    """A GRU under another name."""


class Twice(LogSource):
    """The log, with twice the rewards."""

    def earned(self, history):
        return 2 * super().earned(history)
'''
IMPORTS = """
import torch
from pydantic import Field
from what_next.algorithms import NextItem
from what_next.models.encoders import GruEncoder
from what_next.rewards import Reward
from what_next.sources import LogSource
"""
POINTS = """
[what_next.algorithms]
mine = mine:Mine
[what_next.rewards]
loved = mine:Loved
[what_next.encoders]
last = mine:Last
[what_next.sources]
mine_source = mine:Twice
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: a module, and what is known of its distribution."""
    folder = tmp_path / "site"
    facts = folder / "mine-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "mine.py").write_text(PACKAGE.format(imports=IMPORTS))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(POINTS)
    return folder


@pytest.fixture
def setup(tmp_path: Path) -> Path:
    log, _ = listening(users=20)
    log.write_parquet(tmp_path / "log.parquet")
    path = tmp_path / "setup.txt"
    path.write_text(
        "train, yes\ndata, log.parquet\npasses, 1\ndim, 8\nmax_length, 20\nbatch_size, 8\n"
        "model_agent_path, agent.safetensors\nmodel_critic_path, critic.safetensors\n"
    )
    return path


MINE = ("algorithm=mine", "model=last", "reward.loved.weight=1", "reward.loved.worth=1.5")
LOAD = "import what_next; what_next.load('agent.safetensors')"


@pytest.mark.medium
def test_a_setup_trains_with_them_and_what_is_saved_recommends(forked: Forked, site: Path, setup: Path) -> None:
    folder = setup.parent
    words = (*MINE, "algorithm.layers=3,4")
    trained = forked.run("what_next", "train", str(setup), *words, path=[site], folder=folder)
    assert trained.returncode == 0, trained.stderr
    lines = [json.loads(line) for line in (folder / "agent.jsonl").read_text().splitlines()]
    assert {line["reward"] for line in lines} == {3.0}  # 1.5 by the reward, twice by the source
    asked = ("what_next", "recommend", str(setup), *MINE, "--history", "i1,i2", "--json")
    found = forked.run(*asked, path=[site], folder=folder)
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)["items"]) == 10
    assert "was trained with algorithm.layers=(3, 4), and that counts" in found.stderr
    without = forked.run("what_next", "recommend", str(setup), "algorithm=sqn", "--history", "i1", folder=folder)
    assert without.returncode == 2
    assert "agent.safetensors: was trained by the algorithm 'mine', which is not known here; inst" in without.stderr
    (site / "mine.py").write_text((site / "mine.py").read_text().replace("layers", "depth"))
    changed = forked.run(code=LOAD, path=[site], folder=folder)
    told = "agent.safetensors: was trained by another release of 'mine' (Mine: there is no setting 'layers'"
    assert told in changed.stderr


@pytest.mark.medium
def test_a_model_that_uses_none_of_them_is_read_without_them(forked: Forked, site: Path, setup: Path) -> None:
    trained = forked.run("what_next", "train", str(setup), "algorithm=next_item", path=[site], folder=setup.parent)
    assert trained.returncode == 0, trained.stderr
    without = forked.run(code=LOAD, folder=setup.parent)
    assert without.returncode == 0, without.stderr


@pytest.mark.medium
@pytest.mark.parametrize(
    ("word", "code", "told"),
    [
        ("model=last", 1, "ModelError: agent.safetensors: was made with model 'last', which is not known here"),
        ("reward.loved.weight=1", 0, "UserWarning: agent.safetensors: was made with the reward loved, which is not"),
    ],
)
def test_without_an_encoder_no_model_is_read_but_without_a_reward(
    forked: Forked, site: Path, setup: Path, word: str, code: int, told: str
) -> None:
    trained = forked.run("what_next", "train", str(setup), "algorithm=sqn", word, path=[site], folder=setup.parent)
    assert trained.returncode == 0, trained.stderr
    without = forked.run(code=LOAD, folder=setup.parent)
    assert (without.returncode, without.stderr.count(told)) == (code, 1), without.stderr
    resumed = forked.run("what_next", "train", str(setup), "algorithm=sqn", "--resume", folder=setup.parent)
    assert resumed.returncode == 2
    assert re.search("which is not known here|where other settings are known", resumed.stderr)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["algorithm=mine"], "algorithm is 'mine'"),
        (["algorithm=mine"], "one of your own needs its package installed (entry points what_next.algorithms)"),
        (["model=last"], "model is 'last'"),
        (["model=last"], "one of your own needs its package installed (entry points what_next.encoders)"),
        (["reward.loved.weight=1"], "(or is 'loved' of a package that is not installed?)"),
        (["model=mine:Last"], "model is 'mine:Last'"),
    ],
)
def test_without_the_package_a_name_is_only_a_word(
    forked: Forked, setup: Path, site: Path, words: list[str], told: str
) -> None:
    """A name of no installed part is refused, and no text becomes an import: not even where the module could be."""
    bare = site / "mine.py"
    bare.write_text("raise SystemExit('imported')")
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text("")
    found = forked.run("what_next", "train", str(setup), *words, path=[site], folder=setup.parent)
    assert found.returncode == 2
    assert told in found.stderr
    assert "imported" not in found.stderr


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("algorithms", "Next items, from"),
        ("rewards", "A reward of"),
        ("encoders", "A GRU under"),
        ("sources", "The log, with twice"),
    ],
)
def test_they_are_listed(forked: Forked, site: Path, tmp_path: Path, kind: str, line: str) -> None:
    assert line in forked.run("what_next", "list", kind, path=[site], folder=tmp_path).stdout


@pytest.mark.parametrize("first", ["mine", "what_next"])
def test_they_are_found_whichever_is_imported_first(forked: Forked, site: Path, setup: Path, first: str) -> None:
    script = (
        f"import {first}; import mine, what_next as wn\n"
        "setup = wn.Setup.from_text('train, yes, data, d, algorithm, mine, model, last, reward.loved.weight, 2, "
        "model_agent_path, a')\n"
        "assert type(setup.algorithm) is mine.Mine and type(setup.reward.loved) is mine.Loved\n"
        "assert [term.key for term in setup.reward.terms] == ['reward.loved']\n"
        "same = wn.Setup(**setup.as_json())\n"
        "assert same == setup"
    )
    found = forked.run(code=script, path=[site], folder=setup.parent, strict=True)
    assert found.returncode == 0, found.stderr


NESTED = """
import what_next, mine
from what_next.python.settings import nested
assert nested({'reward_loved_weight': 1.0}, mine.Mine())['reward'] == {'loved': {'weight': 1.0}}
"""


def test_fit_takes_their_settings_beside_an_algorithm_that_is_an_object(
    forked: Forked, site: Path, tmp_path: Path
) -> None:
    found = forked.run(code=NESTED, path=[site], folder=tmp_path)
    assert found.returncode == 0, found.stderr


CHECK = """
import torch, my_parts
from what_next.testing import check_algorithm, check_encoder, check_reward
from what_next.policy import LearnedPolicy
from what_next.types import Events
encoder = LearnedPolicy.load("agent.safetensors").agent.nets["encoder"]
assert type(encoder) is my_parts.LastTwo
events = Events(torch.tensor([[3, 1, 4, 1]]), torch.zeros(1, 4, 0))
states, state = encoder(events), encoder.start(1)
for place in range(4):
    one, state = encoder.step(state, Events(events.items[:, [place]], events.numbers[:, [place]]))
    assert torch.allclose(one, states[:, place], atol=1e-6)
check_encoder(my_parts.LastTwo)
check_reward(my_parts.Fresh(window=2))
check_algorithm(my_parts.Streamed())
heard = my_parts.Events(torch.tensor([[3, 1, 3, 1, -1]]), *[None] * 5)
assert my_parts.Fresh(window=1).of(heard).tolist() == [[1, 1, 1, 1, 0]]
assert my_parts.Fresh(window=2, cost=0.5).of(heard).tolist() == [[1, 1, -0.5, -0.5, 0]]
"""

REGISTERED = """
import pickle, what_next as wn, my_parts
for part in (my_parts.Fresh, my_parts.LastTwo, my_parts.Stream, my_parts.Streamed):
    wn.register(part)
how = {"model": "last_two", "reward_fresh_weight": 1, "reward_fresh_window": 3, "passes": 1, "dim": 8, "verbose": False}
model = wn.fit("log.parquet", "streamed", folder="own", **how)
assert type(model.policy.agent.nets["encoder"]) is my_parts.LastTwo
assert [term.window for term in model.setup.reward.terms] == [3]
again = wn.load("own")
assert again.recommend(["i1", "i2"]).items == model.recommend(["i1", "i2"]).items
assert pickle.loads(pickle.dumps(again)).setup == again.setup
try:
    wn.register(len)
except wn.errors.SetupError as error:
    assert "is no class of an algorithm, a reward" in str(error)
"""

GIVEN = """
import what_next as wn, my_parts
wn.register(my_parts.LastTwo)
assert type(wn.load("own", algorithm=my_parts.Streamed).setup.algorithm) is my_parts.Streamed
"""


@pytest.mark.medium
def test_the_examples_of_the_documentation_keep_what_they_promise(forked: Forked, site: Path, setup: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "algorithms.md").read_text()
    page = page[page.index("## Your own reward") :]
    code = "\n\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    (site / "my_parts.py").write_text(f"{code}\n\nfrom what_next.rewards.base import Events\n")
    points = re.search(r"```toml\n(.*?)```", page, re.S)
    assert points is not None
    told = re.sub(r'\[project\.entry-points\."(.*)"\]', r"[\1]", points[1]).replace('"', "")
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text(told.replace("my_package.parts", "my_parts"))
    words = ("algorithm=sqn", "model=last_two", "reward.fresh.weight=1", "reward.fresh.window=3")
    trained = forked.run("what_next", "train", str(setup), *words, path=[site], folder=setup.parent)
    assert trained.returncode == 0, trained.stderr
    rewards = [json.loads(line)["reward"] for line in (setup.parent / "agent.jsonl").read_text().splitlines()]
    assert 0.8 < rewards[-1] < 1  # of 80 items at random, about one in 27 was among the last three
    words = ("algorithm=streamed", "model=last_two", "passes=2", "--force", "--json")
    trained = forked.run("what_next", "train", str(setup), *words, path=[site], folder=setup.parent)
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["histories"] == 40
    found = forked.run(code=CHECK, path=[site], folder=setup.parent)
    assert found.returncode == 0, found.stderr
    given = re.search(r"```text\n(.*?run_sim.*?)```", page, re.S)
    assert given is not None
    paths = ", 'model_agent_path=m/a.safetensors', 'model_critic_path=m/c.safetensors'])"
    code = "import what_next as wn\nfrom my_parts import Stream\n" + given[1].replace("])", paths)
    found = forked.run(code=f"{code}\nassert report.histories >= 20", path=[site], folder=setup.parent)
    assert found.returncode == 0, found.stderr
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text("")
    for code in (REGISTERED, GIVEN):
        found = forked.run(code=code, path=[site], folder=setup.parent)
        assert found.returncode == 0, found.stderr


def test_an_encoder_that_cannot_be_imported_is_told(forked: Forked, site: Path, setup: Path) -> None:
    (site / "mine.py").write_text("import nowhere")
    words = ("algorithm=sqn", "model=last")
    found = forked.run("what_next", "train", str(setup), *words, path=[site], folder=setup.parent)
    assert found.returncode == 2
    assert "what-next: warning: last of what_next.encoders (mine:Last) cannot be loaded: ModuleNotFound" in found.stderr
    assert found.stderr.endswith("model is 'last', whose package cannot be loaded, as a warning says; mend that\n")


class Unfinished(World):
    """Which defines nothing."""

    name: Literal["unfinished"] = "unfinished"


class Twin(Sessions):
    """Which has the name of another world."""


class Other(Sessions):
    """Which has a name of its own."""

    name: Literal["other"] = "other"  # type: ignore[assignment]


def test_a_part_that_cannot_be_made_or_named_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("mine", f"{__name__}:{name}", "what_next.worlds") for name in ("Unfinished", "Twin")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    missing = "Unfinished defines no bounds and no item_vectors and no observe and no reset and no step"
    with pytest.warns(UserWarning, match=f"{missing}|is taken, by") as told:
        assert "unfinished" not in known_worlds()
    assert "the name 'sessions' is taken, by what_next.worlds.sessions.Sessions" in str(told[1].message)
    with pytest.raises(SetupError, match=missing):
        register(Unfinished)


class Gru(GruEncoder):
    """Which has the name of one of ours."""


class Spread(Repeat):
    """So has this one."""


class Iql(NextItem):
    """And this one, though not as a class."""


@pytest.mark.parametrize(
    ("part", "told"),
    [(Gru, "'gru' as .*GruEncoder is"), (Spread, "'spread' as .*Spread is"), (Iql, "'next_item' as .*NextItem is")],
)
def test_the_name_of_one_of_ours_is_not_registered(part: type, told: str) -> None:
    with pytest.raises(SetupError, match=f"test_plugins.{part.__name__} is called {told}; give it a name of its own"):
        register(part)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"algorithm": "mine"}, r"\(entry points what_next.algorithms\), or what_next.register$"),
        ({"model": "last"}, r"\(entry points what_next.encoders\), or what_next.register$"),
        (
            {"reward_loved_weight": 1},
            "'reward.loved.weight'.*'loved' of a package .*of a class without what_next.regis",
        ),
    ],
)
def test_what_was_not_registered_is_told_so_in_python(settings: dict[str, Any], told: str) -> None:
    frame = pl.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 2, 1]})
    with pytest.raises(SetupError, match=told):
        wn.fit(frame, time="", verbose=False, **settings)


def test_an_installed_class_may_be_registered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("other", f"{__name__}:Other", "what_next.worlds")]
    monkeypatch.setattr(plugins, "GIVEN", {"what_next.worlds": {"other": Other}})
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "what_next.worlds" else [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert known_worlds()["other"] is Other


def test_a_registered_class_that_is_left_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "GIVEN", {"what_next.worlds": {"twin": Twin}})
    with pytest.warns(UserWarning, match=f"{__name__}:Twin is left out of what_next.worlds: the name 'sessions' is"):
        known_worlds()


def test_an_encoder_with_the_name_of_one_of_ours_is_told(forked: Forked, site: Path, tmp_path: Path) -> None:
    (site / "mine-1.0.dist-info" / "entry_points.txt").write_text("[what_next.encoders]\ngru = mine:Last\n")
    found = forked.run("what_next", "list", "algorithms", path=[site], folder=tmp_path)
    assert "gru of what_next.encoders is left out: one of ours has that name" in found.stderr


def test_a_module_that_ends_the_program_is_left_out(forked: Forked, site: Path, tmp_path: Path) -> None:
    (site / "mine.py").write_text("raise SystemExit(5)")
    found = forked.run("what_next", "list", "algorithms", path=[site], folder=tmp_path)
    assert found.returncode == 0
    assert "next_item" in found.stdout
    assert "mine of what_next.algorithms (mine:Mine) cannot be loaded: SystemExit(5)" in found.stderr


class Nameless(NextItem):
    """Of which only a default says what it is called."""

    name: str = "any"  # type: ignore[assignment]


def test_an_algorithm_that_no_setup_can_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", f"{__name__}:Nameless", "what_next.algorithms")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    with pytest.warns(UserWarning, match=r":Nameless\) cannot be loaded: .*it has no `name: Literal"):
        assert "any" not in known_algorithms()
