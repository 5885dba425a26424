"""The promises of the links when their process is killed, paused or stopped, or has no memory left."""

from __future__ import annotations

import http.client
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pytest_resilience import Resilience, eventually

MIB = 2**20


def create(resilience: Resilience) -> httpx.Response:
    return resilience.service.post("/links", content="https://example.com")


def test_acknowledged_links_survive_a_kill(resilience: Resilience) -> None:
    codes = [create(resilience).json()["codes"][0] for _ in range(10)]
    with resilience.service.kill():
        pass
    assert [resilience.service.get(f"/links/{code}").status_code for code in codes] == [200] * 10
    assert resilience.service.get("/totals").json() == {"links": 10}


def test_a_request_during_a_pause_is_answered_after_it(resilience: Resilience) -> None:
    with ThreadPoolExecutor(1) as client:
        with resilience.service.pause():
            waiting = client.submit(create, resilience)
            with pytest.raises(httpx.ReadTimeout):
                resilience.service.get("/health", timeout=0.2)
        assert waiting.result().status_code == 201


def test_a_deployment_lets_requests_end(resilience: Resilience) -> None:
    with ThreadPoolExecutor(1) as client, resilience.postgres.on("insert").delay(0.3) as strike:
        waiting = client.submit(create, resilience)
        eventually(lambda: strike.receipt.touched, within=5)
        begin = time.monotonic()
        with resilience.service.terminate():
            seconds = time.monotonic() - begin
            assert waiting.result().status_code == 201
    assert seconds < 4.0, f"the end took {seconds:.1f} s, and the kept connection of a client alone takes five"


def upload(resilience: Resilience, code: str, size: int) -> int:
    """Announce a picture of a size, and return the status that comes before any of it is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", resilience.service.port, timeout=5.0)
    try:
        connection.putrequest("PUT", f"/pictures/{code}")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_picture_without_memory_for_it_is_refused(resilience: Resilience) -> None:
    [code] = create(resilience).json()["codes"]
    process = resilience.service.process.pid
    with resilience.service.memory_pressure(headroom_mb=48) as strike:
        assert upload(resilience, code, 129 * MIB) == 413
        assert upload(resilience, code, 128 * MIB) == 503
        assert resilience.service.put(f"/pictures/{code}", content=b"small").status_code == 200
    assert strike.receipt.touched == 1, "no memory was refused"
    assert resilience.service.process.pid == process, "the process has ended"
