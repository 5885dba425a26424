"""An accepted job runs exactly once, whatever happens to Redis, to the service and to the journal on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import healthy
from gateway import Gateway, running_gateway
from instances import JOURNALS, another_instance, describe_service
from pytest_resilience import Resilience, Service, Stack, eventually
from workload import (
    assert_unavailable,
    create,
    eventually_or_fail,
    redis_commands,
    sql,
    timed,
    wait_until_ready,
    wait_until_redis_is,
)

MAX_JOBS = 8  # JOURNAL_MAX_JOBS
ATTEMPTS = 2  # JOB_ATTEMPTS
HANDED_BACK_WITHIN = healthy.REDIS_BACK_WITHIN + 2.0  # seconds from the heal until all jobs have run
TAKEN_OVER_WITHIN = 8.0  # seconds from SIGKILL until another instance has run the job
RETURNED_WITHIN = 2.0  # seconds from the end of a stopped instance until another one has run its job


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    with running_gateway() as gateway:
        yield gateway


@pytest.fixture(scope="session")
def job_settings(gateway: Gateway) -> dict[str, str]:
    """One job at a time, so that jobs run in the order of the queue, and a gateway that may hang for the whole of a test."""
    return {
        "GATEWAY_URL": gateway.url,
        "GATEWAY_TIMEOUT": "60",
        "JOURNAL_MAX_JOBS": str(MAX_JOBS),
        "JOB_ATTEMPTS": str(ATTEMPTS),
        "WORKER_CONNECTIONS": "1",
    }


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack, job_settings: dict[str, str]) -> Service:
    """One process for most of the tests, because a start takes as long as such a test."""
    return replace(describe_service(resilience_stack, **job_settings), restart_between_tests=False)


@pytest.fixture(autouse=True)
def one_contact(resilience: Resilience, gateway: Gateway) -> None:
    """Each job sends one message. The service is in its initial state."""
    gateway.reset()
    state = {"postgres": "up", "redis": "up", "jobs": "up"}
    eventually(lambda: state.items() <= resilience.service.get("/readyz").json()["checks"].items(), within=5.0)
    sql(resilience, "insert into contacts (name, email) values ('Ada', 'ada@example.com')")


OUTAGES: dict[str, Callable[[Resilience], AbstractContextManager[object]]] = {
    "refusing": lambda r: r.redis.refuse(),
    "hanging": lambda r: r.redis.blackhole(),
    "read-only": lambda r: r.redis.readonly(),
    "full": lambda r: r.redis.oom(),
}


class LogSince:
    """The log of the service since a moment."""

    def __init__(self, resilience: Resilience) -> None:
        self._service = resilience.service
        self._begin = len(resilience.service.log)

    def count(self, text: str) -> int:
        """Return how often a text is in the log since then."""
        return self._service.log[self._begin :].count(text)


def send(client: Any, campaign_id: int) -> httpx.Response:
    """Send a campaign."""
    reply: httpx.Response = client.post(f"/api/campaigns/{campaign_id}/send")
    return reply


def accepted(client: Any, campaign_ids: Sequence[int]) -> None:
    """Send campaigns, and assert that each send is accepted in time and durably."""
    for campaign_id in campaign_ids:
        outcome = timed(lambda campaign_id=campaign_id: send(client, campaign_id))
        assert outcome.reply is not None, f"a send got no response: {outcome.error!r}"
        assert outcome.status == 202, f"a send is not accepted: {outcome.status} {outcome.reply.text}"
        expected = {"job_id": f"campaign-{campaign_id}-0", "durable": True}
        assert outcome.reply.json() == expected, f"a send is answered with {outcome.reply.text}, not {expected}"
        limit = healthy.REDIS_BUDGET + healthy.SLACK
        assert outcome.seconds < limit, f"a send took {outcome.seconds:.2f} s, more than the budget of Redis"


def job(client: Any, campaign_id: int) -> dict[str, Any]:
    """Return the state of the job of a campaign."""
    reply = client.get(f"/api/jobs/campaign-{campaign_id}-0")
    assert reply.status_code == 200, f"the state of a job is {reply.status_code} {reply.text}"
    state: dict[str, Any] = reply.json()
    return state


def status(client: Any, campaign_id: int) -> str:
    """Return the status of the job of a campaign."""
    text: str = job(client, campaign_id)["status"]
    return text


def jobs_check(client: Any) -> str:
    """Return the part that takes jobs, as /readyz reports it."""
    text: str = client.get("/readyz").json()["checks"]["jobs"]
    return text


def all_run(client: Any, campaign_ids: Sequence[int], *, within: float, message: str) -> None:
    """Assert that all jobs are completed in time."""
    eventually_or_fail(
        lambda: all(status(client, campaign_id) == "completed" for campaign_id in campaign_ids),
        within=within,
        message=message,
    )


def journal_files() -> list[Path]:
    """Return the files of the service's journal."""
    return sorted((JOURNALS / "main").glob("*.jobs"))


def test_jobs_accepted_in_each_outage_of_redis_are_handed_back_in_order_and_run_once(
    resilience: Resilience, gateway: Gateway
) -> None:
    log = LogSince(resilience)
    sent: list[int] = []
    for kind, outage in OUTAGES.items():
        campaigns = [create(resilience)["id"] for _ in range(4)][::-1]
        with outage(resilience):
            accepted(resilience.service, campaigns)
            state = jobs_check(resilience.service)
            assert state == "journal", f"Redis is {kind}, and /readyz reports that jobs go to {state}"
            waiting = {status(resilience.service, campaign_id) for campaign_id in campaigns}
            assert waiting == {"waiting"}, f"jobs in the journal are {waiting}, not waiting"
            accepted(resilience.service, campaigns[:1])  # again, which makes no second job
        sent += campaigns
        message = f"Redis was {kind} and is back, and after {HANDED_BACK_WITHIN:g} s not all accepted jobs have run"
        all_run(resilience.service, campaigns, within=HANDED_BACK_WITHIN, message=message)
        assert gateway.campaigns == sent, f"jobs were sent as {sent} and ran as {gateway.campaigns}"
    eventually_or_fail(
        lambda: jobs_check(resilience.service) == "up",
        within=2.0,
        message="all jobs have run, and the journal is in use",
    )
    sizes = [path.stat().st_size for path in journal_files()]
    assert not any(sizes), f"all jobs have run, and the journal has files of {sizes} bytes"
    lines = log.count("Redis connected successfully for BullMQ")
    assert lines <= len(OUTAGES) + 1, f"{lines} lines for BullMQ: one for each recovery"


def test_a_full_journal_is_a_503_until_redis_is_back(resilience: Resilience, gateway: Gateway) -> None:
    campaigns = [create(resilience)["id"] for _ in range(MAX_JOBS)]
    refused = create(resilience)["id"]
    with resilience.redis.refuse():
        accepted(resilience.service, campaigns)
        assert_unavailable([timed(lambda: send(resilience.service, refused)) for _ in range(2)])
        accepted(resilience.service, campaigns[:1])  # which the journal has
        ready = resilience.service.get("/readyz")
        assert ready.status_code == 200, f"a full journal makes the service unready: {ready.text}"
        assert ready.json()["checks"]["jobs"] == "full", f"the journal is full, and /readyz reports {ready.text}"
    all_run(resilience.service, campaigns, within=HANDED_BACK_WITHIN, message="jobs of a full journal are lost")
    assert gateway.campaigns == campaigns, "a send that was refused has been run, or jobs ran in another order"
    accepted(resilience.service, [refused])


def test_the_journal_survives_sigkill_and_loses_only_what_is_damaged(resilience: Resilience, gateway: Gateway) -> None:
    campaigns = [create(resilience)["id"] for _ in range(4)]
    log = LogSince(resilience)
    with resilience.redis.refuse() as outage:
        accepted(resilience.service, campaigns)
        with resilience.service.kill():
            files = journal_files()
            assert len(files) == 1, f"jobs were accepted, and the journal has {len(files)} files: SIGKILL has lost them"
            (path,) = files
            records = path.read_bytes().splitlines(keepends=True)
            assert len(records) == len(campaigns), f"the journal has {len(records)} records for {len(campaigns)} jobs"
            damaged = b"#" + records[1][1:]
            path.write_bytes(records[0] + damaged + records[2] + records[3] + records[1][:9])
        assert status(resilience.service, campaigns[0]) == "waiting", "after SIGKILL the journal's jobs are unknown"
        outage.heal()
    kept = [campaigns[0], *campaigns[2:]]
    message = "jobs that were accepted before SIGKILL are lost"
    all_run(resilience.service, kept, within=HANDED_BACK_WITHIN, message=message)
    assert gateway.campaigns == kept, f"jobs were sent as {kept} and ran as {gateway.campaigns}"
    lines = log.count("damaged bytes of the journal")
    assert lines == 1, f"{lines} lines in the log for a damaged journal: an operator needs one"
    aside = [path.read_bytes() for path in (JOURNALS / "main").glob("*.damaged")]
    assert aside == [damaged], f"the damaged record is not set aside: {aside}"
    accepted(resilience.service, [campaigns[1]])
    all_run(resilience.service, campaigns, within=5.0, message="a job that was lost by damage cannot be sent again")


def test_an_enqueue_whose_reply_is_lost_makes_one_job(resilience: Resilience, gateway: Gateway) -> None:
    warm_up, campaign_id = create(resilience)["id"], create(resilience)["id"]
    accepted(resilience.service, [warm_up])
    all_run(resilience.service, [warm_up], within=5.0, message="a job does not run although nothing is wrong")
    with redis_commands(resilience) as command, resilience.redis.blackhole(direction="down"):
        accepted(resilience.service, [campaign_id])
        assert command("EXISTS", f"bull:campaigns:campaign-{campaign_id}-0"), (
            "Redis did not get the job: nothing was tested"
        )
        assert jobs_check(resilience.service) == "journal", "the reply was lost, and the job is not in the journal"
    all_run(resilience.service, [campaign_id], within=HANDED_BACK_WITHIN, message="a job is lost with its reply")
    wait_until_redis_is(resilience.service, "up")
    eventually_or_fail(
        lambda: jobs_check(resilience.service) == "up", within=2.0, message="the journal is not handed back"
    )
    assert gateway.campaigns == [warm_up, campaign_id], f"a job whose reply was lost ran as {gateway.campaigns}"


def test_jobs_accepted_while_redis_flaps_run_once(resilience: Resilience, gateway: Gateway) -> None:
    campaigns = [create(resilience)["id"] for _ in range(6)]
    with resilience.redis.flap(down=0.1, up=0.2) as flapping:
        for campaign_id in campaigns:
            accepted(resilience.service, [campaign_id])
            touched = flapping.receipt.touched or 0
            eventually(lambda touched=touched: (flapping.receipt.touched or 0) > touched, within=2.0)
    all_run(resilience.service, campaigns, within=HANDED_BACK_WITHIN, message="jobs are lost while Redis flaps")
    assert sorted(gateway.campaigns) == campaigns, f"each of the jobs {campaigns} runs once, not {gateway.campaigns}"


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM"])
def test_another_instance_finishes_the_job_of_one_that_ends(
    resilience: Resilience, gateway: Gateway, job_settings: dict[str, str], end: str
) -> None:
    """The gateway hangs, so the instance ends in the middle of a batch."""
    campaign_id = create(resilience)["id"]
    gateway.hold(1)
    accepted(resilience.service, [campaign_id])
    eventually(lambda: gateway.requests == 1, within=5.0)
    with another_instance(resilience, **job_settings) as other:
        assert status(other.client, campaign_id) == "active", "a job that runs is not active"
        within = TAKEN_OVER_WITHIN if end == "SIGKILL" else RETURNED_WITHIN
        with resilience.service.kill() if end == "SIGKILL" else resilience.service.terminate():
            message = f"an instance ended by {end} in the middle of a job, and {within:g} s later no other has run it"
            all_run(other.client, [campaign_id], within=within, message=message)
            state = job(other.client, campaign_id)
            assert (state["sent"], state["total"]) == (1, 1), f"the job has sent {state['sent']} of {state['total']}"
            assert state["attempts"] == 1, f"the end of the instance counts as a failed run: {state}"
        gateway.release(answer=False)
    assert gateway.campaigns == [campaign_id], f"the message of one job was sent {len(gateway.batches)} times"


def test_two_instances_share_the_queue_and_neither_delivers_twice(
    resilience: Resilience, gateway: Gateway, job_settings: dict[str, str]
) -> None:
    campaigns = [create(resilience)["id"] for _ in range(8)]
    with another_instance(resilience, preloaded=False, **job_settings) as other:
        accepted(resilience.service, campaigns)
        accepted(other.client, campaigns[::2])  # again, which makes no second job
        all_run(other.client, campaigns, within=5.0, message="two instances share the queue, and jobs do not run")
    assert sorted(gateway.campaigns) == campaigns, f"each job is sent once, and not as {gateway.campaigns}"


def test_a_job_that_always_fails_is_a_dead_letter_until_it_is_retried(resilience: Resilience, gateway: Gateway) -> None:
    poison, healthy_one = create(resilience)["id"], create(resilience)["id"]
    gateway.status = 500
    accepted(resilience.service, [poison])
    path = f"/api/jobs/campaign-{poison}-0"
    message = f"a job that fails each time is not a dead letter after {ATTEMPTS} runs"
    eventually_or_fail(lambda: status(resilience.service, poison) == "failed", within=6.0, message=message)
    state = job(resilience.service, poison)
    assert state["attempts"] == gateway.requests == ATTEMPTS, f"{gateway.requests} runs, not {ATTEMPTS}: {state}"
    assert "500" in str(state["error"]), f"the dead letter does not give the reason: {state}"

    gateway.status = 200
    accepted(resilience.service, [healthy_one, poison])
    all_run(resilience.service, [healthy_one], within=5.0, message="a dead letter blocks other jobs")
    again = status(resilience.service, poison)
    assert again == "failed", f"sending again is not how a dead letter is retried, and it is {again}"
    reply = resilience.service.post(f"{path}/retry")
    assert reply.status_code == 202, f"a dead letter cannot be retried: {reply.status_code} {reply.text}"
    all_run(resilience.service, [poison], within=5.0, message="a dead letter was retried and does not run")
    state = job(resilience.service, poison)
    assert state["attempts"] == 1, f"a dead letter that is retried does not get all its attempts again: {state}"
    codes = [resilience.service.post(f"{each}/retry").status_code for each in (path, "/api/jobs/campaign-999-0")]
    assert codes == [409, 404], f"retries of a completed and of an unknown job are {codes}, not 409 and 404"


def test_an_outage_of_postgres_makes_no_dead_letter(resilience: Resilience, gateway: Gateway) -> None:
    campaign_id = create(resilience)["id"]
    gateway.hold(1)
    accepted(resilience.service, [campaign_id])
    eventually(lambda: gateway.requests == 1, within=5.0)
    with resilience.postgres.reset():
        gateway.release(answer=True)
        eventually(lambda: resilience.service.get("/readyz").status_code == 503, within=healthy.UNREADY_WITHIN)
    wait_until_ready(resilience.service)
    all_run(resilience.service, [campaign_id], within=5.0, message="a job is lost when Postgres fails during a run")
    state = job(resilience.service, campaign_id)
    assert state["attempts"] == 1, f"an outage of Postgres counts as a failed run of the job: {state}"


def test_a_journal_that_cannot_be_written_is_a_503_while_redis_is_down(
    resilience: Resilience, job_settings: dict[str, str]
) -> None:
    campaign_id = create(resilience)["id"]
    with another_instance(resilience, **job_settings, JOURNAL_DIR="/dev/null/journal") as other:
        with resilience.redis.refuse():
            wait_until_redis_is(other.client, "down")
            assert_unavailable([timed(lambda: send(other.client, campaign_id)) for _ in range(3)])
            assert jobs_check(other.client) == "full", "nothing can take a job, and /readyz does not report that"
        eventually_or_fail(
            lambda: send(other.client, campaign_id).status_code == 202,
            within=healthy.REDIS_BACK_WITHIN,
            message="Redis is back, and without a journal no send is accepted",
        )
        lines = other.log.count("cannot be used")
        assert lines == 1, f"{lines} lines for a journal that cannot be used: one is needed"
