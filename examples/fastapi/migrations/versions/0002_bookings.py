"""Create the table of bookings."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create it."""
    op.create_table(
        "bookings",
        sa.Column("key", sa.Uuid, primary_key=True),
        sa.Column("event", sa.Integer, sa.ForeignKey("events.number"), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("bookings")
