"""What a number of users, items and events needs: memory, disk, network, processors and money, part by part.

Every constant was measured, and stands in `plan.json` beside this file with its size, its command and its machine
(`benchmarks/bench_scale.py` measures them anew). Each part comes of formulas of a few of them, which are shown with it.
Beyond the sizes that were measured the formulas go on as they are: that is extrapolated, and the plan says so.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import polars as pl

from what_next.errors import SetupError

KEPT = Path(__file__).with_name("plan.json")
DAY, MONTH = 86_400, 30 * 86_400
DIM = 64
"""Of the networks that most was measured with."""
LEAST = 10**4
"""Items that were measured with, at least: costs that grow with a power of the items are those of this many below."""
EXACT = 10**5
"""Items up to which a service looks at every one; beyond, the plan has it search an index (`server.search`)."""
ANSWER = 10
"""Items of an answer."""
CACHE = 2.0**30
"""Bytes of sessions that a service keeps in memory at most."""
ARRAYS = 16
"""Bytes of an event in the flat arrays of a log that was sorted on the disk: an item, a time and a reward."""
MAPPED = 100
"""Bytes that training holds of such a log for each user and each window, about."""
MOST = 1e18
"""No number of a plan is larger: beyond, products of them are no numbers any more."""
FREE = ("requests", "prices", "active", "days", "passes")
"""Numbers that may be 0; all others are 1 or more."""
WINDOW = 100
"""Events of a window."""


@dataclass(frozen=True)
class Size:
    """What is planned for.

    Attributes:
        users, items: how many there are; `events`: in the log.
        dim: of vectors and networks.
        requests: answers a second, on average; as many events come in.
        replicas: processes that serve. `ranks`: processes that train; `sharded`: whether each has a share of the item
            tables alone (`cluster.items`).
        passes: of a training over the log, once a day. `active`: share of the users whose state is kept in memory.
        days: that answers and new events are kept in the database.
        memory, disk: of one machine, in bytes; `bandwidth`: between machines, bytes a second.
        prices: money for a core, a GiB of memory, a GiB of disk, each for a month, and for a GiB that is sent.
    """

    users: float
    items: float
    events: float
    dim: int = DIM
    requests: float = 0.0
    replicas: int = 2
    ranks: int = 1
    sharded: bool = False
    passes: float = 10.0
    active: float = 0.1
    days: float = 90.0
    memory: float = 256 * 2.0**30
    disk: float = 10 * 2.0**40
    bandwidth: float = 1.25e9
    prices: tuple[float, float, float, float] = (25.0, 3.0, 0.1, 0.01)


@dataclass(frozen=True)
class Part:
    """What one part needs.

    Attributes:
        memory: bytes, of each process that has it; `copies`: how many these are.
        disk: bytes. `network`: bytes a second, on average. `cores`: kept busy, on average.
        formula: of all that, in the names of the constants.
    """

    name: str
    formula: str
    memory: float = 0.0
    copies: int = 1
    disk: float = 0.0
    network: float = 0.0
    cores: float = 0.0

    def cost(self, prices: Sequence[float]) -> float:
        """Money for a month."""
        core, memory, disk, sent = prices
        gib = (memory * self.memory * self.copies + disk * self.disk + sent * self.network * MONTH) / 2**30
        return core * self.cores + gib


@dataclass(frozen=True)
class Limit:
    """A place where the design breaks.

    Attributes:
        need, most: what is needed there, and what there is, in one unit. `then`: what helps.
    """

    name: str
    need: float
    most: float
    unit: str
    then: str

    @property
    def times(self) -> float:
        """How much of it is used; above 1 it is broken."""
        return self.need / self.most


@dataclass(frozen=True)
class Plan:
    """The parts of a size, and its limits, the one that breaks first first."""

    size: Size
    parts: tuple[Part, ...]
    limits: tuple[Limit, ...]

    @property
    def cost(self) -> float:
        """Money for a month, of all parts."""
        return sum(part.cost(self.size.prices) for part in self.parts)

    @property
    def verdict(self) -> str:
        """Where it breaks first, in a sentence."""
        first = self.limits[0]
        told = f"{first.name} (needs {shown(first.need, first.unit)}, has {shown(first.most, first.unit)})"
        if first.times > 1:
            more = [one.name for one in self.limits[1:] if one.times > 1]
            return f"it breaks at {told}: {first.then}" + (f". So do: {', '.join(more)}" if more else "")
        return f"it holds; the first to break, at {1 / first.times:.3g} times this size, is {told}: {first.then}"

    def as_json(self) -> dict[str, Any]:
        """What `what-next plan` prints with `--json`."""
        parts = [asdict(part) | {"cost": part.cost(self.size.prices)} for part in self.parts]
        limits = [asdict(one) | {"times": one.times} for one in self.limits]
        about = {"size": asdict(self.size), "parts": parts, "limits": limits, "verdict": self.verdict}
        return about | {"beyond": beyond(self.size), "constants": constants(), "measured": kept()["measured"]}


def plan(size: Size) -> Plan:
    """The plan of a size.

    Raises:
        SetupError: a number is none that can be planned for.
    """
    for name, value in asdict(size).items():
        least, most = (0 if name in FREE else 1), (1 if name == "active" else MOST)
        numbers = value if isinstance(value, tuple) else (value,)
        if not isinstance(value, bool) and not all(least <= one <= most for one in numbers):
            raise SetupError(f"{name} {value}: expected {least} to {most:g}")
    parts = (*_learning(size), *_serving(size))
    return Plan(size, parts, tuple(sorted(_limits(size, parts), key=lambda one: -one.times)))


def _part(name: str, size: Size, each: Literal["ranks", "replicas"] | None = None, **needs: str) -> Part:
    """A part by the formulas of what it needs, SQL in the names of the constants and of the size.

    `each`: the processes that have its memory.
    """
    numbers = {key: float(value) for key, value in asdict(size).items() if key != "prices"}
    known = pl.DataFrame({**numbers, **constants(), "day": float(DAY)})
    found = known.select(pl.sql_expr(formula).alias(need) for need, formula in needs.items()).row(0, named=True)
    told = {need: f" = {formula}" for need, formula in needs.items()}
    if each:
        told["memory"] += f", in each of the {each}"
    formula = "; ".join(need + text for need, text in told.items())
    return Part(name, formula, copies=getattr(size, each) if each else 1, **found)


def _learning(size: Size) -> Iterator[Part]:
    """What stands between a log and a model."""
    held = size.events * constants()["import_memory"] <= size.memory / 2
    imported = {"cores": "events * import_cpu / day", "memory": "events * import_memory"}
    log, kept_as = "events * training_memory", "log_bytes"
    if not held:  # it is sorted on the disk, and mapped into memory
        imported |= {"memory": "memory / 2", "disk": "2 * events * log_bytes"}
        log, kept_as = f"{MAPPED} * (users + events / {WINDOW})", f"(log_bytes + {ARRAYS})"
    yield _part("log on disk", size, disk=f"events * {kept_as}")
    yield _part("import", size, None, **imported)
    target = f"pow(dim / {DIM}, target_by_dim) * pow(greatest(items, {LEAST}) / {LEAST}, target_by_items)"
    needs = {"memory": f"training_base + {log}", "cores": f"passes * events * target_cpu * {target} / day"}
    if size.ranks > 1:
        sent = f"4 * dense_parameters * pow(dim / {DIM}, 2) + 2 * targets_per_step * (4 * dim + 8)"
        needs["network"] = f"2 * ranks * passes * events / targets_per_step * ({sent}) / day"
    yield _part("training", size, "ranks", **needs)
    tables = "items * dim * table_memory" + (" / ranks" if size.sharded else "")
    yield _part("item tables", size, "ranks", memory=tables, disk="3 * items * dim * 4")  # of three versions


def _serving(size: Size) -> Iterator[Part]:
    """What stands between a model and an answer."""
    state = f"session_memory * dim / {DIM} + 4 * events / users"
    memory = f"active * users / replicas * ({state})"
    yield _part("sessions", size, "replicas", memory=memory, cores="requests * fold_cpu")
    yield _part(
        "database",
        size,
        disk="(events + requests * day * days) * event_bytes + requests * day * days * answer_bytes",
        network="requests * (event_bytes + answer_bytes)",
        cores="requests * (event_cpu + answer_cpu)",
    )
    vectors, cores = "items * 4 * dim", f"requests * items * exact_cpu * dim / {DIM}"
    if size.items > EXACT:  # an index is searched, and not every item looked at
        vectors += f" + items * index_memory * dim / {DIM}"
        cores = f"requests * approximate_cpu * dim / {DIM} * pow(items / 1000000, approximate_by_items)"
    yield _part("search", size, "replicas", memory=vectors, cores=cores)
    yield _part(
        "service",
        size,
        "replicas",
        memory="service_base + items * service_memory",
        network="requests * http_bytes",
        cores="requests * answer_http_cpu",
    )


def _limits(size: Size, parts: Sequence[Part]) -> Iterator[Limit]:
    """What the design holds whole: log and item tables in every process, and one database."""
    of = {part.name: part for part in parts}
    disk = of["log on disk"].disk + of["import"].disk
    yield Limit("disk of the import", disk, size.disk, "bytes", "a larger disk, or an older part of the log left out")
    training = of["training"].memory + of["item tables"].memory
    yield Limit(
        "memory of a training process", training, size.memory, "bytes",
        "every process reads the whole log, and holds all item tables unless they are sharded (--sharded): train on a "
        "part of the users, or shard",
    )  # fmt: skip
    yield Limit(
        "room for sessions", of["sessions"].memory, CACHE, "bytes",
        "more replicas with users routed by hash; whoever finds no room has their history read again at each visit",
    )  # fmt: skip
    yield Limit(
        "a day for a training", of["training"].cores, float(size.ranks), "cores",
        "more processes (--ranks), fewer passes, or a part of the users",
    )  # fmt: skip
    served = sum(of[name].memory for name in ("sessions", "search", "service"))
    yield Limit(
        "memory of a replica", served, size.memory, "bytes",
        "more replicas with users routed by hash (fewer sessions in each), or a smaller dim",
    )  # fmt: skip
    answers = sum(of[name].cores for name in ("sessions", "search", "service"))
    yield Limit(
        "processors of the replicas", answers, float(size.replicas), "cores", "more replicas: each answers on a core"
    )
    yield Limit("writes of the one database", of["database"].cores, 1.0, "cores", "several databases, users by hash")
    yield Limit(
        "disk of the one database", of["database"].disk, size.disk, "bytes", "keep fewer days, or a larger disk"
    )
    sent = max(of["training"].network / size.ranks, of["database"].network)
    yield Limit("network of a machine", sent, size.bandwidth, "bytes/s", "a faster network, or larger batches")


def beyond(size: Size) -> list[str]:
    """What of a size is larger than anything that was measured, in words."""
    largest = kept()["largest"]
    return [
        f"{name} were measured up to {most:,.0f}; beyond, the formulas extrapolate"
        for name, most in largest.items()
        if getattr(size, name) > most
    ]


def shown(value: float, unit: str) -> str:
    """A number with its unit, for people."""
    if unit.startswith("bytes"):
        power = min(int(math.log(max(value, 1), 1024)), 5)
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[power]}{unit[5:]}"
    return f"{value:.3g} {unit}"


@cache
def kept() -> dict[str, Any]:
    """The constants with where they were measured, and all that was measured."""
    found: dict[str, Any] = json.loads(KEPT.read_text())
    return found


def constants() -> dict[str, float]:
    """By name."""
    return {name: one["value"] for name, one in kept()["constants"].items()}


def cells(plan: Plan, part: Part) -> list[str]:
    """A part as a row of a table."""
    needs = (part.memory, "bytes"), (part.disk, "bytes"), (part.network, "bytes/s"), (part.cores, "cores")
    memory, *others = (shown(*one) if one[0] else "" for one in needs)
    copies = f"{part.copies} x " if part.copies > 1 and memory else ""
    return [part.name, copies + memory, *others, f"{part.cost(plan.size.prices):,.0f}"]
