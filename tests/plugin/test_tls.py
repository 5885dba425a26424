"""With --resilience-tls, the embedded servers are reached by TLS, with an authority of the session."""

from __future__ import annotations

import pytest

CLIENTS = """
import asyncio, os, ssl
import asyncpg, pytest, redis

async def tls_version(url, **arguments):
    connection = await asyncpg.connect(url, **arguments)
    try:
        assert await connection.fetchval("select 1") == 1
        return connection._transport.get_extra_info("ssl_object").version()
    finally:
        await connection.close()

def test_postgres_by_its_url(resilience):
    assert "sslmode=verify-full" in resilience.postgres.url
    assert asyncio.run(tls_version(resilience.postgres.url)) == "TLSv1.3"

def test_postgres_by_the_authority(resilience, resilience_stack):
    context = ssl.create_default_context(cafile=resilience_stack.ca_file)
    plain = resilience.postgres.url.partition("?")[0]
    assert asyncio.run(tls_version(plain, ssl=context)) == "TLSv1.3"
    assert asyncio.run(tls_version(plain, ssl=context, direct_tls=True)) == "TLSv1.3"

def test_postgres_without_the_authority(resilience):
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(tls_version(resilience.postgres.url, ssl=ssl.create_default_context()))
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TLS only"):
        asyncio.run(tls_version(resilience.postgres.url, ssl=False))

def test_redis_by_its_url(resilience):
    assert resilience.redis.url.startswith("rediss://")
    with redis.Redis.from_url(resilience.redis.url) as client:
        assert client.set("key", bytes(300000))
        assert client.get("key") == bytes(300000)

def test_redis_without_the_authority(resilience):
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        redis.Redis.from_url(resilience.redis.url.partition("?")[0]).ping()

def test_direct_urls_are_in_plain_text(resilience):
    assert resilience.redis.direct_url.startswith("redis://")
    with redis.Redis.from_url(resilience.redis.direct_url) as client:
        assert client.ping()
    assert "sslmode=verify-full" not in resilience.postgres.direct_url

def test_faults_count_plain_text(resilience):
    with redis.Redis.from_url(resilience.redis.url, retry=None, socket_timeout=5) as client:
        client.ping()
        with resilience.redis.refuse() as refused, pytest.raises(redis.ConnectionError):
            client.ping()
        assert refused.receipt.touched
        assert client.ping()

def test_further_servers_have_tls_too(resilience, resilience_stack):
    second = resilience_stack.add_redis("second")
    assert redis.Redis.from_url(second.url).ping()
"""
RESTARTED = """
import os, signal, ssl
import pytest, redis

def test_kill_the_proxy(resilience, resilience_stack):
    backend = resilience_stack.backend_for_processes
    os.kill(backend._proxy.processes()[0], signal.SIGKILL)

def test_the_new_proxy_has_tls(resilience):
    assert redis.Redis.from_url(resilience.redis.url).ping()
"""


def test_clients_connect_by_tls(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(CLIENTS)
    outcome = pytester.runpytest_subprocess("--resilience-tls", "-p", "no:asyncio")
    outcome.assert_outcomes(passed=8)


def test_ini_file_can_have_the_option(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nresilience_tls = true")
    pytester.makepyfile(
        "def test_it(resilience_stack): assert open(resilience_stack.ca_file).read(11) == '-----BEGIN '"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_without_the_option_there_is_no_authority(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(resilience_stack): assert resilience_stack.ca_file is None")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_proxy_that_was_killed_has_tls_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(RESTARTED)
    outcome = pytester.runpytest_subprocess("--resilience-tls", "-p", "no:asyncio")
    outcome.assert_outcomes(failed=1, passed=1)  # the death of the proxy fails the first test


def test_nothing_is_left_after_the_session(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(resilience_stack): print('authority:', resilience_stack.ca_file)")
    outcome = pytester.runpytest_subprocess("--resilience-tls", "-s")
    (line,) = (line for line in outcome.outlines if "authority: " in line)
    with pytest.raises(FileNotFoundError):
        open(line.partition("authority: ")[2].strip())  # noqa: PTH123, SIM115  # it must fail
