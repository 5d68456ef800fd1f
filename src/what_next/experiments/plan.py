"""What a number of users, items and events needs: memory, disk, network, processors and money, part by part.

Every constant was measured, and stands in `plan.json` beside this file with its size, its command and its machine
(`benchmarks/bench_scale.py` measures them anew). Each part is a formula of a few of them, which is shown with it.
Beyond the sizes that were measured the formulas go on as they are: that is extrapolated, and the plan says so.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
    known = constants()
    parts = (*_learning(size, known), *_serving(size, known))
    return Plan(size, parts, tuple(sorted(_limits(size, parts), key=lambda one: -one.times)))


def _learning(size: Size, c: Mapping[str, float]) -> Iterator[Part]:
    """What stands between a log and a model; `c` are the constants by name."""
    scale, learned = size.dim / DIM, size.events * size.passes
    held = size.events * c["import_memory"] <= size.memory / 2  # else it is sorted on the disk, and mapped into memory
    windows = size.users + size.events / WINDOW
    yield Part(
        "log on disk",
        f"disk = events * {'log_bytes' if held else f'(log_bytes + {ARRAYS} of arrays)'}",
        disk=size.events * (c["log_bytes"] + (0 if held else ARRAYS)),
    )
    yield Part(
        "import",
        f"memory = {'events * import_memory' if held else 'half of the machine; disk = 2 * events * log_bytes'}; "
        "cores = events * import_cpu / day",
        memory=min(size.events * c["import_memory"], size.memory / 2),
        disk=0.0 if held else 2 * size.events * c["log_bytes"],
        cores=size.events * c["import_cpu"] / DAY,
    )
    target = c["target_cpu"] * scale ** c["target_by_dim"] * (max(size.items, LEAST) / LEAST) ** c["target_by_items"]
    sent = 4 * c["dense_parameters"] * scale**2 + 2 * c["targets_per_step"] * (4 * size.dim + 8)
    log = "events * training_memory" if held else f"(users + events/{WINDOW}) * {MAPPED}"
    yield Part(
        "training",
        f"memory = training_base + {log}, in each of the ranks; cores = passes * events * target_cpu * (dim/64)^"
        f"{c['target_by_dim']:.2f} * (items/10^4)^{c['target_by_items']:.2f} / day; network = 2 * ranks * passes * "
        "events / targets_per_step * (4 * dense_parameters * (dim/64)^2 + 2 * targets_per_step * (4 * dim + 8)) / day, "
        "where there are two ranks or more",
        memory=c["training_base"] + (size.events * c["training_memory"] if held else MAPPED * windows),
        copies=size.ranks,
        network=2 * size.ranks * learned / c["targets_per_step"] * sent / DAY if size.ranks > 1 else 0.0,
        cores=learned * target / DAY,
    )
    yield Part(
        "item tables",
        f"memory = items * dim * table_memory{' / ranks' if size.sharded else ''}, in each of the ranks; disk = 3 "
        "versions * items * dim * 4",
        memory=size.items * size.dim * c["table_memory"] / (size.ranks if size.sharded else 1),
        copies=size.ranks,
        disk=3 * 4 * size.items * size.dim,
    )


def _serving(size: Size, c: Mapping[str, float]) -> Iterator[Part]:
    """What stands between a model and an answer."""
    scale, heard, fresh = size.dim / DIM, size.events / size.users, size.requests * DAY * size.days
    yield Part(
        "sessions",
        "memory = active * users / replicas * (session_memory * dim/64 + 4 * events/users), in each of the replicas; "
        "cores = requests * fold_cpu",
        memory=size.active * size.users / size.replicas * (c["session_memory"] * scale + 4 * heard),
        copies=size.replicas,
        cores=size.requests * c["fold_cpu"],
    )
    yield Part(
        "database",
        "disk = (events + requests * days) * event_bytes + requests * days * answer_bytes; cores = requests * "
        "(event_cpu + answer_cpu); network = requests * (event_bytes + answer_bytes)",
        disk=(size.events + fresh) * c["event_bytes"] + fresh * c["answer_bytes"],
        network=size.requests * (c["event_bytes"] + c["answer_bytes"]),
        cores=size.requests * (c["event_cpu"] + c["answer_cpu"]),
    )
    yield _search(size, c)
    yield Part(
        "service",
        "memory = service_base + items * service_memory, in each of the replicas; cores = requests * answer_http_cpu; "
        "network = requests * http_bytes",
        memory=c["service_base"] + size.items * c["service_memory"],
        copies=size.replicas,
        network=size.requests * c["http_bytes"],
        cores=size.requests * c["answer_http_cpu"],
    )


def _search(size: Size, c: Mapping[str, float]) -> Part:
    """Every item is looked at up to `EXACT` of them; beyond, an index is searched."""
    scale, held = size.dim / DIM, 4.0 * size.dim
    if size.items <= EXACT:
        formula = "memory = items * dim * 4, in each of the replicas; cores = requests * items * exact_cpu * dim/64"
        cores = size.requests * c["exact_cpu"] * size.items * scale
        return Part("search", formula, size.items * held, size.replicas, cores=cores)
    power = c["approximate_by_items"]
    formula = (
        "memory = items * (dim * 4 + index_memory * dim/64), in each of the replicas; cores = requests * "
        f"approximate_cpu * dim/64 * (items/10^6)^{power:.2f}"
    )
    cores = size.requests * c["approximate_cpu"] * scale * (size.items / 10**6) ** power
    return Part("search", formula, size.items * (held + c["index_memory"] * scale), size.replicas, cores=cores)


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
