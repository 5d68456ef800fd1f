"""The study of a search: the trials so far, kept by Optuna in one file, or in a database that several processes share.

The file is Optuna's journal: lines of JSON that are only ever appended, so that a killed run loses the trial under way
and nothing else, and no database is needed (Optuna's own SQLite storage locks badly on network file systems, and cannot
be read by eye).

Of a study in a database, each process, on one machine or many, takes the next trial, and one that was killed is taken
up by another.
"""

import json
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from what_next.data.files import alone
from what_next.errors import (
    UNESCAPED,
    MissingExtraError,
    SaveError,
    SetupError,
    disk_full,
    is_unescaped,
    without_password,
)

if TYPE_CHECKING:
    import optuna

HEARTBEAT, GRACE = 10, 60
"""Seconds between two signs of life of a shared trial, and after the last one until another process takes it up."""
PATIENCE = 30.0
"""Seconds that a gRPC proxy is waited for."""


def is_shared(study: Path | str | None) -> bool:
    """Whether a study lies in a database, by its URL."""
    return isinstance(study, str) and "://" in study


def shown(study: Path | str) -> Path | str:
    """Where a study is, without a password."""
    return without_password(study) if isinstance(study, str) else study


@contextmanager
def opened(path: Path | str, made_for: Mapping[str, Any], free: Collection[str] = ()) -> "Iterator[optuna.Study]":
    """A study to search in; within, no other search works on its file. One in a database is for several.

    Raises:
        SaveError: another search works on the file, or the disk is full; and see `open_study`.
    """
    if is_shared(path):
        yield open_study(path, made_for, free)
        return
    file = Path(path)
    refusal = f"{file}: another search works on this file; wait for its end, or share a study in a database, such as "
    try:
        study = open_study(path, made_for, free)
        with alone(file.with_name(f".{file.name}.lock"), SaveError(refusal + "--study sqlite:///study.db")):
            yield study
    except (OSError, AssertionError) as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and disk_full(cause)):
            cause = cause.__context__  # Optuna makes an AssertionError of what its storage raises
        if cause is None:
            raise
        raise SaveError(
            f"{file}: the disk is full ({cause}); trials that were judged are kept; make room, and give the same "
            "command again, which goes on"
        ) from error


def open_study(path: Path | str, made_for: Mapping[str, Any], free: Collection[str] = ()) -> "optuna.Study":
    """The study of a file, which is made where there is none; `free`: what earlier versions kept in it and may differ.

    Raises:
        SetupError: it holds trials of other settings.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("Optuna", "tune", "tuning") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # of signs of life
    storage = _database(path) if isinstance(path, str) and is_shared(path) else _journal(Path(path))
    study = optuna.create_study(storage=storage, study_name="what-next", direction="maximize", load_if_exists=True)
    before = study.user_attrs.get("made_for")
    if before is None:
        study.set_user_attr("made_for", dict(made_for))
    elif changed := sorted(key for key in {*before, *made_for} - {*free} if before.get(key) != made_for.get(key)):
        raise SetupError(
            f"{shown(path)}: holds trials with another {', '.join(changed)}; set it as it was, or name another file "
            "with --study"
        )
    return study


def _journal(path: Path) -> "optuna.storages.BaseStorage":
    """The storage in a file."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    # Of a relative path Optuna's lock is a broken link, and one that a killed run left would be waited for forever.
    lock = JournalFileSymlinkLock(str(path.absolute()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not _is_journal(path):
                raise SetupError(f"{path}: is no study of What Next?; name another file with --study")
            lock.acquire()
            try:
                _cut_torn_line(path)
            finally:
                lock.release()
        return JournalStorage(JournalFileBackend(str(path), lock))
    except ValueError:
        raise SetupError(
            f"{path}: a line is damaged, so the trials cannot be read; put a copy that is whole in its place, or name "
            "another file with --study"
        ) from None
    except OSError as error:
        raise SaveError(f"{path}: the study cannot be kept there ({error.strerror}); name another --study") from None


def _database(url: str) -> "optuna.storages.BaseStorage":
    """The storage in a database, or behind Optuna's gRPC proxy of one (which tells no signs of life)."""
    from optuna.storages import GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
    from sqlalchemy.exc import SQLAlchemyError

    kind, _, place = url.partition("://")
    if is_unescaped(url):
        raise SetupError(UNESCAPED)
    if kind == "postgresql":
        url = f"postgresql+psycopg://{place}"  # what the store of the service takes, too
    options: dict[str, Any] = {"pool_pre_ping": True}
    if kind == "sqlite":
        if not place.strip("/") or place.endswith(":memory:"):
            raise SetupError(f"{url}: names no file, which several processes need; write sqlite:///study.db")
        options["connect_args"] = {"timeout": 60}
    try:
        if kind == "grpc":
            host, _, port = place.rstrip("/").partition(":")
            proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(timeout=PATIENCE)
            return proxy
        storage = RDBStorage(
            url,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
        return _one_writer(storage) if kind == "sqlite" else storage
    except ImportError as error:
        if kind == "grpc":
            raise SetupError(f"{url}: Optuna's proxy needs {error.name}: pip install grpcio protobuf") from None
        if error.name is None:  # Optuna's own words about a database that it has no library for
            raise SetupError(f"{shown(url)}: a study lies in postgresql://, sqlite:///FILE or grpc://") from None
        raise MissingExtraError(str(error.name), "serve", "a study in PostgreSQL") from None
    except (SQLAlchemyError, RuntimeError, ConnectionError, ValueError) as error:
        reason = (str(error.__cause__ or "") or str(error)).splitlines()[0]
        raise SaveError(f"{shown(url)}: the study cannot be kept there ({reason}); name another --study") from None


def _one_writer(storage: "optuna.storages.RDBStorage") -> "optuna.storages.RDBStorage":
    """A storage in SQLite whose transactions lock the file before they read.

    SQLite has no `FOR UPDATE`, by which Optuna gives a trial to one process: two would read that it waits, and take it.
    This is SQLAlchemy's recipe for it.
    """
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def leave_transactions_alone(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(storage.engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # of the connections that were opened before
    return storage


def _is_journal(path: Path) -> bool:
    """Whether a file is empty, or begins as Optuna's journals do; nothing is written to one that is something else."""
    with path.open(errors="replace") as file:
        line = file.readline()
    try:
        return not line or "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _cut_torn_line(path: Path) -> None:
    """Cut off a line that was not written to its end: the next one would be glued to it. Nobody may be writing."""
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            warnings.warn(f"{path}: the last line was not written to its end, and is cut off", stacklevel=2)


def with_a_place(study: "optuna.Study", seconds: float, waiting: bool = False) -> "list[optuna.trial.FrozenTrial]":
    """The trials that are judged or under way, or `waiting`; those that gave no sign of life for long are set free.

    Behind a gRPC proxy nobody gives one: what began so long ago that it must have ended has no place. A trial that
    another process has just found lost keeps its own until it is put up again: between these two steps, it must not go
    to another trial.
    """
    import optuna

    optuna.storages.fail_stale_trials(study)
    trials, now, state = study.get_trials(deepcopy=False), datetime.now(), optuna.trial.TrialState
    oldest, recent = now - timedelta(seconds=2 * seconds + GRACE), now - timedelta(seconds=GRACE)
    again = {number for one in trials for number in one.system_attrs.get("retry_history", ())}

    def has_a_place(trial: "optuna.trial.FrozenTrial") -> bool:
        if trial.state == state.RUNNING:
            return (trial.datetime_start or now) > oldest
        if trial.state == state.FAIL:
            lost = trial.number not in again and "seconds" not in trial.user_attrs
            return lost and (trial.datetime_complete or oldest) > recent
        return waiting or trial.state != state.WAITING

    return [one for one in trials if has_a_place(one)]


def is_too_many(study: "optuna.Study", number: int, most: int, seconds: float) -> bool:
    """Whether a trial that was just begun has no place, since processes that asked at the same time came first.

    A trial that was put up again has the place of the one that was lost.
    """
    first: dict[int, int] = {
        one.number: min([one.number, *one.system_attrs.get("retry_history", ())])
        for one in with_a_place(study, seconds, waiting=True)
    }
    return sum(one < first.get(number, number) for one in first.values()) >= most
