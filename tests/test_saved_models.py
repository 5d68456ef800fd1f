"""Models, resume files and setups of version 0.1 are read: they recommend as they did, and train on as they did.

`saved/NAME` holds what `what-next train setup.txt` wrote, `resumed.safetensors` the weights after `--resume` with twice
the length, and `expected.json` what was recommended after three items.
"""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import what_next as wn
from what_next import Agent
from what_next.environment import Environment
from what_next.training import checkpoint
from what_next.training.artefacts import read_manifest
from what_next.training.checkpoint import TARGET

from .conftest import Trained

SAVED = Path(__file__).parent / "saved"
TWICE = {"whatnext": "epochs=64", "iql": "passes=4"}
DEFAULTS = {"whatnext": [], "iql": ["learning_rate=0.004", "loss.negatives=1024", "patience=none"]}
"""As they were then."""
KEYS = {
    "format", "package", "role", "run", "histories", "setup", "catalogue", "typical", "tolerance", "event_names",
    "metrics", "made_with",
}  # fmt: skip


@pytest.fixture(params=TWICE)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a saved model, which may be trained on."""
    shutil.copy(SAVED / "log.parquet", tmp_path)
    return Path(shutil.copytree(SAVED / request.param, tmp_path / request.param))


def tensors(*paths: Path) -> dict[str, torch.Tensor]:
    """Without priors of 0, which earlier versions had no tensor for."""
    found = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    return {name: value for name, value in found.items() if not (name.endswith("head.prior") and not value)}


def test_it_recommends_as_it_did(folder: Path) -> None:
    expected = json.loads((folder / "expected.json").read_text())["recommended"]
    found = wn.load(folder / "agent.safetensors").recommend(history=["item 1", "item 2", "item 3"], k=5)
    assert [one.item_id for one in found.items] == expected


def test_a_resumed_run_comes_to_the_same_weights(folder: Path) -> None:
    setup = wn.Setup.read(folder / "setup.txt", [TWICE[folder.name], *DEFAULTS[folder.name]])
    before = read_manifest(setup.model_agent_path)
    report = Environment.from_setup(setup, resume=True).run_sim()
    assert report.histories == 2 * before.histories
    assert setup.model_critic_path
    now, expected = tensors(*setup.model_paths), tensors(folder / "resumed.safetensors")
    assert {name for name in now if not name.startswith("space.")} == set(expected)
    for name, weights in expected.items():
        np.testing.assert_allclose(now[name].numpy(), weights.numpy(), rtol=1e-3, atol=1e-4, err_msg=name)
    assert read_manifest(setup.model_agent_path).run == before.run


def test_a_run_from_its_setup_writes_the_same_keys_and_tensors(folder: Path) -> None:
    names = ("agent.safetensors", "critic.safetensors", "agent.resume.safetensors")
    old = {name: (tensors(folder / name), read_manifest(folder / name)) for name in names}
    setup = wn.Setup.read(
        folder / "setup.txt", ["skip=no", "inputs.items=learned", "linear=no", "item_dropout=0"]
    )  # as all were
    Environment.from_setup(setup, force=True).run_sim()
    for name, (before, manifest) in old.items():
        assert {key: value.shape for key, value in tensors(folder / name).items() if not key.endswith("prior")} == {
            key: value.shape for key, value in before.items()
        }
        now = read_manifest(folder / name)
        assert set(now.model_dump()) == set(manifest.model_dump()) == KEYS
        assert now.setup.keys() >= manifest.setup.keys()
        assert now.metrics.keys() >= manifest.metrics.keys()


def test_target_networks_from_before_values_had_a_prior_are_read(trained: Trained) -> None:
    agent = Agent(trained.setup, trained.state.space).ready_agent()
    weights = {name: value + 1 for name, value in agent.nets["critic"].state_dict().items() if name != "head.prior"}
    target = copy.deepcopy(agent.nets["critic"])
    checkpoint._fill_target(agent, "critic", target, {f"{TARGET}.critic.{name}": one for name, one in weights.items()})
    assert all(torch.equal(target.state_dict()[name], value) for name, value in weights.items())
    assert target.head.prior == agent.nets["critic"].head.prior


def test_slow_copies_are_saved_as_they_were() -> None:
    names = tensors(SAVED / "iql" / "agent.resume.safetensors")
    assert {name.split(".")[1] for name in names if name.startswith("slow.")} == {"encoder", "critic"}
