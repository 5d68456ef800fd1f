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

Each is the user's to mend: the command line prints its message, without a traceback, and exits with 2. A message
says where, what was found, and what to do next. So that it says what it holds, `Plain` prints it, and all else that
people read.
"""

import errno
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, time
from difflib import get_close_matches
from traceback import walk_tb
from typing import Any

from rich.console import Console

MOST_NAMES, LONGEST_NAME = 12, 200
"""How many names a message lists, and how many characters it shows of each."""


class Plain(Console):
    """Rich's console without markup and emoji codes: names come from users, and `[/x]` or `:a:` is printed as it is."""

    def __init__(self, **how: Any) -> None:
        super().__init__(markup=False, emoji=False, **how)

    def on_broken_pipe(self) -> None:
        """Nobody reads on: no more is printed, and where that was to be a result, the program ends.

        What is told beside it, on the standard error, ends nothing: a training is saved all the same.
        """
        if not self.stderr:
            super().on_broken_pipe()
        self.quiet = True


def line_console(*, quiet: bool = False) -> Plain:
    """What tells whole lines on the standard error; in a notebook another console makes a block of each."""
    return Plain(stderr=True, soft_wrap=True, quiet=quiet, force_jupyter=False)


def some(names: Iterable[object], of: int | None = None) -> str:
    """Names for a message, with commas between them: a dozen at most, and how many more there are.

    Args:
        names: columns, ids, words, files; the first dozen is read, and no more where `of` tells how many there are.
        of: how many names there are in all.
    """
    texts = [str(name) for name in names]
    shown = [one if len(one) <= LONGEST_NAME else one[: LONGEST_NAME - 1] + "…" for one in texts[:MOST_NAMES]]
    more = (of or len(texts)) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def as_found(value: object) -> str:
    """A value of a table for a message: `empty` where there is none, a time as ISO 8601 writes it, else as Python."""
    if value is None:
        return "empty"
    return value.isoformat() if isinstance(value, date | time) else repr(value)  # a datetime is a date


def counted(count: int, what: str) -> str:
    """How many there are of something: `1 row`, `2,345 rows`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk on which there is no room: it is full, or the user's quota or the limit of a file is reached."""


def disk_full(error: Exception) -> bool:
    """Whether an error says that there is no room to write; Polars has the system's number in its text alone."""
    number = re.search(r"os error (\d+)", str(error))
    return (int(number[1]) if number else getattr(error, "errno", None)) in FULL


UNESCAPED = "the database's URL has an @ too many; in a password, write %40 for @, and %25 for %"
"""What is said where `is_unescaped`."""


def is_unescaped(url: str) -> bool:
    """Whether the password of a URL holds an @ as it is: what follows would be taken for the host, and be told."""
    return re.search(r"://[^:/]*:[^@]*@[^?]*@", url) is not None


def without_password(url: str) -> str:
    """The URL of a database as people may read it, also without what its query keeps secret."""
    url = re.sub(r"(://[^:/?]*):.*@", r"\1:***@", url)
    return re.sub(r"([?&](?:password|sslpassword|passfile|options)=)[^&]*", r"\1***", url)


BEFORE_HOST = r"\b((?!(?:abfss?|az|wasbs?):)\w[\w+.-]*://)(?:[^/?#\s:]*:(?!\s|\d+\b[^@])[^@\n]*|[^/?#\s]*)@"
"""A URL to its @, before which Azure's have a container: a token, or a user and a password, perhaps with spaces; but
no port."""
QUERY = r"((?:https?:/|url: )/[^\s?]*)\?\S+|\?(?=[&%$\w][^\s/?=]*=)\S+"
"""A query: of HTTP, or what is told by its = from the ? of a question and of `part?.csv`."""


def without_secrets(text: str) -> str:
    """A text with URLs, or with parts of them, as people may read it.

    It lacks their users, tokens and passwords, and all of their queries: a signature has other names in each store.
    """
    text = re.sub(r":(?![/\\])\S*@", ":***@", text)  # also where a library repeats a URL without its scheme
    return re.sub(QUERY, r"\1?***", re.sub(BEFORE_HOST, r"\1***@", text))


IN_PYTHON = {
    r" \(an option of what-next data import\)": "",
    r" of what-next data import(; if the first line holds no names, see --no-header and --columns)?": "",
    r"; what-next data import keeps them apart": "",
    r" \(is a comma missing after '[^']*'\?\)": "",
    r"import the data with --attributes or an item table": "give the log's own (--attributes) or a frame of items",
    r"import (it|the data) with --": "name the column with --",
    r"give this one a model_agent_path .*--force`": "give another folder, or overwrite=True",
    r"train one first \(`train, yes` in the setup\)": "train one with what_next.fit, and save it",
    r"train (a\w*|on .* the) model with `what-next train SETUP --from MODEL`": "train on these data with what_next.fit",
    r"--([a-z-]+) (median|excel|dmy|mdy|ymd|[mun]?s\b|%\S*\w)": r"--\1 '\2'",
    r"--([a-z-]+) (''|'[^']+')": r"\1=\2",
    r"--([a-z-]+)": r"\1=...",
}
"""What Python's callers can do, by what messages say to those of the command line."""


def in_python(text: str) -> str:
    """A message with the arguments of Python in place of the options of the command line."""
    for found, instead in IN_PYTHON.items():
        text = re.sub(found, instead, text)
    return re.sub(r"[a-z-]+(?==)", lambda name: name[0].replace("-", "_"), text)


@contextmanager
def told_in_python() -> Iterator[None]:
    """Mistakes are told in Python's words; also a decorator, of what Python's users call."""
    try:
        yield
    except WhatNextError as error:
        error.in_python = True
        raise


class WhatNextError(Exception):
    """The root of the tree: a mistake that the message explains.

    Attributes:
        in_python: whether it is told in Python's words, or in those of the command line.
    """

    in_python = False

    def __str__(self) -> str:
        return in_python(super().__str__()) if self.in_python else super().__str__()


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the processor or of a graphics card, of which PyTorch tells in words alone."""
    return isinstance(error, MemoryError) or any(one in str(error) for one in ("allocate memory", "out of memory"))


@contextmanager
def told_of(part: object, what: str, kind: type[WhatNextError]) -> Iterator[None]:
    """Where somebody else's part fails, one message says so, and in which line; what we raise on purpose stays.

    So do a failure of a part of ours, which is our bug, and memory that ran out.
    """
    try:
        yield
    except WhatNextError:
        raise
    except Exception as error:  # it may fail in any way
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
    """Of pydantic's models that people make themselves: what is wrong with their settings becomes a `SetupError`.

    Models within a setup are not made by this: the setup explains them, with file and line.
    """

    def __init__(self, **values: Any) -> None:
        from pydantic import ValidationError  # here, as this file is read where nobody needs it

        try:
            super().__init__(**values)
        except ValidationError as error:
            told = "; ".join(_mistake(one, getattr(type(self), "model_fields", {})) for one in error.errors())
            raise SetupError(f"{self.called()}: {told}") from None

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # pydantic calls no other within a model

    @classmethod
    def called(cls) -> str:
        """Its name in messages."""
        return cls.__name__


def no_setting(name: str, allowed: Collection[str]) -> str:
    """What to say of a setting that there is not."""
    nearest = get_close_matches(name, allowed, 1, 0)
    hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
    return f"there is no setting {name!r}{hint}; allowed: {', '.join(allowed)}"


def _mistake(error: Any, fields: Mapping[str, Any]) -> str:
    """One mistake that pydantic found, in a few words."""
    place, what = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return no_setting(place, fields)
    if error["type"] == "missing":
        return f"{place} is missing, {getattr(fields.get(place), 'description', None) or 'and has no default'}"
    return f"{place} is {error['input']!r}: {what}" if place else what


class DataError(WhatNextError):
    """A data file cannot be read or used."""


class UnsafePickleError(DataError):
    """A pickle asks for something that a DataFrame does not need; nothing of it was run."""


class CatalogueError(WhatNextError):
    """An item or a user is not known."""


class ModelError(WhatNextError):
    """A model file cannot be read, or belongs to another catalogue, format or partner."""


class SaveError(WhatNextError):
    """A file could not be written; what stood there before is intact."""


class TrainingError(WhatNextError):
    """Training had to stop; the last good model is kept."""


class StoreError(WhatNextError):
    """The store of events and impressions cannot be opened, or does not fit."""


class StoreUnavailable(StoreError):
    """The store cannot take or give anything now; what was not acknowledged is not in it, and may be sent again."""


class MissingExtraError(WhatNextError):
    """An optional library is needed and not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}, which is not installed; pip install 'what-next-rl[{extra}]'")


class NotFinite(ValueError):
    """A score is NaN or infinite, so nothing can be chosen by it.

    Attributes:
        rows: of the batch, which have such scores.
    """

    def __init__(self, rows: Iterable[int]) -> None:
        self.rows = list(rows)
        super().__init__(f"a score is NaN or infinite, in {len(self.rows)} rows of the batch")
