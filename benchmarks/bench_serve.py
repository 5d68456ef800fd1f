"""The service under load, on loopback: the service on one core, the client on another. Prints JSON lines.

The model is untrained (an LSTM of `--dim`), and the log is made up. Every request names a user with a stored history,
draws 10 items by the softmax over all items (exact propensities), has its key checked, and is answered when the answer
is logged on the disk. Every figure is the median of `--repeats`, with all values beside it, except for `pressure`,
which is measured once.

`latency`: an open loop of 100 requests a second, for users in memory, and for users whom the service has not seen since
it started. `throughput`: a closed loop, alternating with a bare ASGI application under the same server, parser, loop
and client. `batching`: the same with `server.batch` 1 and 64. `events`: batches of 100 on SQLite. `start`: from the
start of the process until it is ready. `pressure`: closed loops of `--crowds` connections, then open loops of
`--overload` times the best rate on 4,000 connections: the rate and latency of the model's answers (goodput), refusals,
and requests that could not be sent because all connections waited. `cold`: batches of 100 users who are not in memory.
`--soak MINUTES`: half of the throughput, and the memory of the process.
"""

import argparse
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import load
    import served
except ImportError as error:
    print(f"bench_serve needs {error.name}: pip install 'what-next-rl[serve]'; nothing was measured", file=sys.stderr)
    sys.exit(0)

RATE = 100
ONLY = ("latency", "beside", "throughput", "batching", "events", "start", "pressure", "cold")
MINUTE = 60


def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


class Goodput(NamedTuple):
    """Answers of the model per elapsed second, and per processor second of the service."""

    per_second: float
    per_cpu_second: float


def goodput(told: load.Told) -> Goodput:
    """The goodput of a load."""
    answers = len(told.latencies) - told.fallbacks
    return Goodput(answers / told.seconds, answers / max(told.spent, 0.01))


class Bench:
    """One made-up model, and its measurements."""

    def __init__(self, made: served.Made, common: dict[str, Any], arguments: argparse.Namespace) -> None:
        self.made, self.common, self.arguments = made, common, arguments
        self.core, _ = served.cores()
        self.rng = np.random.default_rng(1)

    def tell(self, what: str, **values: object) -> None:
        """Print one line."""
        loads = [round(value, 2) for value in os.getloadavg()]
        print(json.dumps({"benchmark": "serve", "what": what, **values, **self.common, "load_average": loads}))
        sys.stdout.flush()

    def asks(self, users: Sequence[str]) -> load.Make:
        """Requests for recommendations, cycling over these users."""
        requests = [
            load.request(
                "POST",
                "/v1/recommendations",
                json.dumps({"user_id": user, "k": 10, "explore": {"temperature": 1.0}}).encode(),
                self.made.key,
            )
            for user in users
        ]
        return itertools.cycle(requests).__next__

    def some(self, count: int) -> list[str]:
        """Distinct users."""
        return self.rng.permutation(self.made.users)[:count].tolist()

    def repeated(self, measure: Callable[[], float]) -> list[float]:
        """All values of a figure."""
        return [measure() for _ in range(self.arguments.repeats)]

    def warm(self, service: served.Service, users: Sequence[str]) -> None:
        """Send one request for each of the users."""
        load.closed(service.port, self.asks(users), connections=8, count=len(users))

    def latency(self) -> None:
        """The p99 and p50 of one recommendation at 100 requests a second."""
        seconds, users = self.arguments.seconds, self.some(len(self.made.users))
        half = min(1000, len(users) // 2)
        known, fresh = users[:half], users[half:]
        with served.serving(self.made, self.core) as service:
            self.warm(service, known)
            for kind, asked in (("known users", known), ("users not seen before", fresh)):
                make, before = self.asks(asked), service.busy
                told = [
                    load.opened(service.port, make, rate=RATE, seconds=seconds, seed=seed)
                    for seed in range(self.arguments.repeats)
                ]
                answers = sum(len(one.latencies) for one in told)
                values = {f"p{share:g}": [one.quantile(share / 100) for one in told] for share in (50, 99, 99.9)}
                self.tell(
                    "latency",
                    who=kind,
                    requests_per_s=RATE,
                    seconds=seconds,
                    refused=sum(one.refused for one in told),
                    fallbacks=sum(one.fallbacks for one in told),
                    service_cpu_ms=round(1000 * (service.busy - before) / answers, 2),
                    **{f"{name}_ms": round(statistics.median(found), 2) for name, found in values.items()},
                    all_p99_ms=[round(value, 2) for value in values["p99"]],
                )

    def beside(self) -> None:
        """The p99 of one recommendation at 100 requests a second while a model is trained on the service's own core.

        As in the loop, training is a process of its own, with one thread and low priority (`nice 10`). It is paused and
        resumed alternately.
        """
        seconds, users = self.arguments.seconds, self.some(min(1000, len(self.made.users)))
        told: dict[str, list[float]] = {"without": [], "with": []}
        with served.serving(self.made, self.core) as service, served.training(self.made, self.core) as training:
            self.warm(service, users)
            make = self.asks(users)
            for seed in range(self.arguments.repeats):
                for how, number in (("without", signal.SIGSTOP), ("with", signal.SIGCONT)):
                    training.send_signal(number)
                    told[how].append(
                        load.opened(service.port, make, rate=RATE, seconds=seconds, seed=seed).quantile(0.99)
                    )
                    assert training.poll() is None, "training ended before the measurement did"
        medians = {how: round(statistics.median(found), 2) for how, found in told.items()}
        self.tell(
            "beside",
            requests_per_s=RATE,
            seconds=seconds,
            p99_ms=medians,
            times=round(medians["with"] / medians["without"], 2),
            all_p99_ms={how: [round(one, 2) for one in found] for how, found in told.items()},
        )

    def saturated(self, port: int, make: load.Make, connections: int | None = None) -> load.Told:
        """A closed loop."""
        connections = connections or self.arguments.connections
        told = load.closed(port, make, connections=connections, seconds=self.arguments.seconds)
        if told.refused:
            print(f"{told.refused:,} of {len(told.latencies):,} refused: {told.first}", file=sys.stderr)
        return told

    def throughput(self) -> None:
        """Recommendations a second, alternating with a bare ASGI application."""
        hello, users = load.request("GET", "/"), self.some(1000)
        with served.serving(self.made, self.core) as service, served.greeting(self.core) as bare:
            self.warm(service, users)
            make = self.asks(users)
            ours, theirs, before = [], [], service.busy
            for _ in range(self.arguments.repeats):
                theirs.append(self.saturated(bare.port, lambda: hello))
                ours.append(self.saturated(service.port, make))
            spent = (service.busy - before) / sum(len(one.latencies) for one in ours)
            shares = [one.rate / other.rate for one, other in zip(ours, theirs, strict=True)]
            self.tell(
                "throughput",
                share_of_bare=round(statistics.median(shares), 4),
                all_shares=[round(share, 4) for share in shares],
                recommendations_per_s=round(statistics.median(one.rate for one in ours)),
                bare_per_s=round(statistics.median(one.rate for one in theirs)),
                p50_ms=round(statistics.median(one.quantile(0.5) for one in ours), 2),
                connections=self.arguments.connections,
                client_busy=[round(max(one.busy for one in kind), 2) for kind in (ours, theirs)],
                refused=sum(one.refused for one in ours),
                fallbacks=sum(one.fallbacks for one in ours),
                # Processor seconds do not depend on other programs; elapsed time does.
                service_cpu_ms=round(1000 * spent, 3),
                service_mib=round(service.memory / 2**20),
            )

    def batching(self) -> None:
        """The gain of micro-batching."""
        users, rates = self.some(1000), {}
        for size in (1, 64):
            with served.serving(self.made, self.core, f"server.batch={size}") as service:
                self.warm(service, users)
                make = self.asks(users)
                rates[size] = self.repeated(lambda: self.saturated(service.port, make).rate)  # noqa: B023
        middle = {size: statistics.median(found) for size, found in rates.items()}
        self.tell(
            "batching",
            gain=round(middle[64] / middle[1], 2),
            connections=self.arguments.connections,
            **{f"batch_{size}_per_s": [round(rate) for rate in found] for size, found in rates.items()},
        )

    def events(self) -> None:
        """Durable events a second, 100 in a request."""
        items, users, numbers = self.common["items"], self.made.users, itertools.count()
        drawn = np.random.default_rng(2)
        run = f"{time.time_ns():x}"

        def make() -> bytes:
            events = [
                {"event_id": f"{run}-{next(numbers)}", "user_id": users[user], "item_id": str(item), "event": "play"}
                for user, item in zip(
                    drawn.integers(len(users), size=100), drawn.integers(items, size=100), strict=True
                )
            ]
            return load.request("POST", "/v1/events/batch", json.dumps({"events": events}).encode(), self.made.key)

        with served.serving(self.made, self.core) as service:
            for connections in (1, 8):
                rates = self.repeated(lambda: 100 * self.saturated(service.port, make, connections).rate)  # noqa: B023
                self.tell(
                    "events",
                    batch=100,
                    connections=connections,
                    events_per_s=round(statistics.median(rates)),
                    all_events_per_s=[round(rate) for rate in rates],
                )

    def start(self) -> None:
        """Seconds until the service is ready, with a filled store and cached files."""

        def once() -> float:
            with served.serving(self.made, self.core) as service:
                return service.seconds

        found = self.repeated(once)
        self.tell(
            "start",
            seconds=round(statistics.median(found), 2),
            all_seconds=[round(value, 2) for value in found],
            stored_events=self.arguments.users * self.arguments.heard,
        )

    def pressure(self) -> None:
        """Overload: closed loops with more and more connections, then open loops at multiples of the best rate."""
        seconds, users = self.arguments.seconds, self.some(1000)
        with served.serving(self.made, self.core) as service:
            self.warm(service, users)
            make, best = self.asks(users), Goodput(0.0, 0.0)
            for connections in self.arguments.crowds:
                told = load.closed(
                    service.port, make, connections=connections, seconds=seconds, clock=lambda: service.busy
                )
                best = Goodput(*map(max, best, goodput(told)))
                self.pressed("closed", told, best, connections=connections)
            for times in self.arguments.overload:
                rate = times * best.per_second
                told = load.opened(
                    service.port,
                    make,
                    rate=rate,
                    seconds=seconds,
                    connections=load.CONNECTIONS,
                    clock=lambda: service.busy,
                )
                self.pressed("opened", told, best, times=times, offered_per_s=round(rate), unsent=told.unsent)

    def pressed(self, loop: str, told: load.Told, best: Goodput, **values: object) -> None:
        """One line of `pressure`."""
        answered, found = told.answered or [float("nan")], goodput(told)
        self.tell(
            "pressure",
            loop=loop,
            **values,
            goodput_per_s=round(found.per_second),
            of_best=round(found.per_second / best.per_second, 3),
            goodput_per_cpu_s=round(found.per_cpu_second),
            # If other programs use that core, too, this says more than the rate per elapsed second.
            of_best_per_cpu_s=round(found.per_cpu_second / best.per_cpu_second, 3),
            service_busy=round(told.spent / told.seconds, 2),
            refused_per_s=round(told.refused / told.seconds),
            p50_ms=round(1000 * float(np.quantile(answered, 0.5)), 1),
            p99_ms=round(1000 * float(np.quantile(answered, 0.99)), 1),
            fallbacks=f"{told.replaced / len(answered):.1%}",
            statuses=dict(told.statuses),
            all_p99_ms=round(told.quantile(0.99), 1),
            client_busy=round(told.busy, 2),
        )

    def cold(self) -> None:
        """Batches of 100 users who are not in memory, one after another."""
        users, size = self.some(len(self.made.users)), 100
        count = min(30, len(users) // size)
        bodies = [
            json.dumps({"requests": [{"user_id": user} for user in users[start * size : (start + 1) * size]]}).encode()
            for start in range(count)
        ]
        sent = iter([load.request("POST", "/v1/recommendations/batch", body, self.made.key) for body in bodies])
        with served.serving(self.made, self.core) as service:
            told = load.closed(service.port, sent.__next__, connections=1, count=count)
            self.tell(
                "cold",
                batches=count,
                size=size,
                p50_ms=round(told.quantile(0.5), 1),
                p99_ms=round(told.quantile(0.99), 1),
                refused=told.refused,
                fallbacks=told.replaced,
            )

    def soak(self, minutes: float) -> None:
        """The memory of the process under half load, without the first tenth of the time."""
        users = self.some(1000)
        with served.serving(self.made, self.core) as service:
            self.warm(service, users)
            make, memory = self.asks(users), []
            rate = self.saturated(service.port, make).rate / 2
            end, refused, p99 = time.perf_counter() + MINUTE * minutes, 0, []
            while time.perf_counter() < end:
                told = load.opened(service.port, make, rate=rate, seconds=min(10, 6 * minutes), seed=len(memory))
                memory.append(service.memory)
                refused, p99 = refused + told.refused, [*p99, told.quantile(0.99)]
            settled = memory[len(memory) // 10 :]
            self.tell(
                "soak",
                minutes=minutes,
                requests_per_s=round(rate),
                growth=round(settled[-1] / settled[0] - 1, 4),
                mib=[round(value / 2**20, 1) for value in (settled[0], max(settled), settled[-1])],
                p99_ms=round(statistics.median(p99), 2),
                refused=refused,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--heard", type=int, default=100, help="events of each user")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--algorithm", default="next_item")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument(
        "--crowds", type=int, nargs="+", default=[64, 512, 2000, 4000], help="connections of `pressure`"
    )
    parser.add_argument(
        "--overload",
        type=float,
        nargs="+",
        default=[2, 3, 10],
        help="rates of `pressure`, as multiples of the best rate",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(ONLY), help=f"some of {', '.join(ONLY)}")
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    arguments = parser.parse_args()
    core, client = served.cores()
    served.pinned(client)
    for items in arguments.items:
        with tempfile.TemporaryDirectory(prefix="serve-") as folder:
            made = served.make(
                Path(folder), items, arguments.users, arguments.heard, arguments.dim, arguments.algorithm
            )
            pinning = None if core is None else {"service": core, "client": client}
            common = {"items": items, "dim": arguments.dim, "cpu": processor(), "cores": pinning}
            bench = Bench(made, common, arguments)
            with served.serving(made, core) as service:
                events = arguments.users * arguments.heard
                bench.tell("fill", seconds=round(service.seconds, 1), stored_events=events)
            for what in [name for name in ONLY if name in arguments.only.split(",")]:
                getattr(bench, what)()
            if arguments.soak:
                bench.soak(arguments.soak)


if __name__ == "__main__":
    main()
