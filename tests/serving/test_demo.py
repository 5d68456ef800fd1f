"""`what-next demo`: a made-up shop whose listeners tire; and all of it in a process of its own."""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from what_next.serving import demo
from what_next.serving.demo import GENRES, LISTENERS, WORLD, free, plays, songs
from what_next.settings import Setup


def test_songs_have_titles_of_their_own_and_the_worlds_attributes() -> None:
    table = songs()
    assert table["title"].n_unique() == WORLD.items == len(table)
    assert np.allclose(table.select(GENRES).to_numpy(), WORLD.item_vectors)
    assert len(set(LISTENERS)) == len(LISTENERS) == 40


def test_plays_are_those_of_the_world_and_the_same_for_a_seed() -> None:
    now = 10**15
    log = plays(50, np.random.default_rng(0), now)
    assert log.equals(plays(50, np.random.default_rng(0), now))
    assert (len(log), log["user_id"].n_unique()) == (50 * 40, 50)
    assert log["time"].max().timestamp() * 1e6 < now  # type: ignore[union-attr]
    assert 0.2 < log["reward"].mean() < 0.6  # type: ignore[operator]


def test_a_port_that_is_taken_is_no_obstacle() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f"train, no, data, d, algorithm, next_item, model_agent_path, a, server.port, {port}"
        assert free(Setup.from_text(text)).server.port == 0
    assert free(Setup.from_text(text)).server.port == port


def test_listeners_whose_first_songs_are_refused_tell_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    class Busy(http.server.BaseHTTPRequestHandler):
        """A service that refuses the first request."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            told.append(len(body.get("events", ())))
            songs = [{"recommendation_id": "r", "items": [{"item_id": "0"}]} for _ in body.get("requests", ())]
            content = json.dumps({"answers": songs}).encode()
            self.send_response(503 if len(told) == 1 else 200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    monkeypatch.setattr(demo, "PAUSE", 0.01)
    with http.server.HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        listeners = demo.Listeners(f"http://127.0.0.1:{server.server_port}")
        listeners.start()
        while len(told) < 4 and listeners.is_alive():
            time.sleep(0.01)
        listeners.stop()
        server.shutdown()
    assert told[:4] == [40, 40, 0, 40]  # their own songs, once more; a question; what came of the answer


def _asked(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"{address}{path}", timeout=10) as answer:
        return json.load(answer)


def _started(folder: Path, port: int) -> tuple[subprocess.Popen[str], str]:
    """A demonstration, and its address."""
    command = [sys.executable, "-m", "what_next", "demo", "--no-browser", "--port", str(port)]
    where = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=where, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127.0.0.1:\d+", line):
            return process, found[0]
    raise AssertionError(f"no address, code {process.wait()}")


def _loops(folder: Path) -> list[str]:
    """The loops that work on a store in a folder."""
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(folder).encode() in (text := path.read_bytes()) and b"\0loop\0" in text
    ]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_two_demonstrations_live_and_leave_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    both = [_started(tmp_path, port) for _ in range(2)]
    addresses = [address for _, address in both]
    try:
        assert addresses[0] != addresses[1]
        assert addresses[0].endswith(f":{port}")
        for address in addresses:
            until = time.monotonic() + 60
            while _asked(address, "/v1/users/Ada/history")["total"] < 3:
                assert time.monotonic() < until
                time.sleep(0.5)
            history = _asked(address, "/v1/users/Ada/history")
            assert [one["topic"] for one in history["boredom"]["topics"]] == list(GENRES)
            assert _asked(address, "/v1/experiment")["experiment"]["name"] == "trained:popular"
        assert len(_loops(tmp_path)) == 2
    finally:
        for process, _ in both:
            process.send_signal(signal.SIGINT)
    assert [process.wait(60) for process, _ in both] == [0, 0]
    assert not any("nanobind" in process.stderr.read() for process, _ in both if process.stderr)
    assert list(tmp_path.glob("what-next*")) == []
    assert _loops(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_loop_ends_with_a_demonstration_that_is_killed(tmp_path: Path) -> None:
    process, _ = _started(tmp_path, 0)
    for there in (True, False):
        until = time.monotonic() + 10
        while bool(_loops(tmp_path)) != there and time.monotonic() < until:
            time.sleep(0.1)
        process.kill()
        assert time.monotonic() < until


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 130), (signal.SIGTERM, -15)])
def test_a_signal_in_training_ends_it_and_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-m", "what_next", "demo", "--no-browser"]
    where = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=where, text=True)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("what-next-demo-*/agent.safetensors")):  # a first save
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(60) == code
    assert list(tmp_path.glob("what-next*")) == []


def test_the_fourth_play_of_a_topic_within_six_songs_bores() -> None:
    folk, jazz = (int(np.flatnonzero(WORLD.item_topics == topic)[0]) for topic in (0, 1))
    state = WORLD.followed([folk, folk, jazz, folk], [True, True, False, True])
    assert state.counts[0, :2].tolist() == [3, 0]
    assert state.rest.sum() == 0
    state = WORLD.followed([folk, folk, jazz, folk, folk], [True, True, False, True, True])
    assert state.rest[0, :2].tolist() == [WORLD.window, 0]
