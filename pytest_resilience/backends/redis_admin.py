"""A direct connection to Redis, around the proxy: an empty server for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .backend import Server

if TYPE_CHECKING:
    import redis

ANSWER_WITHIN = 5.0  # seconds
EVERYTHING = (("FLUSHALL",), ("INFO", "memory"), ("CONFIG", "RESETSTAT"))
OURS = (("FLUSHDB",),)
CODE = ("number_of_cached_scripts", "number_of_functions")  # in what INFO says


class RedisAdmin:
    """Keeps one connection to the server.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._url = ""
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        """A redis-py client that asks the server directly, where it is now: a container that starts again may be elsewhere."""
        url = self._server.url(self._server.direct)
        if self._client is None or url != self._url:
            import redis

            self.close()
            self._url = url
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=ANSWER_WITHIN,
                socket_connect_timeout=ANSWER_WITHIN,
                client_name="pytest-resilience",
            )
        return self._client

    def clean(self) -> None:
        """No keys, no scripts, no functions, statistics at zero; of a server that is not all ours, no keys in our database."""
        pipe: Any = self.client.pipeline(transaction=False)
        for command in EVERYTHING if self._server.whole else OURS:
            pipe.execute_command(*command)
        flushed, *rest = pipe.execute(raise_on_error=False)
        if isinstance(flushed, Exception):  # the others do not exist on every server and every managed Redis
            raise flushed
        if rest and not (isinstance(rest[0], dict) and all(rest[0].get(name) == 0 for name in CODE)):
            # Each makes a new interpreter, which takes longer than all the rest: only where there is something to throw away.
            for what in "SCRIPT", "FUNCTION":
                pipe.execute_command(what, "FLUSH")
            pipe.execute(raise_on_error=False)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
