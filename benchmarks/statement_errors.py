"""Show what redis-py raises for each act on a command, and what the server has done, as the table of docs/statements.md.

Run `scripts/bench statement_errors`. The client sends SET, and retries nothing unless the row says so.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from pytest_resilience.backends.embedded.backend import EmbeddedBackend

ACTS: dict[str, dict[str, Any]] = {
    **{
        f'error("{code}")': {"act": "error", "code": code}
        for code in ("LOADING", "OOM", "READONLY", "CLUSTERDOWN", "NOSCRIPT")
    },
    'error("ERR no")': {"act": "error", "code": "ERR no"},
    'fatal("ERR gone")': {"act": "fatal", "code": "ERR gone"},
    "reset()": {"act": "reset"},
    "lose_answer()": {"act": "lose_answer"},
    'lose_answer("silence")': {"act": "lose_answer", "close": "silence"},
    "cut_answer(bytes=2)": {"act": "cut_answer", "bytes": 2},
    "hang()": {"act": "hang"},
}
TIMEOUT = 0.3  # seconds; of the client's socket


def sync_client(options: dict[str, Any]) -> str:
    """Send SET by a client that blocks. Return the name of its error, or "no error"."""
    with redis.Redis(retry=Retry(NoBackoff(), 0), **options) as client:
        try:
            client.set("a", 1)
        except redis.RedisError as error:
            return type(error).__name__
        return "no error"


def async_client(options: dict[str, Any]) -> str:
    """Send SET by a client of asyncio. Return the name of its error, or "no error"."""

    async def run() -> str:
        async with redis.asyncio.Redis(retry=AsyncRetry(NoBackoff(), 0), **options) as client:
            try:
                await client.set("a", 1)
            except redis.RedisError as error:
                return type(error).__name__
            return "no error"

    return asyncio.run(run())


def retrying_client(options: dict[str, Any]) -> str:
    """Send SET by a client with the retries of its default. Return the name of its error, or "no error"."""
    with redis.Redis(**options) as client:
        try:
            client.set("a", 1)
        except redis.RedisError as error:
            return type(error).__name__
        return "no error"


CLIENTS: dict[str, tuple[Callable[[dict[str, Any]], str], int]] = {
    "RESP2": (sync_client, 2),
    "RESP3": (sync_client, 3),
    "asyncio, RESP3": (async_client, 3),
    "default retries, first(1)": (retrying_client, 3),
}


def call(api: tuple[str, int], method: str, path: str, body: object = None) -> Any:
    """Send a request to the API of the proxy."""
    connection = http.client.HTTPConnection(*api, timeout=10)
    connection.request(method, path, None if body is None else json.dumps(body))
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert response.status < 300, text
    return json.loads(text) if text else None


def cell(api: tuple[str, int], server: redis.Redis, options: dict[str, Any], name: str, act: dict[str, Any]) -> str:
    """Return the error of one client and the state of the server, under one rule."""
    client, protocol = CLIENTS[name]
    server.flushall()
    attributes = {"verb": "set", **act} | ({"first": 1} if client is retrying_client else {})
    call(api, "POST", "/proxies/errors/toxics", {"name": "rule", "type": "statement", "attributes": attributes})
    raised = client({**options, "protocol": protocol})
    state = "set" if server.get("a") else "not set"
    call(api, "DELETE", "/proxies/errors/toxics/rule")
    return f"{raised}; {state}"


def main() -> None:
    """Print the table."""
    with EmbeddedBackend() as backend:
        each = backend.servers["redis"]
        url = each.url(each.direct_address)
        api = backend.api.host, backend.api.port
        body = {"name": "errors", "listen": "127.0.0.1:0", "upstream": str(each.upstream_address), "protocol": "redis"}
        host, _, port = call(api, "POST", "/proxies", body)["listen"].rpartition(":")
        options = {"host": host, "port": int(port), "password": urlsplit(url).password, "socket_timeout": TIMEOUT}
        print(f"redis-py {redis.__version__}, Valkey {each.version}\n")
        print(f"| act on SET | {' | '.join(CLIENTS)} |\n| --- |{' --- |' * len(CLIENTS)}")
        with redis.Redis.from_url(url) as server:
            for text, act in ACTS.items():
                cells = [cell(api, server, options, name, act) for name in CLIENTS]
                print(f"| `{text}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
