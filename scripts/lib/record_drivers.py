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
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Literal

from drivers import DRIVERS, Protocol, run

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pytest_resilience.backends.backend import Address  # noqa: E402  # the checkout need not be installed
from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402
from pytest_resilience.backends.postgres_url import postgres_url  # noqa: E402
from pytest_resilience.backends.server_settings import DATABASE  # noqa: E402
from pytest_resilience.clients.postgres import connect  # noqa: E402

PROGRAMS = ROOT / "tests" / "support" / "drivers"
CONVERSATIONS = ROOT / "tests" / "data" / "conversations"
ACCOUNT = "story"  # a role of the throwaway server, and its password

Direction = Literal["up", "down"]


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


def record(name: str, backend: EmbeddedBackend) -> Path:
    """Record one driver.

    Returns:
        The file of the conversations.

    Raises:
        subprocess.CalledProcessError: the driver could not be installed, or its program failed.
    """
    driver = DRIVERS[name]
    server = backend.servers[driver.protocol]
    with tempfile.TemporaryDirectory() as directory:
        command = driver.prepare(PROGRAMS, Path(directory))
        relay = Relay(server.direct_address)
        environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
        try:
            run([*command, url(driver.protocol, relay.address)], environ=environ)
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
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help=f"of {', '.join(DRIVERS)} (all)")
    arguments = parser.parse_args()
    unknown = set(arguments.drivers) - DRIVERS.keys()
    if unknown:
        parser.error(f"no driver {', '.join(sorted(unknown))}; there are {', '.join(DRIVERS)}")
    CONVERSATIONS.mkdir(parents=True, exist_ok=True)
    backend = EmbeddedBackend()
    backend.start()
    try:
        asyncio.run(create_account(backend))
        for name in arguments.drivers or DRIVERS:
            missing = DRIVERS[name].missing
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
