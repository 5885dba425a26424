"""A Redis, or Valkey, of ours: started, asked whether it serves.

It has no password, since its host and port are what users are given. So it runs with what keeps any other user of the machine from using
it to become the user who started it: no changes of the names of its files, no modules, and no DEBUG (which sets hooks of the memory
allocator). The fault `loading` needs DEBUG: it has another name in each session, which the server reads from its standard input, because a
command line is for everybody to see.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...clients.receive import receive
from ...clock import SYSTEM, Clock
from ...processes import ManagedProcess, SupervisorClient
from ...redaction import new_password
from ...wire import redis as wire
from ..backend import Address
from ..managed_server import HOST, connect_and_send
from .binaries import Installation
from .program_version import protects_configs
from .server_process import LoopbackServer

SAVED = "dump.rdb"  # Redis' default
# DEBUG is allowed by its other name only.
PROTECTED_CONFIGS = {"enable-protected-configs": "no", "enable-module-command": "no", "enable-debug-command": "local"}


class RedisProcess(LoopbackServer):
    """A Redis server on loopback. It keeps nothing on disk: killed, it comes back empty, as a cache does.

    Args:
        supervisor: who starts it.
        found: the installed Redis or Valkey.
        directory: where it runs.
        name: what it is called.
        log: the file for its output.
        clock: what to wait with.
    """

    kind = "redis"

    def __init__(
        self,
        supervisor: SupervisorClient,
        found: Installation,
        directory: Path,
        *,
        name: str = "redis",
        log: Path,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(supervisor, name, log=log, clock=clock)
        self._program = found.path
        self._protected = protects_configs(found.version())
        self._directory = directory
        self._settings = directory / "settings.conf"
        self.debug_command = f"debug-{new_password()}"
        self.version = ""

    def argv(self) -> list[str]:
        settings = {
            "port": self.address.port,
            "bind": HOST,
            "save": "",
            "appendonly": "no",
            "dir": self._directory,
            "hz": 100,
            **(PROTECTED_CONFIGS if self._protected else {}),
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        return [str(self._program), "-", *words]

    def stdin(self) -> Path:
        """Return its other settings, written anew: it reads them at each start."""
        lines = [f"rename-command DEBUG {self.debug_command}"]
        if not self._protected:
            lines.append('rename-command MODULE ""')
        descriptor = os.open(self._settings, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{line}\n" for line in lines)
        return self._settings

    def discard_snapshot(self) -> None:
        (self._directory / SAVED).unlink(missing_ok=True)

    def url(self, address: Address) -> str:
        return f"redis://{address}/0"

    def is_ready(self, child: ManagedProcess) -> bool:
        """Whether the one who answers is this very process."""
        with connect_and_send(self.address, wire.encode_command("INFO", "server")) as connection:
            reply = receive(connection, wire.first_reply)
        fields = wire.parse_info(reply or "")
        if fields.get("process_id") != str(child.pid):
            return False
        valkey = fields.get("valkey_version")
        self.version = f"{valkey} (valkey)" if valkey else fields.get("redis_version", "")
        return True
