"""The scripted answers of a stub and the requests that it has received. No sockets."""

from __future__ import annotations

import base64
import json
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any, NamedTuple

NO_BODY = (204, 304)  # statuses without a body


class Answer(NamedTuple):
    """One answer.

    Args:
        status: the status.
        headers: names and values.
        body: the whole body.
        delay: seconds from the end of the request to the answer.
        cut: the bytes of the body that are sent before the connection is closed; None for all, and an open connection.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    delay: float = 0.0
    cut: int | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Answer:
        """Return the answer of plain data, in which the body is base64."""
        headers = [(str(name), str(value)) for name, value in data["headers"]]
        return cls(data["status"], headers, base64.b64decode(data["body"]), data["delay"], data["cut"])

    def as_bytes(self, *, with_body: bool, keep_alive: bool) -> bytes:
        """Return the response with as much of the body as is to be sent.

        Args:
            with_body: False for the answer to a HEAD request.
            keep_alive: False to announce the close of the connection.
        """
        names = {name.lower() for name, _ in self.headers}
        lines = [f"HTTP/1.1 {self.status} {_phrase(self.status)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status not in NO_BODY and not {"content-length", "transfer-encoding"} & names:
            lines.append(f"Content-Length: {len(self.body)}")
        if not keep_alive and "connection" not in names:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head + self.body[: self.cut] if with_body and self.status not in NO_BODY else head


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


class Route:
    """The answers to the requests of one method and path. Each answer is given once, and the last one for ever.

    Args:
        method: in upper case; None for every method.
        path: the path, in which "*" stands for any characters.
        answers: one or more.
    """

    def __init__(self, method: str | None, path: str, answers: list[Answer]) -> None:
        self.method = method
        self.path = path
        self._answers = answers
        self._given = 0

    def matches(self, method: str, path: str) -> bool:
        """True if the route answers such a request."""
        return self.method in (None, method) and fnmatchcase(path, self.path)

    def next_answer(self) -> Answer:
        """Return the next answer."""
        self._given += 1
        return self._answers[min(self._given, len(self._answers)) - 1]

    def __str__(self) -> str:
        return f"{self.method or '*'} {self.path}"


class Script:
    """The routes of a stub, and its requests in the order in which they were complete.

    Attributes:
        requests: the requests as plain data.
    """

    def __init__(self) -> None:
        self._routes: list[Route] = []
        self.requests: list[dict[str, Any]] = []

    def clear(self) -> None:
        """Forget all routes and requests."""
        self._routes.clear()
        self.requests.clear()

    def add(self, data: dict[str, Any]) -> None:
        """Add a route. It replaces one of the same method and path, and precedes all others."""
        route = Route(data["method"], data["path"], [Answer.from_json(each) for each in data["answers"]])
        others = [each for each in self._routes if (each.method, each.path) != (route.method, route.path)]
        self._routes = [route, *others]

    def answer(
        self, method: str, target: str, headers: list[tuple[str, str]], body: bytes, at: float
    ) -> tuple[Answer, dict[str, Any]]:
        """Record a request, and return the answer with the record.

        Args:
            method: the method.
            target: path and query.
            headers: names in lower case, and values.
            body: the body.
            at: the moment, in seconds of the monotonic clock.
        """
        path, _, query = target.partition("?")
        route = next((each for each in self._routes if each.matches(method, path)), None)
        answer = route.next_answer() if route is not None else self._no_answer(method, path)
        record: dict[str, Any] = {
            "method": method,
            "path": path,
            "query": query,
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "at": at,
            "status": answer.status,
            "scripted": route is not None,
        }
        self.requests.append(record)
        return answer, record

    def _no_answer(self, method: str, path: str) -> Answer:
        error = {
            "error": f"no answer is scripted for {method} {path}",
            "scripted": [str(each) for each in self._routes],
        }
        return Answer(404, [("Content-Type", "application/json")], json.dumps(error).encode())
