"""The loop's journal: its state between steps, and a log of each step, in an SQLite file beside the store.

`alone` makes sure that there is a single loop on a store.
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
"""Number of the PostgreSQL advisory lock that the loop holds."""
BACK = 60 * 10**6
"""Microseconds that the clock may go back without being reported."""

metadata = MetaData()

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("began", BigInteger, nullable=False),
    Column("step", Text),  # the next one; null: the round is over
    Column("outcome", Text),
    Column("facts", Json, nullable=False),
)

# The log for people: a line for each step that was done, began to wait, or failed.
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
    """One round: from an export to a deployment, or to the candidate's refusal.

    Attributes:
        number: 1, 2, 3, ...; `began`: when, in microseconds since 1970 UTC.
        step: the next step; None: the round is over, with `outcome`.
        facts: results of its steps that later steps need.
    """

    number: int
    began: int
    step: str | None
    outcome: str | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class LoopLine:
    """A line of the log, at a time in microseconds since 1970 UTC; `round`: None if it belongs to no round."""

    number: int
    time: int
    round: int | None
    step: str
    told: str


def journal_path(setup: Setup) -> Path:
    """The path of the journal of a setup's loop: beside an SQLite store, else beside the agent's file."""
    return home_of(setup) / "loop" / "journal.sqlite"


def status_of(setup: Setup) -> dict[str, Any]:
    """The status of the loop on a setup's store, see `Journal.status`; empty if there is no loop.

    Raises:
        StoreError: the journal cannot be read.
    """
    path = journal_path(setup)
    if not path.is_file() or not path.stat().st_size:  # it is empty if the disk was full at the start
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
        """The journal in a file, which is created if missing.

        Raises:
            StoreError: the file cannot be opened.
        """
        make_file(path)
        journal = cls(connect(path), clock)
        with journal.backend.begin() as connection:
            metadata.create_all(connection)
        return journal

    def close(self) -> None:
        """Close the connections."""
        self.backend.close()

    # Writing

    def begin(self, facts: Mapping[str, Any], step: str, told: str) -> None:
        """Start a round with its first step; resets the waiting time for the next round, and the drift alarm."""
        with self.backend.begin() as connection:
            now = self.clock()
            made = connection.execute(insert(rounds).values(began=now, step=step, facts=dict(facts)))
            assert made.inserted_primary_key is not None
            self._tell(connection, made.inserted_primary_key[0], "begin", told)
            self._keep(connection, {"began": now, "drift": 0.0})

    def note(
        self, current: LoopRound, facts: Mapping[str, Any], told: str | None = None, **changed: str | None
    ) -> LoopRound:
        """Add facts to a round, and a line to the log if `told` is given.

        `changed`: a new `step` (None: the round is over), and then the `outcome`.
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
        """Log why no round begins, unless the last line says the same, or the last round is still being watched."""
        lines = self.lines(1)
        if self.current() is None and (not lines or lines[0].told != told):
            self.tell("wait", told)

    def mind_the_clock(self) -> None:
        """If the clock has gone back, restart all waiting times, which would otherwise be too long."""
        now, last = self.clock(), self.numbers().get("looked", 0.0)
        self.measure(looked=now)
        if now >= last - BACK:
            return
        self.tell("clock", f"the clock went back by {(last - now) / 1e6:,.0f} s: all waiting times start again")
        if "began" in self.numbers():
            self.measure(began=now)
        if (current := self.current()) is not None:
            self.note(current, {name: now for name in current.facts if name.endswith("_began")})

    def measure(self, **values: float | int) -> None:
        """Store numbers by name, replacing older values."""
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
        """The latest rounds, newest first."""
        found = self.backend.fetch(select(rounds).order_by(rounds.c.number.desc()).limit(most))
        return [LoopRound(*row) for row in found]

    def current(self) -> LoopRound | None:
        """The current round; None if there is none."""
        latest = self.rounds(1)
        return latest[0] if latest and latest[0].step is not None else None

    def lines(self, most: int) -> list[LoopLine]:
        """The latest lines, newest first."""
        return [LoopLine(*row) for row in self.backend.fetch(select(lines).order_by(lines.c.number.desc()).limit(most))]

    def numbers(self) -> dict[str, float]:
        """The latest numbers by name."""
        return dict(tuple(row) for row in self.backend.fetch(select(gauges)))

    def status(self, most: int = 50) -> dict[str, Any]:
        """The latest rounds, numbers and lines, as plain values."""
        return {
            "rounds": [asdict(one) for one in self.rounds(3)],
            "numbers": self.numbers(),
            "lines": [asdict(one) for one in self.lines(most)],
        }


class NotAlone(StoreError):
    """Another loop works on the store."""


@contextmanager
def alone(store: Store, journal: Journal) -> Iterator[Callable[[], None]]:
    """Hold the locks that make this the only loop on a store, across processes and machines; they end with the process.

    There is a lock on the journal's file and, for a store in PostgreSQL, an advisory lock of the server, which is lost
    when the server restarts. Yields a function that takes the advisory lock again if it was lost; it raises `NotAlone`
    if another loop has it, and `StoreUnavailable` if the store is unavailable.

    Raises:
        NotAlone: another loop works on the store.
    """
    backend, where = store.backend, journal.backend.where
    held: Connection | None = None  # holds the advisory lock as long as it is open

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
            connection.detach()  # closing it must release the lock, not return it to the pool
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
                with suppress(SQLAlchemyError):  # the server may notice a closed connection late
                    held.execute(select(func.pg_advisory_unlock(LOCK)))
                held.close()
