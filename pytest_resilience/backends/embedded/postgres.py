"""An embedded Postgres on a data directory that was copied from a template."""

from __future__ import annotations

from pathlib import Path

from ...clients.receive import receive
from ...processes import ManagedProcess, RunAs
from ...wire import postgres as wire
from ..backend import Address
from ..managed_server import connect_and_send
from ..postgres_url import postgres_url
from ..server_settings import DATABASE
from ..session.server_process import LoopbackServer, ProcessContext

STATUS_LINE = 7  # of postmaster.pid


class PostgresProcess(LoopbackServer):
    """A Postgres server on loopback. Its data directory has its name.

    Args:
        context: the session.
        name: the name in messages, of its log and of its data directory.
        program: the `postgres` binary.
        version: the version of that binary.
        password: the password of the user postgres.
        user: the user that it runs as. Postgres refuses to run as root.
        ca_file: the authority of the proxies' certificates; None if they have no TLS.
    """

    kind = "postgres"
    _stop_signal = 2  # SIGINT: disconnect the clients and write everything to disk; SIGTERM would wait for the clients

    def __init__(
        self,
        context: ProcessContext,
        name: str,
        program: Path,
        *,
        version: str,
        password: str,
        user: RunAs,
        ca_file: Path | None = None,
    ) -> None:
        super().__init__(context, name, user=user)
        self._ca_file = ca_file
        self._program = program
        self._data = context.directory / name
        self._password = password
        self.version = version

    def argv(self) -> list[str]:
        return [str(self._program), "-D", str(self._data), "-p", str(self.address.port)]

    def url(self, address: Address) -> str:
        ca_file = self._ca_file if address != self.address else None
        return postgres_url("postgres", self._password, address, DATABASE, ca_file=ca_file)

    def is_ready(self, child: ManagedProcess) -> bool:
        """True if its lock file has the status "ready" and the id of this process, and it accepts a session."""
        lines = (self._data / "postmaster.pid").read_text().splitlines()
        if len(lines) <= STATUS_LINE or lines[0] != str(child.pid) or lines[STATUS_LINE].strip() != "ready":
            return False
        with connect_and_send(self.address, wire.startup("postgres", DATABASE)) as connection:
            message = receive(connection, wire.first_message)
        return message is not None and wire.startup_status(message) == "accepting"
