"""A direct connection to Redis, around the proxy: an empty server for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .backend import Server

if TYPE_CHECKING:
    import redis

ANSWER_WITHIN = 5.0  # seconds
EVERYTHING = (("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"), ("CONFIG", "RESETSTAT"))
OURS = (("FLUSHDB",),)


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
        results = pipe.execute(raise_on_error=False)
        failed = results[0]
        if isinstance(failed, Exception):  # the others do not exist on every server and every managed Redis
            raise failed

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
