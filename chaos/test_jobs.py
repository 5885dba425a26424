"""An accepted job runs exactly once, whatever happens to Redis, to the service and to the journal on its way."""

from __future__ import annotations

import re
import shutil
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import healthy
from gateway import Gateway, running_gateway
from instances import JOURNALS, NO_POOL_CHECKS, NO_TLS, Instance, another_instance, describe_service
from pytest_resilience import Resilience, Service, Stack, eventually
from workload import (
    MESSAGE,
    NAME,
    assert_unavailable,
    concurrently,
    create,
    eventually_or_fail,
    metric,
    metrics,
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
ADOPTED_WITHIN = 8.0  # seconds from SIGKILL until a running instance has looked for the journals of dead ones
COUNTED_WITHIN = 2.0  # seconds until the metrics have the jobs of all instances, which are counted once a second
HAND_BACK_BATCH = 250  # jobs that the service hands back at once
FIRST_UNKNOWN = 10**9  # an id beyond those of all campaigns
MANY_ATTEMPTS = 12  # JOB_ATTEMPTS of a test about the delays between them
DAY = 86_400.0  # seconds
HANDED_BACK = r"(\d+) jobs of the journal were handed back to the queue"
FOUND = r"(\d+) jobs were found in the journal of a process that has ended"
JOURNAL_FAILS, JOURNAL_WORKS = "cannot be used:", "resolved: the journal of jobs can be used again"
DEAD = r"job (\S+) is in the dead-letter queue after (\d+) failed runs: (.+)"
# A disk that does not sync a file, or that does not sync the directory with the names of the files.
SYNC_FAILS = """
import os, stat

def sync(descriptor, sync=os.fsync):
    if stat.{kind}(os.fstat(descriptor).st_mode):
        raise OSError(5, "Input/output error")
    sync(descriptor)

os.fsync = os.fdatasync = sync
"""


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

    def find_all(self, pattern: str) -> list[Any]:
        """Return what the groups of a pattern match in the log since then."""
        return re.findall(pattern, self._service.log[self._begin :])


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
        location = outcome.reply.headers.get("Location")
        assert location == f"/api/jobs/campaign-{campaign_id}-0", f"the Location of a send is {location}, not its job"
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


def jobs_counted(client: Any) -> dict[str, int]:
    """Return the number of jobs in each state, as the metrics report it."""
    values = metrics(client)
    return {
        state: int(values[f'service_jobs{{state="{state}"}}']) for state in ("waiting", "active", "journal", "dead")
    }


def wait_until_counted(client: Any, message: str, **expected: int) -> None:
    """Wait until the metrics report numbers of jobs."""
    eventually_or_fail(lambda: expected.items() <= jobs_counted(client).items(), within=COUNTED_WITHIN, message=message)


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
    sent: list[int] = []
    earlier = create(resilience)["id"]
    accepted(resilience.service, [earlier])
    all_run(resilience.service, [earlier], within=5.0, message="a job does not run although nothing is wrong")
    gateway.reset()
    log = LogSince(resilience)
    for kind, outage in OUTAGES.items():
        campaigns = [create(resilience)["id"] for _ in range(4)][::-1]
        with outage(resilience):
            accepted(resilience.service, campaigns)
            state = jobs_check(resilience.service)
            assert state == "journal", f"Redis is {kind}, and /readyz reports that jobs go to {state}"
            waiting = {status(resilience.service, campaign_id) for campaign_id in campaigns}
            assert waiting == {"waiting"}, f"jobs in the journal are {waiting}, not waiting"
            accepted(resilience.service, campaigns[:1])  # again, which makes no second job
            counted = jobs_counted(resilience.service)["journal"]
            assert counted == len(campaigns), (
                f"{len(campaigns)} jobs are in the journal, and the metrics count {counted}"
            )
            assert_known_only_to_redis(resilience.service, earlier, kind)
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
    counted = jobs_counted(resilience.service)["journal"]
    assert counted == 0, f"all jobs have run, and the metrics count {counted} in the journal"
    handed_back = sum(map(int, log.find_all(HANDED_BACK)))
    assert handed_back == len(sent), f"{len(sent)} jobs were handed back, and the log reports {handed_back}"
    lines = log.count("Redis connected successfully for BullMQ")
    assert len(OUTAGES) <= lines <= len(OUTAGES) + 1, f"{lines} lines for BullMQ: one for each recovery"


def assert_known_only_to_redis(client: Any, campaign_id: int, kind: str) -> None:
    """Assert that nothing is claimed of a job that only Redis knows, while Redis is not used."""
    if kind in {"read-only", "full"}:
        return  # Redis answers, so the job may be known
    path = f"/api/jobs/campaign-{campaign_id}-0"
    assert_unavailable([timed(lambda: client.get(path)), timed(lambda: client.post(f"{path}/retry"))])


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
    found = log.find_all(FOUND)
    assert found == [str(len(kept))], f"{len(kept)} jobs were found in the journal, and the log reports {found}"
    lines = log.count("damaged bytes of the journal")
    assert lines == 1, f"{lines} lines in the log for a damaged journal: an operator needs one"
    aside = [path.read_bytes() for path in (JOURNALS / "main").glob("*.damaged")]
    assert aside == [damaged], f"the damaged record is not set aside: {aside}"
    accepted(resilience.service, [campaigns[1]])
    all_run(resilience.service, campaigns, within=5.0, message="a job that was lost by damage cannot be sent again")


def test_a_running_instance_takes_over_the_journals_of_a_killed_one_and_of_one_that_was_stopped(
    resilience: Resilience, gateway: Gateway, job_settings: dict[str, str]
) -> None:
    """The one that is stopped has taken over the journal of the killed one, and could not hand it back."""
    campaigns = [create(resilience)["id"] for _ in range(4)]
    log = LogSince(resilience)
    settings = job_settings | {"JOURNAL_DIR": str(JOURNALS / "main"), "SHUTDOWN_GRACE": "0.4"}
    with resilience.redis.refuse():
        with another_instance(resilience, **settings) as killed:
            accepted(killed.client, campaigns[:2])
            killed.process.kill()
        with another_instance(resilience, **settings) as stopped:
            states = [status(stopped.client, campaign_id) for campaign_id in campaigns[:2]]
            assert states == ["waiting"] * 2, (
                f"a new process with the JOURNAL_DIR of a killed one has its jobs as {states}"
            )
            accepted(stopped.client, campaigns[2:3])
            stopped.process.signal(signal.SIGTERM)
            eventually(stopped.has_exited, within=healthy.SHUTDOWN_GRACE)
        accepted(resilience.service, campaigns[3:])  # which goes to its own journal
    message = "processes ended with jobs in their journals, and another one with this JOURNAL_DIR does not run them"
    all_known = [f"/api/jobs/campaign-{campaign_id}-0" for campaign_id in campaigns]
    eventually_or_fail(
        lambda: all(resilience.service.get(path).status_code == 200 for path in all_known),
        within=ADOPTED_WITHIN,
        message=message,
    )
    all_run(resilience.service, campaigns, within=5.0, message=message)
    assert gateway.campaigns == campaigns, f"jobs were sent as {campaigns} and ran as {gateway.campaigns}"
    found = log.find_all(FOUND)
    assert found == ["3"], f"3 jobs were found in a journal, and the log reports {found}"


def test_a_journal_with_more_jobs_than_a_batch_is_handed_back(
    resilience: Resilience, job_settings: dict[str, str], tmp_path: Path
) -> None:
    """A process has ended with these jobs. Their campaigns do not exist, so the jobs send nothing."""
    jobs = HAND_BACK_BATCH + 1
    records = b"".join(map(journal_record, range(FIRST_UNKNOWN, FIRST_UNKNOWN + jobs)))
    (tmp_path / "0123456789abcdef.jobs").write_bytes(records)
    settings = job_settings | {"JOURNAL_DIR": str(tmp_path)}
    with (
        resilience.service.pause(),
        redis_commands(resilience) as command,
        another_instance(resilience, **settings) as instance,
    ):

        def run() -> int:
            """Return the number of jobs that have run."""
            count: int = command("ZCARD", "bull:campaigns:completed")
            return count

        eventually_or_fail(lambda: run() >= jobs, within=10.0, message=f"not all {jobs} jobs of a journal have run")
        assert run() == jobs, f"a journal has {jobs} jobs, and {run()} have run"
        message = f"{jobs} jobs were handed back, and no line of the log reports that"
        eventually_or_fail(lambda: re.search(HANDED_BACK, instance.log), within=5.0, message=message)
        logged = [int(count) for count in re.findall(HANDED_BACK, instance.log)]
        assert logged == [jobs], f"{jobs} jobs were handed back in batches, and the log reports {logged}"


def test_a_job_that_is_sent_while_a_journal_is_handed_back_follows_the_jobs_of_the_journal(
    resilience: Resilience, job_settings: dict[str, str], tmp_path: Path
) -> None:
    """The journal has so many jobs that a job can be sent in between."""
    sent = create(resilience)["id"]
    jobs = range(FIRST_UNKNOWN, FIRST_UNKNOWN + 20 * HAND_BACK_BATCH)
    settings = job_settings | {"JOURNAL_DIR": str(tmp_path), "JOURNAL_MAX_JOBS": "10000"}
    (tmp_path / "0123456789abcdef.jobs").write_bytes(b"".join(map(journal_record, jobs)))
    with (
        resilience.service.pause(),
        redis_commands(resilience) as command,
        another_instance(resilience, **settings) as instance,
    ):

        def is_in_redis(campaign_id: int) -> bool:
            return bool(command("EXISTS", f"bull:campaigns:campaign-{campaign_id}-0"))

        message = "a process has ended with jobs in its journal, and another one does not hand them back"
        eventually_or_fail(lambda: is_in_redis(jobs[0]), within=5.0, message=message)
        accepted(instance.client, [sent])
        assert not is_in_redis(sent) or is_in_redis(jobs[-1]), (
            "a job is in the queue before jobs that were sent earlier"
        )
        within = HANDED_BACK_WITHIN
        message = f"a job was sent while others were handed back, and is not in the queue after {within:g} s"
        eventually_or_fail(lambda: is_in_redis(sent), within=within, message=message)
        assert is_in_redis(jobs[-1]), "a job is in the queue before jobs that were sent earlier"


def journal_record(campaign_id: int) -> bytes:
    """Return the record of a job in the journal."""
    job_id = b"campaign-%d-0" % campaign_id
    return b"%08x %s\n" % (zlib.crc32(job_id), job_id)


def test_a_send_is_503_while_the_journal_cannot_be_synced(resilience: Resilience, job_settings: dict[str, str]) -> None:
    """Data that is written and not synced is lost with the power."""
    campaign_id = create(resilience)["id"]
    with resilience.redis.refuse():
        for kind, unsynced in {"S_ISREG": "a file", "S_ISDIR": "the directory"}.items():
            with another_instance(resilience, first=SYNC_FAILS.format(kind=kind), **job_settings) as other:
                reply = timed(lambda client=other.client: send(client, campaign_id))
                assert reply.status != 202, f"a send is accepted although {unsynced} of the journal cannot be synced"
                assert_unavailable([reply])


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
        state = job(other.client, campaign_id)
        assert state["status"] == "active", f"a job that runs is not active: {state}"
        assert state["attempts"] == 1, f"a job runs for the first time, and has {state['attempts']} attempts"
        with redis_commands(resilience) as command:  # as if other processes had ended in the middle of it before
            command("HSET", f"bull:campaigns:campaign-{campaign_id}-0", "stc", ATTEMPTS - 1)
        within = TAKEN_OVER_WITHIN if end == "SIGKILL" else RETURNED_WITHIN
        with resilience.service.kill() if end == "SIGKILL" else resilience.service.terminate():
            message = f"an instance ended by {end} in the middle of a job, and {within:g} s later no other has run it"
            all_run(other.client, [campaign_id], within=within, message=message)
            state = job(other.client, campaign_id)
            assert (state["sent"], state["total"]) == (1, 1), f"the job has sent {state['sent']} of {state['total']}"
            assert state["attempts"] == 1, f"the end of the instance counts as a failed run: {state}"
        gateway.release(answer=False)
    assert gateway.campaigns == [campaign_id], f"the message of one job was sent {len(gateway.batches)} times"


def test_a_run_that_ends_during_an_outage_of_redis_is_not_repeated(resilience: Resilience, gateway: Gateway) -> None:
    """The lock of the job is gone, as after a long outage. Without it another process could take the job."""
    campaign_id = create(resilience)["id"]
    lock = f"bull:campaigns:campaign-{campaign_id}-0:lock"
    log, ended = LogSince(resilience), f"campaign-{campaign_id}-0 is complete"
    gateway.hold(1)
    accepted(resilience.service, [campaign_id])
    eventually(lambda: gateway.requests == 1, within=5.0)
    with redis_commands(resilience) as command:
        left = [int(command("PTTL", lock))]

        def is_renewed() -> bool:
            left.append(int(command("PTTL", lock)))
            return left[-1] > left[-2]

        message = "a job runs, and its lock is not renewed, so another process takes it over"
        eventually_or_fail(is_renewed, within=2.0, message=message)
        with resilience.redis.refuse():
            wait_until_redis_is(resilience.service, "down")
            command("DEL", lock)
            gateway.release(answer=True)
            eventually(lambda: log.count(ended) == 1, within=5.0)
    message = "a run ended during an outage of Redis, and afterwards its job is not completed"
    all_run(resilience.service, [campaign_id], within=HANDED_BACK_WITHIN, message=message)
    runs = log.count(ended)
    assert runs == 1, f"a run ended during an outage of Redis, and its job has run {runs} times"


def test_a_job_in_whose_runs_too_many_processes_ended_is_a_dead_letter_until_it_is_retried(
    resilience: Resilience, gateway: Gateway, job_settings: dict[str, str]
) -> None:
    """Redis has the number of those processes, and the lock of the last one. A greater number spares a kill for each attempt."""
    campaign_id = create(resilience)["id"]
    key, path = f"bull:campaigns:campaign-{campaign_id}-0", f"/api/jobs/campaign-{campaign_id}-0"
    gateway.hold(1)
    accepted(resilience.service, [campaign_id])
    eventually(lambda: gateway.requests == 1, within=5.0)
    with another_instance(resilience, **job_settings) as other, redis_commands(resilience) as command:
        with resilience.service.kill():
            command("HSET", key, "stc", ATTEMPTS)
            command("DEL", f"{key}:lock")
            eventually_or_fail(
                lambda: status(other.client, campaign_id) == "failed",
                within=TAKEN_OVER_WITHIN,
                message=f"{ATTEMPTS + 1} processes ended in the middle of a job, and it is no dead letter",
            )
            assert gateway.requests == 1, "a job that may be what ends its processes runs again before it is retried"
            message = "a job is a dead letter without a line in the log"
            lines = eventually_or_fail(lambda: re.findall(DEAD, other.log), within=2.0, message=message)
            assert [runs for _, runs, _ in lines] == ["0"], f"no run has failed, and the log says otherwise: {lines}"
            reply = other.client.post(f"{path}/retry")
            assert reply.status_code == 202, f"a dead letter cannot be retried: {reply.status_code} {reply.text}"
            message = "a job in whose runs too many processes ended was retried and does not run"
            all_run(other.client, [campaign_id], within=5.0, message=message)
            ended = int(command("HGET", key, "stc") or 0)
            assert ended == 0, f"a job is retried, and {ended} processes of its earlier runs still count against it"
        gateway.release(answer=False)


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
    poison, other_poison, healthy_one = (create(resilience)["id"] for _ in range(3))
    log = LogSince(resilience)
    failures = metric(resilience.service, "service_job_failures_total")
    gateway.status = 500
    accepted(resilience.service, [poison, other_poison])
    path = f"/api/jobs/campaign-{poison}-0"
    message = f"two jobs that fail each time are not dead letters after {ATTEMPTS} runs"
    eventually_or_fail(
        lambda: {status(resilience.service, each) for each in (poison, other_poison)} == {"failed"},
        within=6.0,
        message=message,
    )
    states = [job(resilience.service, each) for each in (poison, other_poison)]
    for state in states:
        assert state["attempts"] == ATTEMPTS, f"a job has {state['attempts']} runs, not {ATTEMPTS}: {state}"
        assert "500" in str(state["error"]), f"the dead letter does not give the reason: {state}"
    assert gateway.requests == 2 * ATTEMPTS, f"{gateway.requests} runs, not {ATTEMPTS} of each of two jobs: {states}"
    counted = metric(resilience.service, "service_job_failures_total") - failures
    assert counted == 2 * ATTEMPTS, f"{2 * ATTEMPTS} runs have failed, and the metrics count {counted:g}"
    wait_until_counted(resilience.service, "the metrics do not count two dead letters", dead=2, waiting=0, active=0)
    expected = {(state["id"], str(ATTEMPTS), state["error"]) for state in states}

    def logged() -> list[tuple[str, str, str]]:
        return [(job_id, runs, reason.strip()) for job_id, runs, reason in log.find_all(DEAD)]

    eventually_or_fail(
        lambda: (len(logged()), set(logged())) == (2, expected),
        within=1.0,
        message="one line of the log reports each of two dead letters, its runs and the reason",
    )

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
    assert state["error"] is None, f"a job is completed, and has the error of an earlier run: {state}"
    codes = [resilience.service.post(f"{each}/retry").status_code for each in (path, "/api/jobs/campaign-999-0")]
    assert codes == [409, 404], f"retries of a completed and of an unknown job are {codes}, not 409 and 404"
    codes = [send(resilience.service, 999).status_code, resilience.service.get("/api/jobs/campaign-999-0").status_code]
    assert codes == [404, 404], f"a send of an unknown campaign and an unknown job are {codes}, not 404"
    code = resilience.service.get(f"/api/jobs/campaign-0{poison}-0").status_code
    assert code == 404, f"a job has one id, and with a 0 before its number it is {code}, not 404"
    wait_until_counted(resilience.service, "one of two dead letters has been retried, and the metrics count it", dead=1)


def test_failed_runs_are_repeated_after_growing_delays_of_at_most_a_minute(
    resilience: Resilience, gateway: Gateway, job_settings: dict[str, str]
) -> None:
    """Redis has the number of each job's failed runs and the delay after the last one. A greater number spares hours."""
    campaigns = [create(resilience)["id"] for _ in range(6)]
    gateway.status = 500
    settings = job_settings | {"JOB_ATTEMPTS": str(MANY_ATTEMPTS)}
    with (
        resilience.service.pause(),
        redis_commands(resilience) as command,
        another_instance(resilience, **settings) as instance,
    ):

        def all_seen(seen: dict[int, float], runs: int) -> bool:
            """Add the seconds between failed run number `runs` and the next one, of each job that waits for it. True for all jobs."""
            for campaign_id in campaigns:
                failed, delay = command("HMGET", f"bull:campaigns:campaign-{campaign_id}-0", "atm", "delay")
                if int(failed or 0) == runs and int(delay or 0):
                    seen[campaign_id] = int(delay) / 1000
            return len(seen) == len(campaigns)

        def set_failed_runs(runs: int) -> bool:
            """Set the number of failed runs of all jobs, while none of them is under way. Return False if one is."""
            instance.process.signal(signal.SIGSTOP)
            try:
                ids = [f"campaign-{campaign_id}-0" for campaign_id in campaigns]
                if any(command("ZSCORE", "bull:campaigns:delayed", job_id) is None for job_id in ids):
                    return False
                for job_id in ids:
                    command("HSET", f"bull:campaigns:{job_id}", "atm", runs)
                return True
            finally:
                instance.process.signal(signal.SIGCONT)

        accepted(instance.client, campaigns)
        for runs, longest in ((1, 1.0), (3, 4.0), (MANY_ATTEMPTS - 1, 60.0)):
            if runs > 1:
                message = "failed runs are repeated at once, so no job waits for its next run"
                eventually_or_fail(lambda runs=runs: set_failed_runs(runs - 1), within=5.0, message=message)
            delays: dict[int, float] = {}
            eventually_or_fail(
                lambda runs=runs, delays=delays: all_seen(delays, runs),
                within=2 * longest if runs < 4 else 5.0,
                message=f"failed run number {runs} is not repeated after a delay",
            )
            seen = list(delays.values())
            assert all(longest / 2 <= delay <= longest for delay in seen), (
                f"after failed run number {runs} the next one is due in {seen} s, not in {longest / 2:g} to {longest:g} s"
            )
            assert len(set(seen)) > 1, f"jobs that fail together are repeated together, each after {seen[0]} s"
        message = "jobs wait for their next runs, and the metrics do not count them as waiting"
        wait_until_counted(instance.client, message, waiting=len(campaigns))


def persistent_client(instance: Instance) -> httpx.Client:
    """Return a client whose connection stays open, because an instance without descriptors accepts no other one."""
    return httpx.Client(base_url=instance.client.base_url, timeout=10.0, trust_env=False, verify=NO_TLS)


def test_a_lack_of_descriptors_for_the_gateway_counts_as_no_failed_run(
    resilience: Resilience, gateway: Gateway, job_settings: dict[str, str]
) -> None:
    """The first jobs open the connections that the last one needs, except that to the gateway."""
    settings = job_settings | {"DB_POOL_IDLE_TIMEOUT": "60", "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS}
    with (
        resilience.service.pause(),
        another_instance(resilience, **settings) as instance,
        persistent_client(instance) as client,
    ):
        body = {"name": NAME, "message": MESSAGE}
        *first, last = [client.post("/api/campaigns", json=body).json()["id"] for _ in range(5)]
        # At once, so that several connections to Redis are open. A send beside a count of the jobs needs two.
        concurrently([lambda campaign_id=campaign_id: send(instance.client, campaign_id) for campaign_id in first])
        all_run(client, first, within=5.0, message="a job does not run although nothing is wrong")
        with resilience.process(instance.process.pid).exhaust_descriptors():
            accepted(client, [last])
            eventually(lambda: job(client, last)["error"] is not None, within=5.0)
        message = "descriptors are free again, and a job that needs one for the gateway does not run"
        all_run(client, [last], within=8.0, message=message)
        state = job(client, last)
        assert state["attempts"] == 1, f"a lack of descriptors for the gateway counts as a failed run: {state}"
        failures = metric(client, "service_job_failures_total")
        assert failures == 0, f"a lack of descriptors for the gateway is {failures:g} failed runs in the metrics"


def test_no_more_jobs_run_at_a_time_than_worker_connections(resilience: Resilience, gateway: Gateway) -> None:
    campaigns = [create(resilience)["id"] for _ in range(3)]
    gateway.hold(3)
    accepted(resilience.service, campaigns)
    eventually(lambda: gateway.requests >= 1, within=5.0)
    message = "3 jobs were sent, WORKER_CONNECTIONS is 1, and the metrics do not count 1 active job and 2 that wait"
    wait_until_counted(resilience.service, message, active=1, waiting=2)
    assert gateway.requests == 1, f"WORKER_CONNECTIONS is 1, and {gateway.requests} jobs wait for the gateway"
    codes = {resilience.service.post(f"/api/jobs/campaign-{i}-0/retry").status_code for i in campaigns}
    assert codes == {409}, f"retries of an active job and of two that wait are {codes}, not 409"
    gateway.release(answer=True)
    all_run(resilience.service, campaigns, within=5.0, message="jobs that waited for a connection do not run")


def test_a_completed_job_is_kept_for_a_week(resilience: Resilience, gateway: Gateway) -> None:
    """A job is removed when a later one is completed."""
    younger, older, last = campaigns = [create(resilience)["id"] for _ in range(3)]
    accepted(resilience.service, campaigns[:2])
    all_run(resilience.service, campaigns[:2], within=5.0, message="a job does not run although nothing is wrong")
    with redis_commands(resilience) as command:
        for campaign_id, days in ((younger, 6.9), (older, 7.1)):
            completed_at = (time.time() - days * DAY) * 1000
            command("ZADD", "bull:campaigns:completed", completed_at, f"campaign-{campaign_id}-0")
    accepted(resilience.service, [last])
    all_run(resilience.service, [last], within=5.0, message="a job does not run although nothing is wrong")
    paths = [f"/api/jobs/campaign-{campaign_id}-0" for campaign_id in (younger, older)]
    codes = [resilience.service.get(path).status_code for path in paths]
    assert codes == [200, 404], (
        f"jobs that were completed 6.9 and 7.1 days ago are {codes}, not 200 and 404: they are kept for a week"
    )
    accepted(resilience.service, [younger])  # again, which makes no second job
    assert status(resilience.service, younger) == "completed", "a completed job is sent again, and it runs again"


def test_an_outage_of_postgres_makes_no_dead_letter(resilience: Resilience, gateway: Gateway) -> None:
    campaign_id = create(resilience)["id"]
    failures = metric(resilience.service, "service_job_failures_total")
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
    counted = metric(resilience.service, "service_job_failures_total") - failures
    assert counted == 0, f"an outage of Postgres is {counted:g} failed runs in the metrics"


def test_a_journal_that_cannot_be_written_is_a_503_while_redis_is_down(
    resilience: Resilience, job_settings: dict[str, str], tmp_path: Path
) -> None:
    campaign_id = create(resilience)["id"]
    journal = tmp_path / "journal"
    journal.touch()  # a file in place of the directory
    with another_instance(resilience, **job_settings, JOURNAL_DIR=str(journal)) as other:
        with resilience.redis.refuse():
            wait_until_redis_is(other.client, "down")
            for episode in (1, 2):
                assert_unavailable([timed(lambda: send(other.client, campaign_id)) for _ in range(3)])
                assert jobs_check(other.client) == "full", "nothing can take a job, and /readyz does not report that"
                journal.unlink()
                accepted(other.client, [create(resilience)["id"]])
                state = jobs_check(other.client)
                assert state == "journal", (
                    f"the journal can be written again, and /readyz reports that jobs go to {state}"
                )
                lines = [other.log.count(line) for line in (JOURNAL_FAILS, JOURNAL_WORKS)]
                assert lines == [episode, episode], (
                    f"{episode} episodes of a journal that cannot be used, and {lines} lines for begin and end in the log"
                )
                line = f"{journal} {JOURNAL_FAILS} File exists"
                assert line in other.log, f"a file is in place of the journal, and the log has no line with {line!r}"
                shutil.rmtree(journal)
                journal.touch()
            assert_unavailable([timed(lambda: send(other.client, campaign_id))])
        eventually_or_fail(
            lambda: send(other.client, campaign_id).status_code == 202,
            within=healthy.REDIS_BACK_WITHIN,
            message="Redis is back, and without a journal no send is accepted",
        )
