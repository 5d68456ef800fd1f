"""The first tables."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# SQLite numbers rows by itself only where the type is INTEGER.
NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
# Ids that begin alike stand together, whatever the database's language.
ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Users, events, impressions, feedback, items, deployments, keys, and what else is remembered."""
    _histories()
    _answers()
    _rest()


def _histories() -> None:
    op.create_table(
        "users",
        sa.Column("key", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("user_id", ORDERED, nullable=False, unique=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("latest", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("user", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("reward", sa.Double),
        sa.Column("context", sa.Text),
        sa.Column("recommendation_id", sa.Text),
        sa.Column("arrived", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _answers() -> None:
    op.create_table(
        "impressions",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("recommendation_id", sa.Text, nullable=False, unique=True),
        sa.Column("user_id", sa.Text),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("fallback", sa.Text),
        sa.Column("explore", sa.Text, nullable=False),
        sa.Column("history", sa.Text),
        sa.Column("known", sa.BigInteger, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.Column("propensities", sa.Text, nullable=False),
        sa.Column("candidates", sa.Text, nullable=False),
        sa.Column("shown", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("impressions_of_user", "impressions", ["user_id"])
    op.create_table(
        "feedback",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("feedback_id", sa.Text, nullable=False, unique=True),
        sa.Column("impression", NUMBER, sa.ForeignKey("impressions.number"), nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("reward", sa.Double, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("arrived", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("feedback_of_impression", "feedback", ["impression"])


def _rest() -> None:
    op.create_table(
        "items",
        sa.Column("number", sa.BigInteger, nullable=False, unique=True),
        sa.Column("item_id", sa.Text, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("attributes", sa.Text, nullable=False),
    )
    op.create_table(
        "deployments",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )
    op.create_table("meta", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
