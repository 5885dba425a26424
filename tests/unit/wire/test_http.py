"""HTTP/1.0: tables of literals."""

from __future__ import annotations

import pytest

from pytest_resilience.wire import http


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("GET", None, b"GET /a?b=c HTTP/1.0\r\nHost: docker\r\n\r\n"),
        ("DELETE", None, b"DELETE /a?b=c HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n"),
        ("GET", {"User-Agent": "x"}, b"GET /a?b=c HTTP/1.0\r\nHost: docker\r\nUser-Agent: x\r\n\r\n"),
    ],
)
def test_a_request_of_http_1_0(method: str, headers: dict[str, str] | None, expected: bytes) -> None:
    assert http.request(method, "/a?b=c", "docker", headers) == expected


@pytest.mark.parametrize(
    ("data", "status", "headers", "body"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", 200, {}, b""),
        (b"HTTP/1.1 404 Not Found\r\nContent-Type:text/plain \r\n\r\nno\r\n\r\n", 404, {"content-type": "text/plain"}, b"no\r\n\r\n"),
        (b"HTTP/1.0 204\r\nX: a:b\r\n\r\n", 204, {"x": "a:b"}, b""),
        (b"HTTP/1.0 500 x", 500, {}, b""),
    ],
)  # fmt: skip
def test_a_response_is_parsed(data: bytes, status: int, headers: dict[str, str], body: bytes) -> None:
    assert http.parse_response(data) == (status, headers, body)


@pytest.mark.parametrize("data", [b"HTTP/1.0 200", b"HTTP/1.1 200 OK\r\nDate: ", b"HTTP/1.0 200\r\n"])
def test_the_status_is_parsed_before_the_response_is_complete(data: bytes) -> None:
    assert http.parse_status(data) == 200


@pytest.mark.parametrize(
    "data", [b"", b"-ERR unknown command\r\n", b"HTTP/1.0 ", b"HTTP/1.0 2000 OK", b"HTTP/2.0 200 OK"]
)
def test_other_data_is_no_response(data: bytes) -> None:
    assert http.parse_status(data) is None
    with pytest.raises(ValueError, match="not an HTTP response"):
        http.parse_response(data)
