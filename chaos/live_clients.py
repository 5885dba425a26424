"""Clients of live updates, one that uses Socket.IO's library and one that works on the bytes of a websocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, Request, TextMessage
from wsproto.utilities import RemoteProtocolError

from pytest_resilience import Resilience, eventually

CHANNEL = "service:campaign-progress"  # of Redis, by which instances publish progress to each other


class LiveClient:
    """A client with Socket.IO's library, in a thread.

    Attributes:
        events: the data of all `campaign:progress` events.
    """

    def __init__(self, url: str, transports: Sequence[str] | None, *, reconnection: bool) -> None:
        self.events: list[dict[str, Any]] = []
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = self._run(self._create(reconnection))
        self._run(self._client.connect(url, transports=transports, wait_timeout=5))

    @property
    def connected(self) -> bool:
        """True while the client is connected."""
        return bool(self._client.connected)

    def state(self, campaign_id: object) -> dict[str, Any]:
        """Request the state of a campaign. An answer that does not come is {}."""
        from socketio.exceptions import TimeoutError as NoAnswer  # type: ignore[import-untyped]

        found: dict[str, Any] = {}
        with contextlib.suppress(NoAnswer):
            found = self._run(self._client.call("campaign:state", {"id": campaign_id}, timeout=5))
        return found

    def progress(self, campaign_id: int) -> list[dict[str, Any]]:
        """Return the events of one campaign so far."""
        return [event for event in self.events if event["id"] == campaign_id]

    def close(self) -> None:
        """Disconnect, and end the thread."""
        with contextlib.suppress(Exception):
            self._run(self._client.disconnect())
            self._run(self._client.eio.http.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._runner.close()

    async def _create(self, reconnection: bool) -> Any:
        import socketio  # type: ignore[import-untyped]  # a quarter of a second, which most workers of the suite never need

        client = socketio.AsyncClient(reconnection=reconnection, reconnection_delay=0.1, reconnection_delay_max=0.2)

        async def on_progress(data: dict[str, Any]) -> None:
            self.events.append(data)

        client.on("campaign:progress", on_progress)
        return client

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10.0)


@contextmanager
def live_client(
    url: object, transports: Sequence[str] | None = None, *, reconnection: bool = False
) -> Iterator[LiveClient]:
    """Connect a client for the duration of the block.

    Args:
        url: of the service.
        transports: "polling", "websocket" or both. None begins with polling and then uses a websocket.
        reconnection: connect again after a loss of the connection.
    """
    client = LiveClient(str(url), transports, reconnection=reconnection)
    try:
        yield client
    finally:
        client.close()


class RawWebSocket:
    """A websocket that reads only when a test asks.

    Attributes:
        refused: the status of the response that refuses the websocket, or None.
        closed: the code of the close frame, 0 for a connection that ended without one, or None while it is open.
    """

    def __init__(self, url: object, *, receive_buffer: int | None = None, origin: str | None = None) -> None:
        parts = urlsplit(str(url))
        self.refused: int | None = None
        self.closed: int | None = None
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(2.0)
        self._socket.connect((parts.hostname, parts.port))
        self._protocol = WSConnection(ConnectionType.CLIENT)
        headers = [] if origin is None else [(b"Origin", origin.encode())]
        target = "/socket.io/?EIO=4&transport=websocket"
        self._socket.sendall(self._protocol.send(Request(host=parts.netloc, target=target, extra_headers=headers)))
        while self.refused is None and not self._accepted():
            self._receive()
        if self.refused is None:
            self.send("40")  # connects to the namespace of Socket.IO

    def send(self, text: str) -> None:
        """Send a packet of Engine.IO."""
        self._socket.sendall(self._protocol.send(TextMessage(data=text)))

    def read(self) -> Iterator[str]:
        """Yield packets until the websocket is closed."""
        text = ""
        while self.closed is None:
            for event in self._protocol.events():
                if isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        yield text
                        text = ""
                elif isinstance(event, CloseConnection):
                    self.closed = int(event.code)
            if self.closed is None:
                self._receive()

    def close(self) -> None:
        """Close the connection without a close frame."""
        self._socket.close()

    def _accepted(self) -> bool:
        for event in self._protocol.events():
            if isinstance(event, RejectConnection):
                self.refused = event.status_code
            if isinstance(event, AcceptConnection):
                return True
        return False

    def _receive(self) -> None:
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self._socket.recv(1 << 20)
        if not data:
            self.closed = 0
            return
        with contextlib.suppress(RemoteProtocolError):
            self._protocol.receive_data(data)


@contextmanager
def raw_websocket(
    url: object, *, receive_buffer: int | None = None, origin: str | None = None
) -> Iterator[RawWebSocket]:
    """Open a websocket for the duration of the block.

    Args:
        url: of the service.
        receive_buffer: bytes that the kernel keeps for this client. None keeps the kernel's default.
        origin: of the page that connects. None for a client that is no browser.
    """
    client = RawWebSocket(url, receive_buffer=receive_buffer, origin=origin)
    try:
        yield client
    finally:
        client.close()


class OtherInstance:
    """An instance that a test plays, past the proxies. It publishes progress and receives that of others."""

    def __init__(self, resilience: Resilience) -> None:
        self._redis = Redis.from_url(resilience.redis.direct_url)
        self._listener = self._redis.pubsub()
        self._received: list[dict[str, Any]] = []

    def publish(self, *changes: dict[str, Any]) -> None:
        """Publish changes, once an instance listens."""
        message = json.dumps({"from": "another instance", "changes": changes})
        eventually(lambda: self._redis.publish(CHANNEL, message) >= 1, within=5.0)

    def listeners(self) -> int:
        """Return the number of instances that listen."""
        ((_, count),) = self._redis.pubsub_numsub(CHANNEL)
        return int(count)

    def listen(self) -> None:
        """Begin to receive what the instances publish."""
        self._listener.subscribe(CHANNEL)

    def received(self) -> list[dict[str, Any]]:
        """Return all changes since `listen`."""
        while message := self._listener.get_message(timeout=0.0):
            if message["type"] == "message":
                self._received += json.loads(message["data"])["changes"]
        return self._received

    def close(self) -> None:
        """Disconnect from Redis."""
        self._listener.close()
        self._redis.close()


@contextmanager
def other_instance(resilience: Resilience) -> Iterator[OtherInstance]:
    """Play an instance for the duration of the block."""
    other = OtherInstance(resilience)
    try:
        yield other
    finally:
        other.close()


def change(campaign_id: int, **fields: object) -> dict[str, Any]:
    """Return the data of an event."""
    return {"id": campaign_id, "sent": 1, "total": 2, "status": "sending", **fields}
