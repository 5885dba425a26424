"""A connection of asyncpg with time limits on both sides, and with no errors but those of UNAVAILABLE_ERRORS."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import asyncpg

from . import asyncpg_patch

if TYPE_CHECKING:
    from ..settings import ServiceSettings

asyncpg_patch.apply()

CONNECT_TIMEOUT = 2.0  # below the acquire timeout, because an acquire that times out kills its half-open connection

# Every error of Postgres is a reason for 503. The statements are fixed and their arguments are checked before, so an error means
# that Postgres cannot serve now (read-only, full, starting) or lacks what the service needs (rights, a column).
UNAVAILABLE_ERRORS: tuple[type[BaseException], ...] = (
    OSError,  # also TimeoutError, ConnectionError, socket.gaierror, ssl.SSLError
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

# The connection was lost during the statement. A read is tried again after these.
CONNECTION_LOST_ERRORS: tuple[type[BaseException], ...] = (
    ConnectionError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class UnreadableAnswerError(asyncpg.InternalClientError):  # type: ignore[misc]  # asyncpg has no types here
    """The server has sent something that asyncpg cannot read. The connection is of no use any more."""


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that is closed by an answer that asyncpg cannot read.

    After such an answer asyncpg raises an error of its parser, such as BufferError or IndexError, and keeps the
    connection, whose later answers then belong to earlier statements.
    """

    async def execute(self, *args: Any, **options: Any) -> Any:
        return await self._answer(super().execute(*args, **options))

    async def fetch(self, *args: Any, **options: Any) -> Any:
        return await self._answer(super().fetch(*args, **options))

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        return await self._answer(super().fetchrow(*args, **options))

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        return await self._answer(super().fetchval(*args, **options))

    async def _answer(self, statement: Awaitable[Any]) -> Any:
        try:
            with readable_answers():
                return await statement
        except UnreadableAnswerError:
            self.terminate()
            raise


@contextlib.contextmanager
def readable_answers() -> Iterator[None]:
    """Turn every error that is none of UNAVAILABLE_ERRORS into UnreadableAnswerError.

    The block may do nothing but wait for asyncpg.
    """
    try:
        yield
    except UNAVAILABLE_ERRORS:
        raise
    except Exception as error:
        raise UnreadableAnswerError(f"asyncpg cannot read the answer of Postgres: {describe_error(error)}") from error


def asyncpg_failed(context: Mapping[str, Any]) -> bool:
    """True if an event loop reports that asyncpg raised an error for bytes of the server. The loop closes the connection.

    Args:
        context: of the exception handler of the loop.
    """
    return isinstance(context.get("protocol"), asyncpg.protocol.Protocol)


async def connect(settings: ServiceSettings, application_name: str) -> Any:
    """Open a connection outside the pool."""
    with readable_answers():
        connection = await asyncpg.connect(
            settings.database_url, connection_class=Connection, **connect_options(settings, application_name)
        )
    await enable_keepalive(connection)
    return connection


def transaction_limit(settings: ServiceSettings) -> float:
    """Return the longest duration of a transaction in seconds: its statements together, and one call of the gateway."""
    return settings.db_command_timeout + settings.gateway_timeout


def describe_error(error: BaseException) -> str:
    """Return the type of an error, its SQLSTATE if any, and the first line of its message."""
    state = getattr(error, "sqlstate", None)
    name = f"{type(error).__name__} {state}" if state else type(error).__name__
    first = next(iter(str(error).splitlines()), "")
    return f"{name}: {first}" if first else name


def connect_options(settings: ServiceSettings, application_name: str) -> dict[str, Any]:
    """Return the options of asyncpg for each connection, with time limits on both sides."""
    milliseconds = settings.db_command_timeout * 1000
    return {
        "timeout": min(CONNECT_TIMEOUT, settings.db_pool_acquire_timeout),
        "command_timeout": settings.db_command_timeout,
        "server_settings": {
            "application_name": application_name,
            "statement_timeout": str(int(milliseconds * 0.9)),
            "lock_timeout": str(int(milliseconds * 0.6)),
            "idle_in_transaction_session_timeout": str(int(transaction_limit(settings) * 1000)),
            "client_connection_check_interval": "2000",  # Postgres 14 and later
        },
    }


async def enable_keepalive(connection: Any) -> None:
    """Make the kernel detect peers that vanished. asyncpg sets none of these socket options."""
    sock: socket.socket | None = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 10_000)):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
