"""The cadences of campaigns, with the checks of client input and the SQL.

Rules: the clock of Postgres decides when a step is due, so the clocks of the instances do not matter. A step is claimed by one
conditional statement, enqueued, and confirmed. A claim without a confirmation expires, and the step is claimed again under the
same number. Periods that were missed become one step. The number of a step is never used again for the same campaign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .campaigns import ValidationFailed
from .pool import Database
from .schema import Column, Table

# There is no foreign key. With one, nobody could drop the table campaigns, which the service creates again. A row with
# `active` false belongs to a deleted cadence, and has the number of the last step for the next cadence of the campaign.
CADENCES = Table(
    "cadences",
    """
CREATE TABLE IF NOT EXISTS cadences (
    campaign_id bigint PRIMARY KEY,
    active boolean NOT NULL,
    every_seconds double precision NOT NULL,
    repeat integer NOT NULL,
    step integer NOT NULL DEFAULT 0,
    last_step integer NOT NULL,
    due_at timestamptz NOT NULL,
    claimed_until timestamptz
);
CREATE INDEX IF NOT EXISTS cadences_next ON cadences ((coalesce(claimed_until, due_at)))
""",
    columns=(
        Column("campaign_id", "N", inserted=True),
        Column("active", "B", inserted=True, updated=True),
        Column("every_seconds", "N", inserted=True, updated=True),
        Column("repeat", "N", inserted=True, updated=True),
        Column("step", "N", updated=True),
        Column("last_step", "N", inserted=True, updated=True),
        Column("due_at", "D", inserted=True, updated=True),
        Column("claimed_until", "D", updated=True),
    ),
    deletes=True,
)
MIN_SECONDS, MAX_SECONDS = 0.1, 365 * 86_400
MAX_REPEAT = 10_000
CLAIM_SECONDS = 2.0  # until a claim without a confirmation expires
BATCH_SIZE = 50  # claims of one statement

# A claim and a deletion skip rows that another instance has locked.
CLAIM = """
WITH due AS (
    SELECT campaign_id, EXISTS (SELECT FROM campaigns WHERE campaigns.id = cadences.campaign_id) AS has_campaign
      FROM cadences
     WHERE coalesce(claimed_until, due_at) <= now()
     ORDER BY coalesce(claimed_until, due_at)
     LIMIT $1 FOR UPDATE SKIP LOCKED),
     orphans AS (
    DELETE FROM cadences USING due WHERE cadences.campaign_id = due.campaign_id AND NOT has_campaign)
UPDATE cadences
   SET step = CASE WHEN claimed_until IS NULL THEN step + 1 ELSE step END,
       claimed_until = clock_timestamp() + make_interval(secs => $2)
  FROM due
 WHERE cadences.campaign_id = due.campaign_id AND has_campaign
RETURNING cadences.campaign_id, step
"""
# The next due moment is the first one of the periods that is in the future.
CONFIRM = """
UPDATE cadences
   SET claimed_until = NULL,
       due_at = CASE WHEN cadences.step >= last_step THEN 'infinity' ELSE due_at + make_interval(secs => every_seconds
           * greatest(1, floor(extract(epoch FROM clock_timestamp() - due_at)::double precision / every_seconds) + 1)) END
  FROM unnest($1::bigint[], $2::integer[]) AS done (campaign_id, step)
 WHERE cadences.campaign_id = done.campaign_id AND cadences.step = done.step AND claimed_until IS NOT NULL
"""
# A step that is claimed and not confirmed is overdue since its due moment. $1: CLAIM_SECONDS.
NEXT_STEP = """
SELECT (SELECT extract(epoch FROM coalesce(claimed_until, due_at) - clock_timestamp())
          FROM cadences
         WHERE coalesce(claimed_until, due_at) < 'infinity'
         ORDER BY coalesce(claimed_until, due_at) LIMIT 1)::double precision AS seconds,
       (SELECT greatest(0, extract(epoch FROM clock_timestamp() - min(due_at)))
          FROM cadences
         WHERE coalesce(claimed_until, due_at) <= now() + make_interval(secs => $1))::double precision AS overdue
"""


class NextStep(NamedTuple):
    """The next step of all cadences.

    Args:
        seconds: until a step can be claimed, below 0 if one can be. None if no step is planned.
        overdue: seconds since the oldest due step became due, 0 if none is due.
    """

    seconds: float | None
    overdue: float


@dataclass(frozen=True, slots=True)
class Cadence:
    """The periods of a campaign.

    Args:
        every_seconds: length of a period.
        repeat: number of steps.
    """

    every_seconds: float
    repeat: int

    def as_dict(self) -> dict[str, object]:
        return {"every_seconds": self.every_seconds, "repeat": self.repeat}


def validate_cadence(body: object) -> Cadence:
    """Return the cadence of a request.

    Raises:
        ValidationFailed: a field is missing, unknown or invalid.
    """
    if not isinstance(body, dict):
        raise ValidationFailed({"body": "must be an object"})
    checks = {"every_seconds": _seconds_problem, "repeat": _repeat_problem}
    problems = {name: problem for name, check in checks.items() if (problem := check(body.get(name)))}
    problems |= {name: "is missing" for name in checks if name not in body}
    if len(body) > len(set(body) & set(checks)):
        problems["body"] = f"has unknown fields; known are {', '.join(checks)}"
    if problems:
        raise ValidationFailed(problems)
    return Cadence(body["every_seconds"], int(body["repeat"]))


def _seconds_problem(value: object) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and MIN_SECONDS <= value <= MAX_SECONDS:
        return None
    return f"must be a number from {MIN_SECONDS} to {MAX_SECONDS}"


def _repeat_problem(value: object) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= MAX_REPEAT and value % 1 == 0:
        return None  # 2.0 is a whole number in JSON, too
    return f"must be a whole number from 1 to {MAX_REPEAT}"


class Cadences:
    """The table of cadences. Every method may raise Unavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, campaign_id: int, cadence: Cadence) -> bool:
        """Start a cadence, in place of the present one. The first step is due in one period. False without a campaign."""
        sql = """
            INSERT INTO cadences AS present (campaign_id, active, every_seconds, repeat, last_step, due_at)
            SELECT id, true, $2, $3::integer, $3::integer, clock_timestamp() + make_interval(secs => $2)
              FROM campaigns WHERE id = $1
                ON CONFLICT (campaign_id) DO UPDATE
               SET active = true, every_seconds = excluded.every_seconds, repeat = excluded.repeat,
                   last_step = present.step + excluded.repeat, due_at = excluded.due_at, claimed_until = NULL
         RETURNING campaign_id"""
        row = await self._database.write(sql, campaign_id, float(cadence.every_seconds), cadence.repeat)
        return row is not None

    async def get(self, campaign_id: int) -> Cadence | None:
        """Return the cadence, also after its last step. None if the campaign has none."""
        sql = """
            SELECT every_seconds, repeat FROM cadences
             WHERE campaign_id = $1 AND active AND EXISTS (SELECT FROM campaigns WHERE id = $1)"""
        rows = await self._database.read(sql, campaign_id)
        return Cadence(rows[0]["every_seconds"], rows[0]["repeat"]) if rows else None

    async def delete(self, campaign_id: int) -> bool:
        """End the cadence. False if the campaign has none."""
        sql = """
            UPDATE cadences SET active = false, due_at = 'infinity', claimed_until = NULL
             WHERE campaign_id = $1 AND active AND EXISTS (SELECT FROM campaigns WHERE id = $1)
         RETURNING campaign_id"""
        return await self._database.write(sql, campaign_id) is not None

    async def claim(self) -> Sequence[tuple[int, int]]:
        """Claim due steps for CLAIM_SECONDS. No other instance gets them in this time.

        Returns:
            at most BATCH_SIZE pairs of a campaign's number and a step's number.
        """
        rows = await self._database.read(CLAIM, BATCH_SIZE, CLAIM_SECONDS)
        return [(row["campaign_id"], row["step"]) for row in rows]

    async def confirm(self, claims: Sequence[tuple[int, int]]) -> None:
        """Record that the queue has these steps. The next ones are then due at the next period that has not begun.

        Args:
            claims: pairs of a campaign's number and a step's number, of `claim`.
        """
        campaign_ids, steps = zip(*claims, strict=True)
        await self._database.write(CONFIRM, campaign_ids, steps)

    async def remove_orphans(self) -> None:
        """Remove the rows of deleted campaigns. Those with a due step are removed when it is due."""
        await self._database.write(
            "DELETE FROM cadences WHERE NOT EXISTS (SELECT FROM campaigns WHERE campaigns.id = cadences.campaign_id)"
        )

    async def next_step(self) -> NextStep:
        """Return when the next step is due."""
        return NextStep(*(await self._database.read(NEXT_STEP, CLAIM_SECONDS))[0].values())


async def read_next_step(connection: Any) -> NextStep:
    """Return what `Cadences.next_step` does, on a connection beside the pool."""
    return NextStep(*await connection.fetchrow(NEXT_STEP, CLAIM_SECONDS))
