"""The deliveries, with one row for each recipient of a step of a campaign.

Rules: a batch is one transaction. It holds the lock of its step, so it selects recipients after all earlier batches of
any instance have been committed. The lock and the selection are separate statements, because a statement sees only what
was committed before it began.

No foreign key refers to campaigns, so a campaign can be deleted at any time by one statement. The rows of deleted
campaigns are removed later. Ids of campaigns are never used again, so nothing reads such rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .pool import Statements, Transaction
from .schema import Column, Table

DELIVERIES = Table(
    "deliveries",
    """
CREATE TABLE IF NOT EXISTS deliveries (
    campaign_id bigint NOT NULL,
    contact_id bigint NOT NULL,
    step bigint NOT NULL,
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


@dataclass(frozen=True, slots=True)
class Recipient:
    """A contact that a batch goes to."""

    id: int
    name: str
    email: str
    phone: str


@dataclass(frozen=True, slots=True)
class LockedStep:
    """A step of a campaign, in a transaction.

    Args:
        locked: True if this transaction holds the lock of the step. False if another one does.
        name: of the campaign.
        message: of the campaign.
    """

    locked: bool
    name: str
    message: str


async def lock_step(transaction: Transaction, campaign_id: int, step: int) -> LockedStep | None:
    """Try to lock a step until the end of the transaction. Return None if the campaign has been deleted."""
    sql = """
        SELECT pg_try_advisory_xact_lock(hashtextextended($2, 0)) AS locked, name, message
          FROM campaigns WHERE id = $1"""
    row = await transaction.fetchrow(sql, campaign_id, f"service:step:{campaign_id}:{step}")
    return None if row is None else LockedStep(row["locked"], row["name"], row["message"])


async def next_recipients(
    transaction: Transaction, campaign_id: int, step: int, *, after: int, limit: int
) -> Sequence[Recipient]:
    """Return the next contacts without a delivery of a step, by id. The caller holds the lock of the step.

    The last condition of the subquery is implied. With it, Postgres reads no delivery of an earlier batch again.

    Args:
        transaction: holds the lock.
        campaign_id: number of the campaign.
        step: of the campaign.
        after: only contacts with a higher id are returned.
        limit: largest number of contacts.
    """
    sql = """
        SELECT id, name, email, phone
          FROM contacts
         WHERE id > $3
           AND NOT EXISTS (SELECT FROM deliveries
                            WHERE campaign_id = $1 AND step = $2 AND contact_id = contacts.id AND contact_id > $3)
         ORDER BY id LIMIT $4"""
    return [Recipient(*row.values()) for row in await transaction.fetch(sql, campaign_id, step, after, limit)]


async def record_deliveries(transaction: Transaction, campaign_id: int, step: int, contacts: Sequence[int]) -> None:
    """Insert one row for each contact."""
    sql = "INSERT INTO deliveries (campaign_id, step, contact_id) SELECT $1, $2, unnest($3::bigint[])"
    await transaction.fetch(sql, campaign_id, step, contacts)


class Deliveries:
    """The table of deliveries, outside the transactions of batches. Every method may raise Unavailable."""

    def __init__(self, database: Statements) -> None:
        self._database = database

    async def count(self, campaign_id: int, step: int) -> tuple[int, int]:
        """Return the number of deliveries of a step, and that of all recipients, which contacts without a delivery are too."""
        sql = """
            SELECT (SELECT count(*) FROM deliveries WHERE campaign_id = $1 AND step = $2) AS sent,
                   (SELECT count(*) FROM contacts) AS contacts"""
        row: Mapping[str, Any] = (await self._database.read(sql, campaign_id, step))[0]
        return row["sent"], max(row["sent"], row["contacts"])

    async def progress(self, campaign_id: int) -> tuple[int, int, str] | None:
        """Return what `count` does for the last step that has deliveries, and the status. None if there is no such campaign."""
        sql = """
            SELECT status, (SELECT count(*) FROM contacts) AS contacts,
                   (SELECT count(*) FROM deliveries WHERE campaign_id = $1
                       AND step = (SELECT max(step) FROM deliveries WHERE campaign_id = $1)) AS sent
              FROM campaigns WHERE id = $1"""
        rows = await self._database.read(sql, campaign_id)
        return (rows[0]["sent"], max(rows[0]["sent"], rows[0]["contacts"]), rows[0]["status"]) if rows else None

    async def remove_orphans(self) -> int:
        """Remove the deliveries of one deleted campaign. Return their number, 0 if no deleted campaign has deliveries.

        The campaigns are found by one look-up each in the index, however many deliveries they have.
        """
        sql = """
            WITH RECURSIVE campaign (id) AS (
                SELECT min(campaign_id) FROM deliveries
                 UNION ALL
                SELECT (SELECT min(campaign_id) FROM deliveries WHERE campaign_id > campaign.id)
                  FROM campaign WHERE campaign.id IS NOT NULL),
            removed AS (
                DELETE FROM deliveries
                 WHERE campaign_id = (SELECT id FROM campaign
                                       WHERE id IS NOT NULL AND NOT EXISTS (SELECT FROM campaigns WHERE id = campaign.id)
                                       LIMIT 1)
             RETURNING 1)
            SELECT count(*) AS removed FROM removed"""
        row = await self._database.write(sql)
        assert row is not None
        removed: int = row["removed"]
        return removed
