"""What the loop remembers from one step to the next, and tells of each: a SQLite file beside the store.

Whoever works by it is the only loop on its store: `alone`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Table, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import BigInteger, Double, Integer, Text

from what_next.data import files
from what_next.errors import StoreError
from what_next.serving.store import Store, now
from what_next.serving.store.backend import Backend, connect, home_of, make_file
from what_next.serving.store.tables import Json
from what_next.settings import Setup

LOCK = 0x6C6F6F70
"""Of PostgreSQL's advisory locks the one that the loop holds."""
BACK = 60 * 10**6
"""Microseconds that a clock may go back before it is told."""

metadata = MetaData()

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("began", BigInteger, nullable=False),
    Column("step", Text),  # that comes next; null: the round is over
    Column("outcome", Text),
    Column("facts", Json, nullable=False),
)

# What people read: a line for each step that was done, waited for the first time, or failed.
lines = Table(
    "lines",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("round", Integer),
    Column("step", Text, nullable=False),
    Column("told", Text, nullable=False),
)

gauges = Table("gauges", metadata, Column("name", Text, primary_key=True), Column("value", Double, nullable=False))


@dataclass(frozen=True)
class LoopRound:
    """One turn: from an export to a deployment, or to its refusal.

    Attributes:
        number: 1, 2, 3, ...; `began`: when, in microseconds since 1970 UTC.
        step: the one that comes next; None: it is over, with `outcome`.
        facts: what its steps found, and the later ones need.
    """

    number: int
    began: int
    step: str | None
    outcome: str | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class LoopLine:
    """What happened at some time (microseconds since 1970 UTC), in words; `round`: None outside of all."""

    number: int
    time: int
    round: int | None
    step: str
    told: str


def journal_path(setup: Setup) -> Path:
    """Where the journal of a setup's loop lies: beside a SQLite store, else beside the agent's file."""
    return home_of(setup) / "loop" / "journal.sqlite"


def status_of(setup: Setup) -> dict[str, Any]:
    """What the loop of a setup's store did and measured, see `Journal.status`; empty where there is no loop.

    Raises:
        StoreError: the journal cannot be read.
    """
    path = journal_path(setup)
    if not path.is_file() or not path.stat().st_size:  # a loop that found no room begins with an empty one
        return {"rounds": [], "numbers": {}, "lines": []}
    with closing(Journal(connect(path))) as journal:
        return journal.status()


class Journal:
    """The journal of a store's loop; every change is one durable transaction."""

    def __init__(self, backend: Backend, clock: Callable[[], int] = now) -> None:
        self.backend = replace(backend, mend="move it aside, and the loop begins a new one")
        self.clock = clock

    @classmethod
    def open(cls, path: Path, *, clock: Callable[[], int] = now) -> "Journal":
        """The journal in a file, which is made where there is none.

        Raises:
            StoreError: it cannot be opened.
        """
        make_file(path)
        journal = cls(connect(path), clock)
        with journal.backend.begin() as connection:
            metadata.create_all(connection)
        return journal

    def close(self) -> None:
        """Give the connections back."""
        self.backend.close()

    # Writing

    def begin(self, facts: Mapping[str, Any], step: str, told: str) -> None:
        """A new round, whose first step comes next: from now on the next one is waited for, and no drift is known."""
        with self.backend.begin() as connection:
            now = self.clock()
            made = connection.execute(insert(rounds).values(began=now, step=step, facts=dict(facts)))
            assert made.inserted_primary_key is not None
            self._tell(connection, made.inserted_primary_key[0], "begin", told)
            self._keep(connection, {"began": now, "drift": 0.0})

    def note(
        self, current: LoopRound, facts: Mapping[str, Any], told: str | None = None, **changed: str | None
    ) -> LoopRound:
        """Add facts to a round; and a line, where there is something to tell.

        `changed`: the `step` that comes next, None where the round is over, and then the `outcome`.
        """
        with self.backend.begin() as connection:
            this = rounds.c.number == current.number
            more = {**connection.execute(select(rounds.c.facts).where(this)).scalar_one(), **facts}
            connection.execute(update(rounds).where(this).values(facts=more, **changed))
            if told is not None:
                self._tell(connection, current.number, current.step or "", told)
        return replace(current, facts=more, **changed)  # type: ignore[arg-type]

    def tell(self, step: str, told: str) -> None:
        """Add a line outside of all rounds."""
        with self.backend.begin() as connection:
            self._tell(connection, None, step, told)

    def wait(self, told: str) -> None:
        """Tell why no round begins; not again and again, nor in the watch of the last one."""
        lines = self.lines(1)
        if self.current() is None and (not lines or lines[0].told != told):
            self.tell("wait", told)

    def mind_the_clock(self) -> None:
        """Where the clock has gone back, what waits for a time would wait for too long: it begins to wait anew."""
        now, last = self.clock(), self.numbers().get("looked", 0.0)
        self.measure(looked=now)
        if now >= last - BACK:
            return
        self.tell("clock", f"the clock went back by {(last - now) / 1e6:,.0f} s: whatever waits, waits anew")
        if "began" in self.numbers():
            self.measure(began=now)
        if (current := self.current()) is not None:
            self.note(current, {name: now for name in current.facts if name.endswith("_began")})

    def measure(self, **values: float | int) -> None:
        """Keep some numbers, in the place of those of the same names."""
        with self.backend.begin() as connection:
            self._keep(connection, values)

    def _keep(self, connection: Connection, values: Mapping[str, float | int]) -> None:
        rows = [{"name": name, "value": value} for name, value in values.items()]
        new = insert(gauges)
        connection.execute(new.on_conflict_do_update(["name"], set_={"value": new.excluded.value}), rows)

    def _tell(self, connection: Connection, number: int | None, step: str, told: str) -> None:
        connection.execute(insert(lines).values(time=self.clock(), round=number, step=step, told=told))

    # Reading

    def rounds(self, most: int) -> list[LoopRound]:
        """The latest rounds, the newest first."""
        found = self.backend.fetch(select(rounds).order_by(rounds.c.number.desc()).limit(most))
        return [LoopRound(*row) for row in found]

    def current(self) -> LoopRound | None:
        """The round that is under way."""
        latest = self.rounds(1)
        return latest[0] if latest and latest[0].step is not None else None

    def lines(self, most: int) -> list[LoopLine]:
        """The latest lines, the newest first."""
        return [LoopLine(*row) for row in self.backend.fetch(select(lines).order_by(lines.c.number.desc()).limit(most))]

    def numbers(self) -> dict[str, float]:
        """What was measured last, by name."""
        return dict(tuple(row) for row in self.backend.fetch(select(gauges)))

    def status(self, most: int = 50) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "rounds": [asdict(one) for one in self.rounds(3)],
            "numbers": self.numbers(),
            "lines": [asdict(one) for one in self.lines(most)],
        }


class NotAlone(StoreError):
    """Another loop works on the store."""


@contextmanager
def alone(store: Store, journal: Journal) -> Iterator[Callable[[], None]]:
    """Be the only loop on a store, in all its processes and on all machines; it ends with the process.

    Beside the lock of the journal's file there is one that the server of a store in PostgreSQL knows, and forgets when
    it restarts. Yields what takes that, or makes sure that it is taken still; it raises `NotAlone` where another loop
    has it, and `StoreUnavailable` where the store is away.

    Raises:
        NotAlone: another loop works on it.
    """
    backend, where = store.backend, journal.backend.where
    held: Connection | None = None  # which has the lock as long as it is open

    def take() -> None:
        nonlocal held
        if backend.sqlite:  # the lock of the journal's file is enough
            return
        if held is not None:
            with suppress(SQLAlchemyError):
                held.execute(select(1))
                return
            held.close()
            held = None
        with backend.explained():
            connection = backend.reader.connect()
            connection.detach()  # the lock goes when it is closed, and not back to the pool with it
            if not connection.execute(select(func.pg_try_advisory_lock(LOCK))).scalar():
                connection.close()
                raise NotAlone(f"{backend.where}: another loop works on this store; there can be one")
        held = connection

    told = f"{where}: another loop works on this store; there can be one (what-next loop status)"
    with files.alone(Path(f"{where}.lock"), NotAlone(told)):
        try:
            take()
            yield take
        finally:
            if held is not None:
                with suppress(SQLAlchemyError):  # the server may take its time to notice that the connection is closed
                    held.execute(select(func.pg_advisory_unlock(LOCK)))
                held.close()
