"""The tables of the store. A change here needs a version of its own (`migrations`)."""

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
    """Text in the database, a value outside; a list comes back as a tuple."""

    impl, cache_ok = Text, True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """What is stored."""
        return None if value is None else dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """What was stored."""
        found = None if value is None else orjson.loads(value)
        return tuple(found) if isinstance(found, list) else found


# SQLite numbers rows by itself only where the type is INTEGER; elsewhere that type ends at 2 billion.
NUMBER = BigInteger().with_variant(Integer, "sqlite")

# By the characters' codes, as SQLite does: elsewhere a language's own order would part ids that begin alike.
ORDERED = Text().with_variant(Text(collation="C"), "postgresql")

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("key", NUMBER, primary_key=True, autoincrement=True),
    Column("user_id", ORDERED, nullable=False, unique=True),
    Column("last", BigInteger, nullable=False),  # number of the last event
    Column("events", BigInteger, nullable=False),
    Column("latest", BigInteger),  # the greatest time of an event
    sqlite_autoincrement=True,  # no key is used a second time
)

# Kept by user and number, so that a history lies in one place. The user's row is locked by whoever writes here, so a
# foreign key would only cost.
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
    Column("candidates", Text, nullable=False),  # empty; earlier versions put a hash there that nobody read
    Column("shown", Boolean, nullable=False),
    Column("withdrawn", BigInteger, nullable=False, server_default="0"),  # the last change of `withdrawals` it knew
    Column(
        "deliveries", BigInteger, nullable=False, server_default="1"
    ),  # clients that have it, as far as is known; of one that is not shown it counts for nothing
    Column("rule", Text),  # hash of the one in `rules` that the request permitted items by; NULL: all, or not known
    Index("impressions_of_user", "user_id"),
    sqlite_autoincrement=True,
)

# Which items requests permitted: each rule once, for it may name thousands.
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
    Column("tags", Json),  # NULL: never told
)

# Every change, so that a log tells what an answer could not show. The last one of an item counts.
withdrawals = Table(
    "withdrawals",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=False),
    Column("item_id", Text, nullable=False),
    Column("withdrawn", Boolean, nullable=False),  # no: it was put again
    Column("time", BigInteger, nullable=False),
    Index("withdrawals_of_item", "item_id"),
)

# Answers to requests with an Idempotency-Key, for a while.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),  # a hash, and so is the request
    Column("request", Text, nullable=False),
    Column("recommendation_id", Text, nullable=False),
    Column("user_id", Text),
    Column("body", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Index("responses_of_user", "user_id"),
    Index("responses_by_time", "time"),
    sqlite_autoincrement=True,
)

# Who was erased last when, and those of their events whose time does not tell that they are from before: keyed hashes.
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

# The version of all these tables, in one row, under the name that Alembic gives it.
version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))
