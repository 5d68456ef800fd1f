"""The tables of the store. A change here needs a new version of the schema (`migrations`)."""

from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


def dumps(value: object) -> str:
    """A value as JSON."""
    return orjson.dumps(value).decode()


class Json(TypeDecorator[Any]):
    """A JSON value, stored as text; a list is read back as a tuple."""

    impl, cache_ok = Text, True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """The value as text."""
        return None if value is None else dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value of a text."""
        found = None if value is None else orjson.loads(value)
        return tuple(found) if isinstance(found, list) else found


# SQLite autoincrements only INTEGER columns; in PostgreSQL that type ends at 2 billion.
NUMBER = BigInteger().with_variant(Integer, "sqlite")

# Sorted by code point, as in SQLite: a language's collation would separate ids with the same prefix.
ORDERED = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("key", NUMBER, primary_key=True, autoincrement=True),
    Column("user_id", ORDERED, nullable=False, unique=True),
    Column("last", BigInteger, nullable=False),  # number of the last event
    Column("events", BigInteger, nullable=False),
    Column("latest", BigInteger),  # the latest time of an event
    sqlite_autoincrement=True,  # keys are not reused
)

# Stored by user and number, so that a history is contiguous. Writers lock the user's row anyway, so a foreign key would
# only cost time.
events = Table(
    "events",
    metadata,
    Column("user", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("event_id", Text, nullable=False, unique=True),
    Column("item_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("reward", Double),
    Column("context", Json),
    Column("recommendation_id", Text),
    Column("arrived", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

impressions = Table(
    "impressions",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("recommendation_id", Text, nullable=False, unique=True),
    Column("user_id", Text),
    Column("time", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("fallback", Text),
    Column("explore", Json, nullable=False),
    Column("history", Json),
    Column("known", BigInteger, nullable=False),
    Column("items", Json, nullable=False),
    Column("propensities", Json, nullable=False),
    Column("candidates", Text, nullable=False),  # unused: empty; earlier versions stored a hash
    Column("shown", Boolean, nullable=False),
    Column("withdrawn", BigInteger, nullable=False, server_default="0"),  # the last change of `withdrawals` it knew
    Column(
        "deliveries", BigInteger, nullable=False, server_default="1"
    ),  # number of clients that have it; meaningless if not shown
    Column("rule", Text),  # hash in `rules` of the request's permitted items; NULL: all, or unknown
    Index("impressions_of_user", "user_id"),
    sqlite_autoincrement=True,
)

# The items that requests permitted; each distinct rule is stored once, because it may name thousands of items.
rules = Table("rules", metadata, Column("hash", Text, primary_key=True), Column("text", Text, nullable=False))

feedback = Table(
    "feedback",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("feedback_id", Text, nullable=False, unique=True),
    Column("impression", NUMBER, ForeignKey("impressions.number"), nullable=False),
    Column("item_id", Text, nullable=False),
    Column("reward", Double, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("arrived", BigInteger, nullable=False),
    Index("feedback_of_impression", "impression"),
    sqlite_autoincrement=True,
)

items = Table(
    "items",
    metadata,
    Column("number", BigInteger, nullable=False, unique=True),
    Column("item_id", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("attributes", Json, nullable=False),
    Column("tags", Json),  # NULL: never given
)

# All changes, so that a log tells which items an answer could not show. The last one of an item counts.
withdrawals = Table(
    "withdrawals",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=False),
    Column("item_id", Text, nullable=False),
    Column("withdrawn", Boolean, nullable=False),  # false: it was added again
    Column("time", BigInteger, nullable=False),
    Index("withdrawals_of_item", "item_id"),
)

# Answers to requests with an Idempotency-Key, kept for a while.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),  # a hash, like the request
    Column("request", Text, nullable=False),
    Column("recommendation_id", Text, nullable=False),
    Column("user_id", Text),
    Column("body", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Index("responses_of_user", "user_id"),
    Index("responses_by_time", "time"),
    sqlite_autoincrement=True,
)

# Keyed hashes of erased users with the time of the last erasure, and of those of their events whose time does not show
# that they are from before it.
erased_users = Table(
    "erased_users",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("time", BigInteger, nullable=False),
)
erased_events = Table("erased_events", metadata, Column("digest", Text, primary_key=True))

deployments = Table(
    "deployments",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=False),
    Column("version", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("note", Json, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
)

meta = Table("meta", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))

# The version of the schema, in one row, under the name that Alembic uses.
version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))
