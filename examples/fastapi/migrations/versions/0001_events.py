"""Create the table of events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create it."""
    op.create_table(
        "events",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("free", sa.Integer, sa.CheckConstraint("free >= 0"), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("events")
