"""TLS of Postgres, which begins with an SSLRequest, to the client and to the upstream. An addition to Toxiproxy."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from pytest_resilience.backends.backend import Address
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.wire.postgres_tls import GSSENC_REQUEST, SSL_REQUEST

from .conftest import PATIENCE, Server, take
from .test_proxy_data import gone
from .test_proxy_tls import Ends, Papers, ends, failed, papers, talk

__all__ = ["ends", "papers"]  # fixtures

pytestmark = pytest.mark.addition

CANCEL = b"\0\0\0\x10\x04\xd2\x16\x2e" + b"pid.key."
STARTUP = b"\0\0\0\x14\0\3\0\0user\0postgr\0\0"


# --- both sides by sockets ---------------------------------------------------------------------------------------------


def test_an_ssl_request_is_accepted_and_tls_follows(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client = proxy.dial()
    client.sendall(SSL_REQUEST)
    assert take(client, 1) == b"S"
    with papers.trusting().wrap_socket(client, server_hostname="localhost") as wrapped:
        talk(wrapped, proxy.accept())


def test_encryption_by_gssapi_is_declined_before_an_ssl_request(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client = proxy.dial()
    client.sendall(GSSENC_REQUEST)
    assert take(client, 1) == b"N"
    for byte in SSL_REQUEST:
        client.sendall(bytes((byte,)))
    assert take(client, 1) == b"S"
    with papers.trusting().wrap_socket(client, server_hostname="localhost") as wrapped:
        talk(wrapped, proxy.accept())


def test_data_in_plain_text_behind_the_ssl_request_ends_the_connection(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client = proxy.dial()
    client.sendall(SSL_REQUEST + STARTUP)
    assert gone(client)
    assert failed(proxy, "client") == 1


def test_a_session_in_plain_text_gets_an_error_of_postgres(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client = proxy.dial()
    client.sendall(STARTUP)
    answer = b""
    while part := client.recv(4096):
        answer += part
    assert answer[:1] == b"E"
    assert b"C28000\0" in answer
    assert failed(proxy, "client") == 1


def test_a_cancel_request_in_plain_text_reaches_the_upstream(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(client=papers.proxy)
    client = proxy.dial()
    client.sendall(CANCEL[:11])
    client.sendall(CANCEL[11:])
    served = proxy.accept()
    assert take(served, len(CANCEL)) == CANCEL
    client.sendall(b"more")
    assert take(served, 4) == b"more"
    served.sendall(b"answer")
    assert take(client, 6) == b"answer"
    served.close()
    assert gone(client)
    assert failed(proxy, "client") == 0


def test_an_upstream_with_the_protocol_gets_an_ssl_request(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(upstream={"ca": papers.ca})
    assert proxy.call("POST", body={"protocol": "postgres"}).status == 200
    client = proxy.dial()
    client.sendall(b"question")
    served = proxy.accept()
    assert take(served, 8) == SSL_REQUEST
    served.sendall(b"S")
    with papers.serving().wrap_socket(served, server_side=True) as wrapped:
        assert take(wrapped, 8) == b"question"


def test_an_upstream_that_declines_tls_is_no_upstream(ends: Ends, papers: Papers) -> None:
    proxy = ends.proxy(upstream={"ca": papers.ca})
    assert proxy.call("POST", body={"protocol": "postgres"}).status == 200
    client = proxy.dial()
    served = proxy.accept()
    assert take(served, 8) == SSL_REQUEST
    served.sendall(b"N")
    assert gone(client)
    assert failed(proxy, "upstream") == 1


# --- real drivers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backend() -> Iterator[EmbeddedBackend]:
    with EmbeddedBackend() as backend:
        yield backend


@pytest.fixture
def url(server: Server, papers: Papers, backend: EmbeddedBackend) -> str:
    """The URL of Postgres through two proxies, with TLS to the first one and between the two."""
    postgres = backend.servers["postgres"]

    def listen(name: str, upstream: object, tls: dict[str, Any]) -> str:
        body = {"name": name, "listen": "127.0.0.1:0", "upstream": str(upstream), "protocol": "postgres", "tls": tls}
        return str(server.call("POST", "/proxies", body).json["listen"])

    inner = listen("inner", postgres.direct_address, {"client": papers.proxy})
    outer = listen("outer", inner, {"client": papers.proxy, "upstream": {"ca": papers.ca}})
    return postgres.url(Address.parse(outer)).partition("?")[0]


def test_asyncpg_verifies_the_certificate_cancels_and_is_refused_without_tls(url: str, papers: Papers) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(f"{url}?sslmode=verify-full&sslrootcert={papers.ca}", timeout=PATIENCE)
        assert await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()") is False
        assert len(await connection.fetchval("select repeat('x', 1000000)")) == 1000000
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetchval("select pg_sleep(60)", timeout=0.2)
        assert await connection.fetchval("select 1") == 1
        await connection.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncpg.connect(f"{url}?sslmode=verify-full&sslrootcert={papers.stranger}", timeout=PATIENCE)
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="TLS only"):
            await asyncpg.connect(f"{url}?sslmode=disable", timeout=PATIENCE)

    asyncio.run(run())


async def select(url: str, number: int) -> object:
    connection = await asyncpg.connect(url, timeout=PATIENCE)
    try:
        return await connection.fetchval(f"select {number}")
    finally:
        await connection.close()


def add_rule(server: Server, proxy: str) -> None:
    attributes = {"verb": "select", "matching": "41", "act": "error", "code": "40001"}
    toxic = {"name": "rule", "type": "statement", "attributes": attributes}
    assert server.call("POST", f"/proxies/{proxy}/toxics", toxic).status == 200


@pytest.mark.parametrize("proxy", ["outer", "inner"])
def test_statements_are_read_where_tls_ends(server: Server, url: str, papers: Papers, proxy: str) -> None:
    add_rule(server, proxy)
    verified = f"{url}?sslmode=verify-full&sslrootcert={papers.ca}"
    with pytest.raises(asyncpg.SerializationError):
        asyncio.run(select(verified, 41))
    assert asyncio.run(select(verified, 42)) == 42
    counters = server.call("GET", f"/proxies/{proxy}/counters").json
    assert (counters["toxics"]["rule"]["acted"], counters["unreadable"]) == (1, {})


def test_cipher_text_is_counted_as_unreadable(server: Server, url: str, papers: Papers) -> None:
    inner = server.call("GET", "/proxies/inner").json["listen"]
    body = {"name": "outside", "listen": "127.0.0.1:0", "upstream": inner, "protocol": "postgres"}
    listen = server.call("POST", "/proxies", body).json["listen"]
    add_rule(server, "outside")
    account, _, rest = url.rpartition("@")
    by_outside = f"{account}@{listen}/{rest.partition('/')[2]}?sslmode=verify-full&sslrootcert={papers.ca}"
    assert asyncio.run(select(by_outside, 41)) == 41
    assert server.call("GET", "/proxies/outside/counters").json["unreadable"] == {"encrypted": 1}


@pytest.mark.parametrize(
    ("settings", "works"),
    [
        ("sslmode=verify-full&sslrootcert={ca}", True),
        ("sslmode=require", True),
        ("sslmode=prefer", True),
        ("sslmode=allow", True),
        ("sslmode=disable", False),
        ("sslmode=verify-full&sslrootcert={stranger}", False),
    ],
)
def test_libpq(url: str, papers: Papers, settings: str, *, works: bool) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("needs psql on PATH, as that of the wheel has no TLS")
    whole = f"{url}?{settings.format(ca=papers.ca, stranger=papers.stranger)}"
    command = [psql, "--no-psqlrc", "--tuples-only", "--no-align", "--command", "select 40 + 2", whole]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip() == "42") is works, done.stderr
