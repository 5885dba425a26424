"""What the keeper runs when a session with the external backend ends, however it ends: our databases and our proxies go.

Nearly all of its time is what it loads, and many seconds of that on a busy machine. So it runs by `python -I -S` on this very file, imports
nothing of the package, and speaks to Redis and to the Toxiproxy by hand.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

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
    for name in json.loads(_http(host, port, "GET", "/proxies")):
        if name.startswith(prefix):
            _http(host, port, "DELETE", f"/proxies/{quote(name, safe='')}")


def _http(host: str, port: int, method: str, path: str) -> bytes:
    with socket.create_connection((host, port), timeout=WITHIN) as connection:
        # HTTP/1.0: the answer is not chunked, and ends with the connection.
        connection.sendall(f"{method} {path} HTTP/1.0\r\nHost: {host}:{port}\r\nContent-Length: 0\r\n\r\n".encode())
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer.partition(b"\r\n\r\n")[2]


def flush(url: str) -> None:
    """Empty our logical database of Redis."""
    parts = urlsplit(url)
    if parts.scheme == "redis" and not parts.query:
        return _flush_by_hand(parts)
    import redis  # TLS is its business; it takes longer to load than all the rest

    with redis.Redis.from_url(url, socket_timeout=WITHIN, socket_connect_timeout=WITHIN) as client:
        client.flushdb()
    return None


def _flush_by_hand(parts: SplitResult) -> None:
    login = [unquote(word) for word in (parts.username, parts.password) if word]
    commands = [["AUTH", *login]] if parts.password else []
    commands += [["SELECT", parts.path.lstrip("/") or "0"], ["FLUSHDB"]]
    with socket.create_connection((parts.hostname, parts.port or 6379), timeout=WITHIN) as connection:
        connection.sendall(b"".join(map(_command, commands)))
        with connection.makefile("rb") as replies:
            for command in commands:
                if (reply := replies.readline())[:1] != b"+":
                    raise OSError(f"{command[0]}: {reply!r}")


def _command(words: Iterable[str]) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)


def main(plan: str, *libraries: str) -> None:
    """Do what the plan says: the proxies last, since the way to the servers is among them.

    Args:
        plan: the file that says it.
        libraries: where asyncpg and redis are.
    """
    sys.path[-1:-1] = libraries  # before the directory of this file: our modules must not be taken for theirs
    facts: dict[str, Any] = json.loads(Path(plan).read_text())
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
