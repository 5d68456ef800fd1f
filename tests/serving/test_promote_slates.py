"""Promotion by logs of slates of 10: a model that would look better item by item, and is worse, is not deployed.

People on a ring of 40 items like the next item best and the four after it well, and like these less, the more of them
stand above. The models' chances are set by hand, so that what they earn is known. `broad` shows all five more often
than the model that wrote the log, and earns a tenth more. `peaked` shows the next item far more often and the others
less, and earns less; item by item it would seem to earn more, for the next item cannot be shown twice.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from what_next.agent import Agent
from what_next.data import Options, import_files
from what_next.data import save as save_data
from what_next.serving.store import AddEvents, AddFeedback, EventRow
from what_next.settings import Setup
from what_next.state import State
from what_next.training.checkpoint import new_run, save

from .engines import Service, asking, ids, running
from .test_promote import Run, run  # noqa: F401

ITEMS, LENGTH, PEOPLE = 40, 10, 1000
LIKED = np.full(ITEMS, 0.02)
LIKED[1:6] = 0.6, 0.35, 0.35, 0.35, 0.35
WEIGHTS = {"first": (6.0, 2.0), "broad": (7.0, 2.8), "peaked": (24.0, 1.0)}
"""How much likelier than a far item the next one is drawn, and each of four after it."""


def weights(name: str) -> np.ndarray:
    """Of each step on the ring."""
    found, (nearest, near) = np.ones(ITEMS), WEIGHTS[name]
    found[1:6] = nearest, near, near, near, near
    return found


def liking(steps: np.ndarray) -> np.ndarray:
    """The chance that what lies so many steps ahead is liked, in a slate of these."""
    near = (steps > 0) & (steps < 6)
    return LIKED[steps] * 0.9 ** (near.cumsum(axis=1) - near)


def value(name: str, slates: int = 100_000) -> float:
    """What a slate brings: an order by log weights and Gumbel noise is a draw without replacement."""
    noise = np.random.default_rng(1).gumbel(size=(slates, ITEMS)).astype(np.float32)
    return float(liking(np.argsort(-(np.log(weights(name)) + noise), axis=1)[:, :LENGTH]).sum(axis=1).mean())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with the three models."""
    for name in WEIGHTS:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        walks = {"user_id": np.repeat(np.arange(ITEMS), 4), "item_id": np.arange(ITEMS * 4) % ITEMS}
        pl.DataFrame(walks | {"timestamp": range(ITEMS * 4)}).write_csv(folder / "ring.csv")
        save_data(import_files([folder / "ring.csv"], None, Options()), folder / "ring.parquet")
        values = {
            "train": "yes", "data": "ring.parquet", "algorithm": "next_item", "inputs.items": "learned",
            "model": "mean", "dim": ITEMS, "threads": 1, "device": "cpu", "precision": "fp32",
            "model_agent_path": "agent.safetensors",
            "model_critic_path": "critic.safetensors", "server.temperature": 1, "server.deadline": 60_000,
        }  # fmt: skip
        (folder / "setup.txt").write_text("".join(f"{key}, {value}\n" for key, value in values.items()))
        setup = Setup.read(folder / "setup.txt")
        agent = Agent(setup, State.from_setup(setup).space).wake_agent()
        order = np.array(agent.space.catalogue.ids).astype(int)
        # Item vectors are one-hot, so that the encoder's map holds the scores of all items after each.
        scores = np.log(weights(name))[(order[:, None] - order) % ITEMS]
        encoder, actor = agent.nets["encoder"], agent.nets["actor"]
        by_hand = {
            encoder.items.learned: np.eye(ITEMS), encoder.linear.weight: scores / ITEMS**0.5,
            encoder.linear.bias: np.zeros(ITEMS), actor.linear.weight: np.eye(ITEMS),
            actor.linear.bias: np.zeros(ITEMS),
        }  # fmt: skip
        for tensor, numbers in by_hand.items():
            tensor.data = torch.tensor(numbers, dtype=torch.float32)
        save(agent, np.random.default_rng(0), new_run())
    return tmp_path / "models"


def live(service: Service, seed: int) -> None:
    """Everybody has heard one item, is shown ten, and likes some of them."""
    rng = np.random.default_rng(seed)
    heard, names = rng.integers(ITEMS, size=PEOPLE), [f"p{person}" for person in range(PEOPLE)]
    events = (EventRow(f"e{name}", name, str(item), time=1) for name, item in zip(names, heard, strict=True))
    service.store.commit([AddEvents(tuple(events))])
    answers = service.ask_all(
        [asking(user=name, k=LENGTH, exclude_seen=False, seed=seed * 10**6 + one) for one, name in enumerate(names)]
    )
    shown = np.array([ids(answer) for answer in answers])
    liked = rng.random(shown.shape) < liking((shown.astype(int) - heard[:, None]) % ITEMS)
    rows = [
        AddFeedback(f"f{person}-{slot}", answers[person].recommendation_id, str(shown[person, slot]), 1.0)
        for person, slot in zip(*np.nonzero(liked), strict=True)
    ]
    service.store.commit(rows)


def promoted(models: Path, run: Run, seed: int) -> tuple[bool, bool]:  # noqa: F811
    """Whether `peaked` is, by the log of a service that `first` answers for; and then whether `broad` is."""
    first = models / "first" / "setup.txt"
    with running(Setup.read(first, ["train=no"])) as service:
        live(service, seed)
        codes = [run("promote", first, "--model", models / name / "setup.txt")[0] for name in ("peaked", "broad")]
    for path in (models / "first").glob("agent.*store*"):
        path.unlink()
    return codes[0] == 0, codes[1] == 0


def test_what_the_models_earn_is_known():
    assert value("broad") / value("first") == pytest.approx(1.1, abs=0.015)
    assert value("peaked") / value("first") == pytest.approx(0.95, abs=0.015)


@pytest.mark.medium
def test_the_worse_is_not_promoted_and_the_better_is(models: Path, run: Run):  # noqa: F811
    assert promoted(models, run, seed=0) == (False, True)


@pytest.mark.slow
def test_of_100_logs_hardly_any_promotes_the_worse_and_most_the_better(models: Path, run: Run):  # noqa: F811
    worse, better = np.array([promoted(models, run, seed) for seed in range(100, 200)]).sum(axis=0)
    assert worse <= 5
    assert better >= 80
