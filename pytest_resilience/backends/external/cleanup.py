"""The cleanup after a session with the external backend. It removes the databases and proxies of the session.

The supervisor runs it, also after a killed session. Imports take nearly all of its time, many seconds on a busy machine, so it runs by
`python -I -S` and imports only the clients of the package.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ...clients.receive import receive_all
from ...wire import http

STEP_TIMEOUT = 5.0  # seconds for one step
ATTEMPTS = 2  # each step can be repeated


async def drop_databases(url: str, databases: Iterable[str]) -> None:
    """Drop the databases of the session, and end all connections to them."""
    from ...clients.postgres import connect

    session = await connect(url, application_name="pytest-resilience", within=STEP_TIMEOUT)
    try:
        for database in databases:
            await session.execute(f'drop database if exists "{database}" with (force)')
    finally:
        await session.close()


def delete_proxies(host: str, port: int, prefix: str) -> None:
    """Delete the proxies of the session, which have a common prefix."""
    for name in _http(host, port, "GET", "/proxies").json:
        if name.startswith(prefix):
            _http(host, port, "DELETE", f"/proxies/{quote(name, safe='')}")


def _http(host: str, port: int, method: str, path: str) -> http.HttpResponse:
    with socket.create_connection((host, port), timeout=STEP_TIMEOUT) as connection:
        connection.sendall(http.request(method, path, f"{host}:{port}"))
        return http.parse_response(receive_all(connection))


def flush_redis(url: str) -> None:
    """Empty the logical Redis database of the session."""
    from ...clients.redis import RedisClient

    with RedisClient(url, name="pytest-resilience", timeout=STEP_TIMEOUT) as client:
        client.call("FLUSHDB")


def main(path: str) -> None:
    """Carry out a plan. The proxies are deleted last, because the servers are reached through one of them.

    Args:
        path: the file with the plan.
    """
    plan: dict[str, Any] = json.loads(Path(path).read_text())
    steps: dict[str, Callable[[], None]] = {}
    if "postgres" in plan:
        steps[f"the databases {plan['databases']}"] = lambda: asyncio.run(
            drop_databases(plan["postgres"], plan["databases"])
        )
    if "redis" in plan:
        steps["keys in Redis"] = lambda: flush_redis(plan["redis"])
    steps[f"the proxies {plan['prefix']}*"] = lambda: delete_proxies(plan["api"][0], plan["api"][1], plan["prefix"])
    for objects, step in steps.items():
        if not any(_succeeds(step, objects) for _ in range(ATTEMPTS)):
            sys.stderr.write(f"{objects} may be left\n")


def _succeeds(step: Callable[[], None], objects: str) -> bool:
    """Try one step, and log the kind of its error. The text of the error may have a URL, so it is not printed."""
    try:
        step()
    except Exception as problem:  # noqa: BLE001  # the other steps may succeed
        sys.stderr.write(f"{objects}: {type(problem).__name__}\n")
        return False
    return True
