"""A direct connection to Redis, around the proxy: an empty server for every test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import redis

ANSWER_WITHIN = 5.0  # seconds


class RedisAdmin:
    """Keeps one connection to the server.

    Args:
        url: the server, around the proxy.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        """A redis-py client that asks the server directly."""
        if self._client is None:
            import redis

            self._client = redis.Redis.from_url(
                self._url,
                socket_timeout=ANSWER_WITHIN,
                socket_connect_timeout=ANSWER_WITHIN,
                client_name="pytest-resilience",
            )
        return self._client

    def clean(self) -> None:
        """No keys, no scripts, no functions, statistics at zero."""
        pipe: Any = self.client.pipeline(transaction=False)
        for command in (("FLUSHALL",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"), ("CONFIG", "RESETSTAT")):
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
