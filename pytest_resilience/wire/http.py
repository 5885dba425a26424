"""HTTP/1.0 requests as bytes, and the responses of HTTP/1.0 and 1.1 servers to them. No sockets.

The server closes the connection after its response to a request of HTTP/1.0, and never sends the body in chunks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?!\d)")


class HttpResponse(NamedTuple):
    """A response to a request.

    Attributes:
        status: 100 to 999.
        headers: values by lower-case names.
        body: all bytes behind the headers.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The value of a body in JSON."""
        return json.loads(self.body)


def request(method: str, path: str, host: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request without a body.

    Args:
        method: such as "GET".
        path: path and query, percent-encoded.
        host: value of the Host header.
        headers: further headers; default none.
    """
    lines = [f"{method} {path} HTTP/1.0", f"Host: {host}"]
    if method != "GET":
        lines.append("Content-Length: 0")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def parse_status(data: bytes) -> int | None:
    """Return the status of a response that begins with `data`, or None if that is no response of HTTP/1.0 or 1.1.

    Args:
        data: at least the first 12 bytes of the response.
    """
    found = _STATUS_LINE.match(data)
    return int(found[1]) if found is not None else None


def parse_response(data: bytes) -> HttpResponse:
    """Return a response out of all the bytes that the server sent until it closed the connection.

    Raises:
        ValueError: this is no response of HTTP/1.0 or 1.1.
    """
    status = parse_status(data)
    if status is None:
        raise ValueError(f"not an HTTP response: {data[:40]!r}")
    head, _, body = data.partition(b"\r\n\r\n")
    fields = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return HttpResponse(status, {name.lower(): value.strip() for name, _, value in fields}, body)
