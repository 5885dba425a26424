"""The workload of a redis-like asyncio client in the process of the test."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..history import Client
from .registers import Registers, wrong_client

KINDS = ("delete", "update", "read", "add")
REGISTERS = ("delete", "update", "read")
PATTERN = ("update", "read", "update", "read", "update", "add", "read", "delete", "read", "update", "read", "add")
# The names of exceptions that the server has sent, or that a client raises before it sends. Some of them are connection errors.
NOT_HAPPENED = ("ResponseError", "BusyLoadingError", "MaxConnectionsError", "AuthenticationError")
FULL = "max number of clients reached"  # the server's answer to a new connection, which redis-py raises as a connection error

Connect = Callable[[str], Any]
TAKES = "RedisRegisters(connect) takes a function such as redis.asyncio.Redis.from_url, which returns an asyncio client"


def _is_blocking(client: object) -> bool:
    """True for a client such as `redis.Redis`, whose methods are no coroutine functions."""
    methods = [getattr(client, name, None) for name in ("execute_command", "close")]
    return not hasattr(client, "aclose") and all(
        callable(method) and not inspect.iscoroutinefunction(method) for method in methods
    )


class RedisRegisters(Registers):
    """Clients that read and write a few keys of Redis, by one client object of the test's process that they share.

    Args:
        connect: a function that takes the URL of Redis and returns a client or an awaitable of one, such as
            `redis.asyncio.Redis.from_url`. Its pool decides how operations share connections.
        kinds: the kinds of operation: "delete" (DEL), "update" (SET), "read" (GET), "add" (INCR). With "add", the keys are counters,
            and "update" and "delete" are not possible.
        keys: the number of keys that clients share.
        prefix: the beginning of the names of keys.
        timeout: seconds for each operation.
        url: the URL; None for that of `resilience.redis` behind its proxy.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        kinds: Sequence[str] = REGISTERS,
        keys: int = 3,
        prefix: str = "resilience:",
        timeout: float = 2.0,
        url: str | None = None,
    ) -> None:
        known = ("add", "read") if "add" in kinds else REGISTERS
        super().__init__(kinds, known=known, full=PATTERN, keys=keys, timeout=timeout)
        self._connect = connect
        self._prefix = prefix
        self._url = url
        self._client: Any = None

    async def begin(self, resilience: Any) -> None:
        """Create the client.

        Raises:
            SetupError: `connect` returns a client that is not asynchronous.
        """
        made = self._connect(self._url or resilience.redis.url)
        client = await made if inspect.isawaitable(made) and not hasattr(made, "execute_command") else made
        if _is_blocking(client):
            raise wrong_client(TAKES, client)
        self._client = client

    async def end(self) -> None:
        """Close the client."""
        if self._client is not None:
            close = getattr(self._client, "aclose", None) or self._client.close
            self._client = None
            await close()

    def _value(self, client: Client, kind: str) -> Any:
        return 1 if kind == "add" else super()._value(client, kind)

    async def _execute(
        self, client: Client, kind: str, key: str | None, value: Any, expected: int | None
    ) -> Mapping[str, Any]:
        name = f"{self._prefix}{key}"
        match kind:
            case "read":
                return {"value": self._decoded(await self._client.get(name))}
            case "update":
                await self._client.set(name, value)
            case "delete":
                await self._client.delete(name)
            case _:
                await self._client.incr(name)
        return {}

    def _decoded(self, value: Any) -> Any:
        text = value.decode() if isinstance(value, bytes) else value
        return int(text or 0) if "add" in self.kinds else text

    def _has_not_happened(self, error: Exception) -> bool:
        """True for an error that the server has sent, or that the client has raised before it sent the command."""
        names = {each.__name__ for each in type(error).__mro__}
        if names & set(NOT_HAPPENED) or FULL in str(error):
            return True
        cause = error.__cause__ or error.__context__
        return isinstance(cause, ConnectionRefusedError)
