"""The card beside a saved model tells what it was trained on, how well, with which settings, and for whom it is not."""

import re
from pathlib import Path

import pytest
import yaml

import what_next as wn
from what_next.testing import made_up_log
from what_next.training.artefacts import read_manifest
from what_next.training.card import people

from .conftest import Trained


def test_its_header_is_that_of_the_hub(trained: Trained) -> None:
    text = (trained.folder / "agent.card.md").read_text()
    header = yaml.safe_load(re.fullmatch(r"---\n(.*?)\n---\n.*", text, re.S)[1])  # type: ignore[index]
    assert header["library_name"] == "what-next-rl"
    assert "whatnext" in header["tags"]
    (result,) = header["model-index"][0]["results"]
    assert result["dataset"]["name"] == trained.state.dataset.name
    valid = read_manifest(trained.setup.model_agent_path).metrics["valid"]
    assert result["metrics"] == [{"type": "spread@20", "value": valid["spread@20"]}]


def test_it_tells_the_data_the_split_and_what_was_set(trained: Trained) -> None:
    text = (trained.folder / "agent.card.md").read_text()
    state = trained.state
    assert "`listening`, 2,400 events, 60 users, 42 training users, 6 validation users, 12 test users" in text
    assert f"hash `{state.split.hash}`" in text
    assert "80, attributes: danceability, energy, tempo, valence" in text
    assert re.search(r"On what 6 validation users did, which training never saw: spread@20 -?[\d.e-]+\.", text)
    assert "\ndim, 16\n" in text
    assert str(trained.folder) not in text
    assert "not for decisions about people" in text


def test_one_user_is_not_users() -> None:
    assert people({"users": 1.0}) == "1 validation user"
    assert people({"users": 1200.0}) == "1,200 validation users"
    assert people({"ndcg@10": 0.1}) == "validation users"


def test_it_goes_with_a_model_that_is_saved_elsewhere_and_a_new_save_replaces_it(tmp_path: Path) -> None:
    log = made_up_log(users=12, items=9, events=6)
    model = wn.fit(log, passes=1, dim=4, linear=False, verbose=False, folder=tmp_path / "a")
    card = (tmp_path / "a" / "agent.card.md").read_text()
    assert (model.save(tmp_path / "b") / "agent.card.md").read_text() == card
    wn.fit(log, passes=1, dim=6, linear=False, verbose=False, folder=tmp_path / "a", overwrite=True)
    assert "\ndim, 6\n" in (tmp_path / "a" / "agent.card.md").read_text()


def test_a_model_without_a_card_opens(tmp_path: Path) -> None:
    old = Path(__file__).parent / "saved"
    if not (agents := sorted(old.rglob("agent.safetensors"))):
        pytest.fail("there are models of earlier releases")
    assert not (agents[0].parent / "agent.card.md").exists()
    assert wn.load(agents[0]).policy.agent.histories
