"""Growth of costs with events, items and users, and the constants of `what-next plan`.

Every size is measured in a process of its own, because memory is that of a whole process; seconds are of processor
time, which hardly depends on other work of the machine. Prints a JSON line for each.

    python benchmarks/bench_scale.py                      # all parts: half an hour on one core
    python benchmarks/bench_scale.py --only training      # some of them
    python benchmarks/bench_scale.py --keep               # updates the constants, the page and the picture
    python benchmarks/bench_scale.py --draw               # measures nothing: page and picture from stored lines

`import`: Parquet with integer ids, 100 events a user. `training`: `next_item`, an LSTM, sampled softmax with 1,024
negatives, batches of 64 histories of 100 events, a bounded number of steps on a made-up log. `search`: the 100 best of
item vectors in clusters, one query at a time. `sessions`: users in memory, an LSTM. `database`: events and answers of
ten items, durable, a hundred in a transaction. `service`: recommendations by HTTP, 16 at once, by the softmax over
all items.
"""

import argparse
import http.client
import json
import multiprocessing
import re
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bench_import
import bench_serve
import load
import numpy as np
import polars as pl
import scale_picture
import served
import torch

import what_next as wn
from what_next.data import import_files, save
from what_next.inference.session import Event, Sessions
from what_next.retrieval.approximate import ApproximateIndex
from what_next.serving.store import AddEvents, AddImpression, EventRow, Store
from what_next.sources import source_of

LENGTH = 100
"""Events of each user in the log."""
Row = dict[str, Any]


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Peak resident memory of this process, in bytes; `getrusage` would include that of its parent."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def made_up(items: int, events: int) -> wn.Dataset:
    """A log in which items are drawn by a power law; users have `LENGTH` events each."""
    rng = np.random.default_rng(0)
    users = events // LENGTH
    drawn = (items * rng.random(users * LENGTH, dtype=np.float32) ** 3).astype(np.int32)
    ids = np.arange(items)
    return wn.Dataset(
        name="made up",
        user_ids=pl.Series("user_id", np.arange(users)),
        items=np.minimum(drawn, items - 1),
        offsets=np.arange(0, users * LENGTH + 1, LENGTH),
        timestamps=None,
        rewards=None,
        context=np.zeros((users * LENGTH, 0), np.float32),
        context_names=(),
        catalogue=wn.Catalogue.from_table(pl.DataFrame({"item_id": ids, "title": pl.Series(ids).cast(pl.String)})),
    )


def agent_of(items: int, events: int, dim: int) -> tuple[wn.Agent, wn.State]:
    """An untrained agent, and the made-up log."""
    setup = wn.Setup(
        train=True, data=Path("log.parquet"), algorithm="next_item", model="lstm",
        loss={"name": "sampled_softmax", "negatives": 1024},
        dim=dim, max_length=LENGTH, batch_size=64, linear="no", threads=1,
        model_agent_path=Path("agent.safetensors"), model_critic_path=Path("critic.safetensors"),
    )  # fmt: skip
    state = wn.State(made_up(items, events), setup)
    return wn.Agent(setup, state.space).wake_agent(), state


def importing(events: int, folder: str) -> Row:
    """The work of `what-next data import`, including its files, and the cost of reading the result back."""
    path, before = Path(folder) / "log.parquet", resident()
    busy = time.process_time()
    save(import_files([path]), path.with_name("imported.parquet"))
    spent, most = time.process_time() - busy, peak() - before
    size = path.with_name("imported.parquet").stat().st_size
    return {"cpu_s": spent, "peak_bytes": most, "file_bytes": size}


def training(items: int, events: int, dim: int, steps: int) -> Row:
    agent, state = agent_of(items, events, dim)
    rng, targets, spent = np.random.default_rng(0), 0, 0.0
    source, policy = source_of(state), wn.LearnedPolicy(agent, state)
    for step in range(steps + 3):
        busy = time.process_time()
        done = agent.propagate(source.next_batch(policy, rng), rng).targets
        if step >= 3:
            spent, targets = spent + time.process_time() - busy, targets + done
    dense = sum(
        one.numel() for net in agent.nets.values() for one in net.parameters() if one.shape[:1] != (items,)
    )  # fmt: skip
    return {"cpu_s_per_target": spent / targets, "peak_bytes": peak(), "dense_parameters": dense,
            "targets_per_step": targets / steps}  # fmt: skip


def searching(items: int, dim: int, queries: int) -> Row:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(20, items // 500), dim)).astype(np.float32)
    vectors = centres[rng.integers(len(centres), size=items)] + 0.5 * rng.normal(size=(items, dim)).astype(np.float32)
    points, table = centres[rng.integers(len(centres), size=queries)], torch.from_numpy(vectors)
    before, busy = resident(), time.process_time()
    index = ApproximateIndex.of(vectors)
    built, size = time.process_time() - busy, resident() - before
    found = {"build_cpu_s": built, "index_bytes": size}
    ways: dict[str, Callable[[np.ndarray], object]] = {
        "exact_cpu_s": lambda point: (table @ torch.from_numpy(point)).topk(100),
        "approximate_cpu_s": lambda point: index.search(point[None], 100),
    }
    for name, way in ways.items():
        way(points[0])
        busy = time.process_time()
        for point in points:
            way(point)
        found[name] = (time.process_time() - busy) / queries
    return found


def remembering(users: int, heard: int, dim: int) -> Row:
    agent, _ = agent_of(10_000, 100_000, dim)
    sessions, rng, kept = Sessions.of(agent.eval()), np.random.default_rng(0), list[Any]()
    sessions.replays([[Event(1, place) for place in range(heard)]] * 1000)  # what is allocated only once
    before, busy = resident(), time.process_time()
    for start in range(0, users, 1000):
        items = rng.integers(10_000, size=(min(1000, users - start), heard))
        kept += sessions.replays([[Event(int(item), place) for place, item in enumerate(row)] for row in items])
    spent, size = time.process_time() - busy, resident() - before
    some, busy = kept[:500], time.process_time()
    for one in some:
        sessions.fold([one], [Event(1, heard)])
    return {"bytes_per_session": size / users, "replay_cpu_s_per_event": spent / users / heard,
            "fold_cpu_s": (time.process_time() - busy) / len(some)}  # fmt: skip


def storing(users: int, heard: int, place: str) -> Row:
    """Events of all users and an answer for each, a hundred in a transaction; bytes of the whole database."""
    store, rng = Store.open(place), np.random.default_rng(0)
    size = (
        (lambda: sum(one.stat().st_size for one in Path(place).parent.glob("*.sqlite*")))
        if "://" not in place
        else lambda: store.fetch(__import__("sqlalchemy").text("SELECT pg_database_size(current_database())"))[0][0]
    )
    start, busy = size(), time.process_time()
    for first in range(0, users * heard, LENGTH):
        rows = range(first, min(first + LENGTH, users * heard))
        items = rng.integers(10**6, size=len(rows))
        store.commit(
            [
                AddEvents((EventRow(f"e{row:012}", f"u{row % users:09}", f"i{item:07}", "play", 1000 + row),))
                for row, item in zip(rows, items, strict=True)
            ]
        )
    events, spent = size() - start, time.process_time() - busy
    start, busy = size(), time.process_time()
    for first in range(0, users, LENGTH):
        slates = rng.integers(10**6, size=(LENGTH, 10))
        store.commit(
            [
                AddImpression(
                    f"{first + row:032x}", f"u{first + row:09}", 10**15, "0123456789abcdef:0", "trained",
                    tuple(f"i{item:07}" for item in slate), tuple(rng.random(10).tolist()),
                    explore={"temperature": 1.0}, known=heard,
                )
                for row, slate in enumerate(slates)
            ]
        )  # fmt: skip
    found = {"event_bytes": events / users / heard, "event_cpu_s": spent / users / heard}
    found |= {"answer_bytes": (size() - start) / users, "answer_cpu_s": (time.process_time() - busy) / users}
    store.close()
    return found


def answering(items: int, dim: int, answers: int) -> Row:
    """The service's own processor seconds, and bytes by HTTP, of an answer of ten items."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        made = served.make(Path(folder), items, 2000, 50, dim, "next_item")
        asked = [{"user_id": user, "k": 10, "explore": {"temperature": 1.0}} for user in made.users[:500]]
        sent = [load.request("POST", "/v1/recommendations", json.dumps(one).encode(), made.key) for one in asked]
        with served.serving(made, None, "server.deadline=60000") as service:
            load.closed(service.port, iter(sent).__next__, connections=16, count=len(sent))  # all users are in memory
            before, turns = service.busy, answers // len(sent)
            told = load.closed(service.port, iter(sent * turns).__next__, connections=16, count=turns * len(sent))
            spent = (service.busy - before) / (turns * len(sent))
            if told.refused or told.fallbacks:
                raise SystemExit(f"{told.refused} refused, {told.fallbacks} not by the model: {told.first}")
            connection = http.client.HTTPConnection("127.0.0.1", service.port)
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {made.key}"}
            connection.request("POST", "/v1/recommendations", json.dumps(asked[0]), headers)
            answer = connection.getresponse()
            size = len(answer.read()) + len(str(answer.headers)) + len(sent[0])
            return {"cpu_s": spent, "resident_bytes": service.memory, "http_bytes": size}


def alone(function: Callable[..., Row], *given: Any) -> Row:
    """The result of a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as pool:
        return pool.apply(function, given)


def imports(sizes: argparse.Namespace) -> Iterator[Row]:
    for events in sizes.events:
        with tempfile.TemporaryDirectory() as folder:
            bench_import.make(Path(folder) / "log.parquet", events)
            yield {"events": events, **alone(importing, events, folder)}


def trainings(sizes: argparse.Namespace) -> Iterator[Row]:
    cases = {(items, sizes.events[0], 64) for items in sizes.items} | {
        (sizes.items[0], one, 64) for one in sizes.events
    }
    cases |= {(sizes.items[0], sizes.events[0], dim) for dim in (32, 128)}
    for items, events, dim in sorted(cases):
        yield {"items": items, "events": events, "dim": dim, **alone(training, items, events, dim, sizes.steps)}


def searches(sizes: argparse.Namespace) -> Iterator[Row]:
    for items in sizes.items:
        yield {"items": items, "dim": 64, **alone(searching, items, 64, 200)}


def sessions(sizes: argparse.Namespace) -> Iterator[Row]:
    for users in sizes.users:
        heard = 4 if users > 10**5 else 20
        yield {"users": users, "events_of_a_user": heard, "dim": 64, **alone(remembering, users, heard, 64)}
    yield {"users": 1000, "events_of_a_user": 20, "dim": 128, **alone(remembering, 1000, 20, 128)}


def databases(sizes: argparse.Namespace) -> Iterator[Row]:
    for users in sizes.users:
        with tempfile.TemporaryDirectory() as folder:
            found = alone(storing, users, 2, f"{folder}/store.sqlite")
            yield {"users": users, "events_of_a_user": 2, "database": "SQLite", **found}
    if sizes.postgres:
        found = alone(storing, sizes.users[1], 2, sizes.postgres)
        yield {"users": sizes.users[1], "events_of_a_user": 2, "database": "PostgreSQL", **found}


def services(sizes: argparse.Namespace) -> Iterator[Row]:
    for items in (10**4, 10**5):
        yield {"items": items, "dim": 64, **answering(items, 64, 4000)}


PARTS = {"import": imports, "training": trainings, "search": searches, "sessions": sessions, "database": databases,
         "service": services}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=[10**6, 3 * 10**6, 10**7])
    parser.add_argument("--items", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--users", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    parser.add_argument("--postgres", help="URL of an empty PostgreSQL database, to measure besides SQLite")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--keep", action="store_true", help="write the measurements to the constants of the plan")
    parser.add_argument("--lines", type=Path, help="keep the lines printed earlier into this file, and measure nothing")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    sizes = parser.parse_args()
    if sizes.lines:
        rows = [json.loads(line) for line in sizes.lines.read_text().splitlines()]
    else:
        rows = [row for part in sizes.only for row in told(PARTS[part](sizes), part)] if not sizes.draw else []
    if rows and (sizes.keep or sizes.lines):
        scale_picture.keep(rows, bench_serve.processor())
    if sizes.draw or sizes.keep or sizes.lines:
        scale_picture.write()


def told(rows: Iterator[Row], part: str) -> Iterator[Row]:
    """The lines with the name of the part, printed; numbers to four digits."""
    for row in rows:
        row = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}
        found = {"part": part, **row}
        print(json.dumps(found), flush=True)
        yield found


if __name__ == "__main__":
    main()
