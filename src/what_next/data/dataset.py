"""The data set in memory: one array per column over all events, and each user's offset into them."""

import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
from jaxtyping import Float32, Int32, Int64

from what_next.data import mapped
from what_next.data.catalogue import Catalogue
from what_next.data.decisions.service_log import events_of, is_service_log
from what_next.data.files import beside, finish, footer_of, steady
from what_next.data.forks import check_fork
from what_next.data.html import table
from what_next.data.importing.cleaning import clean, import_files
from what_next.data.importing.ids import as_text
from what_next.data.importing.readers import Source
from what_next.data.importing.tables import Options, Tables
from what_next.data.pickles import from_pandas
from what_next.errors import DataError, some, told_in_python

logger = logging.getLogger(__name__)

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
MANY = 2**22
"""Most events checked for repeats where the answer must be quick."""
REPEATED = 0.5
"""Where more than this share of events are repeats, `init` and `fit` let a model recommend seen items: otherwise it
would miss most next items."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Events by user, then time, ties in file order; user `u` owns `offsets[u]:offsets[u + 1]`.

    Attributes:
        name: its display name.
        user_ids: external ids of the users (Int64 or String).
        items: for each event, the index of its item in the catalogue.
        offsets: the index of each user's first event, and at the end the number of events.
        timestamps: microseconds since 1970 UTC; None where the log has no times.
        rewards: one number per event, in the log's own unit; None where the log has none.
        context: other numbers of each event; shape (events, 0) where there are none.
        context_names: the names of the columns of `context`.
        catalogue: the items.
        event_codes: for each event, the index of its kind in `event_words` (play, skip, purchase, ...); None where the
            log has none.
        event_words: the kinds of events.
    """

    name: str
    user_ids: pl.Series
    items: Int32[np.ndarray, "events"]
    offsets: Int64[np.ndarray, "users_plus_1"]
    timestamps: Int64[np.ndarray, "events"] | None
    rewards: Float32[np.ndarray, "events"] | None
    context: Float32[np.ndarray, "events context"]
    context_names: tuple[str, ...]
    catalogue: Catalogue
    event_codes: Int32[np.ndarray, "events"] | None = None
    event_words: tuple[str, ...] = ()

    def __repr__(self) -> str:
        has = {"times": self.timestamps, "rewards": self.rewards}
        more = [*(name for name, values in has.items() if values is not None), some(self.context_names)]
        parts = ", ".join(filter(None, [f"{self.users:,} users", f"{self.events:,} events", *more]))
        return f"Dataset({self.name!r}: {parts};\n  {self.catalogue!r})"

    def _repr_html_(self) -> str:
        span, lengths = self.span(), self.lengths
        rows = {
            "users": f"{self.users:,}",
            "items": f"{len(self.catalogue):,}",
            "events": f"{self.events:,}",
            "per user": f"{lengths.min()} to {lengths.max()}, mean {lengths.mean():.1f}" if self.users else "",
            "time": f"{span['first']} to {span['last']}" if span else "none: the order of the rows",
            "reward": f"mean {self.rewards.mean():.3g}" if self.rewards is not None and self.events else "none",
            "attributes": some(self.catalogue.names),
            "context": some(self.context_names),
            "kinds of events": some(self.event_words),
        }
        return table(f"Data set {self.name}", (), [(name, value) for name, value in rows.items() if value])

    @property
    def users(self) -> int:
        """How many users there are."""
        return len(self.user_ids)

    @property
    def events(self) -> int:
        """How many events there are."""
        return len(self.items)

    @property
    def lengths(self) -> Int64[np.ndarray, "users"]:
        """How many events each user has."""
        return np.diff(self.offsets)

    @cached_property
    def digest(self) -> str:
        """A checksum of all events in their order; 10 million take about .2 s."""
        found = zlib.crc32(repr(self.event_words).encode())
        for values in (self.offsets, self.items, self.timestamps, self.rewards, self.event_codes, self.context):
            found = zlib.crc32(b"none" if values is None else np.ascontiguousarray(values).data, found)
        return f"{found:08x}"

    def user_index(self, ids: Sequence[str | int]) -> Int32[np.ndarray, "n"]:
        """Indices of external user ids, compared as text; -1 for unknown ids."""
        texts, mine = [as_text(one) for one in ids], self.user_ids.cast(pl.String)
        if len(texts) == 1:  # many times faster for one id, and possible in a forked process
            return np.array([*(mine == texts[0]).arg_true(), -1][:1], np.int32)
        check_fork("looking for several users")
        wanted = pl.DataFrame({"id": texts}, schema={"id": pl.String})
        known = pl.DataFrame({"id": mine}).with_row_index("position")
        found = wanted.join(known, on="id", how="left", maintain_order="left")["position"]
        return found.cast(pl.Int32).fill_null(-1).to_numpy()

    @classmethod
    @told_in_python()
    def from_frame(cls, log: Any, items: Any = None, *, name: str = "frame", **columns: Any) -> "Dataset":
        """From a pandas, Polars or pyarrow table of events, cleaned as `what-next data import` does.

        Args:
            log: one row per event.
            items: a table with one row per item, if there is one.
            name: its display name.
            columns: `user`, `item`, `time`, `reward`, `event`, `titles` (a column each), `attributes`, `tags`,
                `context` (lists of columns), `fill`, `keep_duplicates`, `session_gap`: see `Options`. Omitted columns
                are recognised.

        Raises:
            DataError: the table cannot be used.
        """
        check_fork("Dataset.from_frame")
        log_source = Source(to_polars(log).lazy(), Path(name))
        item_source = Source(to_polars(items).lazy(), Path(f"{name} items")) if items is not None else None
        return cls.from_tables(clean([log_source], item_source, Options(**columns)), name)

    @classmethod
    def read(cls, path: str | Path) -> "Dataset":
        """From `NAME.parquet` as `what-next data import` writes it, or from any file that it can read.

        A folder, the import's format of a large log, is memory-mapped instead of read. From the exported log of a
        service the events are read; `read_log` reads its decisions.

        Raises:
            DataError: a file is missing, damaged or cannot be used.
        """
        path = Path(path)
        check_fork(f"reading {path}")
        if path.suffix == ".parquet":
            finish(path)
        footer = footer_of(path)
        if "what_next.format" not in footer:
            tables = import_files([path])
            for line in tables.must_know():
                logger.warning("%s", line)
            return cls.from_tables(tables, path.name.split(".")[0])
        items = beside(path, "items")
        if not items.is_file():
            held = [one.name for one in sorted(path.glob("*.parquet")) if not one.name.endswith(".items.parquet")]
            other = f"; or name a file in it: {some(held)}" if held else ""
            raise DataError(f"{items}: no such file; it belongs to {path}, import the data again{other}")
        try:
            with steady():
                if path.is_dir():
                    catalogue = Catalogue.from_table(pl.read_parquet(items, glob=False))
                    return cls(path.stem, catalogue=catalogue, **mapped.read(path, catalogue.hash()))
                log = events_of(path) if is_service_log(path) else pl.read_parquet(path, glob=False)
                tables = Tables(log, pl.read_parquet(items, glob=False), pl.DataFrame(), 0, {})
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path}: is damaged ({str(error).splitlines()[0]}); import the data again") from error
        dataset = cls.from_tables(tables, path.stem)
        if dataset.catalogue.hash() != footer.get("what_next.catalogue"):
            raise DataError(f"{items}: belongs to another import than {path}; import the data again")
        return dataset

    @classmethod
    def from_tables(cls, tables: Tables, name: str) -> "Dataset":
        """From a clean log, sorted, and its item table.

        Raises:
            DataError: the log holds an item that the table lacks.
        """
        log, catalogue = tables.log, Catalogue.from_table(tables.items)
        starts = np.flatnonzero(np.insert((log["user_id"].shift() != log["user_id"])[1:].to_numpy(), 0, True))
        missing = {"timestamps": None, "rewards": None, "context": np.empty((len(log), 0), np.float32)}
        return cls(
            name=name,
            user_ids=log["user_id"].gather(starts),
            offsets=np.append(starts, len(log)),
            context_names=tuple(mapped.context_names(log)),
            catalogue=catalogue,
            event_words=tuple(mapped.event_words(log)),
            **missing | dict(mapped.columns(log, catalogue.ids, name)),
        )

    def to_tables(self) -> Tables:
        """The clean log and its item table: what `from_tables` reads."""
        users = np.repeat(np.arange(self.users), self.lengths)
        columns = {"user_id": self.user_ids.gather(users), "item_id": self.catalogue.ids.gather(self.items)}
        if self.timestamps is not None:
            columns["timestamp"] = pl.Series(self.timestamps).cast(pl.Datetime("us", "UTC"))
        if self.rewards is not None:
            columns["reward"] = pl.Series(self.rewards)
        if self.event_codes is not None:
            words = [self.event_words[code] for code in self.event_codes]
            columns["event"] = pl.Series(words, dtype=pl.Enum(self.event_words))
        columns |= {name: pl.Series(self.context[:, place]) for place, name in enumerate(self.context_names)}
        return Tables(pl.DataFrame(columns), self.catalogue.to_table(), pl.DataFrame(), self.events, {})

    @classmethod
    def of_events(
        cls,
        user_ids: pl.Series,
        items: Int32[np.ndarray, "events"],
        catalogue: Catalogue,
        name: str = "frame",
        numbers: Mapping[str, pl.Series] | None = None,
    ) -> "Dataset":
        """From events in order, whose users may be interleaved; events with item -1 are left out.

        Args:
            user_ids: the user of each event; `items`: its item, as a position in the catalogue.
            numbers: further columns of the events, without missing values: `timestamp` (microseconds since 1970 UTC),
                `reward`, and context under any other name.
        """
        table = pl.DataFrame({"\0user": user_ids, "\0item": items, **(numbers or {})}).filter(pl.col("\0item") >= 0)
        table = table.sort("\0user", maintain_order=True)
        starts = np.flatnonzero(table["\0user"].is_first_distinct().to_numpy())
        context = [one for one in numbers or {} if one not in ("timestamp", "reward")]
        return cls(
            name=name,
            user_ids=table["\0user"].gather(starts),
            items=table["\0item"].to_numpy(),
            offsets=np.append(starts, len(table)),
            timestamps=table["timestamp"].cast(pl.Int64).to_numpy() if "timestamp" in table.columns else None,
            rewards=table["reward"].cast(pl.Float32).to_numpy() if "reward" in table.columns else None,
            context=table.select(context).to_numpy().astype(np.float32).reshape(len(table), len(context)),
            context_names=tuple(context),
            catalogue=catalogue,
        )

    def describe(self) -> dict[str, Any]:
        """A description of the data set as plain values, as `what-next data describe --json` prints it."""
        lengths, items, pairs, codes = self.lengths, len(self.catalogue), self._pairs(self.users), self.event_codes
        counts = None if codes is None else np.bincount(codes, minlength=len(self.event_words))
        return {
            "name": self.name,
            "users": self.users,
            "items": items,
            "items_with_events": len(np.unique(self.items)),
            "rows": self.events,
            "lengths": {
                "min": int(lengths.min()),
                "median": float(np.median(lengths)),
                "mean": float(lengths.mean()),
                "max": int(lengths.max()),
            },
            "density": pairs / (self.users * items),
            "repeats": self.repeats,
            "time": self.span(),
            "ties": self._ties(),
            "attributes": self.catalogue.describe(),
            "tags": self.catalogue.kinds,
            "context": list(self.context_names),
            "reward": _distribution(self.rewards),
            "events": None if counts is None else dict(zip(self.event_words, counts.tolist(), strict=True)),
        }

    @property
    def repeats(self) -> float:
        """The share of events with an item that the user had before; in a large log, of its first users."""
        users = max(1, int(np.searchsorted(self.offsets, MANY, "right")) - 1)
        return 1 - self._pairs(users) / max(1, int(self.offsets[users]))

    @property
    def repetitive(self) -> bool:
        """Whether so many events are repeats that a model had better recommend items of the history, too."""
        return self.repeats > REPEATED

    def _pairs(self, users: int) -> int:
        """The number of distinct user-item pairs of the first `users` users."""
        whose = np.repeat(np.arange(users), self.lengths[:users])
        return len(np.unique(whose * len(self.catalogue) + self.items[: self.offsets[users]]))

    def span(self) -> dict[str, str] | None:
        """The first and the last time, UTC; None without times."""
        if self.timestamps is None:
            return None
        ends = pl.Series([self.timestamps.min(), self.timestamps.max()]).cast(pl.Datetime("us"))
        return dict(zip(("first", "last"), ends.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), strict=True))

    def _ties(self) -> float | None:
        """The share of events with the same time as another event of the user."""
        if self.timestamps is None:
            return None
        same = np.diff(self.timestamps) == 0
        same[self.offsets[1:-1] - 1] = False
        return float((np.append(same, False) | np.insert(same, 0, False)).mean())


def _distribution(rewards: Float32[np.ndarray, "events"] | None) -> dict[str, Any] | None:
    """Mean, spread and quartiles; and the frequency of each value, if there are at most 20."""
    if rewards is None:
        return None
    values = rewards.astype(np.float64)
    distinct, counts = np.unique(rewards, return_counts=True)
    shares = {f"{value:g}": int(count) for value, count in zip(distinct, counts, strict=True)}
    return {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "quantiles": dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True)),
        "counts": shares if len(shares) <= 20 else None,
    }


def is_frame(value: object) -> bool:
    """Whether it is a pandas, Polars or pyarrow table."""
    return isinstance(_eager(value, pass_through=True), nw.DataFrame)


def to_polars(frame: Any) -> pl.DataFrame:
    """A pandas, Polars or pyarrow table as a Polars frame."""
    native = _eager(frame)
    # Polars' own conversion of pandas frames stops at columns of mixed objects.
    return from_pandas(frame) if native.implementation.is_pandas() else native.to_polars()


def _eager(frame: Any, **how: bool) -> Any:
    try:
        return nw.from_native(frame, eager_only=True, **how)
    except nw.exceptions.DuplicateError as error:
        raise DataError(
            f"two columns of the frame have one name ({' '.join(str(error).split())}); rename one"
        ) from None
