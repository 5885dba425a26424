"""A direct connection to Redis, around the proxy: an empty server with the settings of the baseline for every test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..backends.backend import Server
from ..clients.redis import RedisClient
from ..errors import SetupError
from ..wire.redis import ErrorReply, Reply, parse_info

ANSWER_WITHIN = 5.0  # seconds
LOOK_WITHIN = 2.0  # seconds for the first answer between two tests; CLIENT PAUSE can be taken back by no client
OURS = (("FLUSHDB",),)
# A replica refuses to be emptied. What remembers is emptied too; the last three don't exist everywhere.
EVERYTHING = (
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
CODE = ("number_of_cached_scripts", "number_of_functions")  # in what INFO says


class RedisSettings(NamedTuple):
    """What of a Redis outlives FLUSHALL.

    Args:
        config: what CONFIG GET answers.
        users: by name, what ACL LIST says of each; empty for a Redis without ACL.
    """

    config: Mapping[str, str]
    users: Mapping[str, str]

    @classmethod
    def read(cls, config: Reply, users: Reply) -> RedisSettings:
        """Read the answers to CONFIG GET and ACL LIST.

        Raises:
            ErrorReply: the server refuses to tell of its settings.
        """
        if not isinstance(config, list):
            raise config if isinstance(config, ErrorReply) else ErrorReply("CONFIG GET answers with no list")
        pairs = dict(zip(map(str, config[::2]), map(str, config[1::2]), strict=True))
        lines = map(str, users) if isinstance(users, list) else iter(())
        return cls(pairs, {line.split(" ")[1]: line for line in lines})

    def back_to(self, baseline: RedisSettings) -> list[Sequence[str]]:
        """Return the commands that make these settings those of the baseline; none when they are."""
        commands: list[Sequence[str]] = [
            ("CONFIG", "SET", name, value) for name, value in baseline.config.items() if self.config.get(name) != value
        ]
        commands += [("ACL", "DELUSER", name) for name in self.users.keys() - baseline.users.keys()]
        for name, line in baseline.users.items():
            if self.users.get(name) != line:
                commands.append(("ACL", "SETUSER", name, "reset", *line.split(" ")[2:]))
        return commands


class RedisAdmin:
    """Keeps one connection to the server.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._url = ""
        self._client: RedisClient | None = None
        self._baseline: RedisSettings | None = None

    @property
    def client(self) -> RedisClient:
        """A client that asks the server directly, where it is now: a container that starts again may be elsewhere."""
        url = self._server.url(self._server.direct_address)
        if self._client is None or url != self._url:
            self.close()
            self._url = url
            self._client = RedisClient(url, name="pytest-resilience", timeout=ANSWER_WITHIN)
        return self._client

    def take_baseline(self) -> None:
        """Say that the server's settings and users are now as every test shall find them."""
        if self._server.exclusive:
            config, users = self.client.call_all([("CONFIG", "GET", "*"), ("ACL", "LIST")])
            self._baseline = RedisSettings.read(config, users)

    def clean(self, *, settings: bool = True) -> None:
        """Make it empty, with the settings and users of the baseline; of a server that is not all ours, empty our database.

        A server whose settings can't be put back by commands (CLIENT PAUSE, a busy script, a user without rights) is started again.

        Args:
            settings: False leaves settings as they are: a fault of the session has changed them.

        Raises:
            SetupError: they can't be put back.
            ErrorReply, OSError: a server that is not all ours, or that a fault of the session has struck, can't be emptied.
        """
        if not self._server.exclusive or not settings:
            self._empty()
            return
        try:
            self._put_back(self._look())
        except (ErrorReply, OSError) as error:
            self._start_again(error)

    def _empty(self) -> None:
        commands = [words for words in EVERYTHING if words[0] != "REPLICAOF"] if self._server.exclusive else OURS
        replies = self.client.call_all(commands)
        if isinstance(replies[0], ErrorReply):  # the others do not exist on every server and every managed Redis
            raise replies[0]
        if self._server.exclusive:
            self._throw_code_away(replies[1])

    def _look(self) -> RedisSettings:
        """Empty the server, and return its settings."""
        client = self.client
        client.timeout = LOOK_WITHIN
        try:
            _, flushed, info, config, users, *_ = client.call_all(EVERYTHING)
        finally:
            client.timeout = ANSWER_WITHIN
        if isinstance(flushed, ErrorReply):
            raise flushed
        self._throw_code_away(info)
        return RedisSettings.read(config, users)

    def _throw_code_away(self, info: Reply) -> None:
        code = parse_info(info) if isinstance(info, str) else {}
        if any(code.get(name) != "0" for name in CODE):
            # Each makes a new interpreter, which takes longer than all the rest: only where there is something to throw away.
            self.client.call_all([("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH")])

    def _put_back(self, now: RedisSettings) -> None:
        """Take settings and users back to the baseline.

        Raises:
            ErrorReply: the server refuses.
        """
        if self._baseline is None:  # a fault of the session had changed them until now
            self._baseline = now
        if commands := now.back_to(self._baseline):
            for reply in self.client.call_all(commands):
                if isinstance(reply, ErrorReply):
                    raise reply
            if left := self._look().back_to(self._baseline):
                raise ErrorReply(f"{', '.join(' '.join(words[:3]) for words in left)} had no effect")

    def _start_again(self, why: Exception) -> None:
        """End the server and start it again, empty, with the settings that it is given at its start."""
        try:
            self.close()
            self._server.kill()
            self._server.discard_snapshot()
            self._server.start()
            self._put_back(self._look())
        except (ErrorReply, OSError) as error:
            raise SetupError(
                f"Redis can't be taken back to its settings before the last test ({why}), and not by a new start either ({error})"
            ) from error

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
