"""The gateways, with an HTTP server that answers as each test needs."""

import asyncio
import base64
import contextlib
import errno
import json
import logging
import re

import pytest

from service.errors import Unavailable
from service.jobs.gateway import Batch, HttpGateway, LogGateway, TimedGateway, create_gateway
from service.jobs.job import GatewayFailed, Job
from service.postgres.deliveries import Recipient
from service.settings import ServiceSettings

RECIPIENTS = [Recipient(3, "Ada", "ada@example.com", "1234"), Recipient(9, "Bär", "bob@example.com", "")]
BATCH = Batch(Job(7, 2), "Spring", "Grüße 😀", RECIPIENTS)


def exchange(answer, *, path="/send?key=1", credentials="", seconds=2.0):
    """Send a batch to a server that reads the request and then calls `answer`. Return the head and the body that it got."""
    received = []

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        received.append((head.decode(), json.loads(await reader.readexactly(int(length[1])))))
        await answer(writer)

    asyncio.run(send_to(serve, f"http://{credentials}127.0.0.1:{{port}}{path}", seconds))
    return received[0]


async def send_to(serve, url, seconds):
    """Send a batch to a server that calls `serve`."""
    tasks = []

    async def handle(reader, writer):
        tasks.append(asyncio.current_task())
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        await TimedGateway(HttpGateway(url.format(port=server.sockets[0].getsockname()[1])), seconds).send(BATCH)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answering(text):
    async def answer(writer):
        writer.write(text.encode())
        await writer.drain()

    return answer


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content"])
def test_a_batch_is_one_post_with_an_id_for_it_and_for_each_message(status):
    head, body = exchange(answering(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))
    assert head.startswith("POST /send?key=1 HTTP/1.1\r\n")
    assert f"\r\nidempotency-key: {BATCH.id}\r\n" in head.lower()
    assert "authorization" not in head.lower()
    assert body == {
        "campaign_id": 7,
        "step": 2,
        "name": "Spring",
        "message": "Grüße 😀",
        "recipients": [
            {"id": "campaign-7-2-3", "name": "Ada", "email": "ada@example.com", "phone": "1234"},
            {"id": "campaign-7-2-9", "name": "Bär", "email": "bob@example.com", "phone": ""},
        ],
    }


def test_the_name_and_password_of_the_url_are_credentials():
    head, _ = exchange(answering("HTTP/1.1 200 OK\r\n\r\n"), credentials="us%40er:p%3Aw@")
    assert base64.b64encode(b"us@er:p:w").decode() in head
    assert "@" not in head


def test_the_final_status_counts_and_its_body_is_not_read():
    async def endless(writer):
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
        await writer.drain()
        await asyncio.sleep(0.2)

    exchange(endless)


@pytest.mark.parametrize("status", ["500 No", "503 Busy", "404 Gone", "302 Moved", "429 Slow Down"])
def test_any_other_status_is_a_failure(status):
    with pytest.raises(GatewayFailed, match=status[:3]):
        exchange(answering(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"))


async def reset(writer):
    writer.transport.abort()


async def say_nothing(writer):
    await asyncio.Event().wait()


async def drip(writer):
    while True:
        writer.write(b"HTTP/1.1 200 OK\r\n"[:1])
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answering(""), "no valid HTTP"),
        (answering("HTTP/1.1 200 OK\r\n"), "no valid HTTP"),
        (answering("220 mail.example ESMTP\r\n\r\n"), "no valid HTTP"),
        (answering("HTTP/1.1 200 OK\r\nX: " + "x" * 1_000_000 + "\r\n\r\n"), "no valid HTTP"),
        (reset, "no valid HTTP|ConnectionResetError"),
        (say_nothing, r"within 0\.3 s"),
        (drip, r"within 0\.3 s|no valid HTTP"),
    ],
    ids=["close", "close in the head", "another protocol", "endless head", "reset", "silence", "drip"],
)
def test_whatever_else_a_gateway_does_is_a_failure_in_time(answer, reason):
    with pytest.raises(GatewayFailed, match=reason):
        exchange(answer, seconds=0.3)


def test_a_gateway_that_is_not_there_is_a_failure_without_its_name():
    with pytest.raises(GatewayFailed) as caught:
        asyncio.run(TimedGateway(HttpGateway("http://u:hunter2@127.0.0.1:1/"), 1).send(BATCH))
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


class Exhausted:
    """A gateway that cannot be called, because the process has no file descriptor left."""

    async def send(self, batch):
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_call_without_a_descriptor_is_no_failure_of_the_gateway():
    with pytest.raises(Unavailable, match="short of file descriptors") as caught:
        asyncio.run(TimedGateway(Exhausted(), 1).send(BATCH))
    assert not isinstance(caught.value, GatewayFailed)


def test_a_gateway_without_tls_is_no_https_gateway():
    async def serve(reader, writer):
        writer.transport.abort()

    with pytest.raises(GatewayFailed):
        asyncio.run(send_to(serve, "https://127.0.0.1:{port}", 2))


def test_batches_of_other_recipients_have_other_ids():
    batches = [BATCH, Batch(Job(7, 3), "n", "m", RECIPIENTS), Batch(Job(7, 2), "n", "m", RECIPIENTS[:1])]
    assert len({batch.id for batch in batches}) == 3
    assert Batch(Job(7, 2), "another name", "another message", list(RECIPIENTS)).id == BATCH.id


def test_without_a_url_the_number_of_messages_is_logged_and_no_address(caplog):
    gateway = create_gateway(ServiceSettings(database_url="postgresql://h/d"))
    assert isinstance(gateway, LogGateway)
    with caplog.at_level(logging.INFO):
        asyncio.run(gateway.send(BATCH))
    assert "2 messages of campaign-7-2" in caplog.text
    assert "example.com" not in caplog.text
    assert isinstance(
        create_gateway(ServiceSettings(database_url="postgresql://h/d", gateway_url="http://h")), HttpGateway
    )


def test_failures_are_logged_once_until_the_gateway_works_again(caplog):
    outcomes = iter([None, OSError, TimeoutError, OSError, None, None, OSError])

    class Script:
        async def send(self, batch):
            error = next(outcomes)
            if error is not None:
                raise error

    async def play():
        gateway = TimedGateway(Script(), 1)
        for _ in range(7):
            with contextlib.suppress(GatewayFailed):
                await gateway.send(BATCH)

    with caplog.at_level(logging.INFO, "service.gateway"):
        asyncio.run(play())
    assert [record.getMessage() for record in caplog.records] == [
        "The gateway fails: The gateway failed (OSError).",
        "The gateway takes messages again",
        "The gateway fails: The gateway failed (OSError).",
    ]
