"""Every algorithm on real data: it trains, is saved, and beats chance at what comes next where it imitates the log."""

from pathlib import Path

import numpy as np
import pytest

import what_next as wn
from what_next import Agent, Dataset, Environment, State
from what_next.algorithms import KNOWN
from what_next.data import Options, import_files
from what_next.metrics.next_items import Targets, rank

NAMES = [algorithm.model_fields["name"].default for algorithm in KNOWN if algorithm.source != "world"]
IMITATORS = {"next_item", "sqn", "snqn", "sac_rec", "sa2c", "hac", "decision_transformer"}
CHANCE = 10 / 1682
"""HR@10 of random items, near enough: 1,682 films, about a hundred of which each user has seen."""


@pytest.fixture(scope="module")
def films(shared_data: Path) -> Dataset:
    folder = shared_data / "ml-100k"
    tables = import_files([folder / "ml-100k.inter"], folder / "ml-100k.item", Options(reward="rating"))
    return Dataset.from_tables(tables, name="ml-100k")


def trained(films: Dataset, folder: Path, name: str, **changes: object) -> Environment:
    values = {"passes": 2, "dim": 64, "learning_rate": 4e-3} | changes
    if name == "whatnext":
        values = {"epochs": 640, "split": "leave_last_out", "window": 20}
    setup = wn.Setup(
        train=True,
        data=folder / "log.parquet",
        algorithm=name,
        threads=1,
        model_agent_path=folder / "agent.safetensors",
        model_critic_path=folder / "critic.safetensors",
        **values,
    )
    state = State(films, setup)
    environment = Environment(Agent(setup, state.space), state, setup)
    environment.run_sim()
    return environment


def hit_rate(environment: Environment) -> float:
    state = environment.state
    ready = Agent(environment.setup, state.space).ready_agent()
    policy = wn.LearnedPolicy(ready, state.within(ready.space))
    ranks = rank(policy, Targets.of(state.dataset, state.split, "test"), state.histories)
    assert (ranks.items >= 0).all()
    assert len(np.unique(ranks.items[:, 0])) > 1
    return float(ranks.hr.mean())


@pytest.mark.medium
def test_the_floor_beats_chance_after_two_passes(films: Dataset, tmp_path: Path) -> None:
    assert hit_rate(trained(films, tmp_path, "next_item")) > 5 * CHANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_trains_and_recommends(films: Dataset, tmp_path: Path, name: str) -> None:
    found = hit_rate(trained(films, tmp_path, name))
    if name in IMITATORS:
        assert found > 5 * CHANCE


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["next_item", "sqn", "td3_bc", "decision_transformer"])
def test_it_trains_on_a_graphics_card(films: Dataset, tmp_path: Path, name: str) -> None:
    assert hit_rate(trained(films, tmp_path, name, device="cuda")) > 5 * CHANCE
