"""Every contact gets a campaign exactly once, whatever happens to the service, to Postgres and to the gateway meanwhile."""

from __future__ import annotations

import base64
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import pytest
from asyncpg import UniqueViolationError

import healthy
from gateway import Gateway, running_gateway
from instances import another_instance, describe_service
from pytest_resilience import Resilience, Service, Stack, Strike, eventually
from unexpected import find_unexpected_lines
from workload import (
    MESSAGE,
    NAME,
    create,
    eventually_or_fail,
    reading,
    service_sessions,
    sql,
    sql_connection,
    timed,
    wait_for_row,
    wait_until_ready,
    wait_until_redis_serves,
    wait_until_unready,
)

BATCH = 100  # recipients
COMPLETED_WITHIN = 5.0  # seconds until the retry after an outage of Postgres has delivered everything
TAKEN_OVER_WITHIN = 12.0  # seconds until another process has taken over the job of a killed one, and completed it
ALERT = "ALERT: CRITICAL - database_pool_exhausted"
PATIENCE = "30"  # seconds: GATEWAY_TIMEOUT here, longer than the gateway holds a batch while a fault strikes
GATEWAY_FAILS, GATEWAY_WORKS = "The gateway fails:", "The gateway takes messages again"
PASSWORD = "the-word-of-the-gateway"
TAKEN_OVER = "is back in the queue"  # in the log of the process that finds the job of another one without a lock
ADDRESS_BOOK = (
    ("Ada", "ada@example.com", "+1 212 555 0100"),
    ("Bob", "bob@example.com", ""),
    ("Cy", "cy@example.com", "7"),
)
# The number of the service's sessions that are in a transaction.
OPEN_TRANSACTIONS = (
    "select count(*) from pg_stat_activity where application_name like 'service:%' and xact_start is not null"
)
INSERT = "insert into contacts (name, email) select 'n', i || '@example.com' from generate_series(1, $1::int) i"

POSTGRES_FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "refusing": lambda r: r.postgres.refuse(),
    "resetting": lambda r: r.postgres.reset(),
    "paused": lambda r: r.postgres.pause(),
}


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    with running_gateway() as gateway:
        yield gateway


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack, gateway: Gateway) -> Service:
    return describe_service(resilience_stack, GATEWAY_URL=gateway.url, GATEWAY_TIMEOUT=PATIENCE)


@pytest.fixture(autouse=True)
def fresh_gateway(gateway: Gateway) -> Iterator[None]:
    gateway.reset()
    yield
    gateway.release(answer=False)


def send(resilience: Resilience, contacts: int = 0) -> tuple[int, str]:
    """Add contacts, and send a new campaign to all. Return the id of the campaign and the path of its job."""
    sql(resilience, INSERT, contacts)
    campaign: int = create(resilience)["id"]
    reply = resilience.service.post(f"/api/campaigns/{campaign}/send")
    assert reply.status_code == 202, f"a send gets {reply.status_code}, not 202: {reply.text}"
    return campaign, f"/api/jobs/campaign-{campaign}-0"


def wait_until_completed(client: Any, job: str, *, within: float = COMPLETED_WITHIN) -> None:
    """Wait until a job is completed."""

    def is_completed() -> bool:
        state = client.get(job).json()
        assert state["status"] != "failed", f"the job is in the dead-letter queue: {state}"
        return bool(state["status"] == "completed")

    eventually_or_fail(is_completed, within=within, message=f"the job is not completed after {within:g} s")


def assert_delivered_once(resilience: Resilience, campaign: int, contacts: int) -> None:
    """Assert that each contact has one delivery, that a second one is impossible, and that the campaign is sent."""
    rows = [row[0] for row in sql(resilience, "select contact_id from deliveries where campaign_id = $1", campaign)]
    twice = [contact for contact, count in Counter(rows).items() if count > 1]
    assert not twice, f"{len(twice)} of {contacts} contacts have more than one delivery"
    assert len(rows) == contacts, f"{len(rows)} of {contacts} contacts have a delivery"
    again = (
        "insert into deliveries (campaign_id, step, contact_id) select campaign_id, step, contact_id from deliveries"
    )
    with pytest.raises(UniqueViolationError):
        sql(resilience, again)
    body = resilience.service.get(f"/api/campaigns/{campaign}").json()
    assert (body["status"], body["version"]) == ("sent", 3), f"every contact has a delivery, and the campaign is {body}"


def wait_for_request(gateway: Gateway, number: int) -> None:
    """Wait until the gateway has got a number of requests."""
    eventually(lambda: gateway.requests >= number, within=5.0)


def assert_sent_to_all(gateway: Gateway, contacts: int) -> None:
    """Assert that the gateway has accepted a message for each contact."""
    sent = len(set(gateway.recipients))
    assert sent == contacts, f"{contacts} contacts have a delivery, and the gateway has accepted {sent} messages"


def test_a_campaign_reaches_each_of_2000_contacts_once_although_its_process_is_killed(
    resilience: Resilience, gateway: Gateway
) -> None:
    contacts = 20 * BATCH
    gateway.hold(1, after=7)
    campaign, job = send(resilience, contacts)
    wait_for_request(gateway, 8)
    with resilience.service.kill():
        gateway.release(answer=False)
        sql(
            resilience,
            "delete from contacts where id in (select min(contact_id) + i from deliveries, generate_series(0, 2) i group by i)",
        )
    wait_until_completed(resilience.service, job, within=TAKEN_OVER_WITHIN)
    assert_delivered_once(resilience, campaign, contacts)
    assert_sent_to_all(gateway, contacts)
    assert not gateway.repeated, f"{len(gateway.repeated)} messages were sent again, although no batch was lost"


@pytest.mark.parametrize("close", ["reset", "silence"])
def test_a_batch_whose_commit_is_in_doubt_is_delivered_once(
    resilience: Resilience, gateway: Gateway, close: Literal["reset", "silence"]
) -> None:
    """The server has committed the batch, and the service does not know it. A second message would be one too many."""
    contacts = 2 * BATCH
    with resilience.postgres.on("commit", application_name="service:*", nth=2).lose_answer(close=close):
        campaign, job = send(resilience, contacts)
        wait_until_completed(resilience.service, job, within=COMPLETED_WITHIN + healthy.COMMAND_TIMEOUT)
    assert_delivered_once(resilience, campaign, contacts)
    assert_sent_to_all(gateway, contacts)
    assert not gateway.repeated, f"the answer to a COMMIT is lost, and {len(gateway.repeated)} messages were sent again"


def test_a_process_that_was_suspended_and_its_successor_deliver_nothing_twice(
    resilience: Resilience, gateway: Gateway
) -> None:
    contacts = 10 * BATCH
    gateway.hold(1, after=2)
    campaign, job = send(resilience, contacts)
    wait_for_request(gateway, 3)
    with another_instance(resilience, GATEWAY_URL=gateway.url) as successor:
        with resilience.service.pause():
            eventually(lambda: TAKEN_OVER in successor.log, within=TAKEN_OVER_WITHIN)
            eventually(lambda: len(service_sessions(resilience)) > 1, within=healthy.READINESS_MAX_AGE)
        gateway.release(answer=True)
        wait_until_completed(successor.client, job)
        with sql_connection(resilience) as fetch_value:
            eventually(lambda: not fetch_value(OPEN_TRANSACTIONS), within=healthy.ACQUIRE_TIMEOUT)
    assert_delivered_once(resilience, campaign, contacts)
    assert not gateway.repeated, f"two processes sent the same {len(gateway.repeated)} messages"


def open_transactions(resilience: Resilience) -> int:
    """Return the number of the service's sessions that are in a transaction."""
    count: int = sql(resilience, OPEN_TRANSACTIONS)[0][0]
    return count


@pytest.mark.parametrize("fault", POSTGRES_FAULTS.values(), ids=POSTGRES_FAULTS.keys())
def test_an_outage_of_postgres_in_the_middle_of_a_batch_loses_and_doubles_no_delivery(
    resilience: Resilience, gateway: Gateway, fault: Callable[[Resilience], Strike]
) -> None:
    contacts = 5 * BATCH
    gateway.hold(1, after=2)
    campaign, job = send(resilience, contacts)
    wait_for_request(gateway, 3)
    sql(resilience, "update contacts set name = 'Renamed'")  # which makes no other batch of this one
    with fault(resilience):
        gateway.release(answer=True)
        wait_until_unready(resilience.service)
    wait_until_completed(resilience.service, job)
    assert_delivered_once(resilience, campaign, contacts)
    assert_sent_to_all(gateway, contacts)
    keys = [key for key, count in Counter(gateway.keys).items() if count > 1]
    assert len(gateway.batches) <= 6, (
        f"{len(gateway.batches) - 5} batches were sent again, although one was not committed"
    )
    assert len(keys) == len(gateway.batches) - 5, "a batch was sent again with another Idempotency-Key"
    assert len(set(gateway.keys)) == 5, f"5 batches differ, and have {len(set(gateway.keys))} Idempotency-Keys"
    sizes = {len(batch["recipients"]) for batch in gateway.batches}
    assert sizes == {BATCH}, f"SEND_BATCH is {BATCH}, and the batches have {sizes} recipients"


def test_a_gateway_that_hangs_leaves_the_job_in_the_dead_letter_queue_until_it_is_retried(
    resilience: Resilience, gateway: Gateway
) -> None:
    contacts = 3 * BATCH
    url = gateway.url.replace("://", f"://clerk:{PASSWORD}@")
    impatient = {"GATEWAY_URL": url, "GATEWAY_TIMEOUT": "0.5", "JOB_ATTEMPTS": "2"}
    gateway.hold(2, after=1)
    with resilience.service.pause(), another_instance(resilience, **impatient) as instance:
        campaign, job = send_by(instance.client, resilience, contacts)
        message = "the gateway hangs, and after JOB_ATTEMPTS runs the job is not in the dead-letter queue"
        state = eventually_or_fail(
            lambda: (state := instance.client.get(job).json())["status"] == "failed" and state,
            within=5.0,
            message=message,
        )
        assert state["attempts"] == 2, f"the job has failed after {state['attempts']} runs, not JOB_ATTEMPTS=2: {state}"
        assert "0.5 s" in state["error"], f"the error does not name the time-out: {state}"
        assert "127.0.0.1" not in state["error"], f"the error names the host of the gateway: {state}"
        assert (state["sent"], state["total"]) == (BATCH, contacts), (
            f"one batch was delivered before the failure: {state}"
        )
        gateway.release(answer=True)
        assert instance.client.post(f"{job}/retry").status_code == 202
        wait_until_completed(instance.client, job)
        assert instance.log.count(GATEWAY_FAILS) == 1, "one line of the log reports that the gateway fails"
        assert PASSWORD not in instance.log, "the log has the password of the gateway"
    assert_delivered_once(resilience, campaign, contacts)


def test_each_failure_of_the_gateway_is_logged_at_its_begin_and_at_its_end(
    resilience: Resilience, gateway: Gateway
) -> None:
    settings = {"GATEWAY_URL": gateway.url, "GATEWAY_TIMEOUT": "0.5", "JOB_ATTEMPTS": "1"}
    failures = {500: "The gateway answered with status 500.", None: "The gateway did not answer within 0.5 s."}
    with resilience.service.pause(), another_instance(resilience, **settings) as instance:
        for episode, (status, reason) in enumerate(failures.items(), start=1):
            gateway.status = status or 200
            gateway.trickle(on=status is None)
            jobs = [send_by(instance.client, resilience, contacts)[1] for contacts in (2 - episode, 0)]
            eventually_or_fail(
                lambda jobs=jobs: {instance.client.get(job).json()["status"] for job in jobs} == {"failed"},
                within=COMPLETED_WITHIN,
                message=f"the runs of jobs do not fail, and should because {reason}",
            )
            lines = [instance.log.count(line) for line in (GATEWAY_FAILS, GATEWAY_WORKS)]
            assert lines == [episode, episode - 1], (
                f"failure {episode} of the gateway, and {lines} lines for begin and end"
            )
            assert f"{GATEWAY_FAILS} {reason}" in instance.log, f"no line of the log reports: {reason}"
            gateway.status = 200
            gateway.trickle(on=False)
            for job in jobs:
                assert instance.client.post(f"{job}/retry").status_code == 202
                wait_until_completed(instance.client, job)
            lines = [instance.log.count(line) for line in (GATEWAY_FAILS, GATEWAY_WORKS)]
            assert lines == [episode, episode], (
                f"failure {episode} of the gateway is over, and {lines} lines for begin and end"
            )


def test_sigterm_returns_the_job_after_the_batch_under_way(resilience: Resilience, gateway: Gateway) -> None:
    contacts = 10 * BATCH
    gateway.hold(1, after=2)
    campaign, job = send(resilience, contacts)
    wait_for_request(gateway, 3)
    with ThreadPoolExecutor(1) as thread:
        terminating = thread.submit(resilience.service.terminate)
        eventually(lambda: "draining" in resilience.service.log, within=healthy.SHUTDOWN_GRACE)
        gateway.release(answer=True)
        stopped = terminating.result()
    sent = len(gateway.batches)
    assert sent == 3, f"after SIGTERM {sent - 3} batches more than the one under way were sent"
    assert "service stopped" in resilience.service.log, "the service did not end in order"
    stopped.heal()
    wait_until_completed(resilience.service, job)
    assert_delivered_once(resilience, campaign, contacts)
    assert not gateway.repeated, f"the service stopped in order, and {len(gateway.repeated)} messages were sent again"


def test_a_campaign_can_be_sent_by_hand_while_a_step_of_its_cadence_is_sent(
    resilience: Resilience, gateway: Gateway
) -> None:
    """The gateway holds the step, so the campaign is `sending` at the time of the request."""
    contacts = 3
    sql(resilience, INSERT, contacts)
    path = f"/api/campaigns/{create(resilience)['id']}"
    gateway.hold(1)
    assert resilience.service.put(f"{path}/cadence", json={"every_seconds": 0.1, "repeat": 1}).status_code == 200
    wait_for_request(gateway, 1)
    assert resilience.service.get(path).json()["status"] == "sending"
    job = resilience.service.post(f"{path}/send").headers["Location"]
    assert resilience.service.get(job).status_code == 200, (
        "a send during a step of a cadence gets a job, and there is none"
    )
    wait_until_completed(resilience.service, job)
    gateway.release(answer=True)
    wait_until_completed(resilience.service, job.removesuffix("0") + "1")
    sent = Counter(batch["step"] for batch in gateway.batches for _ in batch["recipients"])
    assert sent == {0: contacts, 1: contacts}, (
        f"a campaign was sent by hand and by its cadence, and the steps are {sent}"
    )
    assert not gateway.repeated, f"{len(gateway.repeated)} messages were sent twice"


def test_a_campaign_that_its_cadence_has_sent_is_sending_while_it_is_sent_by_hand(
    resilience: Resilience, gateway: Gateway
) -> None:
    sql(resilience, INSERT, 1)
    path = f"/api/campaigns/{create(resilience)['id']}"
    assert resilience.service.put(f"{path}/cadence", json={"every_seconds": 0.1, "repeat": 1}).status_code == 200
    eventually(lambda: resilience.service.get(path).json()["status"] == "sent", within=5.0)
    gateway.hold(1)
    job = resilience.service.post(f"{path}/send").headers["Location"]
    wait_for_request(gateway, 2)
    status = resilience.service.get(path).json()["status"]
    assert status == "sending", f"a campaign is sent by hand after a step of its cadence, and it is {status}"
    gateway.release(answer=True)
    wait_until_completed(resilience.service, job)
    status = resilience.service.get(path).json()["status"]
    assert status == "sent", f"the job is completed, and the campaign is {status}"


def test_jobs_leave_the_last_connection_of_the_pool_to_requests(resilience: Resilience, gateway: Gateway) -> None:
    gateway.hold(2)
    small = {
        "GATEWAY_URL": gateway.url,
        "DB_POOL_MAX": "2",
        "WORKER_CONNECTIONS": "2",
        "DB_POOL_ACQUIRE_TIMEOUT": "0.5",
    }
    with resilience.service.pause(), another_instance(resilience, **small) as instance:
        jobs = [send_by(instance.client, resilience, 0 if number else BATCH)[1] for number in range(2)]
        wait_for_request(gateway, 1)
        eventually(lambda: [instance.client.get(job).json()["status"] for job in jobs].count("active") == 2, within=5.0)
        replies = [timed(lambda: instance.client.get("/api/campaigns?limit=1")) for _ in range(20)]
        assert {reply.status for reply in replies} == {200}, f"two jobs want to be sent, and a request gets {replies}"
        rows, csv = "name,email,phone\nAda,1@example.com,7\n", {"Content-Type": "text/csv"}
        status = instance.client.post("/api/contacts/import", content=rows, headers=csv).status_code
        assert status == 200, f"two jobs want to be sent, and an import, which is a request too, gets {status}"
        waiting = open_transactions(resilience)
        assert waiting == 1, f"{waiting} of 2 connections wait for the gateway, not 1"
        gateway.release(answer=True)
        for job in jobs:
            wait_until_completed(instance.client, job)
        assert ALERT not in instance.log, "one of two connections was used, and the pool counts as exhausted"


def test_the_gateway_gets_all_of_a_batch_with_a_key_and_the_credentials(
    resilience: Resilience, gateway: Gateway
) -> None:
    url = gateway.url.replace("://", "://clerk%40home:p%2Fw@")
    settings = {"GATEWAY_URL": url, "SEND_BATCH": "2", "JOB_ATTEMPTS": "1"}
    for person in ADDRESS_BOOK:
        sql(resilience, "insert into contacts (name, email, phone) values ($1, $2, $3)", *person)
    with resilience.service.pause(), another_instance(resilience, **settings) as instance:
        for status in (299, 204):
            gateway.status = status
            campaign, job = send_by(instance.client, resilience, 0)
            assert_accepted_with(instance.client, job, gateway, status)
        gateway.status = 200
        sent_in_the_cadence(instance.client, gateway, campaign)
        gateway.status = 300
        _, job = send_by(instance.client, resilience, 0)
        message = "the gateway answers with status 300, and the run of the job does not fail"
        eventually_or_fail(
            lambda: instance.client.get(job).json()["status"] == "failed", within=COMPLETED_WITHIN, message=message
        )
    recipients = [
        {"id": f"campaign-{campaign}-1-{number}", "name": name, "email": email, "phone": phone}
        for number, (name, email, phone) in enumerate(ADDRESS_BOOK, start=1)
    ]
    fields = {"campaign_id": campaign, "step": 1, "name": NAME, "message": MESSAGE}
    expected = [fields | {"recipients": recipients[:2]}, fields | {"recipients": recipients[2:]}]
    of_cadence = gateway.batches[-2:]
    assert [without_ids(batch) for batch in of_cadence] == [without_ids(batch) for batch in expected], (
        f"SEND_BATCH is 2, and the gateway gets {of_cadence} for {ADDRESS_BOOK}"
    )
    keys, ids = len(set(gateway.keys)), len(set(gateway.recipients))
    assert keys == len(gateway.batches) == 6, f"6 batches of 3 jobs have {keys} different Idempotency-Keys"
    assert ids == 9, f"9 messages of 3 jobs have {ids} different ids: the gateway drops the others"
    headers = gateway.headers[0]
    credentials = f"Basic {base64.b64encode(b'clerk@home:p/w').decode()}"
    assert headers.get("authorization") == credentials, "the name and password of GATEWAY_URL are no Basic credentials"
    assert headers["content-type"] == "application/json", f"JSON is sent as {headers['content-type']}"


def assert_accepted_with(client: httpx.Client, job: str, gateway: Gateway, status: int) -> None:
    """Assert that a job is completed by a gateway that answers with a status."""
    message = f"the gateway answers with status {status}, and the job is not completed"
    eventually_or_fail(
        lambda: client.get(job).json()["status"] == "completed", within=COMPLETED_WITHIN, message=message
    )


def sent_in_the_cadence(client: httpx.Client, gateway: Gateway, campaign: int) -> None:
    """Start a cadence of one step for a campaign that is sent, and wait for its end."""
    gateway.hold(1)
    before = gateway.requests
    body = {"every_seconds": 0.1, "repeat": 1}
    assert client.put(f"/api/campaigns/{campaign}/cadence", json=body).status_code == 200
    wait_for_request(gateway, before + 1)
    status = client.get(f"/api/campaigns/{campaign}").json()["status"]
    assert status == "sending", f"a step of a cadence is being sent, and the campaign is {status}, not sending"
    gateway.release(answer=True)
    assert_accepted_with(client, f"/api/jobs/campaign-{campaign}-1", gateway, gateway.status)
    status = client.get(f"/api/campaigns/{campaign}").json()["status"]
    assert status == "sent", f"a step of a cadence is sent, and the campaign is {status}"


def without_ids(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch without the ids of its recipients."""
    recipients = [{name: value for name, value in each.items() if name != "id"} for each in batch["recipients"]]
    return batch | {"recipients": recipients}


def test_a_contact_that_is_added_while_a_campaign_is_sent_gets_it(resilience: Resilience, gateway: Gateway) -> None:
    """Its id is lower than those of the batches before it, as that of a slow import may be."""
    contacts = 2 * BATCH
    gateway.hold(1, after=1)
    campaign, job = send(resilience, contacts)
    wait_for_request(gateway, 2)
    sql(resilience, "insert into contacts (id, name, email) values (-1, 'Late', 'late@example.com')")
    gateway.release(answer=True)
    wait_until_completed(resilience.service, job)
    assert_delivered_once(resilience, campaign, contacts + 1)


def test_a_campaign_that_is_deleted_meanwhile_ends_its_job_and_its_deliveries_are_removed(
    resilience: Resilience, gateway: Gateway
) -> None:
    contacts = 4 * BATCH
    interval = 0.3  # seconds
    settings = {"GATEWAY_URL": gateway.url, "CLEANUP_INTERVAL": str(interval), "JOB_ATTEMPTS": "1"}
    with resilience.service.pause(), another_instance(resilience, **settings) as instance:
        kept, job = send_by(instance.client, resilience, contacts)
        wait_until_completed(instance.client, job)
        gateway.hold(1, after=1)
        before = gateway.requests
        deleted, job = send_by(instance.client, resilience, 0)
        wait_for_request(gateway, before + 2)
        assert instance.client.delete(f"/api/campaigns/{deleted}").status_code == 204
        gateway.release(answer=True)
        message = "a campaign was deleted, and its job does not end as completed"
        state = eventually_or_fail(
            lambda: (state := instance.client.get(job).json())["status"] not in ("waiting", "active") and state,
            within=COMPLETED_WITHIN,
            message=message,
        )
        assert state["status"] == "completed", f"{message}: {state}"
        late = gateway.requests - before - 2
        assert late == 0, f"a campaign was deleted, and {late} more batches were sent"
        assert_deliveries_are_removed(resilience, kept, [deleted])
        assert_deliveries_are_removed(resilience, kept, [deleted + 1000, deleted + 2000])
        with resilience.postgres.refuse():
            wait_until_unready(instance.client)
            time.sleep(2 * interval)  # for a removal, which must not end the next ones
        wait_until_ready(instance.client)
        assert_deliveries_are_removed(resilience, kept, [deleted + 3000])
        find_unexpected_lines(instance.log)
        rows = sql(resilience, "select count(*) from deliveries where campaign_id = $1", kept)[0][0]
        assert rows == contacts, f"{rows} of {contacts} deliveries of a campaign that exists are left"


def assert_deliveries_are_removed(resilience: Resilience, kept: int, campaigns: list[int]) -> None:
    """Assert that the deliveries of campaigns that do not exist are removed, and that only those of one campaign are left."""
    insert = "insert into deliveries (campaign_id, contact_id, step) select c, 0, 0 from unnest($1::bigint[]) c"
    sql(resilience, insert, campaigns)
    removed = "select not exists (select from deliveries where campaign_id <> $1)"
    message = "deliveries of deleted campaigns are not removed every CLEANUP_INTERVAL"
    wait_for_row(resilience, removed, kept, within=COMPLETED_WITHIN, message=message)


def test_in_a_pool_of_one_connection_a_request_goes_before_a_job(resilience: Resilience, gateway: Gateway) -> None:
    """Redis is away while the campaigns are sent, so that both jobs begin together."""
    small = {
        "GATEWAY_URL": gateway.url,
        "DB_POOL_MAX": "1",
        "WORKER_CONNECTIONS": "2",
        "DB_POOL_ACQUIRE_TIMEOUT": "1.5",
        "GATEWAY_TIMEOUT": PATIENCE,
    }
    gateway.hold(1)
    with resilience.service.pause(), another_instance(resilience, **small) as instance, ThreadPoolExecutor(1) as thread:
        with resilience.redis.refuse():
            jobs = [send_by(instance.client, resilience, 0 if number else 2 * BATCH)[1] for number in range(2)]
        wait_for_request(gateway, 1)
        eventually(lambda: [instance.client.get(job).json()["status"] for job in jobs].count("active") == 2, within=5.0)
        body = {"name": NAME, "message": MESSAGE}
        request = thread.submit(timed, lambda: instance.client.post("/api/campaigns", json=body))
        eventually(lambda: "\nservice_db_pool_waiting 1.0\n" in instance.client.get("/metrics").text, within=1.0)
        gateway.release(answer=True)
        gateway.hold(1)
        reply = request.result()
        assert reply.status == 201, f"two jobs and a request wait for the only connection, and the request gets {reply}"
        gateway.release(answer=True)
        for job in jobs:
            wait_until_completed(instance.client, job)


def test_a_batch_may_take_the_time_of_a_statement_and_of_the_gateway_and_then_postgres_ends_it(
    resilience: Resilience, gateway: Gateway
) -> None:
    """The second instance is suspended, so it cannot end its transaction."""
    command, patient, impatient = 0.5, 20.0, 1.0  # seconds
    settings = {"GATEWAY_URL": gateway.url, "DB_COMMAND_TIMEOUT": str(command), "JOB_ATTEMPTS": "1"}
    old = (
        "select 1 from pg_stat_activity where application_name like 'service:%' and now() - xact_start > interval '1 s'"
    )
    with resilience.service.pause():
        gateway.hold(1)
        with another_instance(resilience, GATEWAY_TIMEOUT=str(patient), **settings) as instance:
            job = send_by(instance.client, resilience, BATCH)[1]
            wait_for_request(gateway, 1)
            message = f"the gateway may take {patient:g} s, and Postgres ends the transaction of a batch sooner"
            wait_for_row(resilience, old, within=2.0, message=message)
            gateway.release(answer=True)
            wait_until_completed(instance.client, job)
        assert_sent_to_all(gateway, BATCH)
        gateway.hold(1)
        with another_instance(resilience, GATEWAY_TIMEOUT=str(impatient), **settings) as instance:
            send_by(instance.client, resilience, 0)
            wait_for_request(gateway, 2)
            instance.process.signal(signal.SIGSTOP)
            message = f"a batch may take {command + impatient:g} s, and Postgres does not end its transaction"
            within = command + impatient + healthy.SLACK
            wait_for_row(resilience, f"select ({OPEN_TRANSACTIONS}) = 0", within=within, message=message)


def test_no_reader_sees_an_older_status_although_redis_fails_meanwhile(
    resilience: Resilience, gateway: Gateway
) -> None:
    gateway.hold(1)
    sql(resilience, INSERT, BATCH)
    campaign = create(resilience)["id"]
    path = f"/api/campaigns/{campaign}"
    with reading(resilience, path) as reads:
        resilience.service.post(f"{path}/send")
        wait_for_request(gateway, 1)
        status = resilience.service.get(path).json()["status"]
        assert status == "sending", f"the campaign is being sent, and a reader sees {status}"
        with resilience.redis.refuse():
            gateway.release(answer=True)
            stored = "select 1 from campaigns where id = $1 and status = 'sent'"
            eventually(lambda: sql(resilience, stored, campaign), within=5.0)
            # The service learns the outcome of its statement a moment after Postgres has committed.
            eventually_or_fail(
                lambda: resilience.service.get(path).json()["status"] == "sent",
                within=healthy.SLACK,
                message="the campaign is sent, and a reader sees an older status",
            )
        wait_until_redis_serves(resilience, path)
        status = resilience.service.get(path).json()["status"]
        assert status == "sent", f"the campaign is sent, and Redis has the status {status}"
    versions = [read.reply.json()["version"] for read in reads if read.reply is not None]
    assert versions == sorted(versions), f"a reader saw an older version after a newer one: {versions}"


def send_by(client: httpx.Client, resilience: Resilience, contacts: int) -> tuple[int, str]:
    """Add contacts, and send a new campaign to all through one instance. Return its id and the path of the job."""
    sql(resilience, INSERT, contacts)
    campaign: int = client.post("/api/campaigns", json={"name": NAME, "message": MESSAGE}).json()["id"]
    assert client.post(f"/api/campaigns/{campaign}/send").status_code == 202
    return campaign, f"/api/jobs/campaign-{campaign}-0"
