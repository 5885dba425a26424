"""The checks of client input, and the claims of due steps in Postgres."""

import asyncio

import pytest

from service.postgres import cadences as module
from service.postgres.cadences import Cadence, Cadences, validate_cadence
from service.postgres.campaigns import ValidationFailed
from service.postgres.pool import Database
from service.postgres.status import PostgresStatus
from service.settings import ServiceSettings

from ..support import sql

GOOD = {"every_seconds": 5, "repeat": 3}


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ([], {"body"}),
        ({}, {"every_seconds", "repeat"}),
        ({**GOOD, "until": 1}, {"body"}),
        *(({**GOOD, "every_seconds": value}, {"every_seconds"}) for value in (0, 0.09, -1, 31_536_001, 10**400)),
        *(
            ({**GOOD, "every_seconds": value}, {"every_seconds"})
            for value in (float("nan"), float("inf"), True, "5", None)
        ),
        *(
            ({**GOOD, "repeat": value}, {"repeat"})
            for value in (0, -1, 10_001, 0.0, 10_001.0, 1.5, float("nan"), float("inf"), True, "3", None)
        ),
    ],
)
def test_an_invalid_cadence_names_the_fields(body, wrong):
    with pytest.raises(ValidationFailed) as caught:
        validate_cadence(body)
    assert set(caught.value.problems) == wrong


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        {"every_seconds": 5, "repeat": 3.0},
        {"every_seconds": 0.1, "repeat": 1},
        {"every_seconds": 31_536_000, "repeat": 10_000},
    ],
)
def test_a_valid_cadence_passes(body):
    assert validate_cadence(body).as_dict() == body


@pytest.fixture
def campaign_id(campaign, resilience):
    sql(resilience, "DELETE FROM cadences")
    return campaign["id"]


@pytest.fixture
def run(resilience):
    """Return a function that runs a coroutine function with two pools' cadences, as of two instances.

    The service is stopped meanwhile, because its scheduler would claim the steps, too.
    """
    settings = ServiceSettings(database_url=resilience.postgres.url, db_pool_max=4)

    def run(scenario):
        async def main():
            pools = [Database(settings, f"test-{n}", PostgresStatus()) for n in range(2)]
            for pool in pools:
                await pool.start()
            try:
                return await scenario(*(Cadences(pool) for pool in pools))
            finally:
                for pool in pools:
                    await pool.close()

        with resilience.service.pause():
            return asyncio.run(main())

    return run


def make_due(resilience, campaign_id, seconds=0.0):
    """Make the next step, or the expiry of its claim, due since `seconds`."""
    moment = f"clock_timestamp() - make_interval(secs => {seconds})"
    change = f"due_at = {moment}, claimed_until = CASE WHEN claimed_until IS NOT NULL THEN {moment} END"
    sql(resilience, f"UPDATE cadences SET {change} WHERE campaign_id = $1", campaign_id)


def test_two_instances_get_each_step_once(run, resilience, campaign_id):
    async def scenario(one, other):
        claims = []
        assert await one.put(campaign_id, Cadence(60, 10))
        for _ in range(10):
            await asyncio.to_thread(make_due, resilience, campaign_id)
            found = await asyncio.gather(*(each.claim() for each in (one, other) * 2))
            claims += [claim for each in found for claim in each]
            await one.confirm(claims[-1:])
        return claims, await one.next_step()

    claims, left = run(scenario)
    assert claims == [(campaign_id, step) for step in range(1, 11)]
    assert left == (None, 0), "the cadence has ended"


def test_a_claim_that_is_not_confirmed_expires_and_keeps_its_number(run, resilience, campaign_id):
    async def scenario(one, other):
        await one.put(campaign_id, Cadence(60, 2))
        await asyncio.to_thread(make_due, resilience, campaign_id)
        first = await one.claim()
        none = await other.claim()
        until = await other.next_step()
        await asyncio.to_thread(make_due, resilience, campaign_id)
        return first, none, until, await other.claim()

    first, none, until, again = run(scenario)
    assert first == again == [(campaign_id, 1)]
    assert none == []
    assert 0 < until.seconds <= module.CLAIM_SECONDS
    assert until.overdue > 0, "a step that is claimed is due until it is confirmed"


def test_missed_periods_become_one_step(run, resilience, campaign_id):
    async def scenario(one, _):
        await one.put(campaign_id, Cadence(60, 9))
        await asyncio.to_thread(make_due, resilience, campaign_id, 10.5 * 60)
        claims = list(await one.claim())
        await one.confirm(claims)
        return claims, await one.claim(), await one.next_step()

    claims, more, until = run(scenario)
    assert claims == [(campaign_id, 1)]
    assert more == []
    assert not until.overdue
    assert 20 < until.seconds < 31, "the next step is due on the old grid of periods"


def test_steps_go_on_counting_after_a_replacement_and_after_a_deletion(run, resilience, campaign_id):
    async def scenario(one, _):
        steps = []
        for delete in (False, True, False):
            await one.put(campaign_id, Cadence(60, 1))
            await asyncio.to_thread(make_due, resilience, campaign_id)
            for claim in await one.claim():
                steps.append(claim[1])
                await one.confirm([claim])
            if delete:
                assert await one.delete(campaign_id)
                assert await one.get(campaign_id) is None
                assert not await one.delete(campaign_id)
        return steps

    assert run(scenario) == [1, 2, 3], "the queue would take a repeated number for the same job"


def test_a_late_confirmation_does_not_confirm_a_later_step(run, resilience, campaign_id):
    async def scenario(one, other):
        await one.put(campaign_id, Cadence(60, 5))
        await asyncio.to_thread(make_due, resilience, campaign_id)
        claim = (await one.claim())[0]
        await one.put(campaign_id, Cadence(60, 5))
        await one.confirm([claim])
        await asyncio.to_thread(make_due, resilience, campaign_id)
        second = (await other.claim())[0]
        await one.confirm([claim])
        await asyncio.to_thread(make_due, resilience, campaign_id)
        return second, (await other.claim())[0]

    second, again = run(scenario)
    assert second == again == (campaign_id, 2)


def test_the_cadence_of_a_deleted_campaign_is_removed_when_it_is_due(run, resilience, campaign_id):
    async def scenario(one, _):
        await one.put(campaign_id, Cadence(60, 5))
        await asyncio.to_thread(make_due, resilience, campaign_id)
        await asyncio.to_thread(sql, resilience, "DELETE FROM campaigns WHERE id = $1", campaign_id)
        assert await one.get(campaign_id) is None
        assert not await one.put(campaign_id, Cadence(60, 5))
        return await one.claim()

    assert run(scenario) == []
    assert sql(resilience, "SELECT FROM cadences WHERE campaign_id = $1", campaign_id) == []


def test_the_row_of_a_deleted_campaign_is_removed_and_no_other(run, resilience, campaign_id):
    async def scenario(one, _):
        await one.put(campaign_id, Cadence(60, 5))
        await one.delete(campaign_id)
        await one.remove_orphans()
        kept = await asyncio.to_thread(sql, resilience, "SELECT campaign_id FROM cadences")
        await asyncio.to_thread(sql, resilience, "DELETE FROM campaigns WHERE id = $1", campaign_id)
        await one.remove_orphans()
        return kept

    assert [row["campaign_id"] for row in run(scenario)] == [campaign_id]
    assert sql(resilience, "SELECT FROM cadences") == []


def test_a_cadence_is_read_as_it_was_written(run, campaign_id):
    async def scenario(one, other):
        await one.put(campaign_id, Cadence(0.25, 7))
        return await other.get(campaign_id)

    assert run(scenario) == Cadence(0.25, 7)
