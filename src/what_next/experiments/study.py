"""The study of a search: its trials, kept by Optuna in one file, or in a database that several processes share.

The file is Optuna's journal: lines of JSON that are only ever appended, so that a killed run loses only its current
trial, and no database is needed (Optuna's own SQLite storage locks badly on network file systems, and is not readable
as text).

In a database study, each process, on one or more machines, takes the next trial; a killed trial is taken over by
another process.
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
"""Seconds between heartbeats of a shared trial, and after the last one until another process takes the trial over."""
PATIENCE = 30.0
"""Seconds to wait for a gRPC proxy."""


def is_shared(study: Path | str | None) -> bool:
    """Whether a study is in a database, by its URL."""
    return isinstance(study, str) and "://" in study


def shown(study: Path | str) -> Path | str:
    """The path or URL of a study, without a password."""
    return without_password(study) if isinstance(study, str) else study


@contextmanager
def opened(path: Path | str, made_for: Mapping[str, Any], free: Collection[str] = ()) -> "Iterator[optuna.Study]":
    """Open a study to search in; inside, no other search can use its file. A database study can be shared.

    Raises:
        SaveError: another search uses the file, or the disk is full; and see `open_study`.
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
            cause = cause.__context__  # Optuna turns errors of its storage into an AssertionError
        if cause is None:
            raise
        raise SaveError(
            f"{file}: the disk is full ({cause}); trials that were judged are kept; make room, and give the same "
            "command again, which goes on"
        ) from error


def open_study(path: Path | str, made_for: Mapping[str, Any], free: Collection[str] = ()) -> "optuna.Study":
    """Open or create a study; `free`: settings that earlier versions stored in it and that may differ.

    Raises:
        SetupError: it holds trials with other settings.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("Optuna", "tune", "tuning") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # heartbeats are experimental
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

    # With a relative path Optuna's lock is a broken link, and waits forever for a lock that a killed run left.
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
    """The storage in a database, or behind Optuna's gRPC proxy (which sends no heartbeats)."""
    from optuna.storages import GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
    from sqlalchemy.exc import SQLAlchemyError

    kind, _, place = url.partition("://")
    if is_unescaped(url):
        raise SetupError(UNESCAPED)
    if kind == "postgresql":
        url = f"postgresql+psycopg://{place}"  # the same driver as the service's store
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
        if error.name is None:  # Optuna has no driver for such a database
            raise SetupError(f"{shown(url)}: a study lies in postgresql://, sqlite:///FILE or grpc://") from None
        raise MissingExtraError(str(error.name), "serve", "a study in PostgreSQL") from None
    except (SQLAlchemyError, RuntimeError, ConnectionError, ValueError) as error:
        reason = (str(error.__cause__ or "") or str(error)).splitlines()[0]
        raise SaveError(f"{shown(url)}: the study cannot be kept there ({reason}); name another --study") from None


def _one_writer(storage: "optuna.storages.RDBStorage") -> "optuna.storages.RDBStorage":
    """Make the transactions of a SQLite storage lock the file before they read.

    SQLite has no `FOR UPDATE`, by which Optuna gives a waiting trial to one process: two could read and take it.
    This is SQLAlchemy's recipe for it.
    """
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def leave_transactions_alone(connection: Any, record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(storage.engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    storage.engine.dispose()  # closes connections opened before
    return storage


def _is_journal(path: Path) -> bool:
    """Whether a file is empty or begins like Optuna's journals; protects other files from being written to."""
    with path.open(errors="replace") as file:
        line = file.readline()
    try:
        return not line or "op_code" in json.loads(line)
    except (ValueError, TypeError):
        return False


def _cut_torn_line(path: Path) -> None:
    """Cut off an incomplete last line, to which the next line would be appended. No process may be writing."""
    with path.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            warnings.warn(f"{path}: the last line was not written to its end, and is cut off", stacklevel=2)


def with_a_place(study: "optuna.Study", seconds: float, waiting: bool = False) -> "list[optuna.trial.FrozenTrial]":
    """The trials that are judged, running or, with `waiting`, waiting; running trials without a heartbeat are released.

    Behind a gRPC proxy there are no heartbeats: a trial that began so long ago that it must have ended is not counted.
    A trial that another process has just declared lost keeps its place until it is queued again: otherwise another
    trial could take the place between these two steps.
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
    """Whether a trial that just began exceeds `most`, because processes that asked at the same time came first.

    A trial that was queued again has the place of the lost one.
    """
    first: dict[int, int] = {
        one.number: min([one.number, *one.system_attrs.get("retry_history", ())])
        for one in with_a_place(study, seconds, waiting=True)
    }
    return sum(one < first.get(number, number) for one in first.values()) >= most
