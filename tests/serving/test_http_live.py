"""The service as a process: how it starts, stops, and shares a store with another one."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from .endpoint import process, service
from .models import served
from .processes import Forks, ask
from .waiting import impressions_of

WAIT = 90.0
"""Seconds until a process must have started, on a busy machine."""


def environment() -> dict[str, str]:
    source = Path(__file__).resolve().parents[2] / "src"
    return {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}


@contextmanager
def started(*words: object) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A process that is ready, and what it says of itself."""
    with subprocess.Popen(
        [sys.executable, "-m", "what_next", "serve", *map(str, words), "server.port=0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    ) as running:  # fmt: skip
        assert running.stdout is not None
        try:
            line = running.stdout.readline()
            assert line, running.stderr.read() if running.stderr else ""
            yield running, json.loads(line)
        finally:
            running.kill()


def test_a_service_starts_answers_and_ends_on_sigterm_with_everything_kept(tmp_path: Path) -> None:
    served(tmp_path, deadline=5000)
    setup = tmp_path / "setup.txt"
    with started(setup) as (running, facts):
        assert facts["items"] == 80
        assert facts["keys"] is False
        with httpx.Client(base_url=facts["address"], timeout=30) as client:
            assert client.get("/ready").json() == {"ready": True}
            answer = client.post("/v1/recommendations", json={"user_id": "u1", "k": 2}).json()
            assert (answer["known_events"], len(answer["items"])) == (12, 2)
            event = {"event_id": "live", "user_id": "u1", "item_id": "i1"}
            assert client.post("/v1/events", json=event).json()["accepted"] == 1
            assert "server" not in client.get("/health").headers
        host, port = facts["address"].removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as under_way:
            head = "POST /v1/recommendations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            under_way.sendall(head.encode() + b"content-length: 18\r\n\r\n" + b'{"user_id"')
            time.sleep(0.3)
            running.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            under_way.sendall(b': "u1" }')
            assert under_way.recv(100_000).startswith(b"HTTP/1.1 200 OK")
        out, log = running.communicate(timeout=WAIT)
    assert running.returncode == 0, log
    assert out == ""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {line["route"] for line in lines} == {"/v1/recommendations", "/v1/events"}
    assert facts["address"] in log
    with process_again(tmp_path) as total:
        assert total == 13


@contextmanager
def process_again(folder: Path) -> Iterator[int]:
    from what_next.settings import Setup

    with process(Setup.read(folder / "setup.txt", ["train=no"])) as again:
        yield again.get("/v1/users/u1/history")["total"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line, within this process: exit code, output, and what people are told."""
    from what_next.cli.app import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["what-next", *map(str, words)])
        code = main()
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_a_port_in_use_is_one_message_and_exit_code_2(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    served(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, told = run("serve", tmp_path / "setup.txt", f"server.port={port}")
    assert code == 2
    assert f"127.0.0.1:{port}" in told
    assert "server.port" in told


def test_an_address_that_others_reach_needs_a_key(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    served(tmp_path)
    code, _, told = run("serve", tmp_path / "setup.txt", "server.host=0.0.0.0", "server.port=0")
    assert code == 2
    assert "what-next key add" in told
    assert logging.getLogger("what_next.serving").propagate  # the loggers are as they were before


def test_a_place_of_the_store_that_is_no_url_is_one_message_and_exit_code_2(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    served(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHAT_NEXT_STORE", "hello")
    before = sorted(tmp_path.iterdir())
    for words in (("serve", tmp_path / "setup.txt", "server.port=0"), ("key", "list", tmp_path / "setup.txt")):
        code, _, told = run(*words)
        assert (code, "WHAT_NEXT_STORE is no URL" in told, "sqlite:///PATH" in told) == (2, True, True)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setenv("WHAT_NEXT_STORE", f"sqlite:///{tmp_path / 'there.sqlite'}")
    assert run("key", "add", tmp_path / "setup.txt", "--name", "a", "--role", "read")[0] == 0
    assert (tmp_path / "there.sqlite").is_file()


def test_keys_are_told_once_listed_and_revoked(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    served(tmp_path)
    setup = tmp_path / "setup.txt"
    code, key, _ = run("key", "add", setup, "--name", "shop", "--role", "read")
    assert (code, key[:3], len(key)) == (0, "wn_", 47)
    assert run("key", "add", setup, "--name", "shop", "--role", "read")[:2] == (2, "")
    (listed,) = json.loads(run("key", "list", setup, "--json")[1])["keys"]
    assert (listed["name"], listed["role"], listed["revoked"]) == ("shop", "read", None)
    assert run("key", "revoke", setup, "--name", "shop")[0] == 0
    assert json.loads(run("key", "list", setup, "--json")[1])["keys"][0]["revoked"]
    assert run("key", "revoke", setup, "--name", "nobody")[0] == 2
    again = run("key", "add", setup, "--name", "shop", "--role", "write")  # the name is free again
    assert (again[0], again[1] != key) == (0, True)
    (listed,) = json.loads(run("key", "list", setup, "--json")[1])["keys"]
    assert (listed["name"], listed["role"], listed["revoked"]) == ("shop", "write", None)
    code, _, told = run("key", "add", setup, "--name", "boss", "--role", "boss")
    assert (code, told) == (2, "what-next: --role 'boss': expected one of read, write, admin\n")
    assert run("key", "add", setup, "--name", "a\nb", "--role", "read")[0] == 2
    assert run("key", "add", setup, "--name", "[/x] :a:", "--role", "read")[0] == 0
    assert "[/x] :a:" in run("key", "list", setup)[1]


def test_headers_that_do_not_end_are_cut_off(tmp_path: Path) -> None:
    import asyncio

    from .test_http_connections import listening

    async def flooded() -> bytes:
        with service(tmp_path, fill=False) as one:
            async with listening(one) as address:
                reader, writer = await asyncio.open_connection(*address)
                writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert b"200 OK" in await reader.readuntil(b'"ok"}')
                writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: ")
                writer.write(b"x" * 66_000)
                return await asyncio.wait_for(reader.read(), 30)

    assert asyncio.run(flooded()).startswith(b"HTTP/1.1 431 ")


def test_two_processes_on_one_store_answer_by_each_others_events(tmp_path: Path) -> None:
    with service(tmp_path) as first, process(first.setup) as second:
        before = second.recommend(user_id="u5", k=1)
        item = before["items"][0]["item_id"]
        first.play("elsewhere", "u5", item)
        after = second.recommend(user_id="u5", k=80)
        assert after["known_events"] == before["known_events"] + 1
        assert item not in [one["item_id"] for one in after["items"]]
        assert second.play("elsewhere", "u5", item)["duplicates"] == 1
        feedback = {"feedback_id": "f", "recommendation_id": before["recommendation_id"], "item_id": item, "reward": 1}
        assert first.post("/v1/feedback", feedback)["accepted"] == 1
        first.ask("DELETE", "/v1/users/u5")
        assert second.recommend(user_id="u5")["fallback"] == "unknown_user"


@pytest.mark.medium
def test_without_the_services_libraries_one_message_names_them_and_other_commands_run(tmp_path: Path) -> None:
    served(tmp_path)
    code = """
import sys
for name in ("starlette", "sqlalchemy", "uvicorn", "prometheus_client", "psycopg"):
    sys.modules[name] = None
from what_next.cli.app import main
for words in (["--help"], ["serve", sys.argv[1]], ["key", "list", sys.argv[1]]):
    sys.argv = ["what-next", *words]
    print("code", main(), file=sys.stderr)
"""
    words = [sys.executable, "-c", code.replace("sys.argv[1]", repr(str(tmp_path / "setup.txt")))]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=WAIT, check=False)
    assert "serve" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("code")] == ["code 0", "code 2", "code 2"]
    assert done.stderr.count("pip install 'what-next-rl[serve]'") == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_the_latest_feedback_counts_however_late_the_older_one_comes(tmp_path: Path, order: tuple[str, str]) -> None:
    import polars as pl

    from what_next.serving.store.rewards import naming_events, rewards_of

    rows = {"old": (0.25, "2026-11-25T10:00:00Z"), "new": (0.75, "2026-11-25T12:00:00+01:00")}
    with service(tmp_path) as one:
        shown = one.recommend(user_id="u1", k=1)
        item, name = shown["items"][0]["item_id"], shown["recommendation_id"]
        for which in (*order, *order):
            reward, stamp = rows[which]
            one.post(
                "/v1/feedback",
                {
                    "feedback_id": which,
                    "recommendation_id": name,
                    "item_id": item,
                    "reward": reward,
                    "timestamp": stamp,
                },
            )
        (impression,) = impressions_of(one.store, "u1")
        answers = pl.DataFrame({"number": [impression.number], "slate": name, "user_id": "u1", "item_id": [[item]]})
        assert rewards_of(one.store, answers, naming_events(one.store, answers["slate"], 0))[0]["reward"].to_list() == [
            0.75
        ]


@pytest.mark.medium
def test_a_model_that_was_trained_anew_and_is_not_deployed_is_told_at_the_start(
    services: Forks, tmp_path: Path
) -> None:
    from what_next.serving.engine.versions import version_of

    def version_and_told(end: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
        """Of a service that starts, tells, and ends."""
        (tmp_path / "service.log").unlink(missing_ok=True)
        version = ask(services.start(tmp_path / "setup.txt"), "GET", "/v1/model")[1]["version"]
        assert services.end(end) == 0
        return version, (tmp_path / "service.log").read_text()

    setup = served(tmp_path, import_data=False)
    first, told = version_and_told(signal.SIGHUP)  # as from a terminal that is closed
    assert "" not in told.splitlines()  # the end writes nothing, where nobody may read any more
    assert "is not deployed" not in told
    (tmp_path / "other").mkdir()
    other = served(tmp_path / "other", "dqn")
    for path in (tmp_path / "other").glob("*.safetensors"):
        path.replace(tmp_path / path.name)
    new = version_of(setup.model_agent_path)
    assert not other.model_agent_path.exists()
    again, told = version_and_told()
    assert again == first != new
    line = f"the setup's model {new} is not deployed ({first} answers); deploy it with: what-next promote SETUP"
    assert told.splitlines().count(line) == 1
    setup.model_agent_path.unlink()
    again, told = version_and_told()
    assert again == first
    assert f"the setup's model cannot be deployed ({setup.model_agent_path}" in told


@pytest.mark.parametrize("file", ["agent.safetensors", "second.safetensors"])
def test_a_model_that_is_missing_is_told_before_the_store_is_filled(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]], file: str
) -> None:
    from what_next.serving.store import Store, store_of

    setup = served(tmp_path, candidate=tmp_path / "second.safetensors", canary=0.5)
    if file == "agent.safetensors":
        setup.model_agent_path.rename(tmp_path / "second.safetensors")
    code, _, told = run("serve", tmp_path / "setup.txt", "server.port=0")
    assert (code, file in told) == (2, True)
    store = Store.open(store_of(setup))
    assert (store.loaded, store.users("", 10)) == (False, [])
    store.close()


def test_an_empty_file_beside_deployed_models_is_no_first_start(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    from what_next.serving.engine.versions import keep, versions_folder
    from what_next.serving.store import store_of

    setup, file = served(tmp_path, import_data=False), tmp_path / "setup.txt"
    store = Path(store_of(setup))
    store.touch()
    assert run("key", "add", file, "--name", "shop", "--role", "read")[0] == 0  # a new store, of which nothing is known
    store.write_bytes(b"")
    keep(versions_folder(setup), setup.model_agent_path)
    for words in (("serve", file, "server.port=0"), ("key", "add", file, "--name", "a", "--role", "read"),
                  ("promote", file), ("loop", file, "--once")):  # fmt: skip
        code, _, told = run(*words)
        assert (code, f"{store}: is empty (0 bytes), and models were deployed beside it" in told) == (2, True)
        assert "what-next restore SETUP BACKUP --replace" in told
        assert "move that folder away" in told
    assert not store.stat().st_size
