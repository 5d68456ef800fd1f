"""Vectors from counts of the log: counts and information by hand, and neighbours that come to lie together."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from what_next import Agent, Dataset, Environment, State
from what_next.data.cooccurrence import neighbours, placed, ppmi
from what_next.sources import LogSource

from ..conftest import SetupOf
from ..test_log_learning import log_setup

USERS = np.array([0, 0, 0, 1, 1], np.int32)
ITEMS = np.array([0, 1, 0, 2, 1], np.int32)
"""Two users: 0, 1, 0 and 2, 1."""


def test_pairs_count_by_one_over_their_distance_within_a_user() -> None:
    first, second, near = neighbours(ITEMS, USERS, 3)
    assert list(zip(first.tolist(), second.tolist(), near.tolist(), strict=True)) == [(0, 1, 2.0), (1, 2, 1.0)]


def test_a_pair_two_events_apart_counts_half() -> None:
    first, second, near = neighbours(np.array([3, 1, 0], np.int32), np.zeros(3, np.int32), 4)
    found = dict(zip(zip(first.tolist(), second.tolist(), strict=True), near.tolist(), strict=True))
    assert found == {(1, 3): 1.0, (0, 1): 1.0, (0, 3): 0.5}


def test_the_information_of_a_pair_worked_by_hand() -> None:
    """Totals 2, 3, 1; smoothed by the power .75: 1.6818, 2.2795, 1, of 4.9613."""
    found = ppmi(*neighbours(ITEMS, USERS, 3), 3)
    share = np.array([2, 3, 1]) ** 0.75 / np.sum(np.array([2, 3, 1]) ** 0.75)
    by_hand = [
        (np.log(2 / (2 * share[1])) + np.log(2 / (3 * share[0]))) / 2,
        (np.log(1 / (3 * share[2])) + np.log(1 / (1 * share[1]))) / 2,
    ]
    np.testing.assert_allclose(found, by_hand)
    np.testing.assert_allclose(found, [0.7270, 0.6404], atol=5e-4)


def groups(users: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items 0 to 29 in three groups of ten; each user stays in one. Item 30 is in nobody's history."""
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=users)
    items = group[:, None] * 10 + np.array([rng.permutation(10)[:6] for _ in range(users)])
    return items.astype(np.int32).ravel(), np.repeat(np.arange(users, dtype=np.int32), 6), np.arange(30) // 10


def test_items_of_one_group_lie_together_and_an_unheard_one_nowhere() -> None:
    items, users, group = groups()
    vectors = placed(items, users, 31, 8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(vectors[:30], axis=1), 1, atol=1e-5)
    assert not vectors[30].any()
    alike = vectors[:30] @ vectors[:30].T
    same = group[:, None] == group
    assert alike[same & ~np.eye(30, dtype=bool)].mean() > 0.8
    assert abs(alike[~same]).mean() < 0.2


def test_the_same_seed_places_alike_and_disturbs_no_other_draw() -> None:
    items, users, _ = groups()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = placed(items, users, 31, 8, seed=1)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(one, placed(items, users, 31, 8, seed=1))


@pytest.mark.parametrize("events", [0, 1, 2])
def test_a_log_without_neighbours_places_nothing_or_little(events: int) -> None:
    items, users = np.arange(events, dtype=np.int32), np.zeros(events, np.int32)
    vectors = placed(items, users, 3, 4, seed=0)
    assert vectors.shape == (3, 4)
    assert np.isfinite(vectors).all()
    assert int(vectors.any(1).sum()) == (2 if events == 2 else 0)


def log(folder: Path) -> Dataset:
    items, users, _ = groups(60)
    rows = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": np.tile(np.arange(6), 60)})
    rows.write_csv(folder / "log.csv")
    return Dataset.read(folder / "log.csv")


def started(dataset: Dataset, setup_of: SetupOf, folder: Path, **settings: object) -> tuple[Agent, torch.Tensor]:
    """An agent that its source has prepared, and its item vectors before that."""
    state = State(dataset, log_setup(setup_of, folder, **settings))
    agent = Agent(state.setup, state.space).wake_agent()
    before = agent.nets["encoder"].items().detach().clone()  # type: ignore[operator]
    LogSource(state).prepare(agent)
    return agent, before


def test_an_agent_starts_there_and_its_target_networks_too(tmp_path: Path, setup_of: SetupOf) -> None:
    agent, before = started(log(tmp_path), setup_of, tmp_path, algorithm="sqn")
    after = agent.nets["encoder"].items()  # type: ignore[operator]
    assert not torch.equal(before, after)
    torch.testing.assert_close(after.norm(dim=1), torch.ones(len(after)))
    torch.testing.assert_close(agent.targets["encoder"].items(), after)  # type: ignore[operator]


def test_a_target_network_reads_the_items_that_its_network_reads_wherever_vectors_start(
    tmp_path: Path, setup_of: SetupOf
) -> None:
    rows = [(f"u{user}", item) for user in range(9) for item in ("a", "b", f"c{user}", f"d{user}")]
    dataset = Dataset.from_frame(pl.DataFrame(rows, ["user_id", "item_id"], orient="row"), name="log")
    settings = {"algorithm": "sqn", "inputs": {"start": "random"}, "item_dropout": 0.1}
    agent, _ = started(dataset, setup_of, tmp_path, **settings)
    read, target = (nets["encoder"].followed for nets in (agent.nets, agent.targets))
    assert not read.all()
    assert torch.equal(read, target)


@pytest.mark.parametrize("settings", [{"inputs.start": "random"}, {"inputs.items": "attributes"}])
def test_not_where_the_setup_says_otherwise(
    tmp_path: Path, setup_of: SetupOf, dataset: Dataset, settings: dict[str, str]
) -> None:
    overrides = {"inputs": {key.partition(".")[2]: value for key, value in settings.items()}}
    agent, before = started(dataset, setup_of, tmp_path, algorithm="next_item", **overrides)
    assert torch.equal(before, agent.nets["encoder"].items())  # type: ignore[operator]


def test_what_is_held_back_moves_nothing(tmp_path: Path, setup_of: SetupOf) -> None:
    """The last two events of each user are for validation and test: with others there, the start is the same."""
    dataset = log(tmp_path)
    found = []
    for shift in (0, 1):
        changed = np.array(dataset.items).reshape(-1, 6)
        changed[:, 4:] = np.roll(changed[:, 4:], shift, axis=0)
        frame = pl.DataFrame({
            "user_id": np.repeat(np.arange(len(changed)), 6), "item_id": changed.ravel(),
            "timestamp": np.tile(np.arange(6), len(changed)),
        })  # fmt: skip
        other = Dataset.from_frame(frame, None, name="log")
        agent, _ = started(other, setup_of, tmp_path / str(shift), algorithm="next_item")
        found.append(agent.nets["encoder"].items().detach())  # type: ignore[operator]
    torch.testing.assert_close(*found)


@pytest.mark.medium
def test_a_run_that_goes_on_is_not_started_anew(tmp_path: Path, setup_of: SetupOf) -> None:
    dataset = log(tmp_path)
    state = State(dataset, log_setup(setup_of, tmp_path, algorithm="next_item", passes=2))
    Environment(Agent(state.setup, state.space), state, state.setup).run_sim()
    again = log_setup(setup_of, tmp_path, algorithm="next_item", passes=3)
    called = []
    environment = Environment(Agent(again, state.space), State(dataset, again), again, resume=True)
    environment.source.prepare = called.append  # type: ignore[method-assign]
    environment.run_sim()
    assert not called
