"""An embedded Redis or Valkey.

It has no password, because users get its host and port. So it runs with settings that keep other users of the machine from becoming its
user by it: no changes of its file names, no modules, and no DEBUG (which sets hooks of the memory allocator). The fault `loading` needs
DEBUG, so the command has another name in each session. The server reads that name from its standard input, because all users of the
machine can read a command line.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from ...clients.receive import receive
from ...processes import ManagedProcess
from ...redaction import new_password
from ...wire import redis as wire
from ..backend import Address
from ..managed_server import HOST, connect_and_send
from ..session.server_process import LoopbackServer, ProcessContext
from .binaries import Installation
from .program_version import protects_configs

SNAPSHOT = "dump.rdb"  # Redis' default
# DEBUG is enabled under its other name only.
PROTECTED_CONFIGS = {"enable-protected-configs": "no", "enable-module-command": "no", "enable-debug-command": "local"}


class RedisProcess(LoopbackServer):
    """A Redis server on loopback. It saves nothing on disk, so it starts empty after a kill, as a cache does.

    Args:
        context: the session.
        name: the name in messages, of its log and of its directory, which must exist.
        installation: the installed Redis or Valkey.
        ca_file: the authority of the proxies' certificates; None if they have no TLS.
    """

    kind = "redis"

    def __init__(
        self, context: ProcessContext, name: str, installation: Installation, *, ca_file: Path | None = None
    ) -> None:
        super().__init__(context, name)
        self._ca_file = ca_file
        self._program = installation.path
        self._protected = protects_configs(installation.version())
        self._directory = context.directory / name
        self._settings = self._directory / "settings.conf"
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
        """Write the settings that no command line may have, and return their file."""
        lines = [f"rename-command DEBUG {self.debug_command}"]
        if not self._protected:
            lines.append('rename-command MODULE ""')
        descriptor = os.open(self._settings, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{line}\n" for line in lines)
        return self._settings

    def discard_snapshot(self) -> None:
        (self._directory / SNAPSHOT).unlink(missing_ok=True)

    def url(self, address: Address) -> str:
        if self._ca_file is None or address == self.address:
            return f"redis://{address}/0"
        return f"rediss://{address}/0?ssl_ca_certs={quote(str(self._ca_file))}"

    def is_ready(self, child: ManagedProcess) -> bool:
        """True if the server that answers is this process."""
        with connect_and_send(self.address, wire.encode_command("INFO", "server")) as connection:
            reply = receive(connection, wire.first_reply)
        fields = wire.parse_info(reply or "")
        if fields.get("process_id") != str(child.pid):
            return False
        valkey = fields.get("valkey_version")
        self.version = f"{valkey} (valkey)" if valkey else fields.get("redis_version", "")
        return True
