"""A large log as flat arrays in memory-mapped files: reading a history loads only its pages.

A history is contiguous in every array, so random access by user is one small read per column; the system's page cache
keeps what fits, and frees it when memory is short. Row groups of Parquet would have to be decoded as a whole for each
history, or shuffled in a buffer, which is no longer a uniform shuffle.
"""

import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from what_next.data.importing.ids import positions
from what_next.data.stages import Stages
from what_next.errors import DataError


def folder(path: Path) -> Path:
    """`data/NAME.events` for `data/NAME.parquet`."""
    return path.with_suffix(".events")


def write(log: Path, items: pl.DataFrame, catalogue: str, stages: Stages, to: Path) -> None:
    """Write the parts of a sorted log as arrays, one part at a time; no user's events are in two parts.

    Args:
        log: the folder of the parts.
        items: the item table; `catalogue`: its hash.
        stages: reports the parts.
        to: a new folder for `ITEMS.npy` and so on, named after the fields of `Dataset`, and `users.parquet`.

    Raises:
        DataError: the log holds an item that the table lacks.
    """
    parts = sorted(log.glob("*.parquet"))
    counts = [pl.scan_parquet(part, glob=False).select(pl.len()).collect().item() for part in parts]
    head, events = pl.read_parquet(parts[0], n_rows=1, glob=False), sum(counts)
    users, lengths, done = [], [], stages.begin("writing arrays", events)
    to.mkdir()
    with ExitStack() as files:
        opened: dict[str, BinaryIO] = {}
        for part, count in zip(parts, counts, strict=True):
            frame = pl.read_parquet(part, glob=False)
            for name, values in columns(frame, items["item_id"], part.name):
                if name not in opened:
                    opened[name] = files.enter_context((to / f"{name}.npy").open("wb"))
                    form = {"descr": values.dtype.str, "fortran_order": False, "shape": (events, *values.shape[1:])}
                    np.lib.format.write_array_header_1_0(opened[name], form)
                values.tofile(opened[name])
            runs = frame["user_id"].rle().struct.unnest()
            users.append(runs["value"])
            lengths.append(runs["len"])
            done(count)
    offsets = np.append(0, pl.concat(lengths).cast(pl.Int64).cum_sum().to_numpy())
    np.save(to / "offsets.npy", offsets)
    pl.DataFrame({"user_id": pl.concat(users)}).write_parquet(to / "users.parquet")
    about = {"catalogue": catalogue, "events": events}
    names = {"event_words": event_words(head), "context_names": context_names(head)}
    (to / "about.json").write_text(json.dumps(about | names))


def at_random(*arrays: np.ndarray | None) -> None:
    """Tell the system that the memory-mapped arrays among these will be accessed randomly.

    By default it reads 128 KiB around each missing page, which evicts needed pages when memory is short.
    """
    for array in arrays:
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
            array.base.madvise(mmap.MADV_RANDOM)


def read(path: Path, catalogue: str) -> dict[str, Any]:
    """The fields of a `Dataset` that `write` wrote.

    Raises:
        DataError: they are missing, or belong to another import.
    """
    where = folder(path)
    try:
        about = json.loads((where / "about.json").read_text())
        arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(where.glob("*.npy"))}
        users = pl.read_parquet(where / "users.parquet", glob=False)["user_id"]
        parts = sorted(path.glob("*.parquet"))
        rows = pl.scan_parquet(parts, glob=False).select(pl.len()).collect().item()
        if about["catalogue"] != catalogue or about["events"] != rows:
            raise DataError(f"{where}: belongs to another import than {path}; import the data again")
        _check(arrays, pl.scan_parquet(parts, glob=False).head(0).collect(), len(users), rows)
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{where}: cannot be read ({error}); it belongs to {path}, import the data again") from error
    optional = {name: arrays.get(name) for name in ("timestamps", "rewards", "event_codes")}
    return {
        "user_ids": users,
        "items": arrays["items"],
        "offsets": np.array(arrays["offsets"]),
        "context": arrays.get("context", np.empty((rows, 0), np.float32)),
        "context_names": tuple(about["context_names"]),
        "event_words": tuple(about["event_words"]),
        **optional,
    }


def _check(arrays: Mapping[str, np.ndarray], head: pl.DataFrame, users: int, rows: int) -> None:
    """Raises a `ValueError` if arrays are missing, or do not have the length or type of a log like `head`."""
    shapes = {name: (one.dtype, (rows, *one.shape[1:])) for name, one in columns(head, head["item_id"], "the log")}
    shapes["offsets"] = np.dtype(np.int64), (users + 1,)
    for name, shape in shapes.items():
        found = arrays.get(name)
        if found is None or (found.dtype, found.shape) != shape:
            raise ValueError(f"{name}.npy is missing, or not as long as the log")
    if arrays["offsets"][0] or arrays["offsets"][-1] != rows or (np.diff(arrays["offsets"]) < 0).any():
        raise ValueError("offsets.npy does not fit the log")


def columns(log: pl.DataFrame, ids: pl.Series, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a sorted log, or of a part of it, by their fields of `Dataset`, for fields that it has.

    Raises:
        DataError: the log called `name` holds an item that is not among `ids`.
    """
    items = positions(log["item_id"], ids)
    if (items < 0).any():
        missing = log["item_id"][int(np.argmin(items))]
        raise DataError(f"{name}: item {missing!r} is not in its item table; import the data again")
    yield "items", items
    if "timestamp" in log.columns:
        yield "timestamps", log["timestamp"].dt.epoch("us").to_numpy()
    if "reward" in log.columns:
        yield "rewards", log["reward"].to_numpy()
    if event_words(log):
        yield "event_codes", log["event"].to_physical().cast(pl.Int32).to_numpy()
    if names := context_names(log):
        yield "context", log.select(pl.col(names).cast(pl.Float32)).to_numpy(order="c")


def context_names(log: pl.DataFrame) -> list[str]:
    """The columns that describe events; including `event` if it holds numbers."""
    own = ("user_id", "item_id", "timestamp", "reward", *(["event"] if event_words(log) else []))
    return [name for name in log.columns if name not in own]


def event_words(log: pl.DataFrame) -> list[str]:
    """The kinds of events, if the log has any."""
    kinds = log.schema.get("event")
    return kinds.categories.to_list() if isinstance(kinds, pl.Enum) else []
