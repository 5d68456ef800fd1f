"""Everything that What Next? raises on purpose.

    WhatNextError
    ├── SetupError          a setting is missing, unknown or out of range
    ├── DataError           a data file cannot be read or used
    │   └── UnsafePickleError  a pickle holds more than a DataFrame
    ├── CatalogueError      an item or a user is not known
    ├── ModelError          a model file cannot be read, or belongs to something else
    ├── SaveError           a file could not be written; the one before it is intact
    ├── TrainingError       training had to stop (a loss that is not a number)
    ├── StoreError          the store of events cannot be opened or used
    │   └── StoreUnavailable   it cannot take anything now (disk full, database away); nothing was lost
    └── MissingExtraError   an optional library is needed and not installed

The user can correct each of them: the command line prints its message, without a traceback, and exits with 2. A message
says where, what was found, and what to do next. `Plain` prints messages and all other text for people literally.
"""

import errno
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, time
from difflib import get_close_matches
from traceback import walk_tb
from typing import Any

from rich.console import Console

MOST_NAMES, LONGEST_NAME = 12, 200
"""How many names a message lists, and how many characters it shows of each."""


class Plain(Console):
    """Rich's console without markup and emoji codes: names come from users, so `[/x]` and `:a:` print literally."""

    def __init__(self, **how: Any) -> None:
        super().__init__(markup=False, emoji=False, **how)

    def on_broken_pipe(self) -> None:
        """Print no more when the reader has gone; on the standard output, which holds the result, end the program.

        A broken standard error ends nothing: a training is still saved.
        """
        if not self.stderr:
            super().on_broken_pipe()
        self.quiet = True


class Lines(Plain):
    """A console for whole lines on the standard error, in Python's words within `told_in_python`."""

    def __init__(self, *, quiet: bool = False) -> None:
        # Otherwise a notebook shows each line as a block of its own.
        super().__init__(stderr=True, soft_wrap=True, quiet=quiet, force_jupyter=False)

    def print(self, *lines: Any, **how: Any) -> None:
        """Print lines, see `in_python`."""
        translate = TO_PYTHON.get()
        super().print(*(in_python(one) if translate and isinstance(one, str) else one for one in lines), **how)


def some(names: Iterable[object], of: int | None = None) -> str:
    """Names for a message, separated by commas: a dozen at most, and the number of further ones.

    Args:
        names: columns, ids, words, files; with `of`, only the first dozen need be given.
        of: the total number of names.
    """
    texts = [str(name) for name in names]
    shown = [one if len(one) <= LONGEST_NAME else one[: LONGEST_NAME - 1] + "…" for one in texts[:MOST_NAMES]]
    more = (of or len(texts)) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def as_found(value: object) -> str:
    """A table's value for a message: `empty` for None, a time in ISO 8601, anything else as Python's repr."""
    if value is None:
        return "empty"
    return value.isoformat() if isinstance(value, date | time) else repr(value)  # a datetime is a date


def counted(count: int, what: str) -> str:
    """A count with its noun: `1 row`, `2,345 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


LIMITED = {errno.EDQUOT, errno.EFBIG}
"""Errors where a user's quota or a file's size limit is reached, though the disk may have room."""
FULL = {errno.ENOSPC, *LIMITED}
"""Errors of a disk without room for what is to be written."""


def disk_full(error: Exception) -> bool:
    """Whether an error says that there is no room to write."""
    return _number_of(error) in FULL


def limited(error: Exception) -> bool:
    """Whether an error says that a quota or a file's size limit is reached."""
    return _number_of(error) in LIMITED


def _number_of(error: Exception) -> int | None:
    """The system's error number, which Polars gives only in its text."""
    number = re.search(r"os error (\d+)", str(error))
    return int(number[1]) if number else getattr(error, "errno", None)


UNESCAPED = "the database's URL has an @ too many; in a password, write %40 for @, and %25 for %"
"""The message if `is_unescaped`."""


def is_unescaped(url: str) -> bool:
    """Whether a URL's password holds an unescaped @: the rest of it would be taken for the host, and be shown."""
    return re.search(r"://[^:/]*:[^@]*@[^?]*@", url) is not None


def without_password(url: str) -> str:
    """A database's URL without the secrets: its password, and the secret values of its query."""
    url = re.sub(r"(://[^:/?]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&](?:password|sslpassword|passfile|options)=)[^&]*", r"\1***", url)


BEFORE_HOST = r"\b((?!(?:abfss?|az|wasbs?):)\w[\w+.-]*://)(?:[^/?#\s:]*:(?!\s|\d+\b[^@])[^@\n]*|[^/?#\s]*)@"
"""A URL up to its @ (in Azure's URLs a container comes before the @): a token, or a user and a password, perhaps with
spaces; but no port."""
QUERY = r"((?:https?:/|url: )/[^\s?]*)\?\S+|\?(?=[&%$\w][^\s/?=]*=)\S+"
"""A query: of an HTTP URL, or anything after ? that has an =, unlike a question or the pattern `part?.csv`."""


def without_secrets(text: str) -> str:
    """A text in which all URLs, or parts of them, have lost their secrets.

    It lacks users, tokens, passwords and whole queries, because signatures have other names in each store.
    """
    text = re.sub(r":(?![/\\])\S*@", ":***@", text)  # also if a library repeats a URL without its scheme
    return re.sub(QUERY, r"\1?***", re.sub(BEFORE_HOST, r"\1***@", text))


IN_PYTHON = {
    r" \(an option of what-next data import\)": "",
    r" of what-next data import(; if the first line holds no names, see --no-header and --columns)?": "",
    r"; what-next data import keeps them apart": "",
    r" \(is a comma missing after '[^']*'\?\)": "",
    r"import the data with --attributes or an item table": "give the log's own (--attributes) or a frame of items",
    r"import (it|the data) with --": "name the column with --",
    r"give this one a model_agent_path .*wn\.simulate\)": "give another folder, or overwrite=True",
    r"of a package that is not installed\?": (
        "of a package that is not installed, or of a class without what_next.register?"
    ),
    r"needs its package installed (\(entry points [\w.]+\))": r"needs its package installed \1, or what_next.register",
    r"train one first \(`train, yes` in the setup\)": "train one with what_next.fit, and save it",
    r"train on .* the model with `what-next train SETUP --from MODEL`": "train on these data with what_next.fit",
    r"--([a-z-]+) (median|excel|dmy|mdy|ymd|[mun]?s\b|%\S*\w)": r"--\1 '\2'",
    r"--([a-z-]+) (''|'[^']+')": r"\1=\2",
    r"--([a-z-]+)": r"\1=...",
}
"""Patterns in messages for the command line, and their equivalents for Python's callers."""


def in_python(text: str) -> str:
    """A message with Python's arguments in place of the command line's options and the lines of a setup."""
    for found, instead in IN_PYTHON.items():
        text = re.sub(found, instead, text)
    text = re.sub(r"`([a-z_]+(?:\.[a-z_]+)*), ([\w.-]+)`", _argument, text)
    return re.sub(r"[a-z-]+(?==)", lambda name: name[0].replace("-", "_"), text)


def _argument(line: re.Match[str]) -> str:
    """A line of a setup, such as `evaluation.seen, yes`, as an argument: `evaluation_seen=True`."""
    name, value = line[1].replace(".", "_"), line[2]
    plain = {"yes": "True", "no": "False"}.get(value, value)
    return f"`{name}={plain if plain != value or value[0].isdigit() else repr(value)}`"


TO_PYTHON = ContextVar("TO_PYTHON", default=False)


@contextmanager
def told_in_python() -> Iterator[None]:
    """A context, or a decorator of public functions, in which messages name Python's arguments."""
    before = TO_PYTHON.set(True)
    try:
        yield
    except WhatNextError as error:
        error.in_python = True
        raise
    finally:
        TO_PYTHON.reset(before)


class WhatNextError(Exception):
    """The root of the tree: an error that its message explains.

    Attributes:
        in_python: whether the message names Python's arguments, not the command line's options.
    """

    in_python = False

    def __str__(self) -> str:
        return in_python(super().__str__()) if self.in_python else super().__str__()


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the processor or on a graphics card (PyTorch tells only in the message)."""
    return isinstance(error, MemoryError) or any(one in str(error) for one in ("allocate memory", "out of memory"))


@contextmanager
def told_of(part: object, what: str, kind: type[WhatNextError]) -> Iterator[None]:
    """If a custom part fails, raise one message that says so, with the line; our own deliberate errors pass.

    Failures of our own parts (bugs) and exhausted memory pass, too.
    """
    try:
        yield
    except WhatNextError:
        raise
    except Exception as error:  # a custom part may raise anything
        ours = f"{__name__.partition('.')[0]}."
        if type(part).__module__.startswith(ours) or out_of_memory(error):
            raise
        lines = ((frame.f_globals.get("__name__", ""), frame, line) for frame, line in walk_tb(error.__traceback__))
        theirs = (one for one in lines if not one[0].startswith((ours, "contextlib")))
        place = next((f" ({frame.f_code.co_filename}, line {line})" for _, frame, line in theirs), "")
        raise kind(f"{what}: {error!r}{place}") from error


class SetupError(WhatNextError):
    """A setting is missing, unknown or out of range."""


class Explained:
    """Base of pydantic models that users construct: mistakes in their settings become a `SetupError`.

    Models within a setup are validated by the setup, which reports file and line.
    """

    def __init__(self, **values: Any) -> None:
        from pydantic import ValidationError  # here, because this file is also imported where pydantic is not needed

        try:
            super().__init__(**values)
        except ValidationError as error:
            told = "; ".join(_mistake(one, getattr(type(self), "model_fields", {})) for one in error.errors())
            raise SetupError(f"{self.called()}: {told}") from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # pydantic bypasses other __init__s in models

    @classmethod
    def called(cls) -> str:
        """Its name in messages."""
        return cls.__name__


def no_setting(name: str, allowed: Collection[str]) -> str:
    """The message for an unknown setting."""
    return f"there is no setting {name!r}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"


def nearest(found: str, known: Iterable[str]) -> str:
    """The part of a message that names the known word most like another; empty where none is known."""
    alike = get_close_matches(found, list(known), n=1, cutoff=0)
    return f"; the nearest is {alike[0]!r}" if alike else ""


def _mistake(error: Any, fields: Mapping[str, Any]) -> str:
    """One mistake found by pydantic, in a few words."""
    place, what = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return no_setting(place, fields)
    if error["type"] == "missing":
        return f"{place} is missing, {getattr(fields.get(place), 'description', None) or 'and has no default'}"
    return f"{place} is {error['input']!r}: {what}" if place else what


class DataError(WhatNextError):
    """A data file cannot be read or used."""


class UnsafePickleError(DataError):
    """A pickle asks for something that a DataFrame does not need; none of it was run."""


class CatalogueError(WhatNextError):
    """An item or a user is not known."""


class ModelError(WhatNextError):
    """A model file cannot be read, or belongs to another catalogue, format or partner."""


class SaveError(WhatNextError):
    """A file could not be written; the previous one is intact."""


class TrainingError(WhatNextError):
    """Training had to stop; the last good model is kept."""


class StoreError(WhatNextError):
    """The store of events and impressions cannot be opened, or does not fit."""


class StoreUnavailable(StoreError):
    """The store cannot take or give anything now; unacknowledged events are not in it, and may be sent again."""


class MissingExtraError(WhatNextError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed; pip install 'what-next-rl[{extra}]'")


class NotFinite(ValueError):
    """A score is NaN or infinite, so nothing can be chosen by it.

    Attributes:
        rows: rows of the batch with such scores.
    """

    def __init__(self, rows: Iterable[int]) -> None:
        self.rows = list(rows)
        super().__init__(f"a score is NaN or infinite, in {len(self.rows)} rows of the batch")
