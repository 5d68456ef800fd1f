"""Which items a request permitted."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    """A column of impressions, and a table of the rules that it names."""
    op.add_column("impressions", sa.Column("rule", sa.Text))
    op.create_table(
        "rules",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )
