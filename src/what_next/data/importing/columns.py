"""The role of each column: given by the user, or recognised by its name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from what_next.errors import DataError, some

ALIASES: Mapping[str, tuple[str, ...]] = {
    "user": (
        "user_id", "user", "uid", "user_name", "listener", "listener_id", "viewer", "visitor_id", "customer_id",
        "customer", "client_id", "reviewer_id", "member_id", "household_id", "session_id", "session", "playlist_id",
        "student_id", "student", "pupil_id", "pupil", "learner_id", "learner",
    ),
    "item": (
        "item_id", "item", "iid", "movie_id", "film_id", "track_id", "song_id", "artist_id", "video_id", "product_id",
        "article_id", "news_id", "book_id", "game_id", "business_id", "parent_asin", "asin", "sku", "movie", "track",
        "song", "artist", "product", "article", "episode_id", "podcast_id", "recipe_id", "dish_id",
        "exercise_id", "exercise", "question_id", "problem_id",
    ),
    "time": (
        "timestamp", "time", "datetime", "ts", "event_time", "unix_time", "unix_timestamp", "unix_review_time", "date",
        "played_at", "created_at", "time_stamp", "transaction_timestamp", "when", "event_timestamp", "date_time", "t",
    ),
    "reward": ("reward", "rating", "score", "stars", "label", "click", "clicked", "overall", "grade"),
    "event": (
        "event", "event_type", "event_name", "action", "action_type", "behavior", "behavior_type", "behaviour",
        "behaviour_type", "interaction_type", "feedback_type",
    ),
    "titles": (
        "title", "name", "item_title", "item_name", "movie_title", "film_title", "track_name", "song_name",
        "song_title", "artist_name", "product_name", "product_title", "titles", "headline",
    ),
}  # fmt: skip
"""Recognised names, best match first; case, spaces, dots, dashes and underscores are ignored."""

ITEM_TABLE_ALIASES = {**ALIASES, "item": (*ALIASES["item"], "id")}
"""In an item table a bare `id` is the item; in a log it more likely numbers the events."""

TEXT = pl.String | pl.Categorical | pl.Enum
"""The types of columns that hold text."""

FIRST = 1000
"""Rows that are checked first, before the whole table."""

QUANTITIES = ("quantity", "qty", "units", "amount", "total", "price", "revenue")
"""What columns are called that are below 0 where something was taken back."""

_SIGN = r"(?:\p{Sc}|EUR|USD|GBP|CHF|%)"
UNREAD = (
    r"^\d{1,3}:\d{2}(?::\d{2})?(?:[.,]\d+)?$",
    r"^[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?$",
    rf"^[+-]?\s*{_SIGN}\s*[+-]?\d[\d.,'\s]*$|^[+-]?\d[\d.,'\s]*{_SIGN}$|^[+-]?\d{{1,3}}(?:[.'\s]?\d{{3}})*,\d{{2}}$",
)
"""Numbers in a form that is not read as one: lengths and times of day (1:02:33), marks between thousands
(1,234.50), and amounts (44,19 €)."""

ROW_LABELS = ("", "Unnamed: 0", "__index_level_0__")
"""Names of the row number that pandas writes into files; it says nothing about an event."""


def aliased(columns: Mapping[str, pl.Expr]) -> list[pl.Expr]:
    """The columns under their names; keyword arguments would fail for a column called `self`."""
    return [column.alias(name) for name, column in columns.items()]


def recognise(
    columns: Sequence[str],
    roles: Iterable[str],
    required: Iterable[str],
    given: Mapping[str, str | None],
    where: str,
    aliases: Mapping[str, Sequence[str]] = ALIASES,
    hint: str = "",
) -> dict[str, str]:
    """The column of each role, for roles that have one.

    Args:
        roles: the roles to look for (keys of `ALIASES`).
        required: roles that the table must have.
        given: the user's choice for a role; None: recognised by name; "": no column.
        where: the file, for messages.
        aliases: the recognised names of each role.
        hint: added to the message if a required role has no column.

    Raises:
        DataError: a given column does not exist, a required role has none, or one column would have two roles.
    """
    found: dict[str, str] = {}
    for role in roles:
        if (wanted := given.get(role)) == "":
            continue
        column = exact(columns, wanted, f"--{role}", where) if wanted else _by_alias(columns, aliases[role], found)
        if column is not None:
            found[role] = column
    taken = {column: role for role, column in found.items()}
    lacking = {role: _by_alias(columns, aliases[role], {}) for role in required if role not in found}
    if lacking:
        roles = (f"the {r}" + (f" ({n!r} is the {taken[n]} already)" if n in taken else "") for r, n in lacking.items())
        options = " and ".join(f"--{role}" for role in lacking)
        raise DataError(
            f"{where}: no column for {', and none for '.join(roles)}; found {some(map(repr, columns))}; name "
            f"{'it' if len(lacking) == 1 else 'them'} with {options}{hint}"
        )
    for role, column in found.items():
        twin = next((other for other in found if other != role and found[other] == column), None)
        if twin:
            raise DataError(f"{where}: column {column!r} cannot be both the {role} and the {twin}; name one of them")
    return found


def exact(columns: Sequence[str], wanted: str, option: str, where: str) -> str:
    """The column that the user named: as written, or ignoring case and punctuation if that is unambiguous."""
    if wanted in columns:
        return wanted
    alike = [column for column in columns if _plain(column) == _plain(wanted)]
    if len(alike) == 1:
        return alike[0]
    raise DataError(f"{where}: no column {wanted!r} (from {option}); found {some(map(repr, columns))}")


def is_known_name(name: str) -> bool:
    """Whether a column's name is recognised for one of the roles."""
    return any(is_called(name, aliases) for aliases in ALIASES.values())


def is_called(name: str, names: Iterable[str]) -> bool:
    """Whether a column's name is among `names`; case, spaces, dots, dashes and underscores do not count."""
    return _plain(name) in map(_plain, names)


def _by_alias(columns: Sequence[str], aliases: Sequence[str], taken: Mapping[str, str]) -> str | None:
    names = {_plain(column): column for column in reversed(columns) if column not in taken.values()}
    return next((names[_plain(alias)] for alias in aliases if _plain(alias) in names), None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def numeric(frame: pl.LazyFrame, columns: Sequence[str]) -> dict[str, pl.Expr]:
    """The columns that hold only numbers, as Float64 expressions; blank, null and NaN become null."""
    schema = frame.collect_schema()  # once, because it takes a while with thousands of columns
    numbers = {name: as_number(name, schema) for name in columns if _may_be_number(name, schema)}
    texts = [name for name in numbers if isinstance(schema[name], TEXT)]
    all_fit = {name: (_blank(name) | numbers[name].is_not_null()).all().alias(name) for name in texts}
    fits = frame.head(FIRST).select(all_fit.values()).collect().row(0, named=True) if texts else {}
    texts = [name for name in texts if fits[name]]  # most text columns are ruled out by the first rows
    if texts:
        found = (all_fit[name] & numbers[name].is_not_null().any() for name in texts)
        fits |= frame.select(found).collect(engine="streaming").row(0, named=True)
    return {name: number for name, number in numbers.items() if fits.get(name, True)}


def unread(frame: pl.LazyFrame, columns: Iterable[str]) -> dict[str, str]:
    """Those columns whose first thousand texts are numbers in a form that is not read, nine in ten, and an example.

    They are no words that items share: that two of them cost the same is chance.
    """
    schema = frame.collect_schema()
    texts = [pl.col(name).cast(pl.String) for name in columns if isinstance(schema[name], TEXT)]
    found = {}
    for one in frame.select(texts).head(FIRST).collect() if texts else ():
        values = one.str.strip_chars()
        values = values.filter(values != "")
        likeness = [values.str.contains(form).sum() for form in UNREAD]
        if len(values) and max(likeness) >= 0.9 * len(values):
            form = UNREAD[likeness.index(max(likeness))]
            found[one.name] = values.filter(values.str.contains(form))[0]
    return found


def told_unread(found: Mapping[str, str]) -> list[str]:
    """What to say of such columns."""
    return [
        f"column {name} is left out: {example!r} is no plain number; write amounts as 1234.5, without the currency "
        "and marks between thousands, and lengths in seconds, and it is read as other numbers are"
        for name, example in found.items()
    ]


def as_number(column: str, schema: Mapping[str, Any]) -> pl.Expr:
    """The column of a table as Float64; null where it is not a number (infinite values stay). Durations are seconds."""
    if not _may_be_number(column, schema):
        return pl.lit(None, dtype=pl.Float64)
    if schema[column] == pl.Duration:
        return pl.col(column).dt.total_microseconds() / 10**6
    value = pl.col(column).cast(pl.String).str.strip_chars() if isinstance(schema[column], TEXT) else pl.col(column)
    return value.cast(pl.Float64, strict=False).fill_nan(None)


def as_reward(column: str, schema: Mapping[str, Any]) -> pl.Expr:
    """A reward column as Float64; the words true and false are accepted, too."""
    number = as_number(column, schema)
    if not isinstance(schema[column], TEXT):
        return number
    word = pl.col(column).cast(pl.String).str.strip_chars().str.to_lowercase()
    return pl.when(word == "true").then(1.0).when(word == "false").then(0.0).otherwise(number)


def _may_be_number(column: str, schema: Mapping[str, Any]) -> bool:
    kind = schema[column]
    return bool(kind.is_numeric()) or isinstance(kind, TEXT | pl.Boolean | pl.Null | pl.Duration)


def _blank(column: str) -> pl.Expr:
    text = pl.col(column).cast(pl.String).str.strip_chars().str.to_lowercase()
    return text.is_null() | text.is_in(["", "nan", "na", "null", "none"])
