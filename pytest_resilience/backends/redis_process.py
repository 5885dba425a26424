"""A Redis, or Valkey, of ours: started, asked whether it serves."""

from __future__ import annotations

from pathlib import Path

from ..clock import SYSTEM, Clock
from ..processes import Child, Keeper
from ..wire import redis as wire
from .backend import Address
from .local import HOST, LocalServer
from .versions import version_of

SAVED = "dump.rdb"  # Redis' default


class RedisProcess(LocalServer):
    """A Redis server on loopback. It keeps nothing on disk: killed, it comes back empty, as a cache does.

    Args:
        keeper: who starts it.
        program: `redis-server` or `valkey-server`.
        directory: where it runs.
        name: what it is called.
        log: the file for its output.
        clock: what to wait with.
    """

    kind = "redis"

    def __init__(
        self,
        keeper: Keeper,
        program: Path,
        directory: Path,
        *,
        name: str = "redis",
        log: Path,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(keeper, name, log=log, clock=clock)
        self._program = program
        self._directory = directory
        self.version = ""

    def argv(self) -> list[str]:
        settings = {
            "port": self.address.port,
            "bind": HOST,
            "save": "",
            "appendonly": "no",
            "dir": self._directory,
            "hz": 100,
            **({"enable-debug-command": "local"} if self._has_debug_switch() else {}),  # for the fault `loading`
        }
        return [str(self._program), *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]

    def _has_debug_switch(self) -> bool:
        """Whether DEBUG must be switched on: before version 7 it was always allowed, and the switch unknown."""
        major = version_of(self._program).partition(".")[0]
        return major.isdigit() and int(major) >= 7

    def forget_saved(self) -> None:
        (self._directory / SAVED).unlink(missing_ok=True)

    def url(self, address: Address) -> str:
        return f"redis://{address}/0"

    def ready(self, child: Child) -> bool:
        """Whether the one who answers is this very process."""
        with self.ask(wire.command("INFO", "server")) as connection:
            data = b""
            while (reply := wire.first_reply(data)) is None:
                chunk = connection.recv(65536)
                if not chunk:
                    return False
                data += chunk
        fields = wire.info_fields(reply)
        if fields.get("process_id") != str(child.pid):
            return False
        valkey = fields.get("valkey_version")
        self.version = f"{valkey} (valkey)" if valkey else fields.get("redis_version", "")
        return True
