"""Live updates, to clients by websocket and by polling."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest
import redis
import socketio
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Request, TextMessage

from pytest_resilience import eventually
from service.health import Lifecycle
from service.http.live_updates import MAX_QUEUED, ClientQueue, LiveUpdates
from service.jobs.progress_feed import CHANNEL
from service.settings import ServiceSettings

TIMEOUT = 1.0  # HEADER_TIMEOUT
MOST = 20  # MAX_CONNECTIONS
MOST_CLIENTS = MOST // 2
HANDSHAKE = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="session")
def resilience_service(service_spec):
    return service_spec(header_timeout=TIMEOUT, body_timeout=TIMEOUT, max_connections=MOST)


@pytest.fixture
def publish(resilience):
    """Return a function that publishes changes as another instance does."""
    client = redis.Redis.from_url(resilience.redis.direct_url)

    def publish(*changes, text=None):
        message = json.dumps({"from": "another", "changes": changes}) if text is None else text
        eventually(lambda: client.publish(CHANNEL, message) >= 1, within=5)

    with client:
        yield publish


def change(number, **fields):
    return {"id": number, "sent": 1, "total": 2, "status": "sending", **fields}


def run(service, scenario, *, transports=None):
    """Connect a client, run a coroutine function with it and its queue of events, and disconnect."""

    async def main():
        client, events = socketio.AsyncClient(reconnection=False), asyncio.Queue()

        async def on_progress(data):
            await events.put(data)

        client.on("campaign:progress", on_progress)
        await client.connect(service.url, transports=transports)
        try:
            async with asyncio.timeout(10):
                return await scenario(client, events)
        finally:
            await client.disconnect()

    return asyncio.run(main())


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], None])
def test_a_client_receives_the_progress_that_another_instance_announces(service, publish, transports):
    async def scenario(client, events):
        await asyncio.to_thread(publish, change(7), change(8, status="sent"))
        return [await events.get(), await events.get()]

    assert run(service, scenario, transports=transports) == [change(7), change(8, status="sent")]


def test_a_message_of_another_form_is_ignored(service, publish):
    async def scenario(client, events):
        for text in ("", "[]", "{}", '{"from": "x", "changes": [{}]}', '{"from": "x", "changes": 5}'):
            await asyncio.to_thread(publish, text=text)
        await asyncio.to_thread(publish, change(7))
        return await events.get()

    assert run(service, scenario) == change(7)


def test_a_client_can_request_the_state_of_a_campaign(service, campaign):
    async def scenario(client, events):
        requests = ({"id": campaign["id"]}, {"id": 2**62}, {"id": "7"}, {"id": True}, {"id": 0}, {}, None, [7], "7")
        return [await client.call("campaign:state", each, timeout=5) for each in requests]

    found, missing, *invalid = run(service, scenario)
    assert (found["id"], found["sent"], found["status"]) == (campaign["id"], 0, "draft")
    assert missing == {"error": "There is no such campaign."}
    assert [list(answer) for answer in invalid] == [["error"]] * 7


@pytest.fixture
def client(service):
    with httpx.Client(base_url=service.url, trust_env=False, timeout=10) as client:
        yield client


def open_session(client):
    """Open a session by polling, and return its id."""
    reply = client.get(HANDSHAKE)
    assert reply.status_code == 200, reply.text
    return json.loads(reply.text[1:])["sid"]


def test_a_session_that_is_left_makes_room_for_a_new_one(client):
    first, *others = [open_session(client) for _ in range(2 * MOST_CLIENTS)]
    assert client.get(f"{HANDSHAKE}&sid={first}").status_code == 400
    assert client.post(f"{HANDSHAKE}&sid={others[-1]}", content=b"40").status_code == 200, "the newest sessions stay"


def test_a_page_of_another_origin_cannot_connect(client, service):
    assert client.get(HANDSHAKE, headers={"Origin": "https://evil.example"}).status_code == 400
    assert client.get(HANDSHAKE, headers={"Origin": service.url}).status_code == 200
    assert upgrade(service, origin="https://evil.example")[0].startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("path", ["/socket.io", "/socket.io/x", "/socket.io/x/?EIO=4&transport=polling"])
def test_other_paths_are_not_served(client, path):
    reply = client.get(path)
    assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")


def test_an_oversized_or_late_body_ends_its_request(client, service):
    session = open_session(client)
    path = f"{HANDSHAKE}&sid={session}"
    assert client.post(path, content=b"4" * 20_000).status_code == 400
    begun = time.monotonic()

    def slow():
        yield b"4"
        while time.monotonic() - begun < 5 * TIMEOUT:
            time.sleep(0.1)
            yield b"4"

    session = open_session(client)
    with contextlib.suppress(httpx.TransportError):  # the connection is closed while the client sends
        client.post(f"{HANDSHAKE}&sid={session}", content=slow())
    assert time.monotonic() - begun < 4 * TIMEOUT


def test_a_packet_that_no_client_may_send_ends_its_session(client):
    path = f"{HANDSHAKE}&sid={open_session(client)}"
    assert client.post(path, content=b"0", timeout=TIMEOUT).status_code == 400
    assert client.get(path, timeout=TIMEOUT).status_code == 400


def upgrade(service, *, path="/socket.io/?EIO=4&transport=websocket", origin=None, frames=(), seconds=3):
    """Send a request to upgrade and then text frames. Return everything until the connection is closed, or silent for some seconds."""
    parts = urlsplit(service.url)
    headers = [(b"Origin", origin.encode())] if origin else []
    protocol = WSConnection(ConnectionType.CLIENT)
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as connection:
        connection.sendall(protocol.send(Request(host=parts.netloc, target=path, extra_headers=headers)))
        answer = connection.recv(65536)
        if answer.startswith(b"HTTP/1.1 101"):
            protocol.receive_data(answer)
            list(protocol.events())
            for frame in frames:
                connection.sendall(protocol.send(frame))
        closed = False
        with contextlib.suppress(TimeoutError):
            while more := connection.recv(65536):
                answer += more
            closed = True
    return answer, closed


@pytest.mark.parametrize(
    "frames",
    [
        [TextMessage(data="")],
        [TextMessage(data="x")],
        [TextMessage(data="9")],
        [BytesMessage(data=b"\0\xff")],
        [TextMessage(data="4" * 20_000)],
        [TextMessage(data="4" * 10_000, message_finished=False), TextMessage(data="4" * 10_000)],
    ],
    ids=["empty", "no packet", "unknown packet", "bytes", "large", "large in parts"],
)
def test_a_websocket_that_does_not_speak_engine_io_is_closed(service, log, frames):
    answer, closed = upgrade(service, frames=frames)
    assert answer.startswith(b"HTTP/1.1 101")
    assert closed
    assert "Traceback" not in log()


def test_malformed_packets_of_socket_io_harm_nobody(service, log, campaign):
    frames = [
        TextMessage(data=data)
        for data in ("40", "4x", "42", '42["campaign:state"', "451-[]", "43[]", '420["x"]', "4999")
    ]
    answer, _ = upgrade(service, frames=frames, seconds=0.3)
    assert answer.startswith(b"HTTP/1.1 101")
    assert "Traceback" not in log()


class Failing:
    """A server of python-socketio whose requests fail."""

    class eio:  # noqa: N801  (as the library has it)
        sockets = {}  # noqa: RUF012

    def __init__(self, error):
        self._error = error

    async def handle_request(self, scope, receive, send):
        raise self._error


def answer_of(error):
    """Return the messages of a request in which the library raises an error."""
    messages = []

    async def send(message):
        messages.append(message)

    async def run():
        async with asyncio.TaskGroup() as tasks:
            updates = LiveUpdates(ServiceSettings(database_url="postgresql://h"), None, Lifecycle(), tasks)
            updates._server = Failing(error)
            scope = {"type": "http", "path": "/socket.io/", "query_string": b""}
            await updates(scope, None, send)

    asyncio.run(run())
    return messages


def test_a_request_that_lacks_a_descriptor_is_no_error_of_the_client():
    assert answer_of(ValueError())[0]["status"] == 400
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="Too many open files")):
        answer_of(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))


def test_a_full_queue_drops_packets_and_reports_that_once():
    """Answers to a client are bounded like events, so one that only sends takes no memory."""

    async def scenario():
        overflows = []
        queue = ClientQueue(overflows.append)
        for number in range(MAX_QUEUED):
            await queue.put(number)
        assert overflows == []
        for number in range(10):
            await queue.put(number)
            queue.put_nowait(number)
        queue.put_nowait(None)  # ends the task that writes, so it always has room
        return queue.qsize(), [each is queue for each in overflows]

    assert asyncio.run(scenario()) == (MAX_QUEUED + 1, [True])


def test_a_request_to_upgrade_on_another_path_is_served_without_the_upgrade(service, log):
    answer, _ = upgrade(service, path="/health")
    assert answer.startswith(b"HTTP/1.1 200")
    assert log() == ""


def test_websockets_count_as_connections(service):
    parts = urlsplit(service.url)
    target = "/socket.io/?EIO=4&transport=websocket"
    with contextlib.ExitStack() as sockets:
        statuses = []
        for _ in range(MOST):
            connection = sockets.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=5))
            connection.sendall(WSConnection(ConnectionType.CLIENT).send(Request(host=parts.netloc, target=target)))
            statuses.append(int(connection.recv(65536).split(b" ", 2)[1]))
        assert statuses == [101] * MOST_CLIENTS + [503] * (MOST - MOST_CLIENTS)
        assert httpx.get(f"{service.url}/api/campaigns").status_code == 200


def test_the_clients_that_are_connected_are_a_metric(service):
    """The process is that of other tests, which leave sessions that poll."""

    async def shown() -> float:
        text = (await asyncio.to_thread(httpx.get, f"{service.url}/metrics")).text
        line = next(line for line in text.splitlines() if line.startswith("service_live_update_clients "))
        return float(line.rpartition(" ")[2])

    async def scenario(client, events):
        return await shown()

    others = asyncio.run(shown())
    assert run(service, scenario) == others + 1
    eventually(lambda: asyncio.run(shown()) == others, within=5)


def test_a_silent_websocket_outlives_the_header_timeout(service, publish):
    """It waits for events, and the pings of Engine.IO find out whether its client is alive."""

    async def scenario(client, events):
        await asyncio.sleep(2 * TIMEOUT)
        await asyncio.to_thread(publish, change(7))
        return await events.get()

    assert run(service, scenario, transports=["websocket"]) == change(7)
