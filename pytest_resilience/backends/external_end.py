"""What the keeper runs when a session with the external backend ends, however it ends: our databases and our proxies go."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

WITHIN = 5.0  # seconds for one step


async def drop(url: str, databases: Iterable[str]) -> None:
    """Drop our databases, whoever is connected to them."""
    import asyncpg

    connection = await asyncpg.connect(url, timeout=WITHIN, command_timeout=WITHIN)
    try:
        for database in databases:
            await connection.execute(f'drop database if exists "{database}" with (force)')
    finally:
        await connection.close(timeout=WITHIN)


def delete_proxies(host: str, port: int, prefix: str) -> None:
    """Delete the proxies whose names begin with our prefix."""
    connection = HTTPConnection(host, port, timeout=WITHIN)
    try:
        connection.request("GET", "/proxies")
        names = [name for name in json.loads(connection.getresponse().read()) if name.startswith(prefix)]
        for name in names:
            connection.request("DELETE", f"/proxies/{quote(name, safe='')}")
            connection.getresponse().read()
    finally:
        connection.close()


def flush(url: str) -> None:
    """Empty our logical database of Redis."""
    import redis

    with redis.Redis.from_url(url, socket_timeout=WITHIN, socket_connect_timeout=WITHIN) as client:
        client.flushdb()


def main(plan: str) -> None:
    """Do what the plan says: the proxies last, since the way to the servers is among them."""
    facts = json.loads(Path(plan).read_text())
    steps: dict[str, Callable[[], None]] = {}
    if "postgres" in facts:
        steps[f"the databases {facts['databases']}"] = lambda: asyncio.run(drop(facts["postgres"], facts["databases"]))
    if "redis" in facts:
        steps["keys in Redis"] = lambda: flush(facts["redis"])
    steps[f"the proxies {facts['prefix']}*"] = lambda: delete_proxies(facts["api"][0], facts["api"][1], facts["prefix"])
    for what, step in steps.items():
        try:
            step()
        except Exception as problem:  # noqa: BLE001  # the others may do better; its text may hold a URL, so it is not shown
            sys.stderr.write(f"{what} may be left: {type(problem).__name__}\n")
