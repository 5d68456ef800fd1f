"""The setup of `bench_serve.py`: a made-up model with its log, and the service as a process of its own on one core."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from what_next import Agent, Setup, State
from what_next.data import Dataset, Options, import_files, save
from what_next.training import checkpoint

SOURCE = Path(__file__).resolve().parents[1] / "src"
PATIENCE = 600
"""Longest start of a service, in seconds."""

SETUP = """train, no
algorithm, {algorithm}
model, lstm
inputs.items, learned
dim, {dim}
threads, 1
data, log.parquet
model_agent_path, agent.safetensors
model_critic_path, critic.safetensors
server.port, 0
server.keys, yes
server.rate, 0
server.temperature, 1
"""
"""One thread, keys checked, no rate limit, exact draws by the softmax."""

HELLO = """
import uvicorn

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})

uvicorn.run(app, port=int(__import__("sys").argv[1]), loop="uvloop", http="httptools", ws="none", lifespan="off",
            access_log=False, log_level="error")
"""


@dataclass(frozen=True)
class Made:
    """A folder with setup, model and log.

    Attributes:
        folder: holds all files, later also the store.
        users: ids of the users with a history. key: an API key of the role admin.
    """

    folder: Path
    users: list[str]
    key: str


def make(folder: Path, items: int, users: int, heard: int, dim: int, algorithm: str) -> Made:
    """An untrained agent with `items` items, and a log of `users` users with `heard` events each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    # Plays of items follow a power law, as in any log of listening.
    played = (items * rng.random(users * heard) ** 3).astype(np.int64)
    names = [f"u{number}" for number in range(users)]
    log = pl.DataFrame(
        {
            "user_id": np.repeat(names, heard),
            "item_id": played,
            "timestamp": 1_700_000_000 + np.tile(np.arange(heard) * 300, users) + rng.integers(300, size=len(played)),
        }
    )
    log.write_parquet(folder / "raw.parquet")
    table = {"item_id": np.arange(items), "title": [f"Song {number}" for number in range(items)]}
    for name in ("energy", "tempo", "valence", "year"):
        table[name] = rng.normal(size=items)
    pl.DataFrame(table).write_parquet(folder / "raw_items.parquet")
    save(import_files([folder / "raw.parquet"], folder / "raw_items.parquet", Options()), folder / "log.parquet")
    (folder / "setup.txt").write_text(SETUP.format(dim=dim, algorithm=algorithm))
    setup = Setup.read(folder / "setup.txt", ["train=yes"])
    state = State(Dataset.read(setup.data), setup)
    checkpoint.save(Agent(setup, state.space).wake_agent().eval(), rng, "0" * 16)
    words = ["key", "add", str(folder / "setup.txt"), "--name", "load", "--role", "admin", "--json"]
    told = subprocess.run(command(*words), env=environment(), capture_output=True, text=True, check=True)
    return Made(folder, names, json.loads(told.stdout)["key"])


def command(*words: str) -> list[str]:
    """The command line of a call of `what-next`."""
    return [sys.executable, "-m", "what_next", *words]


def environment() -> dict[str, str]:
    """The environment variables: one thread, and the package of this repository."""
    return {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


@contextmanager
def training(made: Made, core: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a training on the log of a model, on one core, with low priority as in the loop; yields once it has begun."""
    words = [str(made.folder / "setup.txt"), "seconds=600", "model_agent_path=beside.safetensors"]
    words += ["model_critic_path=beside.critic.safetensors", "log=beside.jsonl", "--force"]
    told = made.folder / "beside.log"
    with told.open("w") as log:
        process = subprocess.Popen(command("train", *words), env=environment(), stdout=log, stderr=log)
    try:
        while not (made.folder / "beside.jsonl").exists():
            if process.poll() is not None:
                raise SystemExit(told.read_text())
            time.sleep(0.1)
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        yield process
    finally:
        process.kill()
        process.wait()


def pinned(core: int | None) -> None:
    """Pin this process to one core, if the system allows it."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def cores() -> tuple[int | None, int | None]:
    """One core for the service, and one for the client; none if there are fewer than two."""
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (there[0], there[1]) if len(there) > 1 else (None, None)


@dataclass
class Service:
    """A service process on a port of this machine."""

    process: subprocess.Popen[bytes]
    port: int
    seconds: float

    @property
    def memory(self) -> int:
        """Resident memory of the process, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    @property
    def busy(self) -> float:
        """Processor seconds of the process so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(made: Made, core: int | None, *overrides: str) -> Iterator[Service]:
    """Run `what-next serve` until the block ends; `seconds`: from the start of the process until it is ready."""
    words = command("serve", str(made.folder / "setup.txt"), *overrides, "--json")
    with (made.folder / "serve.log").open("ab") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            words, env=environment(), stdout=subprocess.PIPE, stderr=log, preexec_fn=lambda: pinned(core)
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
            if not line:
                raise SystemExit(f"the service did not start; see {made.folder / 'serve.log'}")
            yield Service(process, int(json.loads(line)["address"].rpartition(":")[2]), seconds)
        finally:
            _ended(process)


@contextmanager
def greeting(core: int | None) -> Iterator[Service]:
    """Run a bare ASGI application under the same server, parser and loop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", HELLO, str(port)], preexec_fn=lambda: pinned(core))
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if time.perf_counter() - start > PATIENCE or process.poll() is not None:
                raise SystemExit("the bare application did not start")
            time.sleep(0.01)
        yield Service(process, port, time.perf_counter() - start)
    finally:
        _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
