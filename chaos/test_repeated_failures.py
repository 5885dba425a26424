"""What worked once works again: a second failure of each kind finds the service as the first one did."""

from __future__ import annotations

import itertools
import re
import signal
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

import healthy
from instances import NO_POOL_CHECKS, Instance, another_instance
from pytest_resilience import Resilience, Stack, eventually, recovers
from tls_relay import tls_in_front_of
from verbs import send_every_verb, uncached_campaigns
from workload import (
    CONNECTED,
    FELL_BACK,
    NAME,
    assert_unavailable,
    concurrently,
    create,
    eventually_or_fail,
    postgres_session,
    redis_commands,
    session_exists,
    skip_unless_embedded,
    timed,
)

FORCED_GC = "forcing GC"
STATS = "[Memory Stats]"
OLDER_BOOT = "service:00000000-0000-0000-0000-000000000000"
OPEN = ("begin", "lock table campaigns in row exclusive mode")
LONGEST = 0.5  # seconds that a transaction of an instance takes at most: its DB_COMMAND_TIMEOUT
HANDSHAKES = 4.0  # seconds for eight handshakes of TLS: the relay is slow, and so is a busy machine
MIB = 2**20
RESERVE = 8 * MIB  # that the service holds back for the moment in which an allocation fails
NEVER = r"Traceback|was never retrieved|was never awaited|Task was destroyed"


def lasts(seconds: float) -> None:
    """Let a fault last, so that what is done every so often meets it more than once."""
    begin = time.monotonic()
    eventually(lambda: time.monotonic() - begin > seconds, within=10 * seconds)


def test_a_cleanup_works_after_two_that_failed(resilience: Resilience) -> None:
    """One that could do nothing is no reason to refuse the next, as one that worked is."""
    create(resilience)
    path = "/api/db-cleanup?verbose"
    settings = {
        "CLEANUP_MIN_INTERVAL": "30",
        "DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS,
        "DB_COMMAND_TIMEOUT": str(LONGEST),
    }
    with another_instance(resilience, **settings) as instance:
        ask = [lambda: instance.client.post(path)] * 3
        with resilience.service.pause(), postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie:
            for number in (1, 2):
                with resilience.postgres.refuse():
                    eventually(lambda: instance.client.get("/readyz").status_code == 503, within=2.0)
                    for _ in range(2):
                        replies = concurrently(ask)
                        statuses = {reply.status for reply in replies}
                        assert statuses == {503}, (
                            f"Postgres is away (outage {number}), and the cleanup answers {statuses}"
                        )
                        assert_unavailable(replies)
                recovers(lambda: instance.client.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
                assert session_exists(resilience, zombie), "the cleanup says 503, and has ended a zombie"
            lasts(LONGEST)
            reply = timed(lambda: instance.client.post(path))
            assert reply.reply is not None, f"after failed cleanups the next one hangs: {reply.error!r}"
            assert reply.status == 200, f"failed cleanups, Postgres is back, and the next one answers {reply.status}"
            assert not session_exists(resilience, zombie), (
                f"the cleanup says success, and the zombie is there: {reply.reply.text}"
            )
            status = instance.client.post(path).status_code
            assert status == 429, f"a cleanup right after one that worked is refused, not {status}"


def test_the_periodic_cleanup_continues_after_failed_runs(resilience: Resilience) -> None:
    create(resilience)
    interval = 0.3  # seconds
    settings = {"DB_POOL_CHECK_INTERVAL": NO_POOL_CHECKS, "DB_COMMAND_TIMEOUT": str(LONGEST)}
    settings["CLEANUP_INTERVAL"] = str(interval)
    with (
        another_instance(resilience, **settings) as instance,
        resilience.service.pause(),
    ):
        assert instance.client.get("/api/campaigns").status_code == 200
        with resilience.postgres.refuse():
            lasts(4 * interval)
        for number in (1, 2):
            with postgres_session(resilience, OLDER_BOOT, *OPEN) as zombie:
                eventually_or_fail(
                    lambda zombie=zombie: not session_exists(resilience, zombie),
                    within=LONGEST + interval + healthy.POSTGRES_BACK_WITHIN,
                    message=f"a cleanup failed twice, Postgres is back, and zombie {number} is there: nobody cleans up",
                )
        found = re.search(NEVER, instance.log)
        assert not found, f"an error escaped from the cleanup: {instance.log[found.start() :][:1000] if found else ''}"


def test_memory_checks_resume_after_they_could_not_measure(resilience: Resilience) -> None:
    """Without descriptors memory cannot be measured. When they are back, the statistics and the guard must be, too."""
    every = 0.1  # seconds
    quick = {"MEMORY_CHECK_INTERVAL": str(every), "MEMORY_STATS_INTERVAL": str(every)}
    with another_instance(resilience, **quick) as instance:
        process = resilience.process(instance.process.pid)
        eventually(lambda: STATS in instance.log, within=5.0)
        with process.exhaust_descriptors():
            lasts(10 * every)
        told = instance.log.count(STATS)
        eventually_or_fail(
            lambda: instance.log.count(STATS) >= told + 2,
            within=2.0,
            message="the statistics failed, what they lacked is back, and they are not",
        )
        with process.memory_pressure(headroom_mb=0.5):
            eventually_or_fail(
                lambda: FORCED_GC in instance.log,
                within=healthy.GUARD_WITHIN,
                message="the guard failed, what it lacked is back, and it does not see that memory is short",
            )


def data_of(instance: Instance) -> int:
    """Bytes that count against the data limit of the process."""
    found = re.search(r"VmData:\s+(\d+) kB", Path(f"/proc/{instance.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_a_second_memory_shortage_is_logged_sheds_load_and_restores_the_reserve_like_the_first(
    resilience: Resilience,
) -> None:
    every = 0.1  # seconds
    quick = {"MEMORY_CHECK_INTERVAL": str(every), "MEMORY_STATS_INTERVAL": str(every)}
    create(resilience)
    with another_instance(resilience, **quick) as instance:
        process = resilience.process(instance.process.pid)
        for number in (1, 2):
            ids = uncached_campaigns(resilience, 5)
            with process.memory_pressure(headroom_mb=0.5):
                eventually_or_fail(
                    lambda: instance.client.get("/readyz").json()["checks"]["memory"] == "refusing",
                    within=healthy.GUARD_WITHIN,
                    message=f"memory is short for the {number}. time, and work is not refused",
                )
                for verb, answer in send_every_verb(instance.client, ids):
                    assert answer.status == 503, (
                        f"memory is short for the {number}. time, and {verb} gets {answer.status}"
                    )
                    assert_unavailable([answer])
                told = instance.log.count(STATS)
                eventually(lambda told=told: instance.log.count(STATS) >= told + 5, within=5.0)
                lowest = data_of(instance)
            episodes = instance.log.count(FORCED_GC)
            assert episodes == number, f"{episodes} lines of the guard for {number} episodes: one for each"
            # Nobody asks for anything now, so what the process takes is the reserve.
            eventually_or_fail(
                lambda lowest=lowest: data_of(instance) > lowest + RESERVE // 2,
                within=5.0,
                message=f"memory is no longer short, and after episode {number} the reserve is not held again",
            )
            told = instance.log.count(STATS)
            eventually(lambda told=told: instance.log.count(STATS) >= told + 5, within=5.0)  # the episode is over
            recovers(lambda: instance.client.get("/readyz").status_code == 200, within=5.0)


def test_silent_connections_cost_one_statement_timeout_each_time_they_occur(
    resilience: Resilience, resilience_stack: Stack
) -> None:
    """Distrust of the pool's connections must be as good the second time."""
    skip_unless_embedded(resilience_stack, "the real Toxiproxy's toxics strike new connections too")
    limits = {"DB_COMMAND_TIMEOUT": "0.6", "DB_POOL_ACQUIRE_TIMEOUT": "0.6", "DB_POOL_IDLE_TIMEOUT": "60"}
    with another_instance(resilience, DB_POOL_CHECK_INTERVAL=NO_POOL_CHECKS, **limits) as instance:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
        for number in (1, 2):
            with resilience.postgres.latency(seconds=0.05):  # long enough for many connections to be needed at once
                concurrently([lambda: instance.client.get("/api/campaigns?limit=1")] * 6)
            with resilience.postgres.half_open():
                asked = [timed(lambda: instance.client.put(path, json={"message": "into the void"})) for _ in range(3)]
            told = [f"{each.status} after {each.seconds:.1f} s" for each in asked]
            assert all(each.status == 200 for each in asked[1:]), (
                f"connections went silent for the {number}. time, one was found out, and its neighbours were trusted: {told}"
            )
            recovers(lambda: instance.client.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)


def test_every_outage_of_postgres_is_logged_once_and_ends_when_postgres_is_back(
    resilience: Resilience,
) -> None:
    """Each outage of another kind: readiness goes and comes, the pool with it, and the log has two lines for each."""
    path = f"/api/campaigns/{create(resilience)['id']}"
    outages = {
        "refuses": resilience.postgres.refuse,
        "hangs": resilience.postgres.blackhole,
        "resets": resilience.postgres.reset,
        "hangs again": resilience.postgres.blackhole,
    }
    lines = r"Postgres connection failed|Postgres connected successfully"
    for number, (kind, outage) in enumerate(outages.items(), 1):
        with outage():
            within = healthy.READINESS_MAX_AGE + 2 * healthy.SLACK
            message = f"Postgres {kind} (outage {number}), and /readyz still says ready"
            eventually_or_fail(
                lambda: resilience.service.get("/readyz").status_code == 503, within=within, message=message
            )
        message = f"Postgres is back after it {kind} (outage {number}), and the service is not ready"
        within = healthy.POSTGRES_BACK_WITHIN
        eventually_or_fail(lambda: resilience.service.get("/readyz").status_code == 200, within=within, message=message)
        reply = timed(lambda kind=kind: resilience.service.put(path, json={"message": kind}))
        assert reply.status == 200, f"ready again after outage {number} ({kind}), and a write gets {reply.status}"
        told = re.findall(lines, resilience.service.log)
        failed = sum("failed" in line for line in told)
        assert failed >= number, f"{number} outages of Postgres, and the log tells {failed}"
        in_turn = all(one != other for one, other in itertools.pairwise(told))
        assert in_turn, f"one line for each change of state, in turn, not {told}"


@contextmanager
def upstash(resilience: Resilience) -> Iterator[dict[str, str]]:
    """Redis as Upstash offers it: by TLS, with a token. Gives the settings for it."""
    token = "upstash-s3cret"
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(server)
    parts = urlsplit(resilience.redis.url)
    with (
        tempfile.TemporaryDirectory() as scratch,
        redis_commands(resilience) as ask,
        tls_in_front_of((parts.hostname or "", parts.port or 0), server) as port,
    ):
        ca.cert_pem.write_to_path(str(Path(scratch, "ca.pem")))
        before = urlsplit(resilience.redis.direct_url).password or ""
        ask("CONFIG", "SET", "requirepass", token)
        try:
            yield {
                "UPSTASH_REDIS_REST_URL": "https://127.0.0.1",
                "UPSTASH_REDIS_REST_TOKEN": token,
                "UPSTASH_REDIS_PORT": str(port),
                "UPSTASH_REDIS_CA_FILE": str(Path(scratch, "ca.pem")),
            }
        finally:
            ask("CONFIG", "SET", "requirepass", before)


def test_upstash_is_used_again_after_each_outage_and_never_replaced(resilience: Resilience) -> None:
    with ExitStack() as stack:
        settings = stack.enter_context(upstash(resilience))
        stack.enter_context(resilience.service.pause())  # it has no token
        elsewhere = urlsplit(resilience.redis.direct_url)
        token = settings["UPSTASH_REDIS_REST_TOKEN"]
        settings["REDIS_URL"] = (
            f"redis://default:{token}@{elsewhere.hostname}:{elsewhere.port}"  # would work, and must not be used
        )
        settings["REDIS_BUDGET"] = str(HANDSHAKES)  # a probe connects for as long
        instance = stack.enter_context(another_instance(resilience, **settings))
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]

        def source() -> str | None:
            return instance.client.get(path).headers.get("X-Cache-Source")

        for number in (0, 1, 2):
            if number:
                with resilience.redis.refuse():
                    eventually(lambda: instance.client.get("/readyz").json()["checks"]["redis"] == "down", within=2.0)
                    assert instance.client.put(path, json={"message": f"outage {number}"}).status_code == 200
                    if number == 2:
                        lasts(1.5)  # long enough for another Redis to be found, tried and trusted
                    sources = {source() for _ in range(10)}
                    assert sources == {"memory"}, (
                        f"Upstash is away for the {number}. time, and {sources} serve in its place"
                    )
            eventually_or_fail(
                lambda: source() == "redis",
                within=healthy.REDIS_BACK_WITHIN + 2 * HANDSHAKES,
                message=f"Upstash is there after {number} outages, and is not used",
            )
            if number:
                assert instance.client.get(path).json()["message"] == f"outage {number}"
        told = [instance.log.count(FELL_BACK), instance.log.count(CONNECTED)]
        assert told[0] >= 2, f"two outages of Upstash, and the log tells {told[0]}"


@pytest.mark.parametrize("when", ["after outages", "during outages"])
def test_sigterm_ends_it_cleanly_during_and_after_outages(resilience: Resilience, when: str) -> None:
    # Idle connections stay, so that the pool has some to close.
    with another_instance(resilience, DB_POOL_IDLE_TIMEOUT="60") as instance, ExitStack() as outages:
        path = instance.client.post("/api/campaigns", json={"name": NAME, "message": "m"}).headers["Location"]
        for _ in range(2):
            with resilience.redis.refuse(), resilience.postgres.reset():
                eventually(lambda: instance.client.get("/readyz").status_code == 503, within=3.0)
                instance.client.get(path)
            recovers(lambda: instance.client.get("/readyz").status_code == 200, within=healthy.POSTGRES_BACK_WITHIN)
        concurrently([lambda: instance.client.get("/api/campaigns")] * 5)
        if when == "during outages":
            outages.enter_context(resilience.redis.blackhole())
            outages.enter_context(resilience.postgres.blackhole())
            eventually(lambda: instance.client.get("/readyz").status_code == 503, within=3.0)
            concurrently([lambda: instance.client.get(path)] * 3)
        instance.process.send_signal(signal.SIGTERM)
        within = healthy.SHUTDOWN_GRACE + healthy.SLACK
        eventually_or_fail(
            instance.has_exited, within=within, message=f"told to stop {when}, it still runs after {within:g} s"
        )
        code = instance.process.returncode
        assert code in (0, -signal.SIGTERM), (
            f"told to stop {when}, it ended with {code}; its log:\n{instance.log[-2000:]}"
        )
        found = re.search(NEVER, instance.log)
        assert not found, (
            f"told to stop {when}, an error escaped: {instance.log[found.start() :][:2000] if found else ''}"
        )
