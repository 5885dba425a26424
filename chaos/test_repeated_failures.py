"""The second failure of each kind is handled like the first. Whatever worked once works again."""

from __future__ import annotations

import itertools
import re
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import trustme

import healthy
from instances import FORCED_GC, NO_POOL_CHECKS, STATISTICS, Instance, another_instance
from pytest_resilience import Resilience, Stack, Strike, eventually, recovers
from tls_terminator import tls_terminator
from verbs import send_every_verb, uncached_campaigns
from workload import (
    FELL_BACK,
    NAME,
    assert_unavailable,
    concurrently,
    create,
    eventually_or_fail,
    metric,
    metrics,
    postgres_session,
    redis_commands,
    session_exists,
    skip_unless_embedded,
    timed,
    wait_until_ready,
    wait_until_redis_is,
    wait_until_session_ends,
    wait_until_unready,
)

OLDER_BOOT = "service:00000000-0000-0000-0000-000000000000"
OPEN_TRANSACTION = ("begin", "lock table campaigns in row exclusive mode")
# Each episode of a lack of memory has these lines.
EPISODE_LINES = (
    "[Memory] refusing work that is not essential:",
    "[Memory] RESOLVED: work is served again:",
    "[Memory] RESOLVED: usage is back to normal:",
)
# Seconds without a failure, after which a shortage of the process is over; 5 in production.
SHORT_CALM = "from service import shortages; shortages.CALM = 0.05\n"
NO_MEMORY, ENOUGH_MEMORY = "no memory is left", "resolved: there is memory again"
LONGEST = 0.5  # seconds of the longest transaction of an instance: its DB_COMMAND_TIMEOUT
HANDSHAKES = 4.0  # seconds for eight TLS handshakes through the slow terminator on a busy machine
MIB = 2**20
RESERVE = 8 * MIB  # the memory that the service holds back for a failing allocation
UNHANDLED = r"Traceback|was never retrieved|was never awaited|Task was destroyed"


def assert_no_unhandled_error(log: str, *, during: str) -> None:
    """Assert that a log has no traceback and no warning about a lost task."""
    found = re.search(UNHANDLED, log)
    assert not found, f"{during}: an unhandled error reached the log: {log[found.start() :][:2000] if found else ''}"


def test_a_cleanup_works_after_two_that_failed(resilience: Resilience) -> None:
    """Only a cleanup that worked may rate-limit the next one."""
    create(resilience)
    path = "/api/db-cleanup?verbose"
    settings = {
        "CLEANUP_MIN_INTERVAL": "30",
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
        "DB_COMMAND_TIMEOUT": str(LONGEST),
    }
    with (
        another_instance(resilience, **settings) as instance,
        resilience.service.pause(),
        postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie,
    ):
        for number in (1, 2):
            with resilience.postgres.refuse():
                wait_until_unready(instance.client)
                for _ in range(2):
                    replies = concurrently([lambda: instance.client.post(path)] * 3)
                    statuses = {reply.status for reply in replies}
                    assert statuses == {503}, (
                        f"Postgres is down (outage {number}), and cleanups get {statuses}, not 503"
                    )
                    assert_unavailable(replies)
            wait_until_ready(instance.client)
            assert session_exists(resilience, zombie), "the cleanup replied 503, and has terminated a zombie"
        time.sleep(LONGEST)  # so that the zombie's transaction is old enough
        reply = timed(lambda: instance.client.post(path))
        assert reply.reply is not None, f"after failed cleanups the next one hangs: {reply.error!r}"
        assert reply.status == 200, f"cleanups failed, Postgres is back, and the next one gets {reply.status}, not 200"
        assert not session_exists(resilience, zombie), (
            f"the cleanup reports success, and the zombie is still there: {reply.reply.text}"
        )
        status = instance.client.post(path).status_code
        assert status == 429, f"a cleanup right after one that worked gets {status}, not 429"


def test_the_periodic_cleanup_continues_after_failed_runs(resilience: Resilience) -> None:
    create(resilience)
    interval = 0.3  # seconds
    settings = {
        "CLEANUP_INTERVAL": str(interval),
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
        "DB_COMMAND_TIMEOUT": str(LONGEST),
    }
    with another_instance(resilience, **settings) as instance, resilience.service.pause():
        assert instance.client.get("/api/campaigns").status_code == 200
        with resilience.postgres.refuse():
            time.sleep(4 * interval)  # several runs fail
        for number in (1, 2):
            with postgres_session(resilience, OLDER_BOOT, *OPEN_TRANSACTION) as zombie:
                wait_until_session_ends(
                    resilience,
                    zombie,
                    within=LONGEST + interval + healthy.POSTGRES_BACK_WITHIN,
                    message=f"cleanups failed, Postgres is back, and zombie {number} is still there: no periodic cleanup"
                    " runs",
                )
        assert_no_unhandled_error(instance.log, during="periodic cleanups failed")


def test_memory_checks_resume_after_they_could_not_measure(resilience: Resilience) -> None:
    """Without file descriptors memory cannot be measured. Statistics and guard must resume once descriptors are free."""
    interval = 0.1  # seconds
    settings = {"MEMORY_CHECK_INTERVAL": str(interval), "MEMORY_STATS_INTERVAL": str(interval)}
    with another_instance(resilience, **settings) as instance:
        process = resilience.process(instance.process.pid)
        eventually(lambda: STATISTICS in instance.log, within=5.0)
        with process.exhaust_descriptors():
            time.sleep(10 * interval)  # several checks fail
        before = instance.log.count(STATISTICS)
        eventually_or_fail(
            lambda: instance.log.count(STATISTICS) >= before + 2,
            within=2.0,
            message="descriptors are free again, and the statistics that failed without them do not resume",
        )
        with process.memory_pressure(headroom_mb=0.5):
            eventually_or_fail(
                lambda: FORCED_GC in instance.log,
                within=healthy.GUARD_WITHIN,
                message="descriptors are free again, and the guard that failed without them does not act",
            )


def data_bytes(instance: Instance) -> int:
    """Return how many bytes count against the data limit of the process."""
    found = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{instance.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_a_second_memory_shortage_is_logged_sheds_load_and_restores_the_reserve_like_the_first(
    resilience: Resilience,
) -> None:
    settings = {"MEMORY_CHECK_INTERVAL": "0.1", "MEMORY_STATS_INTERVAL": "0.1"}
    create(resilience)
    with another_instance(resilience, **settings) as instance:
        for number in (1, 2):
            lowest = assert_sheds_load(resilience, instance, number)
            episodes = instance.log.count(FORCED_GC)
            assert episodes == number, f"the guard logged {episodes} lines for {number} episodes, not one for each"
            # No request comes now, so the memory that the process takes is the reserve.
            eventually_or_fail(
                lambda lowest=lowest: data_bytes(instance) > lowest + RESERVE // 2,
                within=5.0,
                message=f"memory is no longer short, and after episode {number} the reserve is not held again",
            )
            instance.wait_for_statistics(5)  # ends the episode
            for line in EPISODE_LINES:
                count = instance.log.count(line)
                assert count == number, f"after {number} episodes the log has {line!r} {count} times"
            recovers(lambda: instance.client.get("/readyz").status_code == 200, within=5.0)
        raised = metric(instance.client, 'service_alerts_raised_total{alert="memory_high"}')
        assert raised == 2, f"memory was short two times, and the metrics count {raised:g} episodes"


def assert_sheds_load(resilience: Resilience, instance: Instance, number: int) -> int:
    """Take memory away, assert that every verb gets a 503, and return the data bytes of the process without its reserve."""
    ids = uncached_campaigns(resilience, 5)
    with resilience.process(instance.process.pid).memory_pressure(headroom_mb=0.5):
        eventually_or_fail(
            lambda: instance.client.get("/readyz").json()["checks"]["memory"] == "refusing",
            within=healthy.GUARD_WITHIN,
            message=f"memory is short (episode {number}), and load is not shed",
        )
        for verb, reply in send_every_verb(instance.client, ids):
            assert reply.status == 503, f"memory is short (episode {number}), and {verb} gets {reply.status}, not 503"
            assert_unavailable([reply])
        instance.wait_for_statistics(5)
        return data_bytes(instance)


def test_each_lack_of_memory_is_logged_at_its_begin_and_at_its_end(resilience: Resilience) -> None:
    body = b'{"name": "huge", "message": "' + b"x" * 900_000 + b'"}'
    settings = {"MEMORY_CHECK_INTERVAL": "3600"}  # so that the guard refuses nothing, and allocations fail
    with another_instance(resilience, first=SHORT_CALM, **settings) as instance:

        def are_logged(count: int) -> bool:
            """Send requests, and return True if so many shortages are logged."""
            concurrently([lambda: instance.client.post("/api/campaigns", content=body)] * 8)
            return instance.log.count(NO_MEMORY) >= count

        for number in (1, 2):
            shortages = instance.log.count(NO_MEMORY)
            with resilience.process(instance.process.pid).memory_pressure(headroom_mb=2):
                eventually_or_fail(
                    lambda shortages=shortages: are_logged(shortages + 1),
                    within=5.0,
                    message=f"requests find no memory (shortage {number}), and no line of the log reports that",
                )
            eventually_or_fail(
                lambda: instance.log.count(ENOUGH_MEMORY) == instance.log.count(NO_MEMORY),
                within=5.0,
                message=f"there is memory again after shortage {number}, and no line of the log reports that",
            )


def test_silent_connections_cost_one_statement_timeout_each_time_they_occur(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """The pool must distrust the neighbours of a silent connection the second time too."""
    skip_unless_embedded(resilience_stack, "the toxics of toxiproxy-server strike new connections too")
    limits = {"DB_COMMAND_TIMEOUT": "0.6", "DB_POOL_ACQUIRE_TIMEOUT": "0.6", "DB_POOL_IDLE_TIMEOUT": "60"}
    with another_instance(resilience, DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS, **limits) as instance:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
        for number in (1, 2):
            with resilience.postgres.latency(seconds=0.05):  # long enough for many connections to be needed at once
                concurrently([lambda: instance.client.get("/api/campaigns?limit=1")] * 6)
            with resilience.postgres.half_open():
                writes = [timed(lambda: instance.client.put(path, json={"message": "into the void"})) for _ in range(3)]
            assert all(each.status == 200 for each in writes[1:]), (
                f"connections went silent (time {number}), one was detected, and its neighbours were trusted: {writes}"
            )
            wait_until_ready(instance.client)


def test_every_outage_of_postgres_is_logged_once_and_ends_when_postgres_is_back(resilience: Resilience) -> None:
    """Each outage is of another kind. Readiness and pool follow it, and the log has two lines for it."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    outages: dict[str, Callable[[], Strike]] = {
        "refuses": resilience.postgres.refuse,
        "hangs": resilience.postgres.blackhole,
        "resets": resilience.postgres.reset,
        "hangs again": resilience.postgres.blackhole,
    }
    for number, (kind, outage) in enumerate(outages.items(), 1):
        with outage():
            eventually_or_fail(
                lambda: resilience.service.get("/readyz").status_code == 503,
                within=healthy.READINESS_MAX_AGE + 2 * healthy.SLACK,
                message=f"Postgres {kind} (outage {number}), and /readyz still reports ready",
            )
        eventually_or_fail(
            lambda: resilience.service.get("/readyz").status_code == 200,
            within=healthy.POSTGRES_BACK_WITHIN,
            message=f"Postgres is back after outage {number} ({kind}), and the service is not ready",
        )
        write = timed(lambda kind=kind: resilience.service.put(path, json={"message": kind}))
        assert write.status == 200, f"ready again after outage {number} ({kind}), and a write gets {write}, not 200"
        lines = re.findall(r"Postgres connection failed|Postgres connected successfully", resilience.service.log)
        failures = sum("failed" in line for line in lines)
        assert failures >= number, f"{number} outages of Postgres, and the log has {failures}"
        alternating = all(one != other for one, other in itertools.pairwise(lines))
        assert alternating, f"one line for each change of state, alternating, not {lines}"
    reasons = re.findall(r"Postgres connection failed: (.*)", resilience.service.log)
    assert all("Error" in reason for reason in reasons), (
        f"the log names {reasons} as the reasons of outages of Postgres"
    )


@contextmanager
def upstash(resilience: Resilience) -> Iterator[dict[str, str]]:
    """Offer Redis as Upstash does, over TLS and with a token, and yield the settings for it."""
    token = "upstash-s3cret"
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    parts = urlsplit(resilience.redis.url)
    with (
        tempfile.TemporaryDirectory() as directory,
        redis_commands(resilience) as command,
        tls_terminator((parts.hostname or "", parts.port or 0), server) as port,
    ):
        ca.cert_pem.write_to_path(str(Path(directory, "ca.pem")))
        before = urlsplit(resilience.redis.direct_url).password or ""
        command("CONFIG", "SET", "requirepass", token)
        try:
            yield {
                "UPSTASH_REDIS_REST_URL": "https://127.0.0.1",
                "UPSTASH_REDIS_REST_TOKEN": token,
                "UPSTASH_REDIS_PORT": str(port),
                "UPSTASH_REDIS_CA_FILE": str(Path(directory, "ca.pem")),
            }
        finally:
            command("CONFIG", "SET", "requirepass", before)


def test_upstash_is_used_again_after_each_outage_and_never_replaced(resilience: Resilience) -> None:
    """REDIS_URL names a Redis that would work, and using it in place of Upstash would make two sources of truth."""
    with ExitStack() as stack:
        settings = stack.enter_context(upstash(resilience))
        stack.enter_context(resilience.service.pause())  # the suite's own service does not have the token
        other = urlsplit(resilience.redis.direct_url)
        settings["REDIS_URL"] = f"redis://default:{settings['UPSTASH_REDIS_REST_TOKEN']}@{other.hostname}:{other.port}"
        settings["REDIS_BUDGET"] = str(HANDSHAKES)  # it also limits the time that a probe has to connect
        instance = stack.enter_context(another_instance(resilience, **settings))
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]

        def source() -> str | None:
            return instance.client.get(path).headers.get("X-Cache-Source")

        def wait_until_upstash_serves(outages: int) -> None:
            eventually_or_fail(
                lambda: source() == "redis",
                within=healthy.REDIS_BACK_WITHIN + 2 * HANDSHAKES,
                message=f"Upstash is up after {outages} outages, and is not used",
            )

        wait_until_upstash_serves(0)
        for number in (1, 2):
            with resilience.redis.refuse():
                wait_until_redis_is(instance.client, "down")
                assert instance.client.put(path, json={"message": f"outage {number}"}).status_code == 200
                if number == 2:
                    time.sleep(1.5)  # long enough for another Redis to be probed and trusted
                sources = {source() for _ in range(10)}
                assert sources == {"memory"}, f"Upstash is down (outage {number}), and {sources} serve in its place"
            wait_until_upstash_serves(number)
            assert instance.client.get(path).json()["message"] == f"outage {number}"
        values = metrics(instance.client)
        sources = {source: values[f'service_cache_source{{source="{source}"}}'] for source in ("upstash", "redis")}
        assert sources == {"upstash": 1, "redis": 0}, f"Upstash is used, and the metrics report the sources {sources}"
        lines = instance.log.count(FELL_BACK)
        assert lines >= 2, f"two outages of Upstash, and the log has {lines}"


def assert_sigterm_ends(instance: Instance, *, when: str, within: float) -> None:
    """Assert that an instance exits after SIGTERM, in time and without an unhandled error."""
    instance.process.signal(signal.SIGTERM)
    message = f"SIGTERM {when}: the service still runs after {within:g} s"
    eventually_or_fail(instance.has_exited, within=within, message=message)
    code = instance.process.exit_code()
    assert code in (0, -signal.SIGTERM), (
        f"SIGTERM {when}: the service exited with {code}; its log:\n{instance.log[-2000:]}"
    )
    assert_no_unhandled_error(instance.log, during=f"SIGTERM {when}")


def test_sigterm_ends_the_service_cleanly_during_and_after_outages(resilience: Resilience) -> None:
    grace = 2.0  # seconds
    # Idle connections stay open, so that the shutdown has some to close.
    settings = {"DB_POOL_IDLE_TIMEOUT": "60", "SHUTDOWN_GRACE": str(grace)}
    with another_instance(resilience, **settings) as first, another_instance(resilience, **settings) as second:
        path = first.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
        for _ in range(2):
            with resilience.redis.refuse(), resilience.postgres.reset():
                for each in (first, second):
                    wait_until_unready(each.client, within=3.0)
                    each.client.get(path)
            for each in (first, second):
                wait_until_ready(each.client)
        for each in (first, second):
            concurrently([lambda each=each: each.client.get("/api/campaigns")] * 5)
        with resilience.redis.blackhole(), resilience.postgres.blackhole():
            for each in (first, second):
                wait_until_unready(each.client, within=3.0)
            concurrently([lambda: first.client.get(path)] * 3)
            assert_sigterm_ends(first, when="during outages", within=grace + healthy.SLACK)
        wait_until_ready(second.client)
        assert_sigterm_ends(second, when="after outages", within=grace + healthy.SLACK)
