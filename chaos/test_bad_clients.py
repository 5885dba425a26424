"""Clients that send too much or almost nothing delay no other client."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx

import healthy
from pytest_resilience import Resilience
from workload import MESSAGE, NAME, create, timed

MIB = 2**20
STALLED = 60  # clients that begin a request and send no more
HEADERS = {"Content-Type": "application/json"}


def test_an_oversized_body_is_refused_with_or_without_content_length(resilience: Resilience) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(3 * 16):
            yield b" " * (MIB // 16)

    rss = resilience.service.process.memory_info().rss
    for kind, content in (("with Content-Length", b" " * (3 * MIB)), ("in chunks", chunks())):
        try:
            status = resilience.service.post("/api/campaigns", content=content, headers=HEADERS).status_code
        except httpx.WriteError:
            continue  # the service closed the connection before it had the whole body
        assert status == 413, f"a body of 3 MiB, {kind}, gets {status}, not 413: bodies are unbounded"
    grown = (resilience.service.process.memory_info().rss - rss) / MIB
    assert grown < 16, f"refused bodies took {grown:.1f} MiB of memory, and should take less than 16"
    create(resilience)


def test_stalled_uploads_do_not_delay_other_clients(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    parts = httpx.URL(resilience.service.url)
    partial_request = (
        b"POST /api/campaigns HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    with ExitStack() as clients:
        for _ in range(STALLED):
            client = clients.enter_context(socket.create_connection((parts.host, parts.port), timeout=5.0))
            client.sendall(partial_request)
        replies = [timed(lambda: resilience.service.get(path)) for _ in range(20)]
        replies += [
            timed(lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE}))
            for _ in range(3)
        ]
    wrong = [each.status for each in replies if each.status not in (200, 201)]
    assert not wrong, f"{STALLED} clients stall, and other requests get {wrong}"
    slowest = max(each.seconds for each in replies)
    assert slowest < healthy.ACQUIRE_TIMEOUT + healthy.SLACK, (
        f"{STALLED} clients stall, and another request takes {slowest:.2f} s"
    )
