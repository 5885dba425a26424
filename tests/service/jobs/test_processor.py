"""The campaign processor, with real tables and a gateway that the tests script."""

import asyncio
import logging

import pytest

from service.errors import Unavailable
from service.jobs.job import CampaignProgress, GatewayFailed, JobReturned

from ..support import sql
from .support import create_campaign, deliveries, hang, processing, refuse


def run(resilience, scene, *, contacts=25, status="draft", **options):
    """Create a campaign and run a scene with its processor."""
    campaign_id = create_campaign(resilience, contacts=contacts, status=status)

    async def play():
        async with processing(resilience, campaign_id, **options) as stage:
            await scene(stage)

    asyncio.run(play())


@pytest.mark.parametrize("status", ["draft", "scheduled"])
def test_each_contact_gets_one_delivery_and_the_campaign_is_sent(resilience, status):
    async def scene(stage):
        await stage.process()
        assert [len(batch.recipients) for batch in stage.gateway.batches] == [10, 10, 5]
        assert stage.gateway.recipients == deliveries(resilience) == sorted(set(stage.gateway.recipients))
        campaign = await stage.campaign()
        assert (campaign.status, campaign.version) == ("sent", 3)

    run(resilience, scene, status=status)


def test_a_job_that_runs_again_delivers_nothing_and_changes_nothing(resilience):
    async def scene(stage):
        await stage.process()
        await stage.process()
        assert len(stage.gateway.batches) == 3
        assert len(deliveries(resilience)) == 25
        assert (await stage.campaign()).version == 3

    run(resilience, scene)


def test_a_job_continues_with_contacts_that_have_no_delivery_wherever_they_are(resilience):
    async def scene(stage):
        ids = [row["id"] for row in sql(resilience, "SELECT id FROM contacts ORDER BY id")]
        delivered = [*ids[3:8], *ids[20:]]
        insert = "INSERT INTO deliveries (campaign_id, step, contact_id) SELECT $1, 0, unnest($2::bigint[])"
        sql(resilience, insert, stage.job.campaign_id, delivered)
        await stage.process()
        assert stage.gateway.recipients == [i for i in ids if i not in delivered]
        assert deliveries(resilience) == ids

    run(resilience, scene)


def test_a_contact_with_a_lower_id_that_comes_during_the_job_is_not_left_out(resilience):
    async def import_late(batch):
        if not deliveries(resilience):
            sql(resilience, "INSERT INTO contacts (id, name, email) VALUES (-1, 'late', 'late@example.com')")

    async def scene(stage):
        await stage.process()
        assert len(deliveries(resilience)) == 26

    run(resilience, scene, before=import_late)


def test_a_campaign_without_contacts_ends_as_sent_with_total_0(resilience):
    async def scene(stage):
        await stage.process()
        assert (await stage.campaign()).status == "sent"
        assert stage.progress[-1] == (0, 0)

    run(resilience, scene, contacts=0)


def test_progress_goes_to_the_queue_and_to_clients(resilience):
    async def scene(stage):
        await stage.process()
        assert stage.progress[-1] == (25, 25)
        assert stage.progress == sorted(stage.progress)
        assert stage.announced[-1] == CampaignProgress(stage.job.campaign_id, 25, 25, "sent")
        assert {each.status for each in stage.announced} <= {"sending", "sent"}

    run(resilience, scene)


@pytest.mark.parametrize("report", ["fails", "hangs"])
def test_a_report_of_progress_that_fails_or_hangs_neither_fails_nor_delays_a_batch(resilience, report, monkeypatch):
    monkeypatch.setattr("service.jobs.processor.REPORT_TIMEOUT", 0.2)

    async def broken(*_):
        if report == "hangs":
            await asyncio.Event().wait()
        raise RuntimeError("no room in Redis")

    async def scene(stage):
        stage.processor._announce = broken
        async with asyncio.timeout(0.2 * 10):  # of 30 batches, each would cost two timeouts
            await stage.processor.process(stage.job, broken)
        assert len(deliveries(resilience)) == 30

    run(resilience, scene, contacts=30, send_batch=1)


@pytest.mark.parametrize("step", [0, 1])  # by hand after a cadence, and a step of a cadence
def test_a_step_that_is_not_delivered_sends_a_sent_campaign_again(resilience, step):
    async def scene(stage):
        await stage.process()
        assert len(stage.gateway.recipients) == 25
        assert (await stage.campaign()).version == 3  # sent, sending, sent

    run(resilience, scene, status="sent", step=step)


def test_a_change_of_status_by_a_client_is_not_overwritten(resilience):
    async def change(batch):
        sql(resilience, "UPDATE campaigns SET status = 'draft', version = version + 1")

    async def scene(stage):
        await stage.process()
        assert (await stage.campaign()).status == "draft"

    run(resilience, scene, before=change, contacts=5)


def test_readers_see_each_status_at_once(resilience):
    seen = []

    async def scene(stage):
        async def load():
            campaign = await stage.campaign()
            return campaign.cache_entry()

        async def read(batch):
            result = await stage.cache.read(stage.job.campaign_id, load)
            seen.append(result.entry.stamp[1])

        stage.gateway._before = read
        await stage.cache.read(stage.job.campaign_id, load)  # version 1 is cached now
        await stage.process()
        result = await stage.cache.read(stage.job.campaign_id, load)
        assert seen == [2]
        assert b'"status":"sent"' in result.entry.body

    run(resilience, scene, contacts=5)


def test_a_status_that_a_killed_process_has_set_is_seen_after_the_next_run(resilience):
    async def scene(stage):
        async def load():
            return (await stage.campaign()).cache_entry()

        await stage.cache.read(stage.job.campaign_id, load)  # version 1 is cached now
        sql(
            resilience, "UPDATE campaigns SET status = 'sent', version = 3"
        )  # the killed process did not reach the cache
        await stage.process()
        result = await stage.cache.read(stage.job.campaign_id, load)
        assert result.entry.stamp[1] == 3

    run(resilience, scene, contacts=0)


def test_a_failed_gateway_fails_the_job_keeps_earlier_batches_and_delivers_none_of_its_own(resilience):
    async def fail_later(batch):
        if len(deliveries(resilience)) >= 10:
            await refuse(batch)

    async def scene(stage):
        with pytest.raises(GatewayFailed):
            await stage.process()
        assert len(deliveries(resilience)) == 10
        assert stage.progress[-1] == (10, 25)
        assert (await stage.campaign()).status == "sending"
        stage.gateway._before = None
        await stage.process()
        assert deliveries(resilience) == sorted(stage.gateway.recipients)
        assert (await stage.campaign()).status == "sent"
        assert stage.database.usage.in_use == 0

    run(resilience, scene, before=fail_later)


def test_a_gateway_that_hangs_fails_in_time(resilience):
    async def scene(stage):
        async with asyncio.timeout(2):
            with pytest.raises(GatewayFailed, match=r"0\.2 s"):
                await stage.process()
        assert deliveries(resilience) == []

    run(resilience, scene, before=hang, gateway_timeout=0.2)


def test_any_error_of_a_gateway_is_a_failure_of_the_gateway_and_not_of_postgres(resilience):
    async def lose_connection(_):
        raise ConnectionResetError

    async def scene(stage):
        with pytest.raises(GatewayFailed, match="ConnectionResetError"):
            await stage.process()

    run(resilience, scene, before=lose_connection)


def test_two_instances_deliver_once_at_the_gateway_too(resilience):
    async def scene(stage):
        async with processing(resilience, stage.job.campaign_id) as other:
            await asyncio.gather(stage.process(), other.process())
            sent = stage.gateway.recipients + other.gateway.recipients
        assert sorted(sent) == deliveries(resilience)
        assert len(sent) == 60

    run(resilience, scene, contacts=60, send_batch=3)


def test_a_deleted_campaign_ends_the_job_without_an_error(resilience):
    async def delete(batch):
        sql(resilience, "DELETE FROM campaigns")

    async def scene(stage):
        await stage.process()
        assert len(stage.gateway.batches) == 1
        await stage.process()
        assert len(stage.gateway.batches) == 1

    run(resilience, scene, before=delete)


def test_deliveries_of_deleted_campaigns_are_removed_and_no_others(resilience):
    async def scene(stage):
        await stage.process()
        insert = "INSERT INTO deliveries (campaign_id, step, contact_id) SELECT c, 0, i FROM generate_series(100, 102) c, generate_series(1, 5) i"
        sql(resilience, insert)
        sql(resilience, "INSERT INTO campaigns (id, name, message) VALUES (101, 'n', 'm')")
        removed = []
        while count := await stage.processor._deliveries.remove_orphans():
            removed.append(count)
        assert removed == [5, 5]
        left = sql(resilience, "SELECT DISTINCT campaign_id FROM deliveries ORDER BY 1")
        assert [row[0] for row in left] == sorted([stage.job.campaign_id, 101])

    run(resilience, scene)


def test_a_service_that_stops_gets_the_job_back_between_two_batches(resilience):
    async def scene(stage):
        async def stop(batch):
            stage.stopping = True

        stage.gateway._before = stop
        with pytest.raises(JobReturned):
            await stage.process()
        assert len(deliveries(resilience)) == 10, "the batch under way is completed"
        stage.stopping, stage.gateway._before = False, None
        await stage.process()
        assert stage.gateway.recipients == deliveries(resilience)

    run(resilience, scene)


def test_a_cancelled_job_leaves_no_transaction_and_no_connection_behind(resilience):
    async def scene(stage):
        started = asyncio.Event()

        async def wait(batch):
            started.set()
            await hang(batch)

        stage.gateway._before = wait
        running = asyncio.ensure_future(stage.process())
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert stage.database.usage.in_use == 0
        assert deliveries(resilience) == []
        stage.gateway._before = None
        await stage.process()
        assert len(deliveries(resilience)) == 25

    run(resilience, scene)


def test_a_worker_waits_for_requests_and_does_not_fail(resilience):
    async def scene(stage):
        taken = [stage.database._checkout() for _ in range(3)]
        for each in taken:
            await each.__aenter__()
        job = asyncio.ensure_future(stage.process())
        await asyncio.sleep(0.5)  # longer than a request waits
        assert not job.done()
        await taken[0].__aexit__(None, None, None)
        await asyncio.sleep(0.1)
        assert not job.done(), "it took the last connection"
        assert await stage.database.read("SELECT 1")
        for each in taken[1:]:
            await each.__aexit__(None, None, None)
        await job
        assert len(deliveries(resilience)) == 25

    run(resilience, scene)


def test_a_waiting_worker_returns_its_job_when_the_service_stops(resilience):
    async def scene(stage):
        taken = [stage.database._checkout() for _ in range(3)]
        for each in taken:
            await each.__aenter__()
        job = asyncio.ensure_future(stage.process())
        await asyncio.sleep(0)
        stage.stopping = True
        with pytest.raises(JobReturned):
            await job
        for each in taken:
            await each.__aexit__(None, None, None)

    run(resilience, scene)


@pytest.mark.parametrize("fault", ["reset", "refuse"])
def test_a_fault_of_postgres_during_a_batch_is_unavailable_and_the_next_run_completes(resilience, fault):
    strikes = []

    async def strike(batch):
        if not strikes:
            strikes.append(getattr(resilience.postgres, fault)())

    async def scene(stage):
        with pytest.raises(Unavailable) as caught:
            await stage.process()
        assert not isinstance(caught.value, GatewayFailed)
        strikes[0].heal()
        await stage.process()
        assert deliveries(resilience) == sorted(set(stage.gateway.recipients))
        assert stage.database.usage.in_use == 0

    run(resilience, scene, before=strike)


def test_a_repeated_batch_has_the_same_id(resilience):
    async def scene(stage):
        first = []

        async def note_and_fail(batch):
            first.append(batch.id)
            await refuse(batch)

        stage.gateway._before = note_and_fail
        with pytest.raises(GatewayFailed):
            await stage.process()
        stage.gateway._before = None
        await stage.process()
        assert stage.gateway.batches[0].id == first[0]
        assert len({batch.id for batch in stage.gateway.batches}) == 3

    run(resilience, scene)


def test_the_start_is_logged_once_however_often_the_loop_is_restarted(resilience, caplog):
    async def scene(stage):
        for _ in range(2):
            loop = asyncio.ensure_future(stage.processor.run())
            await asyncio.sleep(0)
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)

    with caplog.at_level(logging.INFO):
        run(resilience, scene)
    assert [r.getMessage() for r in caplog.records if r.name == "service.processor"] == ["Campaign Processor ready"]
