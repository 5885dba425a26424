"""The plugin's own client of Redis. A connection runs one command at a time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Self
from urllib.parse import unquote, urlsplit

from ..wire.redis import ErrorReply, Reply, ReplyReader, encode_command, parse_client_list, parse_info

Command = Sequence[str]


class RedisClient:
    """A connection to a Redis server, opened by the first command and reopened after the server has closed it.

    Args:
        url: redis:// or rediss:// as for redis-py, with user, password, database, and in the query the `ssl_` settings.
        name: the name in CLIENT LIST.
        timeout: seconds for each reply; None for no limit.

    Attributes:
        timeout: as above. A change applies from the next command on.
    """

    def __init__(self, url: str, *, name: str, timeout: float | None) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "localhost", parts.port or 6379)
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password) if parts.password is not None else None
        self._database = parts.path.strip("/") or "0"
        self._tls = parts.query if parts.scheme == "rediss" else None
        self._url = url
        self._name = name
        self.timeout = timeout
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._replies = ReplyReader()

    def __repr__(self) -> str:
        return f"<RedisClient {self._name!r} of {self._address[0]}:{self._address[1]}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def duplicate(self, *, timeout: float | None) -> RedisClient:
        """Return another client of this server, with a separate connection."""
        return RedisClient(self._url, name=self._name, timeout=timeout)

    def call(self, *words: str) -> Reply:
        """Send a command and return its reply.

        Raises:
            ErrorReply: the reply is an error.
            OSError: the server can't be reached, closed the connection, or did not reply in time.
        """
        (reply,) = self.call_all([words])
        if isinstance(reply, ErrorReply):
            raise reply
        return reply

    def call_all(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands together and return their replies. Replies that are errors are returned as ErrorReply."""
        with self._lock:
            reused = self._socket is not None and not self._was_closed()
            try:
                return self._exchange(commands)
            except TimeoutError:
                raise
            except OSError:
                if not reused:
                    raise
            # The server has closed a connection that was used before, by a restart or a test's CLIENT KILL.
            return self._exchange(commands)

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        return parse_info(self.text("INFO", section))

    def clients(self) -> list[dict[str, str]]:
        """Return the clients in CLIENT LIST, a dict for each."""
        return parse_client_list(self.text("CLIENT", "LIST"))

    def text(self, *words: str) -> str:
        """Send a command and return its reply, which is a text."""
        reply = self.call(*words)
        assert isinstance(reply, str), f"{words[0]} replies with a text"
        return reply

    def count(self, *words: str) -> int:
        """Send a command and return its reply, which is a number."""
        reply = self.call(*words)
        assert isinstance(reply, int), f"{words[0]} replies with a number"
        return reply

    def setting(self, name: str) -> str | None:
        """Return a setting of the server (CONFIG GET), or None if the server has no such setting."""
        reply = self.call("CONFIG", "GET", name)
        assert isinstance(reply, list), "CONFIG GET replies with names and values"
        return str(reply[1]) if len(reply) > 1 else None

    def configure(self, name: str, value: str) -> None:
        """Change a setting of the server (CONFIG SET)."""
        self.call("CONFIG", "SET", name, value)

    def close(self) -> None:
        """Close the connection. The next command opens another."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _was_closed(self) -> bool:
        """True if the server has closed the connection or sent data without a request. The connection is closed then."""
        assert self._socket is not None, "called with an open connection only"
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return self._restore_timeout()
        except OSError as error:
            if type(error).__name__ == "SSLWantReadError":  # only a TLS session ticket was read
                return self._restore_timeout()
        self.close()
        return True

    def _restore_timeout(self) -> bool:
        assert self._socket is not None, "called with an open connection only"
        self._socket.settimeout(self.timeout)
        return False

    def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        if self._socket is None:
            self._open()
        return self._send(commands)

    def _open(self) -> None:
        __tracebackhide__ = True  # a traceback with locals would show the password
        connection = socket.create_connection(self._address, timeout=self.timeout)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                from .tls import query_parameters, redis_context

                context = redis_context(query_parameters(self._tls))
                connection = context.wrap_socket(connection, server_hostname=self._address[0])
        except BaseException:
            connection.close()
            raise
        self._socket, self._replies = connection, ReplyReader()
        first: list[Command] = []
        if self._password is not None:
            first.append(["AUTH", *([self._user] if self._user else []), self._password])
        first.append(["CLIENT", "SETNAME", self._name])
        if self._database != "0":
            first.append(["SELECT", self._database])
        for reply in self._send(first):
            if isinstance(reply, ErrorReply):
                self.close()
                raise reply

    def _send(self, commands: Sequence[Command]) -> list[Reply]:
        __tracebackhide__ = True  # the password is among the commands
        connection = self._socket
        assert connection is not None, "_open has made the connection"
        try:
            connection.settimeout(self.timeout)
            connection.sendall(b"".join(encode_command(*words) for words in commands))
            return [self._read_reply(connection) for _ in commands]
        except ValueError as error:
            self.close()
            raise ConnectionError(
                f"{self._address[0]}:{self._address[1]} does not speak the protocol of Redis: {error}"
            ) from None
        except BaseException:  # an interrupt too: a late reply would be taken for the reply to the next command
            with contextlib.suppress(OSError):
                self.close()
            raise

    def _read_reply(self, connection: socket.socket) -> Reply:
        while (reply := self._replies.next_reply()) is None:
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError(f"Redis at {self._address[0]}:{self._address[1]} closed the connection")
            self._replies.feed(chunk)
        return reply[0]
