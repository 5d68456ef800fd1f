"""Tiny trained models for the tests of the service: made once for each algorithm, in a second or so."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from what_next.agent import Agent
from what_next.data import Dataset, Options, import_files, save
from what_next.environment import Environment
from what_next.models.linear import LinearTerm
from what_next.settings import Setup
from what_next.state import State
from what_next.training import checkpoint

from ..conftest import listening

USERS, ITEMS, EVENTS = 30, 80, 12
ATTRIBUTES = ("danceability", "energy", "tempo", "valence")

_root: list[tempfile.TemporaryDirectory[str]] = []


def served(
    folder: Path, algorithm: str = "next_item", context: bool = False, repeat: float = 0.0, **server: Any
) -> Setup:
    """The setup of a trained model whose files lie in `folder`, as does `setup.txt`; nothing else is in there.

    30 users (`u0`, ...) with 12 events each, 80 items (`i0`, `Song 0`, ...) with four attributes, times and rewards.

    Args:
        folder: an empty one, of the test's own.
        algorithm: any that a setup may name.
        context: whether an encoder reads the numbers of events.
        repeat: what the items of a history have beside their scores (`LinearTerm.repeat`), and no other item.
        server: settings of the service, as in `server.deadline`; the other settings of the run stay.
    """
    source = _trained(algorithm, context, repeat)
    for path in source.iterdir():
        shutil.copy(path, folder / path.name)
    # A busy machine must not decide what is answered.
    server = {"deadline": 60_000, **server}
    with (folder / "setup.txt").open("a") as file:
        for name, value in server.items():
            file.write(f"server.{name}, {_written(value)}\n")
    return Setup.read(folder / "setup.txt", ["train=no"])


def data_of(setup: Setup) -> Dataset:
    """The log that the model was trained on."""
    return Dataset.read(setup.data)


@cache
def _trained(algorithm: str, context: bool, repeat: float) -> Path:
    """A folder with the log, `setup.txt`, and the models that it trains."""
    if not _root:
        _root.append(tempfile.TemporaryDirectory(prefix="served-"))  # removed when the tests end
    folder = Path(_root[0].name) / f"{algorithm} {_written(context)} {repeat}"
    folder.mkdir()
    log, items = listening(USERS, ITEMS, EVENTS)
    log.write_csv(folder / "raw.csv")
    items.write_csv(folder / "raw.items.csv")
    save(import_files([folder / "raw.csv"], folder / "raw.items.csv", Options()), folder / "listening.parquet")
    for name in ("raw.csv", "raw.items.csv"):
        (folder / name).unlink()
    values = {
        "train": "yes",
        "data": "listening.parquet",
        "algorithm": algorithm,
        "inputs.context": _written(context),
        "epochs": "64",
        "batch_size": "16",
        "dim": "8",
        "threads": "1",
        "device": "cpu",
        "precision": "fp32",
        "model_agent_path": "agent.safetensors",
        "model_critic_path": "critic.safetensors",
    }
    (folder / "setup.txt").write_text("".join(f"{key}, {value}\n" for key, value in values.items()))
    setup = Setup.read(folder / "setup.txt")
    state = State.from_setup(setup)
    agent = Agent(setup, state.space)
    Environment(agent, state, setup).train_agent()
    linear = getattr(agent.nets.get("encoder"), "ridge", None)
    if isinstance(linear, LinearTerm) and (repeat or linear.transition):
        linear.repeat.fill_(repeat)
        linear.transition.fill_(0.0)
        linear.forget()
        checkpoint.save(agent, np.random.default_rng(0), "0" * 32)
    return folder


def _written(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
