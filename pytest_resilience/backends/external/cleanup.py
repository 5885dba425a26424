"""What the supervisor runs when a session with the external backend ends, however it ends: our databases and our proxies go.

Nearly all of its time is what it loads, and many seconds of that on a busy machine. So it runs by `python -I -S` and takes only the
plugin's own clients out of the package.
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


async def drop_databases(url: str, databases: Iterable[str]) -> None:
    """Drop our databases, whoever is connected to them."""
    from ...clients.postgres import connect

    session = await connect(url, application_name="pytest-resilience", within=STEP_TIMEOUT)
    try:
        for database in databases:
            await session.execute(f'drop database if exists "{database}" with (force)')
    finally:
        await session.close()


def delete_proxies(host: str, port: int, prefix: str) -> None:
    """Delete the proxies whose names begin with our prefix."""
    for name in _http(host, port, "GET", "/proxies").json:
        if name.startswith(prefix):
            _http(host, port, "DELETE", f"/proxies/{quote(name, safe='')}")


def _http(host: str, port: int, method: str, path: str) -> http.HttpResponse:
    with socket.create_connection((host, port), timeout=STEP_TIMEOUT) as connection:
        connection.sendall(http.request(method, path, f"{host}:{port}"))
        return http.parse_response(receive_all(connection))


def flush_redis(url: str) -> None:
    """Empty our logical database of Redis."""
    from ...clients.redis import RedisClient

    with RedisClient(url, name="pytest-resilience", timeout=STEP_TIMEOUT) as client:
        client.call("FLUSHDB")


def main(path: str) -> None:
    """Do what the plan says: the proxies last, since the way to the servers is among them.

    Args:
        path: the file that says it.
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
    for what, step in steps.items():
        try:
            step()
        except Exception as problem:  # noqa: BLE001  # the others may do better; its text may hold a URL, so it is not shown
            sys.stderr.write(f"{what} may be left: {type(problem).__name__}\n")
