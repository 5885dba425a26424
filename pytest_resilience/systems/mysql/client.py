"""A client of MySQL and MariaDB for administration, with one connection."""

from __future__ import annotations

import contextlib
import socket
from types import TracebackType
from typing import Self

from ...backends.backend import Address
from . import protocol

Rows = list[list[str | None]]

WITHIN = 10.0  # seconds for each read


class Connection:
    """A connection that is logged in. A context manager.

    Args:
        address: the address of the server.
        user: the user.
        password: the password.
        within: seconds for each read.

    Attributes:
        version: the version of the server.

    Raises:
        OSError: nothing answers.
        ServerError: the server refuses the login.
    """

    def __init__(self, address: Address, user: str, password: str, *, within: float = WITHIN) -> None:
        self._socket: socket.socket = socket.create_connection(address, timeout=within)
        self._buffer = b""
        self._number = 0
        self._has_tls = False
        try:
            self.version = self._log_in(user, password)
        except BaseException:
            self._socket.close()
            raise

    def _log_in(self, user: str, password: str) -> str:
        try:
            greeting = protocol.parse_greeting(self._receive())
            # caching_sha2_password demands TLS for the first login of a user since the start of the server.
            tls = bool(greeting.capabilities & protocol.TLS) and greeting.plugin == protocol.CACHING_SHA2
            if tls:
                self._send(protocol.tls_request())
                self._begin_tls()
            answer = protocol.proof(greeting.plugin, password, greeting.scramble)
            self._send(protocol.login(user, answer, greeting.plugin, tls=tls))
            self._finish_login(password)
        except ValueError as error:
            raise ConnectionError(str(error)) from None
        return greeting.version

    def _begin_tls(self) -> None:
        """Begin TLS. The certificate of a server on this machine proves nothing, so it is not checked."""
        import ssl  # slow to import, and only MySQL needs it

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)
        self._has_tls = True

    def _finish_login(self, password: str) -> None:
        while (payload := self._receive())[0] != protocol.OK:
            if payload[0] == protocol.ERROR:
                raise protocol.parse_error(payload)
            if payload[0] == protocol.AUTH_SWITCH:
                plugin, scramble = protocol.parse_auth_switch(payload)
                self._send(protocol.proof(plugin, password, scramble))
            elif payload[0] == protocol.AUTH_DATA and payload[1:] == protocol.FULL_AUTH:
                if not self._has_tls:
                    raise ValueError("the server demands TLS for this login and does not offer it")
                self._send(password.encode() + b"\0")
            elif payload[:2] != bytes([protocol.AUTH_DATA]) + protocol.FAST_AUTH_OK:
                raise ValueError("the server has answered the login with something unknown")

    def query(self, statement: str) -> Rows:
        """Run statements, separated by semicolons, and return the rows of the last one.

        Raises:
            ServerError: a statement has failed.
            OSError: the connection was closed, or the server did not answer in time.
        """
        self._number = 0
        self._send(protocol.QUERY + statement.encode(errors="surrogateescape"))
        rows, status = self._result()
        while status & protocol.MORE_RESULTS:
            rows, status = self._result()
        return rows

    def value(self, statement: str) -> str:
        """Return the first column of the first row, "" for NULL."""
        return self.query(statement)[0][0] or ""

    def column(self, statement: str) -> list[str]:
        """Return the first column of all rows."""
        return [row[0] or "" for row in self.query(statement)]

    def _result(self) -> tuple[Rows, int]:
        """Return the rows of one statement, and the status flags."""
        first = self._receive()
        if first[0] == protocol.ERROR:
            raise protocol.parse_error(first)
        if first[0] == protocol.OK:
            return [], protocol.status_of_ok(first)
        while not protocol.is_end(self._receive()):
            pass  # the descriptions of the columns
        rows: Rows = []
        while not protocol.is_end(payload := self._receive()):
            if payload[0] == protocol.ERROR:
                raise protocol.parse_error(payload)
            rows.append(protocol.parse_row(payload))
        return rows, protocol.status_of_end(payload)

    def _send(self, payload: bytes) -> None:
        self._socket.sendall(protocol.packet(self._number, payload))
        self._number += 1

    def _receive(self) -> bytes:
        head = self._read(4)
        self._number = head[3] + 1
        return self._read(int.from_bytes(head[:3], "little"))

    def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            chunk = self._socket.recv(1 << 16)
            if not chunk:
                raise ConnectionError("the server has closed the connection")
            self._buffer += chunk
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def close(self) -> None:
        """Close the connection."""
        self._number = 0
        with contextlib.suppress(OSError):
            self._send(protocol.QUIT)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
