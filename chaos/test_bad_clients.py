"""A client that sends too much, or hardly anything, costs nobody else an answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx

import healthy
from pytest_resilience import Resilience
from workload import MESSAGE, NAME, create, timed

MIB = 2**20
SLOW = 60  # clients that begin a request and do not go on
HEADERS = {"Content-Type": "application/json"}


def test_an_oversized_body_is_refused_with_or_without_content_length(resilience: Resilience) -> None:
    def in_pieces() -> Iterator[bytes]:
        for _ in range(3 * 16):
            yield b" " * (MIB // 16)

    rss = resilience.service.process.memory_info().rss
    for how, content in (("announced", b" " * (3 * MIB)), ("in pieces", in_pieces())):
        try:
            status = resilience.service.post("/api/campaigns", content=content, headers=HEADERS).status_code
        except httpx.WriteError:
            continue  # it had heard enough, and closed
        assert status == 413, f"a body of 3 MiB, {how}, is answered {status}: bodies have no bound"
    grown = (resilience.service.process.memory_info().rss - rss) / MIB
    assert grown < 16, f"bodies that are refused took {grown:.1f} MiB"
    create(resilience)


def test_stalled_uploads_do_not_delay_other_clients(resilience: Resilience) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    parts = httpx.URL(resilience.service.url)
    begun = (
        b"POST /api/campaigns HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    with ExitStack() as clients:
        for _ in range(SLOW):
            client = clients.enter_context(socket.create_connection((parts.host, parts.port), timeout=5.0))
            client.sendall(begun)
        asked = [timed(lambda: resilience.service.get(path)) for _ in range(20)]
        asked += [
            timed(lambda: resilience.service.post("/api/campaigns", json={"name": NAME, "message": MESSAGE}))
            for _ in range(3)
        ]
    wrong = [each.status for each in asked if each.status not in (200, 201)]
    assert not wrong, f"{SLOW} clients are slow, and others are answered {wrong}"
    slowest = max(each.seconds for each in asked)
    assert slowest < healthy.ACQUIRE_TIMEOUT + healthy.SLACK, (
        f"{SLOW} clients are slow, and others wait for {slowest:.2f} s"
    )
