"""`push` and `pull` against a hub on this machine that speaks Hugging Face's HTTP."""

import base64
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import what_next as wn
from what_next.cli.app import main
from what_next.errors import MissingExtraError, ModelError
from what_next.python import hub as module
from what_next.testing import made_up_log

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks: create, validate, preupload, commit, resolve."""

    files: dict[str, bytes]
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        here = f"http://{self.headers['Host']}/me/mine"
        told: Any = {"url": here}
        if self.path.endswith("/preupload/main"):
            paths = [one["path"] for one in json.loads(body)["files"]]
            told = {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in paths]}
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            told = {"commitUrl": f"{here}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
        self.answer(json.dumps(told).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if "/resolve/" in self.path:  # the library has other questions, too
            self.asked.append(name)
        if not self.path.startswith("/me/mine/resolve/main/") or name not in self.files:
            self.answer(b"", 404, X_Error_Code="EntryNotFound")
            return
        content = self.files[name]
        self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra: hub)")
    from huggingface_hub import constants

    kind = type("Mine", (Hub,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    yield kind
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> wn.Model:
    how: dict[str, Any] = {"passes": 1, "dim": 4, "verbose": False, "folder": tmp_path_factory.mktemp("model")}
    return wn.fit(made_up_log(users=12, items=9, events=6), "sqn", **how)


def test_what_is_pulled_recommends_as_what_was_pushed(hub: type[Hub], model: wn.Model, tmp_path: Path) -> None:
    assert wn.push(model, "me/mine").endswith(f"/me/mine/commit/{COMMIT}")
    own = {"agent.safetensors", "agent.catalogue.parquet", "critic.safetensors"}
    assert set(hub.files) == own | {"README.md", "SHA256SUMS"}  # no log, and nothing that training goes on from
    assert hub.files["README.md"].startswith(b"---\nlibrary_name:")
    hub.files["evil.pkl"] = b"\x80\x04."
    pulled = wn.pull("me/mine", tmp_path / "pulled")
    history = ["item 1", "item 2"]
    assert pulled.recommend(history, k=3) == model.recommend(history, k=3)
    assert set(hub.asked) == set(hub.files) - {"evil.pkl"}
    assert {path.name for path in (tmp_path / "pulled").iterdir()} == own | {"agent.card.md"}


def test_the_command_line_does_the_same(
    hub: type[Hub], model: wn.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["what-next", "hub", *map(str, words)])
        code, told = main(), capsys.readouterr()
        return code, told.out + told.err

    code, told = said("push", model.setup.model_agent_path.with_name("setup.txt"), "me/mine")
    assert (code, told.strip()[-len(COMMIT) :]) == (0, COMMIT)
    code, told = said("pull", "me/mine", "--to", tmp_path, "--json")
    assert (code, json.loads(told)["model_agent_path"]) == (0, str(tmp_path / "agent.safetensors"))
    code, told = said("push", tmp_path / "nothing.safetensors", "me/mine")
    assert (code, "train one first (`train, yes` in the setup)" in told) == (2, True)
    code, told = said("pull", "me/mine", "--to", tmp_path)
    assert (code, "holds a model; give another folder" in told) == (2, True)
    assert said("pull", "me/mine", "--to", tmp_path, "--force")[0] == 0


def test_a_file_that_was_changed_is_refused_and_nothing_is_written(
    hub: type[Hub], model: wn.Model, tmp_path: Path
) -> None:
    wn.push(model.setup.model_agent_path.parent, "me/mine")
    hub.files["agent.catalogue.parquet"] = hub.files["agent.catalogue.parquet"][:-1] + b"?"
    with pytest.raises(ModelError, match=r"agent\.catalogue\.parquet is not what SHA256SUMS says"):
        wn.pull("me/mine", tmp_path / "pulled")
    hub.files["SHA256SUMS"] = b"\xff\xfe  agent.safetensors"
    with pytest.raises(ModelError, match=r"agent\.safetensors is not what SHA256SUMS says"):
        wn.pull("me/mine", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_what_is_not_there_and_what_is_in_the_way_are_told(hub: type[Hub], model: wn.Model, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"me/other: cannot be pulled .*check the name"):
        wn.pull("me/other", tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
    with pytest.raises(ModelError, match=r"'mine' is no name .*give OWNER/NAME"):
        wn.pull("mine", tmp_path / "pulled")
    with pytest.raises(ModelError, match="holds a model; give another folder"):
        wn.pull("me/mine", model.setup.model_agent_path.parent)
    with pytest.raises(ModelError, match=r"nothing.*train one with what_next\.fit"):
        wn.push(tmp_path / "nothing.safetensors", "me/mine")


def test_no_network_is_told(model: wn.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (extra: hub)").constants
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(ModelError, match=r"me/mine: cannot be pushed .*the network"):
        wn.push(model, "me/mine")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        wn.push(model, "me/mine")


def test_a_model_that_was_written_over_is_not_pushed(hub: type[Hub], tmp_path: Path) -> None:
    how: dict[str, Any] = {"passes": 1, "dim": 4, "verbose": False, "folder": tmp_path}
    models = [wn.fit(made_up_log(users=12, items=9, events=6), seed=seed, **how) for seed in (1, 2)]
    with pytest.raises(ModelError, match="holds another model now"):
        wn.push(models[0], "me/mine")
    assert not hub.files


def test_the_missing_library_is_named(model: wn.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    for call in (lambda: module.push(model, "me/mine"), lambda: module.pull("me/mine", tmp_path)):
        with pytest.raises(MissingExtraError, match=r"what-next-rl\[hub\]"):
            call()
