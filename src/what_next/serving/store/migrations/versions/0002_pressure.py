"""Withdrawn items, answers that are given again, and who was erased."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """A column of impressions, and four tables."""
    op.add_column("impressions", sa.Column("withdrawn", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "withdrawals",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_index("withdrawals_of_item", "withdrawals", ["item_id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("recommendation_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("responses_of_user", "idempotency_keys", ["user_id"])
    op.create_index("responses_by_time", "idempotency_keys", ["time"])
    op.create_table(
        "erased_users",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
    )
    op.create_table("erased_events", sa.Column("digest", sa.Text, primary_key=True))
