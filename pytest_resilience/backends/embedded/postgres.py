"""A Postgres of ours: made from a template, started, asked whether it serves."""

from __future__ import annotations

from pathlib import Path

from ...clients.receive import receive
from ...clock import SYSTEM, Clock
from ...processes import ManagedProcess, RunAs, SupervisorClient
from ...wire import postgres as wire
from ..backend import Address
from ..managed_server import connect_and_send
from ..postgres_url import postgres_url
from ..server_settings import DATABASE
from .server_process import LoopbackServer

STATUS_LINE = 7  # of postmaster.pid


class PostgresProcess(LoopbackServer):
    """A Postgres server on loopback.

    Args:
        supervisor: who starts it.
        program: the `postgres` binary.
        data: its data directory.
        name: what it is called.
        log: the file for its output.
        version: what it is.
        password: of the user postgres.
        user: as whom it runs; Postgres refuses to run as root.
        clock: what to wait with.
    """

    kind = "postgres"
    _stop_signal = 2  # SIGINT: disconnect the clients, write everything down; SIGTERM would wait for them

    def __init__(
        self,
        supervisor: SupervisorClient,
        program: Path,
        data: Path,
        *,
        name: str = "postgres",
        log: Path,
        version: str,
        password: str,
        user: RunAs,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(supervisor, name, log=log, clock=clock, user=user)
        self._program = program
        self._data = data
        self._password = password
        self.version = version

    def argv(self) -> list[str]:
        return [str(self._program), "-D", str(self._data), "-p", str(self.address.port)]

    def url(self, address: Address) -> str:
        return postgres_url("postgres", self._password, address, DATABASE)

    def is_ready(self, child: ManagedProcess) -> bool:
        """Whether it says so in its lock file, which also says that it is this very process, and lets us in."""
        lines = (self._data / "postmaster.pid").read_text().splitlines()
        if len(lines) <= STATUS_LINE or lines[0] != str(child.pid) or lines[STATUS_LINE].strip() != "ready":
            return False
        with connect_and_send(self.address, wire.startup("postgres", DATABASE)) as connection:
            message = receive(connection, wire.first_message)
        return message is not None and wire.startup_status(message) == "accepting"
