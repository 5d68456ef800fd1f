"""What is kept of a model is just that model, under a name that no other has and that leads nowhere else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from what_next.errors import ModelError, SaveError
from what_next.serving.engine.served import Served
from what_next.serving.engine.versions import AGENT, keep, whole
from what_next.serving.loop.candidate import served as judged
from what_next.training.artefacts import CRITIC, critic_beside

from .models import served


def changed(file: Path, run: str | None = None, critic: Path | None = None) -> None:
    """The same model with another run, with a critic that was saved elsewhere, or with other weights."""
    with safe_open(file, "np") as opened:
        held, about = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    manifest = json.loads(about["what_next"])
    if critic is not None:
        manifest["setup"]["model_critic_path"] = str(critic)
    elif run is not None:
        manifest["run"] = run
    else:
        held["encoder.items.learned"] += 1
    save_file(held, file, about | {"what_next": json.dumps(manifest)})


def test_the_same_run_with_other_weights_is_another_version(tmp_path: Path) -> None:
    setup, versions = served(tmp_path), tmp_path / "versions"
    first = keep(versions, setup.model_agent_path)
    changed(setup.model_agent_path)
    second = keep(versions, setup.model_agent_path)
    assert first.rpartition("-")[0] == second.rpartition("-")[0]
    assert sorted(path.name for path in versions.iterdir()) == sorted({first, second})
    vectors = [Served.load(versions, version).units for version in (first, second)]
    assert not np.allclose(*vectors)


@pytest.mark.parametrize("run", ["../../outside", "..", "a/b", "a b", ".hidden", "", "ä"])
def test_a_run_whose_name_is_no_files_is_refused(tmp_path: Path, run: str) -> None:
    setup = served(tmp_path)
    changed(setup.model_agent_path, run)
    changed(setup.model_paths[1], run)
    with pytest.raises(ModelError, match="is no name"):
        keep(tmp_path / "deep" / "er" / "versions", setup.model_agent_path)
    assert not (tmp_path / "deep").exists()
    with pytest.raises(ModelError, match="is no name"):
        Served.load(tmp_path, run)


def test_a_copy_that_is_not_the_model_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, versions, copy = served(tmp_path), tmp_path / "versions", shutil.copyfile
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", lambda source, to: (copy(source, to), to.write_bytes(b"cut off")))
        with pytest.raises(SaveError, match="changed while it was copied"):
            keep(versions, setup.model_agent_path)
    assert list(versions.iterdir()) == []
    version = keep(versions, setup.model_agent_path)
    (versions / version / "agent.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"is damaged: .* remove this folder"):
        keep(versions, setup.model_agent_path)


def test_a_version_from_before_names_told_a_hash_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "8e70324aa9479eb3-1400").mkdir()
    with pytest.raises(ModelError, match=r"by an earlier version, .*; what-next promote SETUP --force deploys"):
        whole(tmp_path, "8e70324aa9479eb3-1400")


def test_a_version_is_judged_with_its_own_critic_whatever_it_was_called(tmp_path: Path) -> None:
    setup, versions = served(tmp_path, "sqn"), tmp_path / "versions"
    agent, critic = setup.model_paths
    mine = critic.rename(tmp_path / "mine.safetensors")
    changed(agent, critic=mine)
    version = keep(versions, agent)
    changed(mine, run="later")  # trained anew, where it was
    kept = versions / version / AGENT
    assert critic_beside(kept) == kept.with_name(CRITIC)
    assert judged("deployed", kept, setup).setup.model_critic_path == kept.with_name(CRITIC)
    assert critic_beside(agent) == mine
    for other in (mine.read_bytes(), b"no model"):  # called so by chance
        agent.with_name(CRITIC).write_bytes(other)
        assert critic_beside(agent) == mine
