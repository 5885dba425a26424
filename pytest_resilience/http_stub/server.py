"""The server of a stub: HTTP/1.1 with kept-alive connections, and a control interface below a secret path.

A client may be slow, and its answer may be delayed, so each connection is a task. A reset ends the connections that are in the middle
of a request or an answer, because these belong to the test before. Idle connections stay, as those of any server do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import h11

from . import CONTROL, HOST, TOKEN_VARIABLE
from .script import Answer, Script

CHUNK = 1 << 16  # bytes
JSON = [("Content-Type", "application/json")]


class Request(NamedTuple):
    """A complete request.

    Args:
        method: the method.
        target: path and query.
        headers: names in lower case, and values.
        body: the body.
        keep_alive: False if the client wants the connection to be closed.
    """

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    keep_alive: bool


class Client:
    """One connection of a client.

    Attributes:
        is_idle: True between an answer and the first byte of the next request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._unread = b""
        self.is_idle = True

    async def next_request(self) -> Request | None:
        """Return the next request, or None if the client has closed the connection.

        Raises:
            h11.RemoteProtocolError: the bytes are no request.
        """
        # A new parser for each request, because the answers do not pass through it: an answer may break the rules on purpose.
        parser = h11.Connection(h11.SERVER)
        self.is_idle = not self._unread
        if self._unread:
            parser.receive_data(self._unread)
        head: h11.Request | None = None
        body = b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                if parser.they_are_waiting_for_100_continue:
                    await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                data = await self._reader.read(CHUNK)
                self.is_idle = False
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                self._unread = parser.trailing_data[0]
                return _request(head, body, keep_alive=parser.their_state is not h11.MUST_CLOSE)
            else:
                return None

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Close the connection, after the bytes that were sent."""
        self._writer.close()


def _request(head: h11.Request, body: bytes, *, keep_alive: bool) -> Request:
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers]
    return Request(head.method.decode(), head.target.decode("latin-1"), headers, bytes(body), keep_alive)


class StubServer:
    """The connections of a stub and its script.

    Args:
        token: the secret part of the control interface's path.
        now: returns the moment in seconds of the monotonic clock.
    """

    def __init__(self, token: str, now: Callable[[], float]) -> None:
        self._control = f"{CONTROL}{token}/"
        self._now = now
        self._script = Script()
        self._tasks: dict[asyncio.Task[None], Client] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed."""
        client, task = Client(reader, writer), asyncio.current_task()
        assert task is not None
        self._tasks[task] = client
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled by a reset
                await self._serve(client)
        finally:
            del self._tasks[task]
            client.close()

    async def _serve(self, client: Client) -> None:
        try:
            while (request := await client.next_request()) is not None:
                answer = await self._answer(request)
                stays_open = request.keep_alive and answer.cut is None
                with_body = request.method != "HEAD"
                await client.send(answer.as_bytes(with_body=with_body, keep_alive=request.keep_alive))
                if not stays_open:
                    return
        except h11.RemoteProtocolError as error:
            answer = Answer(400, JSON, json.dumps({"error": str(error)}).encode())
            await client.send(answer.as_bytes(with_body=True, keep_alive=False))

    async def _answer(self, request: Request) -> Answer:
        if request.target.startswith(self._control):
            return self._obey(request.method, request.target.removeprefix(self._control), request.body)
        answer, record = self._script.answer(*request[:4], self._now())
        sys.stdout.write(f"{record['method']} {record['path']} -> {answer.status}{_notes(answer)}\n")
        sys.stdout.flush()
        if answer.delay:
            await asyncio.sleep(answer.delay)
        return answer

    def _obey(self, method: str, command: str, body: bytes) -> Answer:
        """Execute a command of the test, and return its result."""
        result: Any = None
        if (method, command) == ("POST", "routes"):
            self._script.add(json.loads(body))
        elif (method, command) == ("DELETE", "all"):
            self._reset()
        elif (method, command) == ("GET", "requests"):
            result = self._script.requests
        elif (method, command) != ("GET", "ready"):
            return Answer(404, JSON, b"{}")
        return Answer(200, JSON, json.dumps(result).encode())

    def _reset(self) -> None:
        self._script.clear()
        this = asyncio.current_task()
        for task, client in self._tasks.items():
            if task is not this and not client.is_idle:
                task.cancel()


def _notes(answer: Answer) -> str:
    delayed = f", after {answer.delay:g} s" if answer.delay else ""
    return delayed + (f", cut after {answer.cut} bytes" if answer.cut is not None else "")


async def run(port: int, token: str) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stub, over = StubServer(token, loop.time), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    server = await asyncio.start_server(stub.serve, HOST, port)
    async with server:
        await over.wait()
    os._exit(0)  # connections with delayed answers do not hold up the end


def main(port: str) -> None:
    """Run a stub.

    Args:
        port: the port on loopback, as text.
    """
    asyncio.run(run(int(port), os.environ.pop(TOKEN_VARIABLE)))
