"""The responses of the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..wire import toxiproxy as wire
from ..wire.api_error import ApiError
from ..wire.go_json import encode

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, and values."""

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    301: "Moved Permanently",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    417: "Expectation Failed",
    413: "Request Entity Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    505: "HTTP Version Not Supported",
}


class Response(NamedTuple):
    """A response of the API.

    Attributes:
        body: None for a response without one (204).
        content_type: "" for none.
        matched: True if a route was found, so that the response has a request id.
    """

    status: int
    body: bytes | None = None
    content_type: str = JSON
    matched: bool = True
    headers: tuple[tuple[str, str], ...] = ()


NO_CONTENT = Response(204, content_type="")


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with a value as Go's encoding/json writes it."""
    return Response(status, encode(value))


def error_response(error: ApiError) -> Response:
    """Return the response to a request that failed."""
    return Response(error.status, wire.error_body(error.status, error.message), TEXT)


def text_response(status: int, text: str, *, matched: bool) -> Response:
    """Return a plain text response."""
    return Response(status, text.encode(), TEXT, matched)


def raw_error_response(status: int, reason: str = "") -> bytes:
    """Return the whole response to bytes that are no request, in Go's words."""
    text = f"{status} {REASONS.get(status, 'Bad Request')}"
    if reason:
        text = f"{text}: {reason}"
    body = "Unsupported transfer encoding" if status == 501 else text
    return f"HTTP/1.1 {text}\r\nContent-Type: {TEXT}\r\nConnection: close\r\n\r\n{body}".encode()
