"""Imports logs larger than memory: rows are partitioned by ranges of users, and each part is sorted in memory.

The parts in order are the sorted log, with the same result as `clean`. Every stage writes a file or a folder, which
gets its name once it is complete, in a folder beside the target, so that an interrupted import can continue.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import ByteSize, TypeAdapter, ValidationError

from what_next.data import mapped
from what_next.data.catalogue import Catalogue
from what_next.data.files import FORMATS, alone, beside, check_paths
from what_next.data.importing.cleaning import Checked, opened, with_repeats
from what_next.data.importing.columns import aliased
from what_next.data.importing.contents import ARROW, PARQUET, STREAMED, ZSTD, data_file, magic
from what_next.data.importing.events import Events, in_sessions, repeated, sessions
from what_next.data.importing.raw_log import ROW
from what_next.data.importing.readers import ROW_GROUP, readable
from what_next.data.importing.tables import Options, Tables, save
from what_next.data.stages import SILENT, Stages
from what_next.errors import DataError, SaveError, WhatNextError, disk_full, limited

CELL, TEXT, PACKING = 24, 8, 5
"""Memory of a log in `clean`: bytes for each value of a Parquet file, bytes for each byte of text, and the assumed
compression ratio of text."""
SORTED = 160
"""Bytes of memory per row while its part is sorted; a part may take half of the memory."""
MOST_PARTS = 1000
ABOUT = "about.json"
"""The file in an import's folder that describes the import. Without it, the folder is not continued."""


def memory_of(text: str | None) -> int:
    """Bytes that an import may take: the given size, such as 4GiB, or by default half of the free memory.

    Raises:
        DataError: it is not a size, or is below 64 MiB.
    """
    if text is None:
        return _free() // 2
    try:
        found = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise DataError(f"--memory {text!r}: expected a size such as 4GiB or 500MB") from error
    if found < 1 << 26:
        raise DataError(f"--memory {text!r}: is too little; give 64MiB or more")
    return found


def _free() -> int:
    """Bytes of memory that a process could take now, within the machine and its container."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not on Linux: half of the total memory
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        return min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or no limit
        return free


def needed(files: Sequence[Path]) -> int:
    """Approximate memory in bytes for an import of some logs in memory."""
    return sum(_needed(path) for path in map(data_file, files))


def _needed(path: Path) -> int:
    start, size = magic(path), path.stat().st_size
    if not start.startswith((PARQUET, ARROW)):
        return size * TEXT * (PACKING if start.startswith((*STREAMED, ZSTD)) else 1)
    try:
        frame = (pl.scan_ipc if start.startswith(ARROW) else pl.scan_parquet)(path, glob=False)
        rows = frame.select(pl.len()).collect(engine="streaming").item()
        return max(size, int(rows) * CELL * len(frame.collect_schema()))
    except pl.exceptions.PolarsError:
        return size  # a damaged file, which the import reports


def import_large(
    files: Sequence[Path],
    to: Path,
    items: Path | None = None,
    options: Options | None = None,
    *,
    memory: int,
    stages: Stages = SILENT,
) -> tuple[Tables, list[Path]]:
    """Read, clean and write one or more log files within about `memory` bytes.

    Memory still grows with the rejected rows, the distinct users and items, and the item table. After an interruption,
    the same call continues.

    Returns:
        The result without the log's rows; and the files as `save` writes them, except that `NAME.parquet` is a folder
        of ordered parts, and `NAME.events` holds the same as arrays.

    Raises:
        DataError: a file cannot be read or used.
        SaveError: for example the disk is full, or another import writes there; existing files stay intact.
    """
    options = options or Options()
    check_paths([beside(to, "items"), *([] if to.is_dir() else [to])])
    lock = to.with_name(f".{to.name}.lock")
    with (
        alone(lock, SaveError(f"{to}: another import writes there now; wait for its end")),
        _scratch(to, filter(None, [*files, items]), options) as scratch,
        readable(*files, items),
    ):
        return _Import(scratch, memory, stages).run(files, to, items, options)


@dataclass(frozen=True)
class _Import:
    """The stages of one import; each uses what an earlier run left in `scratch`."""

    scratch: Path
    memory: int
    stages: Stages

    def run(self, files: Sequence[Path], to: Path, items: Path | None, options: Options) -> tuple[Tables, list[Path]]:
        """Run all stages; see `import_large`."""
        done = self.stages.begin("reading", 1)
        spills = [self.scratch / f"raw-{number}.parquet" for number in range(len(files))]
        sources, item_source = opened(files, items, options, spills)
        done(1)
        done = self.stages.begin("checking rows", 1)
        checked = Checked.of(sources, item_source, options)
        done(1)
        rows = checked.kept.select(ROW, *aliased(checked.values))
        done = self.stages.begin("counting users and items", 2)
        users = self._frame("users", lambda: rows.group_by("user_id").agg(pl.len()).sort("user_id"))
        done(1)
        ids = self._frame("items", lambda: rows.select(pl.col("item_id").unique()).sort("item_id"))["item_id"]
        done(1)
        table, notes = checked.item_table(ids)
        catalogue = Catalogue.from_table(table).hash()
        footer = {"what_next.format": FORMATS["event" in checked.values], "what_next.catalogue": catalogue}
        count = self._deal(checked, rows, users)
        self._sort(count, list(checked.values)[2:], footer)
        bad = self._finish(count, checked, footer)
        log = self.scratch / "log"
        arrays = self._kept("events", partial(mapped.write, log, table, catalogue, self.stages))
        whole = pl.scan_parquet(sorted(log.glob("*.parquet")), glob=False)
        tables = checked.tables(whole, (table, notes), bad, whole.head(0).collect(), users["user_id"])
        folders = {arrays: mapped.folder(to), log: to}
        return tables, _publish(tables, to, footer, folders, self.scratch / ABOUT)

    def _deal(self, checked: Checked, rows: pl.LazyFrame, users: pl.DataFrame) -> int:
        """Partition the rows by ranges of users with about equally many events; returns the number of parts."""

        def ranges() -> pl.LazyFrame:
            until = users["len"].cast(pl.Int64).cum_sum().to_numpy()
            wanted = min(MOST_PARTS, -(-2 * SORTED * int(until[-1]) // self.memory))
            starts = np.unique(np.searchsorted(until, until[-1] / wanted * np.arange(1, wanted)) + 1)
            return users.select(pl.col("user_id").gather(starts[starts < len(users)])).lazy()

        firsts = self._frame("ranges", ranges)["user_id"]  # the first user of each part but the first part
        done = self.stages.begin("dealing rows out", checked.log.rows)

        def part(some: pl.Series) -> pl.Series:
            done(len(some))
            return pl.Series(firsts.search_sorted(some, side="right"), dtype=pl.UInt32)

        if "event" in checked.values:
            words = rows.select(pl.col("event").unique()).collect(engine="streaming").to_series().sort()
            rows = rows.with_columns(pl.col("event").cast(pl.Enum(words)))
        dealt = rows.with_columns(part=pl.col("user_id").map_batches(part, return_dtype=pl.UInt32, is_elementwise=True))
        self._kept(
            "parts",
            lambda path: dealt.sink_parquet(
                pl.PartitionBy(path, key="part", include_key=False, approximate_bytes_per_file=None),
                compression="lz4", row_group_size=ROW_GROUP, mkdir=True, engine="streaming",
            ),
        )  # fmt: skip
        return len(firsts) + 1

    def _sort(self, count: int, values: Sequence[str], footer: dict[str, str]) -> None:
        """Sort each part by user and time; rows that may repeat an earlier one are written beside it."""
        done = self.stages.begin("sorting parts", count)
        for number in range(count):
            if not self._part(number).exists():
                part = self.scratch / "parts" / f"part={number}"
                self._kept(f"sorted-{number}", partial(_sorted, part, values, footer))
                shutil.rmtree(part, ignore_errors=True)
            done(1)

    def _finish(self, count: int, checked: Checked, footer: dict[str, str]) -> pl.DataFrame:
        """Remove repeats from the sorted parts and cut them into sessions if requested; returns all rejected rows."""
        gap = checked.log.options.session_gap
        folders = [self.scratch / f"sorted-{number}" for number in range(count)]
        again = self._frame("repeats", lambda: _repeats(folders, checked))[ROW]
        width = self._frame("sessions", lambda: _widest(folders, gap))["width"][0] if gap else None
        self._part(0).parent.mkdir(exist_ok=True)
        done = self.stages.begin("finishing parts", count)
        for number, folder in enumerate(folders):
            if not self._part(number).exists():
                whole, suspects = folder / "log.parquet", pl.read_parquet(folder / "suspects.parquet", glob=False)
                drop = suspects.filter(pl.col(ROW).is_in(again.implode()))["place"]
                if len(drop) or gap:
                    log = pl.read_parquet(whole, glob=False).with_row_index("place")
                    log = log.filter(~pl.col("place").is_in(drop.implode())).drop("place")
                    log = in_sessions(log, gap, width) if gap else log
                    whole = folder / "changed.parquet"
                    log.write_parquet(whole, metadata=footer)
                whole.replace(self._part(number))
            shutil.rmtree(folder, ignore_errors=True)
            done(1)
        return with_repeats(checked, again) if len(again) else checked.bad

    def _part(self, number: int) -> Path:
        return self.scratch / "log" / f"{number:05d}.parquet"

    def _frame(self, name: str, make: Callable[[], pl.LazyFrame]) -> pl.DataFrame:
        """A table, made unless an earlier run has written it."""
        path = self._kept(name + ".parquet", lambda path: make().collect(engine="streaming").write_parquet(path))
        return pl.read_parquet(path, glob=False)

    def _kept(self, name: str, write: Callable[[Path], object]) -> Path:
        """A file or a folder, made unless an earlier run did, which gets its name once it is complete."""
        path, begun = self.scratch / name, self.scratch / f"begun-{name}"
        if not path.exists():
            shutil.rmtree(begun, ignore_errors=True)  # if it is a folder
            begun.unlink(missing_ok=True)
            write(begun)
            begun.rename(path)
        return path


def _sorted(part: Path, values: Sequence[str], footer: dict[str, str], path: Path) -> None:
    """Write a part, sorted as by `clean`, and its rows that may repeat an earlier one, into a folder."""
    rows = pl.read_parquet(sorted(part.glob("*.parquet")), glob=False)
    if not rows[ROW].is_sorted():
        rows = rows.sort(ROW)
    events = Events.collect(rows.lazy(), values)
    numbers = rows[ROW]
    del rows
    order = events.order()
    alike = events.alike(order) if "timestamp" in values else np.empty(0, np.int64)
    places = np.sort(alike) if isinstance(order, slice) else np.flatnonzero(np.isin(order, alike))
    found = numbers.gather(places if isinstance(order, slice) else order[places])
    path.mkdir()
    pl.DataFrame({"place": pl.Series(places, dtype=pl.UInt32), ROW: found}).write_parquet(path / "suspects.parquet")
    events.table(order).write_parquet(path / "log.parquet", metadata=footer)


def _repeats(folders: Sequence[Path], checked: Checked) -> pl.LazyFrame:
    """`ROW` of the rows that repeat an earlier one."""
    rows = pl.concat(pl.read_parquet(folder / "suspects.parquet", columns=[ROW], glob=False) for folder in folders)[ROW]
    if not checked.compared:
        rows = rows.clear()
    return pl.LazyFrame({ROW: repeated(checked.kept, rows, checked.compared) if len(rows) else rows})


def _widest(folders: Sequence[Path], gap: timedelta) -> pl.LazyFrame:
    """The most digits of a session's number."""
    columns = ["user_id", "timestamp"]
    counts = (sessions(pl.read_parquet(folder / "log.parquet", columns=columns, glob=False), gap) for folder in folders)
    return pl.LazyFrame({"width": [max(len(str(one.max())) for one in counts)]})


def _publish(tables: Tables, to: Path, footer: dict[str, str], folders: Mapping[Path, Path], about: Path) -> list[Path]:
    """Rename the files and the `folders` to their final names, replacing existing ones."""
    written = save(tables, to, footer=footer)
    about.unlink()  # from here on the scratch folder is incomplete
    for new, path in folders.items():
        if path.exists():
            path.rename(new.with_name(f"old-{path.name}"))
        new.rename(path)
    return [*written, *folders.values()]


def _discard(scratch: Path) -> None:
    """Delete the folder of an import; first the description, so that a half-deleted folder is not continued."""
    (scratch / ABOUT).unlink(missing_ok=True)
    shutil.rmtree(scratch)


@contextmanager
def _scratch(to: Path, files: Iterable[Path], options: Options) -> Iterator[Path]:
    """The folder of an import beside its target, with the files of an interrupted run of the same import.

    It is deleted when the import is done or refused, and kept after an interruption or on a full disk.
    """
    path = to.with_name(f".{to.name}.import")
    stats = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in map(data_file, files)]
    about = json.dumps({"files": stats, "options": asdict(options)}, default=str)
    try:
        if path.exists() and not ((path / ABOUT).is_file() and (path / ABOUT).read_text() == about):
            _discard(path)
        path.mkdir(exist_ok=True)
        (path / ABOUT).write_text(about)
        yield path
    except SaveError:
        raise
    except WhatNextError:
        _discard(path)
        raise
    except KeyboardInterrupt as error:
        told = f"the same command goes on where it was; to give it up, delete {path}"
        raise KeyboardInterrupt(told) from error
    except (OSError, pl.exceptions.PolarsError) as error:
        if not disk_full(error):
            raise
        limit = ", but a quota or a limit on a file's size is reached" if limited(error) else ""
        free = f"{shutil.disk_usage(path).free >> 20:,} MiB are free{limit}"
        raise SaveError(
            f"{path}: the disk is full ({free}; {error}); nothing was "
            f"changed at {to}; make room and give the same command again, which goes on here, or delete this folder"
        ) from error
    else:
        _discard(path)
