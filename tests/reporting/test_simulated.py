"""The page of an agent in a world: every part is there, it is well-formed, and it tells what was played."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import what_next as wn
from what_next.experiments.simulation import Simulation, watched_in
from what_next.reporting.simulated import page
from what_next.worlds import preset

SETUP = """
train, yes
algorithm, ppo
model, mlp
dim, 16
world, choice
world.ideal, yes
world.users, 16
world.window, 5
world.steps, 400
world.explore, 0
world.episodes, 20
model_agent_path, agent.safetensors
model_critic_path, critic.safetensors
"""


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "setup.txt").write_text(SETUP)
    return wn.simulate(folder / "setup.txt", watch=True)


class Ids(HTMLParser):
    """All ids of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name == "id"]


@pytest.mark.medium
def test_every_part_is_there_and_the_same_run_gives_the_same_page(simulation: Simulation) -> None:
    text = page(simulation)
    for section in ("returns", "learning", "user", "otherwise"):
        assert f'<section id="{section}"' in text
    ids = Ids()
    ids.feed(text)
    assert len(ids.found) == len(set(ids.found))
    assert not re.findall(r'src="|<script|url\(http', text)
    assert text == page(simulation)


@pytest.mark.medium
def test_it_tells_returns_and_what_differs(simulation: Simulation) -> None:
    text = page(simulation)
    assert f"ppo earns {simulation.episodes['ppo'].mean:.1f} in choice" in text
    assert f"earns {simulation.episodes['greedy'].mean:.1f}." in text
    mine, theirs = simulation.watched["ppo"], simulation.watched["greedy"]
    bait = simulation.played.item_vectors[:, -1]
    gap = (bait[mine.shown[mine.going]].mean() - bait[theirs.shown[theirs.going]].mean()) / bait.std()
    assert f"clickbait {gap:+.2f}" in text
    assert f"{theirs.rewards[theirs.going].mean():.3g}" in text


@pytest.mark.medium
def test_a_model_that_was_there_has_no_curve(simulation: Simulation, tmp_path: Path) -> None:
    setup = wn.Setup.from_text(SETUP, Path(simulation.report.saved[0]).parent, ["train=no", "data=-"])  # type: ignore[union-attr]
    text = page(wn.simulate(setup, watch=True))
    assert 'id="learning"' not in text
    assert 'id="user"' in text


def test_who_left_is_watched_no_more() -> None:
    world = preset("choice", budget=3.0)
    found = watched_in(world, world.references()["random"], users=6)
    lengths = found.going.sum(0)
    assert len(set(lengths)) > 1
    for user, length in enumerate(lengths):
        assert found.going[:length, user].all()
        assert not found.rewards[length:, user].any()
    assert (found.numbers >= 0).all()
    assert (found.numbers <= 1 + 1e-6).all()
    assert np.array_equal(found.clicks.any(2), found.rewards > 0)
