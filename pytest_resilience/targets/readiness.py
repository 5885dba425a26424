"""Conditions under which a service that starts is ready."""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..clock import SYSTEM, Clock
from ..hosts import joined
from ..truth import is_true
from ..wire import http
from .not_ready import answer_line, listening_lines
from .placeholders import fill

if TYPE_CHECKING:
    from ..processes import ManagedProcess
    from .service_spec import Service

CHECK_TIMEOUT = 1.0  # seconds for a connection, and again for an answer
CLOSE_TIMEOUT = 0.2  # seconds for the rest of an answer, until the service closes the connection
SETTLED = 1.0  # seconds for which the first process of a service without a condition has to run
_URL = re.compile(r"http://(?P<host>\[[^\]]*\]|[^/:?#]+)(?::(?P<port>\d+))?(?P<path>[/?].*)?")
_TCP = re.compile(r"(?:tcp:(?://)?)?(?:(?P<host>\[[^\]]*\]|[\w.-]*):)?(?P<port>\d{1,5})")


class ServiceStart:
    """One start of a service, as a readiness function gets it.

    Args:
        spec: the description of the service.
        child: its process.
        ports: its ports by name.
        log_begins: the size of the log before the start.

    Attributes:
        host: the host name or address of the service.
        ports: the ports by name.
        pid: the process id.
    """

    def __init__(self, spec: Service, child: ManagedProcess, ports: Mapping[str, int], log_begins: int) -> None:
        self.host = spec.host
        self.ports = ports
        self.pid = child.pid
        self.spec = spec
        self._child = child
        self._log_begins = log_begins

    @property
    def port(self) -> int:
        """The first port."""
        return next(iter(self.ports.values()))

    @property
    def url(self) -> str:
        """The base URL with the first port."""
        return f"http://{joined(self.host, self.port)}"

    @property
    def log(self) -> str:
        """The output since the start."""
        return self._child.log_text(self._log_begins)

    def filled(self, text: str) -> str:
        """Return a text with the ports in place of their placeholders."""
        return fill(text, {"port": self.port, **self.ports})

    def processes(self) -> list[int]:
        """Return the process ids of the tree."""
        return self._child.processes()


class Readiness(Protocol):
    """A condition of one start of a service.

    Attributes:
        missing: the end of "the service did not ..." where the condition does not hold.
    """

    missing: str

    def is_ready(self) -> bool:
        """Check the condition once."""

    def responds(self) -> bool:
        """True if the last check found a service that runs, although it may need another system that is struck."""

    def describe(self) -> list[str]:
        """Return lines about the last check, for the error of a service that runs and is not ready."""


class HttpReadiness:
    """A path or URL answers 2xx or 3xx.

    Args:
        start: the start of the service.
        host: the host that is requested.
        port: the port that is requested.
        path: the path.
    """

    missing = "answer"

    def __init__(self, start: ServiceStart, host: str, port: int, path: str) -> None:
        self._start = start
        self._host, self._port, self._path = host, port, path
        self._status: int | str = "no response yet"

    def is_ready(self) -> bool:
        try:
            self._status = self.status()
        except OSError as error:
            self._status = type(error).__name__
        return isinstance(self._status, int) and 200 <= self._status < 400

    def responds(self) -> bool:
        return isinstance(self._status, int)

    def status(self, within: float = CHECK_TIMEOUT) -> int:
        """Request the path once and return the status.

        Args:
            within: seconds to wait for the connection, and again for the answer.

        Raises:
            OSError: there is no answer.
        """
        return _status(self._host, self._port, self._path, within)

    def describe(self) -> list[str]:
        asked = f"GET {self._path} on port {self._port}"
        if isinstance(self._status, int):
            return [answer_line(asked, self._status)]
        return _places(self._start, self._host, self._port, f"{asked}: {self._status}")


class TcpReadiness:
    """A TCP port accepts a connection.

    Args:
        start: the start of the service.
        host: the host.
        port: the port.
    """

    missing = "accept a connection"

    def __init__(self, start: ServiceStart, host: str, port: int) -> None:
        self._start = start
        self._host, self._port = host, port
        self._error = "no attempt yet"

    def is_ready(self) -> bool:
        try:
            socket.create_connection((self._host, self._port), timeout=CHECK_TIMEOUT).close()
        except OSError as error:
            self._error = type(error).__name__
            return False
        return True

    def responds(self) -> bool:
        return False

    def describe(self) -> list[str]:
        return _places(self._start, self._host, self._port, f"TCP port {self._port}: {self._error}")


class LogReadiness:
    """The log since the start has a text, or matches a pattern.

    Args:
        start: the start of the service.
        expected: the text or the pattern.
    """

    missing = "log the line that makes it ready"

    def __init__(self, start: ServiceStart, expected: str | re.Pattern[str]) -> None:
        self._start = start
        self._text = start.filled(expected) if isinstance(expected, str) else None
        self._pattern = re.compile(re.escape(self._text)) if self._text is not None else re.compile(expected)

    def is_ready(self) -> bool:
        return self._pattern.search(self._start.log) is not None

    def responds(self) -> bool:
        return True

    def describe(self) -> list[str]:
        if self._text is None:
            return [f"its log has no match of the pattern {self._pattern.pattern!r}"]
        hint = "; a path begins with '/'" if re.fullmatch(r"[\w/.-]+", self._text) else ""
        return [f"its log has no line with {self._text!r}{hint}"]


class CheckedReadiness:
    """A function of the user's returns a true value.

    Args:
        start: the start of the service.
        function: the function. An exception of it means that the service is not ready yet.
    """

    missing = "become ready"

    def __init__(self, start: ServiceStart, function: Callable[..., object]) -> None:
        self._function = function
        self._arguments = [start] if _takes_argument(function) else []
        self._found = "was not called"

    def is_ready(self) -> bool:
        try:
            value: object = self._function(*self._arguments)
        except Exception as error:  # noqa: BLE001  # a client's error is no OSError in general
            self._found = f"raised {type(error).__name__}: {error}"
            return False
        self._found = f"returned {value!r}"
        return is_true(value)

    def responds(self) -> bool:
        return True

    def describe(self) -> list[str]:
        name = getattr(self._function, "__name__", repr(self._function))
        return [f"the function {name} of Service(ready=...) {self._found}"]


class RunningReadiness:
    """The process runs, and the first one has run for SETTLED seconds.

    Args:
        clock: the clock.
        is_first: True if no process of the service has been ready before.
    """

    missing = "run"

    def __init__(self, clock: Clock, *, is_first: bool) -> None:
        self._clock = clock
        self._from = clock.now() + (SETTLED if is_first else 0.0)

    def is_ready(self) -> bool:
        return self._clock.now() >= self._from

    def responds(self) -> bool:
        return True

    def describe(self) -> list[str]:
        return []


def readiness_of(start: ServiceStart, clock: Clock, *, is_first: bool) -> Readiness:
    """Return the condition that a service describes.

    Args:
        start: the start of the service.
        clock: the clock.
        is_first: True if no process of the service has been ready before.
    """
    ready = start.spec.ready
    if ready is None:
        return RunningReadiness(clock, is_first=is_first)
    if isinstance(ready, int):
        return TcpReadiness(start, start.host, ready)
    if isinstance(ready, re.Pattern):
        return LogReadiness(start, ready)
    if not isinstance(ready, str):
        return CheckedReadiness(start, ready)
    return http_readiness(start) or _text_readiness(start, ready)


def http_readiness(start: ServiceStart) -> HttpReadiness | None:
    """Return the condition of a service whose `ready` is a path or URL, or None for another one."""
    ready = start.spec.ready
    if not isinstance(ready, str):
        return None
    if ready.startswith("/"):
        return HttpReadiness(start, start.host, start.port, start.filled(ready))
    if not (found := _URL.fullmatch(start.filled(ready))):
        return None
    path = found["path"] or "/"
    return HttpReadiness(
        start, found["host"].strip("[]"), int(found["port"] or 80), path if path.startswith("/") else f"/{path}"
    )


def _text_readiness(start: ServiceStart, ready: str) -> Readiness:
    if found := _TCP.fullmatch(start.filled(ready)):
        return TcpReadiness(start, (found["host"] or start.host).strip("[]"), int(found["port"]))
    return LogReadiness(start, ready)


def _places(start: ServiceStart, host: str, port: int, seen: str) -> list[str]:
    return listening_lines(start.spec, start.ports, (host, port), seen, start.processes())


def _takes_argument(function: Callable[..., Any]) -> bool:
    """True if a function needs an argument."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function that is not written in Python
        return False
    return any(
        each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        for each in parameters
    )


def _status(host: str, port: int, path: str, within: float) -> int:
    """Return the status of one GET. A full client would take CPU time from the service that starts."""
    with socket.create_connection((host, port), timeout=within) as sock:
        sock.sendall(http.request("GET", path, joined(host, port)))
        status = http.parse_status(sock.recv(64))
        if status is not None:
            _read_to_end(sock)
    if status is None:
        raise ConnectionError("no HTTP response")
    return status


def _read_to_end(sock: socket.socket) -> None:
    """Read until the service closes the connection, for at most 0.2 s.

    A connection that is closed with unread data is reset: the service would log an error, and may keep the descriptor for a while.
    """
    end = SYSTEM.now() + CLOSE_TIMEOUT
    try:
        while (left := end - SYSTEM.now()) > 0:
            sock.settimeout(left)
            if not sock.recv(1 << 16):
                return
    except OSError:  # the status is known, so an error no longer matters
        return
