"""The administration of one Redis, around the proxy. Before each test, the server is empty and has its baseline settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..backends.backend import Server
from ..clients.redis import RedisClient
from ..errors import SetupError
from ..faults.setting_layers import SettingLayers
from ..wire.redis import ErrorReply, Reply, parse_info

RESPONSE_TIMEOUT = 2.0  # seconds; a heal waits for that long on a server that does not answer
RESET_TIMEOUT = 2.0  # seconds for the first response between two tests; no client can undo a CLIENT PAUSE
SHARED_RESET = (("FLUSHDB",),)
# REPLICAOF comes first, because a replica refuses FLUSHALL. Some servers lack the last three.
FULL_RESET = (
    ("REPLICAOF", "NO", "ONE"),
    ("FLUSHALL",),
    ("INFO", "memory"),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("CONFIG", "RESETSTAT"),
    ("SLOWLOG", "RESET"),
    ("LATENCY", "RESET"),
    ("ACL", "LOG", "RESET"),
)
SCRIPT_COUNTS = ("number_of_cached_scripts", "number_of_functions")  # fields of INFO


class RedisSettings(NamedTuple):
    """The settings of a Redis that survive FLUSHALL.

    Args:
        config: the reply to CONFIG GET.
        users: the line of ACL LIST for each user; empty for a Redis without ACL.
    """

    config: Mapping[str, str]
    users: Mapping[str, str]

    @classmethod
    def read(cls, config: Reply, users: Reply) -> RedisSettings:
        """Parse the replies to CONFIG GET and ACL LIST.

        Raises:
            ErrorReply: the server refuses CONFIG GET.
        """
        if not isinstance(config, list):
            raise config if isinstance(config, ErrorReply) else ErrorReply("the reply to CONFIG GET is no list")
        pairs = dict(zip(map(str, config[::2]), map(str, config[1::2]), strict=True))
        lines = map(str, users) if isinstance(users, list) else iter(())
        return cls(pairs, {line.split(" ")[1]: line for line in lines})

    def back_to(self, baseline: RedisSettings) -> list[Sequence[str]]:
        """Return the commands that restore the baseline. The list is empty if nothing differs."""
        commands: list[Sequence[str]] = [
            ("CONFIG", "SET", name, value) for name, value in baseline.config.items() if self.config.get(name) != value
        ]
        commands += [("ACL", "DELUSER", name) for name in self.users.keys() - baseline.users.keys()]
        for name, line in baseline.users.items():
            if self.users.get(name) != line:
                commands.append(("ACL", "SETUSER", name, "reset", *line.split(" ")[2:]))
        return commands


class RedisAdmin:
    """One connection to the server, opened again when the server's address has changed.

    Args:
        server: the server.

    Attributes:
        layers: the settings that strikes have changed.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._url = ""
        self._client: RedisClient | None = None
        self._baseline: RedisSettings | None = None
        self.layers = SettingLayers()

    @property
    def client(self) -> RedisClient:
        """A client of the server's present address, which may change when a container starts again."""
        url = self._server.url(self._server.direct_address)
        if self._client is None or url != self._url:
            self.close()
            self._url = url
            self._client = RedisClient(url, name="pytest-resilience", timeout=RESPONSE_TIMEOUT)
        return self._client

    def take_baseline(self) -> None:
        """Take the present settings and users as the baseline."""
        if self._server.exclusive:
            config, users = self.client.call_all([("CONFIG", "GET", "*"), ("ACL", "LIST")])
            self._baseline = RedisSettings.read(config, users)

    def clean(self, *, settings: bool = True) -> None:
        """Empty the server and restore settings and users. Of a shared server, empty this session's database only.

        The server is restarted if no command can restore its settings (CLIENT PAUSE, a busy script, a user without rights).

        Args:
            settings: False to keep the settings, because a fault of the session has changed them.

        Raises:
            SetupError: the settings can't be restored.
            ErrorReply, OSError: the server is shared, or a fault of the session strikes it, and it can't be emptied.
        """
        if not self._server.exclusive or not settings:
            self._empty()
            return
        try:
            self._restore(self._reset())
        except (ErrorReply, OSError) as error:
            self._restart(error)

    def _empty(self) -> None:
        commands = (
            [words for words in FULL_RESET if words[0] != "REPLICAOF"] if self._server.exclusive else SHARED_RESET
        )
        replies = self.client.call_all(commands)
        if isinstance(replies[0], ErrorReply):  # some servers and managed services lack the other commands
            raise replies[0]
        if self._server.exclusive:
            self._delete_scripts(replies[1])

    def _reset(self) -> RedisSettings:
        """Empty the server and return its settings."""
        client = self.client
        client.timeout = RESET_TIMEOUT
        try:
            _, flushed, info, config, users, *_ = client.call_all(FULL_RESET)
        finally:
            client.timeout = RESPONSE_TIMEOUT
        if isinstance(flushed, ErrorReply):
            raise flushed
        self._delete_scripts(info)
        return RedisSettings.read(config, users)

    def _delete_scripts(self, info: Reply) -> None:
        code = parse_info(info) if isinstance(info, str) else {}
        if any(code.get(name) != "0" for name in SCRIPT_COUNTS):
            # Each command creates a new interpreter, which takes longer than all other commands together.
            self.client.call_all([("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH")])

    def _restore(self, now: RedisSettings) -> None:
        """Restore the settings and users of the baseline.

        Raises:
            ErrorReply: the server refuses a command, or a command has no effect.
        """
        self.layers.clear()
        if self._baseline is None:  # no baseline yet, because a fault of the session had changed the settings
            self._baseline = now
        if commands := now.back_to(self._baseline):
            for reply in self.client.call_all(commands):
                if isinstance(reply, ErrorReply):
                    raise reply
            if remaining := self._reset().back_to(self._baseline):
                raise ErrorReply(f"{', '.join(' '.join(words[:3]) for words in remaining)} had no effect")

    def _restart(self, reason: Exception) -> None:
        """Restart the server without data, with the settings of its start."""
        try:
            self.close()
            self._server.kill()
            self._server.discard_snapshot()
            self._server.start()
            self._restore(self._reset())
        except (ErrorReply, OSError) as error:
            raise SetupError(
                f"the settings that Redis had before the last test can't be restored ({reason}), not even by a restart ({error})"
            ) from error

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
