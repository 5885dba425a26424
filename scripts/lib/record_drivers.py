"""Record what drivers and the embedded servers send, through a plain relay, to tests/data/conversations.

Each driver is installed in a directory that is removed at the end. A file has a header and one line for each piece of a stream, as it
was received from the socket: `[connection, "up" or "down", "base64"]`. The first line is a JSON object about the recording.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pytest_resilience.backends.backend import Address  # noqa: E402  # the checkout need not be installed
from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402
from pytest_resilience.backends.postgres_url import postgres_url  # noqa: E402
from pytest_resilience.backends.server_settings import DATABASE  # noqa: E402
from pytest_resilience.clients.postgres import connect  # noqa: E402

DRIVERS = ROOT / "tests" / "support" / "drivers"
CONVERSATIONS = ROOT / "tests" / "data" / "conversations"
WITHIN = 600.0  # seconds for one driver
ACCOUNT = "story"  # a role of the throwaway server, and its password

Direction = Literal["up", "down"]
Protocol = Literal["postgres", "redis"]
Prepare = Callable[[Path], list[str]]
"""Installs a driver into a directory, and returns the command without the URL."""


class Relay:
    """A relay in front of one server that keeps a copy of all bytes.

    Attributes:
        pieces: the bytes of each connection, in the order of arrival.
        address: where it listens.
    """

    def __init__(self, upstream: Address) -> None:
        self._upstream = upstream
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.pieces: list[tuple[int, Direction, bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*self._listener.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            server = socket.create_connection((self._upstream.host, self._upstream.port))
            self._start(number, "up", client, server)
            self._start(number, "down", server, client)

    def _start(self, number: int, direction: Direction, source: socket.socket, destination: socket.socket) -> None:
        thread = threading.Thread(target=self._copy, args=(number, direction, source, destination), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _copy(self, number: int, direction: Direction, source: socket.socket, destination: socket.socket) -> None:
        try:
            while data := source.recv(16384):
                with self._lock:
                    self.pieces.append((number, direction, data))
                destination.sendall(data)
            destination.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side was reset, and the other one ends by itself

    def close(self) -> None:
        """Accept no more clients, and wait until the connections have ended."""
        self._listener.close()
        for thread in self._threads:
            thread.join(timeout=10)


@dataclass(frozen=True)
class Driver:
    """A driver of one of the protocols.

    Args:
        protocol: of the server that it uses.
        prepare: installs it.
        tools: programs that have to be on PATH.
    """

    protocol: Protocol
    prepare: Prepare
    tools: Sequence[str] = ()


def python_driver(program: str, *requirements: str) -> Prepare:
    """Install requirements from PyPI into an environment, for a program of tests/support/drivers."""

    def prepare(directory: Path) -> list[str]:
        python = directory / "environment" / "bin" / "python"
        _run(["uv", "venv", "--quiet", "--python", sys.executable, str(directory / "environment")])
        _run(["uv", "pip", "install", "--quiet", "--python", str(python), *requirements])
        return [str(python), str(DRIVERS / program)]

    return prepare


def node_driver(program: str, *packages: str) -> Prepare:
    """Install packages of npm, for a program of tests/support/drivers."""

    def prepare(directory: Path) -> list[str]:
        _run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(directory), *packages])
        return ["env", f"NODE_PATH={directory / 'node_modules'}", "node", str(DRIVERS / program)]

    return prepare


def go_driver(program: str, module: str) -> Prepare:
    """Build a program of tests/support/drivers with a Go module."""

    def prepare(directory: Path) -> list[str]:
        shutil.copytree(DRIVERS / program, directory, dirs_exist_ok=True)
        _run(["go", "mod", "init", "story"], cwd=directory)
        _run(["go", "get", module], cwd=directory)
        _run(["go", "build", "-o", "story", "."], cwd=directory)
        return [str(directory / "story")]

    return prepare


def java_driver(program: str, artifact: str) -> Prepare:
    """Copy an artifact of Maven Central, for a program of tests/support/drivers."""

    def prepare(directory: Path) -> list[str]:
        copy = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
        arguments = f"-Dartifact={artifact}", f"-DoutputDirectory={directory}", "-Dmdep.stripVersion=true"
        _run(["mvn", "--quiet", "--batch-mode", f"-Dmaven.repo.local={directory / 'repository'}", copy, *arguments])
        return ["java", "-cp", str(directory / f"{artifact.split(':')[1]}.jar"), str(DRIVERS / program)]

    return prepare


RECORDED = {
    "asyncpg": Driver("postgres", python_driver("asyncpg_client.py", "asyncpg==0.32.0"), ("uv",)),
    "psycopg": Driver("postgres", python_driver("psycopg_client.py", "psycopg[binary]>=3.3,<4"), ("uv",)),
    "psycopg2": Driver("postgres", python_driver("psycopg2_client.py", "psycopg2-binary>=2.9,<3"), ("uv",)),
    "pg8000": Driver("postgres", python_driver("pg8000_client.py", "pg8000>=1.31,<2"), ("uv",)),
    "sqlalchemy": Driver(
        "postgres", python_driver("sqlalchemy_client.py", "sqlalchemy[asyncio]>=2,<3", "asyncpg==0.32.0")
    ),
    "node-postgres": Driver("postgres", node_driver("node_postgres_client.cjs", "pg@8"), ("node", "npm")),
    "pgx": Driver("postgres", go_driver("pgx", "github.com/jackc/pgx/v5@v5.7.5"), ("go",)),
    "jdbc": Driver("postgres", java_driver("Jdbc.java", "org.postgresql:postgresql:42.7.7"), ("mvn", "java")),
    "redis-py-7": Driver("redis", python_driver("redis_py_client.py", "redis>=7,<8"), ("uv",)),
    "redis-py-8": Driver("redis", python_driver("redis_py_client.py", "redis>=8,<9"), ("uv",)),
    "hiredis": Driver("redis", python_driver("redis_py_client.py", "redis>=8,<9", "hiredis>=3"), ("uv",)),
    "node-redis": Driver("redis", node_driver("node_redis_client.cjs", "redis@5"), ("node", "npm")),
    "ioredis": Driver("redis", node_driver("ioredis_client.cjs", "ioredis@5"), ("node", "npm")),
    "go-redis": Driver("redis", go_driver("goredis", "github.com/redis/go-redis/v9@v9.14.0"), ("go",)),
}


def _run(command: list[str], *, cwd: Path | None = None, environ: Mapping[str, str] = os.environ) -> None:
    subprocess.run(command, check=True, cwd=cwd, env=environ, timeout=WITHIN)


def record(name: str, backend: EmbeddedBackend) -> Path:
    """Record one driver.

    Returns:
        The file of the conversations.

    Raises:
        subprocess.CalledProcessError: the driver could not be installed, or its program failed.
    """
    driver = RECORDED[name]
    server = backend.servers[driver.protocol]
    with tempfile.TemporaryDirectory() as directory:
        command = driver.prepare(Path(directory))
        relay = Relay(server.direct_address)
        environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
        try:
            _run([*command, url(driver.protocol, relay.address)], environ=environ)
        finally:
            relay.close()
    path = CONVERSATIONS / f"{name}.jsonl"
    header = {"driver": name, "protocol": driver.protocol, "server": server.version, "connections": relay_count(relay)}
    lines = [
        header,
        *([number, direction, base64.b64encode(data).decode()] for number, direction, data in relay.pieces),
    ]
    path.write_text("".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines))
    return path


def url(protocol: Protocol, address: Address) -> str:
    """Return the URL that a driver connects to."""
    if protocol == "postgres":
        return postgres_url(ACCOUNT, ACCOUNT, address, DATABASE)
    return f"redis://{address}/0"


async def create_account(backend: EmbeddedBackend) -> None:
    """Create a role with a verifier that all drivers accept. That of the embedded server has too few iterations for pg8000."""
    server = backend.servers["postgres"]
    session = await connect(server.url(server.direct_address), application_name="record", within=10.0)
    await session.execute("SET scram_iterations = 4096")
    await session.execute(f"CREATE ROLE {ACCOUNT} LOGIN SUPERUSER PASSWORD '{ACCOUNT}'")
    await session.close()


def relay_count(relay: Relay) -> int:
    """Return the number of connections that sent anything."""
    return len({number for number, _, _ in relay.pieces})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help=f"of {', '.join(RECORDED)} (all)")
    arguments = parser.parse_args()
    unknown = set(arguments.drivers) - RECORDED.keys()
    if unknown:
        parser.error(f"no driver {', '.join(sorted(unknown))}; there are {', '.join(RECORDED)}")
    CONVERSATIONS.mkdir(parents=True, exist_ok=True)
    backend = EmbeddedBackend()
    backend.start()
    try:
        asyncio.run(create_account(backend))
        for name in arguments.drivers or RECORDED:
            missing = [tool for tool in RECORDED[name].tools if shutil.which(tool) is None]
            if missing and not arguments.drivers:
                print(f"{name}: left as it is, because {', '.join(missing)} is missing")
                continue
            path = record(name, backend)
            print(f"{name}: {path.stat().st_size:,} bytes")
    finally:
        backend.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
