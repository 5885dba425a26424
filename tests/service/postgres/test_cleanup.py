"""Cleanups of zombie sessions, and the callers that may trigger them."""

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import asyncpg
import httpx
import psutil
import pytest
from starlette.datastructures import Headers

from pytest_resilience import eventually
from service.postgres.cleanup import denial_status, is_loopback, untrusted_reason
from service.settings import ServiceSettings

from ..support import sql

SETTINGS = ServiceSettings(database_url="postgresql://db/x", cleanup_token="right")


@pytest.mark.parametrize(
    ("peer", "authorization", "expected"),
    [
        ("127.0.0.1", None, None),
        ("127.8.9.1", None, None),
        ("::1", "Bearer wrong", None),
        ("::ffff:127.0.0.1", None, None),
        ("10.0.0.7", None, 401),
        (None, None, 401),
        ("10.0.0.7", "", 401),
        ("10.0.0.7", "Basic cmlnaHQ=", 401),
        ("10.0.0.7", "Bearer wrong", 403),
        ("10.0.0.7", "Bearer ", 403),
        ("10.0.0.7", "Bearer rightë", 403),
        ("10.0.0.7", "Bearer right", None),
        ("10.0.0.7", "bearer right", None),
    ],
)
def test_a_caller_needs_loopback_or_the_token(peer, authorization, expected):
    assert denial_status(SETTINGS, peer, authorization) == expected


LOCAL = {"host": "localhost:8080"}


@pytest.mark.parametrize(
    ("headers", "untrusted"),
    [
        ({}, False),
        (LOCAL, False),
        ({"host": "127.0.0.1:8080"}, False),
        ({"host": "[::1]:8080"}, False),
        ({"host": "LocalHost."}, False),
        ({"host": "svc.internal:8080"}, False),  # its HOST
        ({**LOCAL, "origin": "http://localhost:8080", "sec-fetch-site": "same-origin"}, False),
        ({**LOCAL, "sec-fetch-site": "none"}, False),
        ({"host": "evil.example"}, True),
        ({"host": "localhost.evil.example"}, True),
        ({"host": "0.0.0.0:8080"}, True),
        ({"host": "10.0.0.7"}, True),
        ({"host": ""}, True),
        ({**LOCAL, "origin": "http://evil.example"}, True),
        ({**LOCAL, "origin": "http://localhost:3000"}, True),
        ({**LOCAL, "origin": "null"}, True),
        ({**LOCAL, "origin": "file://"}, True),
        ({**LOCAL, "sec-fetch-site": "cross-site"}, True),
        ({**LOCAL, "sec-fetch-site": "same-site"}, True),
        ({**LOCAL, "x-forwarded-for": "127.0.0.1"}, True),
        ({**LOCAL, "forwarded": "for=127.0.0.1"}, True),
        ({**LOCAL, "via": "1.1 proxy"}, True),
    ],
)
def test_a_foreign_page_or_a_proxy_on_this_machine_needs_the_token(headers, untrusted):
    settings = ServiceSettings(database_url="postgresql://db/x", host="svc.internal", cleanup_token="right")
    reason = untrusted_reason(settings, Headers(headers))
    assert (reason is not None) == untrusted
    assert denial_status(settings, "127.0.0.1", None, reason) == (403 if untrusted else None)
    assert denial_status(settings, "127.0.0.1", "Bearer wrong", reason) == (403 if untrusted else None)
    assert denial_status(settings, "127.0.0.1", "Bearer right", reason) is None
    assert denial_status(settings, "10.0.0.7", None, reason) == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "127.0.0.1"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_page_in_a_local_browser_cannot_trigger_a_cleanup(service, log, method, headers):
    reply = service.request(method, "/api/db-cleanup", headers=headers)
    assert reply.status_code == 403
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert "[GC] Freed" not in log()


def test_without_a_token_in_the_settings_every_token_is_refused():
    assert denial_status(ServiceSettings(database_url="postgresql://db/x"), "10.0.0.7", "Bearer None") == 403
    assert denial_status(ServiceSettings(database_url="postgresql://db/x"), "10.0.0.7", "Bearer ") == 403


def test_text_that_is_no_address_is_not_loopback():
    assert not is_loopback("localhost")
    assert is_loopback("::1%lo")


@pytest.fixture(scope="session")
def resilience_service(service_spec):
    return service_spec(
        host="0.0.0.0", cleanup_token="the-right-token", restart_between_tests=True, db_command_timeout=LONGEST
    )


LONGEST = 1.0  # DB_COMMAND_TIMEOUT in seconds, the longest transaction of the service


async def until_old(session, *pids):
    """Wait until the transactions of these sessions are older than any of the service can be."""
    query = "SELECT bool_and(clock_timestamp() - xact_start > $2) FROM pg_stat_activity WHERE pid = ANY($1)"

    async def old():
        return await session.fetchval(query, pids, timedelta(seconds=LONGEST + 0.1))

    await eventually(old, within=5)


def test_a_zombie_session_is_terminated_and_live_sessions_are_not(resilience, service):
    async def scene():
        connect = asyncpg.connect
        url = resilience.postgres.direct_url
        names = {
            "zombie": "service:0ldb00t",
            "stranger": "billing",
            "replica": "service:f00dcafe",
            "young": "service:f00dcafe",
            "living": "service:11v1ng",
            "its monitor": "service-monitor:11v1ng",
        }
        sessions = {
            name: await connect(url, server_settings={"application_name": application})
            for name, application in names.items()
        }
        for name in ("zombie", "stranger", "living"):
            await sessions[name].execute("BEGIN")
            await sessions[name].execute("SELECT 1")
        pids = {name: session.get_server_pid() for name, session in sessions.items()}
        await until_old(sessions["replica"], pids["zombie"])
        await sessions["young"].execute("BEGIN")
        reply = await asyncio.to_thread(service.post, "/api/db-cleanup?verbose")
        living = await sessions["stranger"].fetch("SELECT pid FROM pg_stat_activity")
        remaining = {name for name, pid in pids.items() if pid in {row["pid"] for row in living}}
        for session in sessions.values():
            session.terminate()
        return reply, remaining

    reply, remaining = asyncio.run(scene())
    assert remaining == {"stranger", "replica", "young", "living", "its monitor"}
    assert reply.status_code == 200
    body = reply.json()
    assert (body["status"], body["message"]) == ("success", "Database pool cleanup triggered")
    assert (body["server_terminated"], body["leaked_closed"], body["idle_closed"]) == (1, 0, 0)
    assert isinstance(body["gc_freed_mb"], float)
    assert re.search(r"\[GC\] Freed ", service.log)
    eventually(
        lambda: not sql(resilience, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'service:0ldb00t'"),
        within=3,
    )


def test_dead_idle_connections_are_closed(resilience, service):
    with ThreadPoolExecutor(4) as pool, resilience.postgres.latency(0.05):
        assert {r.status_code for r in pool.map(lambda _: service.get("/api/campaigns"), range(4))} == {200}
    before = len(sql(resilience, "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'service:%'"))
    assert before >= 2
    with resilience.postgres.blackhole():
        reply = service.post("/api/db-cleanup?verbose")
        assert reply.elapsed.total_seconds() < 2
        assert reply.status_code == 200, reply.text
        assert reply.json()["idle_closed"] == before
    assert service.get("/api/campaigns").status_code == 200


def test_a_cleanup_does_not_disturb_live_requests(resilience, service, campaign):
    url = f"/api/campaigns/{campaign['id']}"
    with ThreadPoolExecutor(4) as pool, resilience.postgres.latency(0.05):  # so that some requests are always under way
        working = [pool.submit(service.put, url, json={"name": f"{i}"}) for i in range(16)]
        working[3].result()
        reply = service.post("/api/db-cleanup?verbose")
        assert {w.result().status_code for w in working} == {200}
    assert reply.status_code == 200
    assert reply.json()["leaked_closed"] == reply.json()["idle_closed"] == reply.json()["server_terminated"] == 0


def test_a_cleanup_that_could_do_nothing_is_503(resilience, service):
    resilience.postgres.refuse()
    reply = service.post("/api/db-cleanup")
    assert reply.status_code == 503
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert int(reply.headers["Retry-After"]) >= 1


def test_concurrent_cleanups_share_a_result_and_a_later_one_is_rate_limited(resilience, service):
    async def scene():
        zombie = await asyncpg.connect(
            resilience.postgres.direct_url, server_settings={"application_name": "service:0ldb00t"}
        )
        await zombie.execute("BEGIN")
        other = await asyncpg.connect(resilience.postgres.direct_url)
        await until_old(other, zombie.get_server_pid())
        await other.close()
        async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
            first = await asyncio.gather(client.get("/api/db-cleanup?verbose"), client.post("/api/db-cleanup?verbose"))
            late = await client.get("/api/db-cleanup")
        zombie.terminate()
        return first, late

    first, late = asyncio.run(scene())
    assert [reply.status_code for reply in first] == [200, 200]
    assert [reply.json()["server_terminated"] for reply in first] == [1, 1]
    assert late.status_code == 429
    assert 25 <= int(late.headers["Retry-After"]) <= 30


def test_a_refused_caller_triggers_no_cleanup(resilience, service):
    addresses = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family is socket.AF_INET]
    outside = [address for address in addresses if not is_loopback(address)]
    if not outside:
        pytest.skip("this machine has no address but loopback")
    url = service.url.replace("127.0.0.1", outside[0]) + "/api/db-cleanup?verbose"
    for headers, status in [
        ({}, 401),
        ({"X-Forwarded-For": "127.0.0.1"}, 401),
        ({"Authorization": "Bearer wrong"}, 403),
    ]:
        reply = httpx.post(url, headers=headers, trust_env=False)
        assert (reply.status_code, reply.headers["Content-Type"]) == (status, "application/problem+json")
    assert "[GC] Freed" not in service.log
    reply = httpx.post(url, headers={"Authorization": "Bearer the-right-token"}, trust_env=False)
    assert reply.status_code == 200
    assert "the-right-token" not in service.log
