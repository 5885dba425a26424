"""A direct connection to Redis, around the proxy: an empty server for every test."""

from __future__ import annotations

from ..clients.redis import RedisClient
from ..wire.redis import ErrorReply, info_fields
from .backend import Server

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
        self._client: RedisClient | None = None

    @property
    def client(self) -> RedisClient:
        """A client that asks the server directly, where it is now: a container that starts again may be elsewhere."""
        url = self._server.url(self._server.direct)
        if self._client is None or url != self._url:
            self.close()
            self._url = url
            self._client = RedisClient(url, name="pytest-resilience", timeout=ANSWER_WITHIN)
        return self._client

    def clean(self) -> None:
        """No keys, no scripts, no functions, statistics at zero; of a server that is not all ours, no keys in our database."""
        flushed, *rest = self.client.call_all(EVERYTHING if self._server.whole else OURS)
        if isinstance(flushed, ErrorReply):  # the others do not exist on every server and every managed Redis
            raise flushed
        code = info_fields(rest[0]) if rest and isinstance(rest[0], str) else {}
        if rest and any(code.get(name) != "0" for name in CODE):
            # Each makes a new interpreter, which takes longer than all the rest: only where there is something to throw away.
            self.client.call_all([("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH")])

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
