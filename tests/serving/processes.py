"""`what-next serve` as a process of its own, for tests that kill it; and a client of few words."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
PATIENCE = 60.0
"""Seconds that a service may take to start, on a busy machine."""

FORKING = """
import json, os, signal, sys
import torch._dynamo, what_next.serving.http.run  # what takes the time of a start, once for all children
from what_next.cli.app import run

for line in sys.stdin:
    words, out, variables = json.loads(line)
    child = os.fork()
    if child == 0:
        os.environ.update(variables)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has the tests ignore
        for number, path in ((0, os.devnull), (1, out), (2, out)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), number)
        sys.argv = ["what-next", *words]
        run()
    print(child, flush=True)
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process that has imported everything, and forks a service for each line that it reads."""


def environment() -> dict[str, str]:
    """The package of this repository, one thread, and no store or address of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WHAT_NEXT_")}
    return {**kept, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
    return port


def ask(port: int, method: str, path: str, body: Any = None, timeout: float = 10.0) -> tuple[int, Any]:
    """One request on a connection of its own: the status, and the body as JSON (text where it is none)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        return over(connection, method, path, body)
    finally:
        connection.close()


def over(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request on a connection that stays."""
    content = None if body is None else json.dumps(body)
    connection.request(method, path, content, {"content-type": "application/json"} if content else {})
    answer = connection.getresponse()
    told = answer.read()
    try:
        return answer.status, json.loads(told)
    except ValueError:
        return answer.status, told.decode()


def until_ready(port: int, alive: Any = lambda: True) -> None:
    """Wait until the service on a port answers that it is ready."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and alive():
        try:
            if ask(port, "GET", "/ready")[0] == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.02)
    raise AssertionError(f"the service on port {port} did not get ready")


class Forks:
    """Services that start in a fraction of the time, since a process that has imported everything is forked.

    One after the other: the next one starts when the last one is gone.
    """

    def __init__(self) -> None:
        self.child: int | None = None
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
        )

    def start(self, setup: Path, *words: str, **variables: str) -> int:
        """`what-next serve SETUP`, as soon as it is ready; returns its port.

        Its output goes into `service.log` beside the setup file; `variables` go into its environment.
        """
        port = free_port()
        self.fork("serve", setup, f"server.port={port}", *words, log=setup.with_name("service.log"), **variables)
        until_ready(port)
        return port

    def fork(self, *words: str | Path, log: Path, **variables: str) -> None:
        """`what-next WORDS`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.child is None
        self.process.stdin.write(json.dumps([list(map(str, words)), str(log), variables]) + "\n")
        self.process.stdin.flush()
        self.child = int(self.process.stdout.readline())

    def end(self, number: signal.Signals) -> int:
        """Send a signal to the service, and wait until it is gone: with which exit code (minus a signal's number)."""
        assert self.process.stdout is not None
        assert self.child is not None
        os.kill(self.child, number)
        said, _, code = self.process.stdout.readline().rpartition(" ")
        assert said == "ended with"
        self.child = None
        return int(code)

    def close(self) -> None:
        """End the process that forks."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
