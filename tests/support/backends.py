"""The backends that the contract suite runs on. RESILIENCE_CONTRACT_BACKENDS names them; otherwise all that this machine can run.

"external" uses the servers and the proxy of an embedded backend, "external-real" these servers behind a real toxiproxy-server, which needs
no Docker. "docker-ours" has the proxy of this package before the containers. "docker-forwarded" is Docker as on a machine that can't reach the network of the containers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import asyncpg
import redis

from pytest_resilience.backends.backend import Backend, Server
from pytest_resilience.backends.docker.backend import DockerBackend
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.external.backend import ExternalBackend
from pytest_resilience.backends.registry import select_backend
from pytest_resilience.backends.session.ports import free_port
from pytest_resilience.backends.settings import Settings
from tests.support.waiting import until

KINDS = ("embedded", "docker", "docker-forwarded", "docker-ours", "external", "external-real")
VARIABLE = "RESILIENCE_CONTRACT_BACKENDS"
# The errors of asyncpg for a connection that its server has closed. The third comes between the last message and the end of the stream.
ENDED = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def toxiproxy_server() -> str | None:
    from tests.contract.conftest import find_toxiproxy_server

    return find_toxiproxy_server()


def unavailable_reason(kind: str) -> str | None:
    """Return the reason why the contract does not run on a backend here, or None if it runs."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return None if kind in named.split(",") else f"{VARIABLE}={named}"
    if kind.startswith("docker"):
        chosen = select_backend("auto", Settings(), {})
        return None if chosen.name == "docker" else chosen.reason
    if kind == "external-real" and toxiproxy_server() is None:
        return "no real toxiproxy-server here"
    return None


@contextlib.contextmanager
def started(kind: str) -> Iterator[Backend]:
    """Start a backend of that kind with everything that it needs."""
    if kind == "embedded":
        with EmbeddedBackend() as backend:
            yield backend
    elif kind == "docker":
        with DockerBackend() as backend:
            yield backend
    elif kind == "docker-ours":
        with DockerBackend(Settings(proxy="ours")) as backend:
            yield backend
    elif kind == "docker-forwarded":
        with (
            mock.patch("pytest_resilience.backends.docker.backend.is_local_address", return_value=False),
            DockerBackend() as backend,
        ):
            yield backend
    else:
        with (
            EmbeddedBackend() as below,
            toxiproxy(kind, below) as api,
            ExternalBackend(settings(below, api)) as backend,
        ):
            yield backend


def settings(below: Backend, api: str) -> Settings:
    """Return the settings of an external backend that uses the servers of another backend."""
    postgres = below.servers["postgres"]
    url = postgres.url(postgres.direct_address)
    return Settings(
        toxiproxy=api,
        postgres_upstream=url.rpartition("/")[0],
        redis_upstream=str(below.servers["redis"].direct_address),
    )


@contextlib.contextmanager
def toxiproxy(kind: str, below: Backend) -> Iterator[str]:
    """Yield the URL of the Toxiproxy of an embedded backend, or of a real one."""
    if kind == "external":
        yield f"http://{below.api}"
        return
    port = free_port()
    command = [toxiproxy_server(), "-host", "127.0.0.1", "-port", str(port), "-proxy-metrics"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: listening(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def login(url: str) -> tuple[str | None, str | None]:
    parts = urlsplit(url)
    return parts.username, parts.password


def sql(server: Server, *statements: str) -> Any:
    """Run statements on a new connection to a Postgres, and return the value of the last."""

    async def run() -> Any:
        connection = await asyncpg.connect(server.url(server.direct_address), timeout=5)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close(timeout=1)

    return asyncio.run(run())


def answers(server: Server) -> bool:
    """True if a new client of the server gets an answer."""
    if server.kind == "postgres":
        return bool(sql(server, "SELECT 1") == 1)
    with redis.Redis.from_url(server.url(server.direct_address)) as client:
        return bool(client.ping())
