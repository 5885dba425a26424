"""The plugin's own client of Postgres, on asyncio. A session runs one statement at a time.

All settings are in the URL. Environment variables (such as PGSSLMODE) and ~/.pgpass are not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from ..wire import postgres as wire

TERMINATED = ("57P01", "57P02")  # terminated by an administrator, or because another session crashed
STARTING = wire.CANNOT_CONNECT_NOW
LOCK_NOT_AVAILABLE = "55P03"


class PostgresError(Exception):
    """An error of the server.

    Attributes:
        code: the SQLSTATE.
    """

    def __init__(self, fields: dict[str, str]) -> None:
        self.code = fields.get("C", "")
        hint = "".join(f"\n{name}: {fields[key]}" for key, name in (("D", "detail"), ("H", "hint")) if key in fields)
        super().__init__(f"{fields.get('M', 'no message')} ({self.code}){hint}")


class SessionEnded(ConnectionError):
    """The session is closed, by the server or by a test."""


class Row(Sequence[Any]):
    """A row of a result, read by position or by name."""

    __slots__ = ("_names", "_values")

    def __init__(self, values: list[Any], names: tuple[str, ...]) -> None:
        self._values = values
        self._names = names

    def __getitem__(self, key: Any) -> Any:
        return self._values[self._names.index(key) if isinstance(key, str) else key]

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Row({self.as_dict()!r})"

    def as_dict(self) -> dict[str, Any]:
        """Return the values by their names."""
        return dict(zip(self._names, self._values, strict=True))


class _Stream(asyncio.Protocol):
    """The bytes of one connection."""

    def __init__(self) -> None:
        self.messages = wire.MessageReader()
        self.tls_reply = bytearray()  # the bytes before the first message, which answer the request for TLS
        self.plain = True
        self.ended = False
        self._arrived = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        if self.plain:
            self.tls_reply += data
        else:
            self.messages.feed(data)
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._arrived.set()

    async def wait_for_data(self) -> None:
        """Wait for the next bytes or for the end of the connection.

        Raises:
            SessionEnded: the connection had ended before.
        """
        if self.ended:
            raise SessionEnded("Postgres closed the connection")
        self._arrived.clear()
        await self._arrived.wait()


class Session:
    """A session of a Postgres server, opened by `connect`."""

    def __init__(self, transport: asyncio.Transport, stream: _Stream, address: tuple[str, int], within: float) -> None:
        self._transport = transport
        self._stream = stream
        self._address = address
        self._within = within
        self._lock = asyncio.Lock()
        self._unread = 0  # results that the server still owes, also to cancelled callers
        self._process = 0
        self._secret = b""
        self._final_error: PostgresError | None = None

    # -- statements

    async def fetch(self, sql: str, *arguments: object) -> list[Row]:
        """Run one statement, with arguments for $1, $2 ..., and return its rows.

        Raises:
            PostgresError: the server reported an error.
            SessionEnded: the session is closed.
            TimeoutError: the result did not come in time.
        """
        return await self._send(wire.parameterized_query(sql, arguments))

    async def fetchrow(self, sql: str, *arguments: object) -> Row:
        """Run one statement and return its first row."""
        return (await self.fetch(sql, *arguments))[0]

    async def fetchval(self, sql: str, *arguments: object) -> Any:
        """Run one statement and return the first value of its first row."""
        return (await self.fetchrow(sql, *arguments))[0]

    async def execute(self, sql: str, *arguments: object) -> None:
        """Run a statement, or several statements without arguments."""
        await self._send(wire.parameterized_query(sql, arguments) if arguments else wire.query(sql))

    def get_server_pid(self) -> int:
        """Return the process id of the session at the server."""
        return self._process

    # -- closing

    def is_closed(self) -> bool:
        """True if the end of the connection has been detected."""
        return self._stream.ended or self._transport.is_closing()

    async def wait_closed(self) -> None:
        """Wait until the server closes the session."""
        while not self._stream.ended:
            with contextlib.suppress(SessionEnded):
                await self._stream.wait_for_data()

    async def close(self, within: float | None = None) -> None:
        """Close the session. A running statement is cancelled, and the server has released all locks on return.

        Args:
            within: seconds to wait at most; None for the time-out of the session.
        """
        async with asyncio.timeout(self._within if within is None else within), self._lock:
            if not self.is_closed():
                await self._discard_unread()
                self._transport.write(wire.TERMINATE)
                await self.wait_closed()
        self._transport.abort()

    def terminate(self) -> None:
        """Close the connection without a message to the server."""
        self._transport.abort()

    # -- inside

    async def _send(self, request: bytes) -> list[Row]:
        __tracebackhide__ = True
        async with asyncio.timeout(self._within), self._lock:
            await self._discard_unread()
            self._check()
            self._transport.write(request)
            self._unread += 1
            return await self._read_result()

    def _check(self) -> None:
        if self.is_closed():
            self._read_final_error()
            raise SessionEnded(str(self._final_error or "the session is closed")) from self._final_error

    def _read_final_error(self) -> None:
        while message := self._stream.messages.next_message():
            if message.kind == b"E":
                self._final_error = PostgresError(wire.error_fields(message.body))

    async def _next_message(self) -> wire.Message:
        """Return the next message that belongs to a result."""
        while True:
            while (message := self._stream.messages.next_message()) is None:
                await self._stream.wait_for_data()
            if message.kind not in (b"N", b"S", b"A"):  # notices, settings and notifications may come at any time
                return message

    async def _read_result(self) -> list[Row]:
        rows: list[Row] = []
        described: list[wire.Column] = []
        names: tuple[str, ...] = ()
        error: PostgresError | None = None
        while True:
            try:
                message = await self._next_message()
            except SessionEnded as ended:
                raise SessionEnded(str(error or ended)) from error
            match message.kind:
                case b"T":
                    described = wire.columns(message.body)
                    names = tuple(column.name for column in described)
                    rows = []
                case b"D":
                    rows.append(Row(wire.row_values(message.body, described), names))
                case b"E":
                    error = PostgresError(wire.error_fields(message.body))
                case b"Z":
                    self._unread -= 1
                    if error is not None:
                        raise error
                    return rows

    async def _discard_unread(self) -> None:
        """Read the results of cancelled callers. A statement that is still running is cancelled at the server."""
        if self._unread and not self.is_closed():
            await self._cancel()
        while self._unread and not self.is_closed():
            with contextlib.suppress(PostgresError):
                await self._read_result()

    async def _cancel(self) -> None:
        """Cancel the running statement of this session at the server."""
        loop = asyncio.get_running_loop()
        transport, stream = await loop.create_connection(_Stream, *self._address)
        try:
            transport.write(wire.cancel_request(self._process, self._secret))
            with contextlib.suppress(SessionEnded):
                while True:
                    await stream.wait_for_data()
        finally:
            transport.abort()

    async def log_in(self, settings: dict[str, str], password: str) -> None:
        """Authenticate, and wait until the server is ready for statements."""
        __tracebackhide__ = True  # a traceback with locals would show the password
        self._stream.plain = False
        self._transport.write(wire.startup_message(settings))
        scram = wire.Scram(password, secrets.token_urlsafe(18))
        while True:
            message = await self._next_message()
            kind, detail = int.from_bytes(message.body[:4], "big"), message.body[4:]
            match message.kind, kind:
                case b"E", _:
                    raise PostgresError(wire.error_fields(message.body))
                case b"R", 0:
                    pass
                case b"R", 3:
                    self._transport.write(wire.password_message(password))
                case b"R", 5:
                    self._transport.write(wire.md5_password_message(settings["user"], password, detail))
                case b"R", 10 if wire.Scram.MECHANISM.encode() in detail.split(b"\0"):
                    self._transport.write(scram.initial_response())
                case b"R", 11:
                    self._transport.write(scram.proof(detail))
                case b"R", 12:
                    scram.verify(detail)
                case b"R", _:
                    raise ConnectionError(
                        f"Postgres at {self._address[0]}:{self._address[1]} requires an authentication method that the plugin "
                        f"does not support ({kind}); it supports trust, password, md5 and scram-sha-256"
                    )
                case b"K", _:
                    self._process, self._secret = kind, detail
                case b"Z", _:
                    return


async def connect(url: str, *, database: str | None = None, application_name: str, within: float) -> Session:
    """Open a session.

    Args:
        url: postgresql:// as for libpq, with user, password, host, port, database, and in the query `sslmode` (default `prefer`),
            `sslrootcert`, `sslcert`, `sslkey` and `options`.
        database: replaces the database in the URL; None keeps it.
        application_name: the name in pg_stat_activity.
        within: seconds to open the session, and for each statement later.

    Raises:
        PostgresError: the server refused the session.
        OSError: the server can't be reached, or did not respond in time.
    """
    __tracebackhide__ = True  # a traceback with locals would show the password
    from .tls import query_parameters

    parts = urlsplit(url)
    options = query_parameters(parts.query)
    address = (parts.hostname or "localhost", parts.port or 5432)
    user = unquote(parts.username or "postgres")
    settings = {
        "user": user,
        "database": database or unquote(parts.path.strip("/")) or user,
        "application_name": application_name,
        "client_encoding": "UTF8",
        **({"options": options["options"]} if "options" in options else {}),
    }
    async with asyncio.timeout(within):
        transport, stream = await asyncio.get_running_loop().create_connection(_Stream, *address)
        try:
            if options.get("sslmode", "prefer") not in ("disable", "allow"):
                transport = await _with_tls(transport, stream, options, address)
            session = Session(transport, stream, address, within)
            await session.log_in(settings, unquote(parts.password or ""))
        except BaseException as error:
            transport.abort()
            if isinstance(error, ValueError) and not isinstance(error, OSError):  # an error of a certificate is both
                raise ConnectionError(f"{address[0]}:{address[1]}: {error}") from None
            raise
    return session


async def _with_tls(
    transport: asyncio.Transport, stream: _Stream, options: dict[str, str], address: tuple[str, int]
) -> asyncio.Transport:
    """Return the connection with TLS if the server offers it, and as it is if neither server nor URL require TLS."""
    transport.write(wire.SSL_REQUEST)
    while not stream.tls_reply:
        await stream.wait_for_data()
    if stream.tls_reply == b"S":
        from .tls import postgres_context

        stream.plain = False
        wrapped = await asyncio.get_running_loop().start_tls(
            transport, stream, postgres_context(options), server_hostname=address[0]
        )
        assert wrapped is not None, "an open transport is wrapped"
        return wrapped
    if options.get("sslmode", "prefer") != "prefer":
        raise ConnectionError(
            f"Postgres at {address[0]}:{address[1]} has no TLS, which sslmode={options['sslmode']} demands"
        )
    return transport
