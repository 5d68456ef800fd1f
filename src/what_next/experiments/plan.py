"""Resource planning for a number of users, items and events: memory, disk, network, processors and cost of each part.

Every constant was measured, and stands in `plan.json` beside this file with its size, command and machine
(`benchmarks/bench_scale.py` measures them again). Each part is computed by formulas of these constants, which are shown
with it. Beyond the measured sizes the formulas extrapolate, and the plan says so.
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
"""Dimension of the networks in most measurements."""
LEAST = 10**4
"""Smallest measured catalogue: costs that grow with a power of the items are assumed constant below it."""
EXACT = 10**5
"""Above this many items the plan has the service search an index instead of scoring all items (`server.search`)."""
ANSWER = 10
"""Items in an answer."""
CACHE = 2.0**30
"""Most memory of a service for sessions, in bytes."""
ARRAYS = 16
"""Bytes per event in the flat arrays of a log that was sorted on disk: an item, a time and a reward."""
MAPPED = 100
"""Approximate bytes that training keeps of such a log for each user and each window."""
MOST = 1e18
"""Largest number in a plan: above it, products overflow."""
FREE = ("requests", "prices", "active", "days", "passes")
"""Numbers that may be 0; all others are 1 or more."""
WINDOW = 100
"""Events of a window."""


@dataclass(frozen=True)
class Size:
    """The size to plan for.

    Attributes:
        users, items: how many there are; `events`: in the log.
        dim: of vectors and networks.
        requests: answers per second, on average; as many events arrive.
        replicas: serving processes. `ranks`: training processes; `sharded`: whether each holds only a shard of the item
            tables (`cluster.items`).
        passes: of a daily training over the log. `active`: share of the users whose state is kept in memory.
        days: how long answers and new events are kept in the database.
        memory, disk: of one machine, in bytes; `bandwidth`: between machines, in bytes per second.
        prices: per month of a core, of a GiB of memory and of a GiB of disk, and per GiB sent.
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
    """The resources that one part needs.

    Attributes:
        memory: bytes, in each process that has the part; `copies`: how many such processes there are.
        disk: bytes. `network`: bytes per second, on average. `cores`: busy cores, on average.
        formula: of all these, in the names of the constants.
    """

    name: str
    formula: str
    memory: float = 0.0
    copies: int = 1
    disk: float = 0.0
    network: float = 0.0
    cores: float = 0.0

    def cost(self, prices: Sequence[float]) -> float:
        """Cost per month."""
        core, memory, disk, sent = prices
        gib = (memory * self.memory * self.copies + disk * self.disk + sent * self.network * MONTH) / 2**30
        return core * self.cores + gib


@dataclass(frozen=True)
class Limit:
    """A limit of the design.

    Attributes:
        need, most: the need and the capacity, in one unit. `then`: the remedy.
    """

    name: str
    need: float
    most: float
    unit: str
    then: str

    @property
    def times(self) -> float:
        """Used share of the capacity; above 1 the design breaks."""
        return self.need / self.most


@dataclass(frozen=True)
class Plan:
    """The parts of a size, and its limits, the tightest first."""

    size: Size
    parts: tuple[Part, ...]
    limits: tuple[Limit, ...]

    @property
    def cost(self) -> float:
        """Cost per month of all parts."""
        return sum(part.cost(self.size.prices) for part in self.parts)

    @property
    def verdict(self) -> str:
        """The tightest limit, in a sentence."""
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
        SetupError: a number cannot be planned for.
    """
    for name, value in asdict(size).items():
        least, most = (0 if name in FREE else 1), (1 if name == "active" else MOST)
        numbers = value if isinstance(value, tuple) else (value,)
        if not isinstance(value, bool) and not all(least <= one <= most for one in numbers):
            raise SetupError(f"{name} {value}: expected {least} to {most:g}")
    parts = (*_learning(size), *_serving(size))
    return Plan(size, parts, tuple(sorted(_limits(size, parts), key=lambda one: -one.times)))


def _part(name: str, size: Size, each: Literal["ranks", "replicas"] | None = None, **needs: str) -> Part:
    """A part from formulas of what it needs: SQL expressions in the names of the constants and of the size.

    `each`: the processes that each hold its memory.
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
    """The parts from the log to a model."""
    held = size.events * constants()["import_memory"] <= size.memory / 2
    imported = {"cores": "events * import_cpu / day", "memory": "events * import_memory"}
    log, kept_as = "events * training_memory", "log_bytes"
    if not held:  # the log is sorted on disk, and memory-mapped
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
    """The parts from a model to an answer."""
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
    if size.items > EXACT:  # an index is searched instead of scoring every item
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
    """The limits of the design: log and item tables in every process, and a single database."""
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
    """Sentences about the numbers of a size that exceed every measurement."""
    largest = kept()["largest"]
    return [
        f"{name} were measured up to {most:,.0f}; beyond, the formulas extrapolate"
        for name, most in largest.items()
        if getattr(size, name) > most
    ]


def shown(value: float, unit: str) -> str:
    """A number with its unit, as text."""
    if unit.startswith("bytes"):
        power = min(int(math.log(max(value, 1), 1024)), 5)
        return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')[power]}{unit[5:]}"
    return f"{value:.3g} {unit}"


@cache
def kept() -> dict[str, Any]:
    """The constants with their origin, and all measurements."""
    found: dict[str, Any] = json.loads(KEPT.read_text())
    return found


def constants() -> dict[str, float]:
    """The constants by name."""
    return {name: one["value"] for name, one in kept()["constants"].items()}


def cells(plan: Plan, part: Part) -> list[str]:
    """A part as a row of a table."""
    needs = (part.memory, "bytes"), (part.disk, "bytes"), (part.network, "bytes/s"), (part.cores, "cores")
    memory, *others = (shown(*one) if one[0] else "" for one in needs)
    copies = f"{part.copies} x " if part.copies > 1 and memory else ""
    return [part.name, copies + memory, *others, f"{part.cost(plan.size.prices):,.0f}"]
