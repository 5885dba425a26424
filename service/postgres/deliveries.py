"""The deliveries, with one row for each recipient of a step of a campaign.

No foreign key refers to campaigns, so that a campaign can be deleted in one statement while a batch of it is under way.
Rows of deleted campaigns are removed later. Ids of campaigns are never used again, so nothing reads such rows.
"""

from __future__ import annotations

from .schema import Column, Table

DELIVERIES = Table(
    "deliveries",
    """
CREATE TABLE IF NOT EXISTS deliveries (
    campaign_id bigint NOT NULL,
    contact_id bigint NOT NULL,
    step integer NOT NULL,
    delivered_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign_id, step, contact_id)
)
""",
    columns=(
        Column("campaign_id", "N", inserted=True),
        Column("contact_id", "N", inserted=True),
        Column("step", "N", inserted=True),
        Column("delivered_at", "D"),
    ),
    deletes=True,
)
