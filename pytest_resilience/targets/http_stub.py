"""An upstream that a test scripts: answers by path, and the requests that it has received."""

from __future__ import annotations

import base64
import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from ..errors import SetupError
from .stub_process import StubProcess
from .target import StrikeRegistry
from .tcp import TcpSystem, TcpTarget

__tracebackhide__ = True  # errors of an answer point to its author's line


@dataclass(frozen=True)
class Answer:
    """One answer of an HTTP stub.

    Args:
        status: the status, 200 to 599.
        json: the body as plain data, sent as JSON with that content type; None for none. Excludes `body`.
        body: the body as text (UTF-8) or bytes, which need not be what the client expects.
        headers: further headers. A Content-Length of yours is sent as it is, right or wrong.
        delay: seconds from the end of the request to the answer.
        cut: the number of bytes of the body after which the connection is closed, so that the answer is incomplete; None for
            the whole body.

    Raises:
        SetupError: a value is out of range.
    """

    status: int = 200
    json: Any = field(default=None, kw_only=True)
    body: str | bytes = field(default=b"", kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    delay: float = field(default=0.0, kw_only=True)
    cut: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not _is_integer(self.status) or not 200 <= self.status <= 599:
            raise SetupError(f"Answer(status=...) is an integer from 200 to 599, got {self.status!r}")
        if self.json is not None and self.body:
            raise SetupError("Answer() takes json= or body=, not both")
        if not _is_number(self.delay) or not 0 <= self.delay < float("inf"):
            raise SetupError(f"Answer(delay=...) is seconds, 0 or more, got {self.delay!r}")
        if wrong := [name for name, value in self.headers.items() if not (_is_field(name) and _is_field(value))]:
            raise SetupError(f"Answer(headers=...) takes lines of ASCII; these are none: {', '.join(map(str, wrong))}")
        length = len(self._content)
        if self.cut is not None and not (_is_integer(self.cut) and 0 <= self.cut < length):
            raise SetupError(f"Answer(cut=...) is a number of bytes below the {length} of the body, got {self.cut!r}")

    @property
    def _content(self) -> bytes:
        body: object = self.body
        if self.json is not None:
            return _json_bytes(self.json)
        if isinstance(body, bytes):
            return body
        if isinstance(body, str):
            return body.encode()
        raise SetupError(f"Answer(body=...) is text or bytes, got {body!r}; json= takes plain data")

    def to_json(self) -> dict[str, Any]:
        """Return the answer as plain data for the process of the stub."""
        headers = list(self.headers.items())
        if self.json is not None and "content-type" not in {name.lower() for name in self.headers}:
            headers.append(("Content-Type", "application/json"))
        body = base64.b64encode(self._content).decode()
        return {"status": self.status, "headers": headers, "body": body, "delay": self.delay, "cut": self.cut}


@dataclass(frozen=True)
class StubRequest:
    """A request that a stub has received.

    Args:
        method: in upper case.
        path: without the query.
        query: the values of each parameter of the query.
        headers: values by lower-case names; values of one name are joined by ", ".
        body: the body.
        at: the moment of its end, in seconds of the machine's monotonic clock, as in a history.
        status: the status of the answer, which may be on its way, or lost.
        scripted: False if no answer was scripted for it, so that it got a 404.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str] = field(repr=False)  # may have a secret
    body: bytes = field(repr=False)
    at: float = field(repr=False)
    status: int
    scripted: bool

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Return the value of a body in JSON.

        Raises:
            ValueError: the body is no JSON.
        """
        return json_module.loads(self.body)

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> StubRequest:
        headers: dict[str, str] = {}
        for name, value in data["headers"]:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return cls(
            method=data["method"],
            path=data["path"],
            query=parse_qs(data["query"], keep_blank_values=True),
            headers=headers,
            body=base64.b64decode(data["body"]),
            at=data["at"],
            status=data["status"],
            scripted=data["scripted"],
        )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_integer(value)


def _is_field(value: object) -> bool:
    """True if a value can be the name or the value of a header."""
    return isinstance(value, str) and value.isascii() and not {"\r", "\n", "\0"} & set(value)


def _json_bytes(value: object) -> bytes:
    try:
        return json_module.dumps(value).encode()
    except (TypeError, ValueError) as error:
        raise SetupError(f"Answer(json=...) takes plain data: {error}") from None


class HttpStub(TcpTarget):
    """An HTTP server that answers as the test scripts it, behind a proxy. It begins each test without answers and requests."""

    def __init__(
        self,
        name: str,
        ledger: StrikeRegistry,
        system: TcpSystem,
        *,
        process: StubProcess,
        cannot: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, ledger, system, cannot=cannot)
        self._process = process

    def answer(self, path: str, *answers: Answer | int, method: str | None = None) -> None:
        """Script the answers to the requests of a path. They are given in order, and the last one from then on.

        Args:
            path: the path without a query; "*" stands for any characters.
            answers: one or more; an integer is an answer with that status and no body.
            method: such as "POST"; None for every method. A later call for the same path and method replaces the answers, and one
                for a path that matches too takes precedence.

        Raises:
            SetupError: an argument is invalid, or the stub does not answer.
        """
        if not str(path).startswith(("/", "*")) or "?" in path:
            raise SetupError(f"{self.name}.answer(path, ...): a path without a query, such as '/charges', got {path!r}")
        if not answers:
            raise SetupError(f"{self.name}.answer({path!r}, ...) needs an answer, such as 503 or Answer(json={{...}})")
        route = {
            "method": method.upper() if method is not None else None,
            "path": path,
            "answers": [self._checked(each).to_json() for each in answers],
        }
        self._command("POST", "routes", route)

    def _checked(self, answer: object) -> Answer:
        if isinstance(answer, Answer):
            return answer
        if isinstance(answer, int):
            return Answer(answer)
        raise SetupError(f"{self.name}.answer(): each answer is a status or an Answer, got {answer!r}")

    @property
    def requests(self) -> list[StubRequest]:
        """The requests of this test, in the order in which the stub received them."""
        return [StubRequest._from_json(each) for each in self._command("GET", "requests")]

    def clear(self) -> None:
        """Forget all answers and requests, as at the begin of a test. Answers that are delayed are never sent."""
        self._command("DELETE", "all")

    def _command(self, method: str, name: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            return self._process.command(method, name, body)
        except OSError as error:
            raise SetupError(f"the stub {self.name} does not answer: {type(error).__name__}: {error}") from None
