"""The script of a stub as literals, without sockets."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from pytest_resilience.http_stub.script import Answer, Script


def answer(status: int, body: bytes = b"", **more: Any) -> dict[str, Any]:
    plain = {"status": status, "headers": [], "body": base64.b64encode(body).decode(), "delay": 0.0, "cut": None}
    return plain | more


def script(*routes: tuple[str | None, str, list[dict[str, Any]]]) -> Script:
    made = Script()
    for method, path, answers in routes:
        made.add({"method": method, "path": path, "answers": answers})
    return made


def statuses(made: Script, *requests: str) -> list[int]:
    return [made.answer(*each.split(), [], b"", 0.0)[0].status for each in requests]  # type: ignore[arg-type]


def test_answers_are_given_in_order_and_the_last_one_for_ever() -> None:
    made = script(("POST", "/a", [answer(503), answer(503), answer(201)]))
    assert statuses(made, *["POST /a"] * 5) == [503, 503, 201, 201, 201]


def test_a_route_has_a_method_or_all_of_them() -> None:
    made = script((None, "/a", [answer(200)]), ("GET", "/b", [answer(201)]))
    assert statuses(made, "GET /a", "PUT /a", "GET /b", "PUT /b") == [200, 200, 201, 404]


def test_a_later_route_precedes_and_an_equal_one_is_replaced() -> None:
    made = script((None, "/a", [answer(200)]), (None, "/*", [answer(500)]), (None, "/a", [answer(201)]))
    assert statuses(made, "GET /a", "GET /a/b?c=d") == [201, 500]


def test_a_request_is_recorded_with_the_status_of_its_answer() -> None:
    made = script((None, "/a", [answer(418)]))
    made.answer("PUT", "/a?x=1&y=2", [("host", "h")], b"\xff", 7.5)
    made.answer("GET", "/b", [], b"", 8.0)
    assert made.requests == [
        {
            "method": "PUT",
            "path": "/a",
            "query": "x=1&y=2",
            "headers": [("host", "h")],
            "body": "/w==",
            "at": 7.5,
            "status": 418,
            "scripted": True,
        },
        {
            "method": "GET",
            "path": "/b",
            "query": "",
            "headers": [],
            "body": "",
            "at": 8.0,
            "status": 404,
            "scripted": False,
        },
    ]


def test_a_cleared_script_has_neither_routes_nor_requests() -> None:
    made = script((None, "/a", [answer(200)]))
    statuses(made, "GET /a")
    made.clear()
    assert made.requests == []
    assert statuses(made, "GET /a") == [404]


@pytest.mark.parametrize(
    ("given", "with_body", "keep_alive", "expected"),
    [
        (Answer(200, [], b"ok"), True, True, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (Answer(200, [], b"ok"), False, True, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
        (Answer(200, [], b"ok"), True, False, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"),
        (Answer(204, [], b"ok"), True, True, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (Answer(599, [("X", "y")], b""), True, True, b"HTTP/1.1 599 Unknown\r\nX: y\r\nContent-Length: 0\r\n\r\n"),
        (Answer(200, [], b"four", cut=1), True, True, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nf"),
        (Answer(200, [("content-length", "9")], b"ok"), True, True, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"),
        (
            Answer(200, [("Connection", "keep-alive")], b""),
            True,
            False,
            b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n",
        ),
    ],
)
def test_an_answer_as_bytes(given: Answer, with_body: bool, keep_alive: bool, expected: bytes) -> None:
    assert given.as_bytes(with_body=with_body, keep_alive=keep_alive) == expected


def test_an_answer_of_plain_data() -> None:
    plain = answer(200, b"\x00x", headers=[["A", "b"]], delay=1.5, cut=1)
    assert Answer.from_json(plain) == Answer(200, [("A", "b")], b"\x00x", 1.5, 1)
