"""A gateway for the messages of campaigns, which records the batches that it gets, and hangs or fails on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TRICKLE_PAUSE = 0.1  # seconds between two lines of a head that never ends


class Gateway:
    """A gateway that listens on loopback.

    Attributes:
        status: of the responses.
        batches: the bodies of the requests that got a response with a status from 200 to 299, in their order.
        keys: the header Idempotency-Key of each of them.
        headers: all headers of each of them, with names in lower case.
        requests: number of requests so far.
    """

    def __init__(self) -> None:
        self.status = 200
        self.batches: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self._first_held = self._to_hold = 0
        self._released = threading.Event()
        self._answers_held = False
        self._trickling = threading.Event()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                gateway._serve(self)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/send"

    @property
    def campaigns(self) -> list[int]:
        """The campaign of each batch, in the order of the batches."""
        return [batch["campaign_id"] for batch in self.batches]

    @property
    def recipients(self) -> list[str]:
        """The id of each message."""
        return [recipient["id"] for batch in self.batches for recipient in batch["recipients"]]

    @property
    def repeated(self) -> set[str]:
        """The ids of messages that came more than once."""
        return {message for message, count in Counter(self.recipients).items() if count > 1}

    def hold(self, requests: int, *, after: int = 0) -> None:
        """Give the next requests no response until `release`.

        Args:
            requests: number of requests.
            after: number of requests before them that get a response.
        """
        self._released.clear()
        self._to_hold, self._first_held = requests, self.requests + after + 1

    def release(self, *, answer: bool) -> None:
        """End the requests that are held, with a response or without one."""
        self._to_hold, self._answers_held = 0, answer
        self._released.set()

    def trickle(self, *, on: bool) -> None:
        """Begin to send responses whose heads never end, a line at a time, or end that."""
        self._trickling.set() if on else self._trickling.clear()

    def reset(self) -> None:
        """Forget everything, and answer with status 200."""
        self.release(answer=False)
        self.trickle(on=False)
        self.status, self.requests = 200, 0
        self.batches, self.keys, self.headers = [], [], []

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        batch = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.requests += 1
        if self._to_hold and self.requests >= self._first_held:
            self._to_hold -= 1
            self._released.wait()
            if not self._answers_held:
                return
        if self._trickling.is_set():
            self._send_endless_head(handler)
            return
        if 200 <= self.status <= 299:
            self.batches.append(batch)
            self.keys.append(handler.headers["Idempotency-Key"])
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        handler.send_response(self.status)
        handler.end_headers()

    def _send_endless_head(self, handler: BaseHTTPRequestHandler) -> None:
        line = b"HTTP/1.1 200 OK\r\n"
        with contextlib.suppress(OSError):  # the service has closed the connection
            while self._trickling.is_set():
                handler.wfile.write(line)
                line = b"X-More: 1\r\n"
                time.sleep(TRICKLE_PAUSE)

    def serve(self) -> None:
        """Serve until closed."""
        self._server.serve_forever(poll_interval=0.05)

    def close(self) -> None:
        """End `serve` and all requests."""
        self.release(answer=False)
        self.trickle(on=False)
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_gateway() -> Iterator[Gateway]:
    """Run a gateway until the block ends."""
    gateway = Gateway()
    thread = threading.Thread(target=gateway.serve, daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        gateway.close()
        thread.join()
