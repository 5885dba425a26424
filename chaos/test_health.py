"""GET /health waits for nothing: whatever is broken, 99 of 100 answers come within 50 ms."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import httpx
import pytest

import healthy
from pytest_resilience import Resilience, Strike
from workload import TimedReply, create, timed

FAULTS: dict[str, Callable[[Resilience], Strike]] = {
    "redis refuses": lambda r: r.redis.refuse(),
    "redis hangs": lambda r: r.redis.blackhole(),
    "redis frozen": lambda r: r.redis.pause(),
    "redis killed": lambda r: r.redis.kill(),
    "postgres refuses": lambda r: r.postgres.refuse(),
    "postgres resets": lambda r: r.postgres.reset(),
    "postgres hangs": lambda r: r.postgres.blackhole(),
    "postgres frozen": lambda r: r.postgres.pause(),
    "postgres killed": lambda r: r.postgres.kill(),
    "postgres locked": lambda r: r.postgres.starve(lock="campaigns"),
    "memory short": lambda r: r.service.memory_pressure(headroom_mb=8),
}
ASKS = 300  # at least
A_WHILE = 1.0  # seconds at least: what is looked at now and then has to come round
MUTE = 0.25  # share of the time in which nobody is answered: who asks one after the other meets a long wait only once
FORM = re.compile(
    r'\{"status":"healthy","nextReady":true,"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","uptime":\d+\.\d+\}'
)


BYSTANDER = """
import http.server
class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def bystander() -> Iterator[str]:
    """The URL of a process that answers at once and that no fault concerns: what it takes is the machine's doing."""
    with subprocess.Popen(
        [sys.executable, "-c", BYSTANDER], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def ask(resilience: Resilience, bystander: httpx.Client) -> tuple[list[TimedReply], float]:
    """Ask /health often and for a while, in turn with a bystander. Return the answers, and what may be called slow meanwhile.

    It does not go on and on when it is clear already that /health is too slow.
    """
    answers: list[TimedReply] = []
    others: list[TimedReply] = []
    begin = time.monotonic()
    while len(answers) < ASKS or time.monotonic() - begin < A_WHILE:
        answers.append(timed(lambda: resilience.service.get("/health")))
        others.append(timed(lambda: bystander.get("/")))
        limit = max(healthy.HEALTH_P99, 3 * p99(others)) if len(answers) % 10 == 0 else healthy.HEALTH_P99
        if len(answers) % 10 == 0 and len(slow(answers, limit)) > ASKS // 100 and waits(answers, limit):
            break
    return answers, max(healthy.HEALTH_P99, 3 * p99(others))


def slow(answers: list[TimedReply], limit: float) -> list[float]:
    """How long those took that were not in time."""
    return [answer.seconds for answer in answers if answer.seconds > limit]


def p99(answers: list[TimedReply]) -> float:
    """What 99 of 100 answers took at most."""
    return sorted(answer.seconds for answer in answers)[-1 - len(answers) // 100]


def waits(answers: list[TimedReply], limit: float) -> str:
    """What is wrong with the times, or nothing."""
    seconds = [answer.seconds for answer in answers]
    mute = sum(slow(answers, limit)) / sum(seconds)
    if p99(answers) < limit and mute < MUTE:
        return ""
    return (
        f"{p99(answers) * 1000:.0f} ms at p99, worst {max(seconds) * 1000:.0f} ms, no answer in {mute:.0%} of the time"
    )


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_health_answers_within_50_ms_under(
    resilience: Resilience, bystander: str, fault: Callable[[Resilience], Strike]
) -> None:
    path = f"/api/campaigns/{create(resilience)['id']}"
    resilience.service.get(path)
    with (
        httpx.Client(base_url=bystander, timeout=10.0, trust_env=False) as other,
        ThreadPoolExecutor(6) as threads,
    ):
        with fault(resilience):
            # Requests that feel the fault, under way while /health is asked.
            readers = [threads.submit(timed, lambda: resilience.service.get(path)) for _ in range(3)]
            writers = [
                threads.submit(timed, lambda: resilience.service.put(path, json={"message": "m"})) for _ in range(3)
            ]
            # A busy machine has a bad moment; a wait is there each time.
            for _ in range(3):
                answers, limit = ask(resilience, other)
                if not waits(answers, limit):
                    break
            alive = resilience.service.get("/livez")
        statuses = {f.result().status for f in readers + writers}
    last = answers[-1].reply
    assert {answer.status for answer in answers} == {200}, "/health answers 200 whatever is broken"
    assert last is not None
    assert FORM.fullmatch(last.text), f"/health answers in another form: {last.text}"
    assert alive.status_code == 200, f"/livez depends on something that is broken: {alive.text}"
    assert not waits(answers, limit), (
        f"/health waits: {waits(answers, limit)}; on this machine, now, {limit * 1000:.0f} ms would do"
    )
    assert statuses <= {200, 503}, f"a dependency fault is 503 or served from a cache, never {statuses - {200, 503}}"


def test_health_reports_the_current_time_and_is_not_cached(resilience: Resilience) -> None:
    started = resilience.service.process.create_time()
    first, second = (resilience.service.get("/health") for _ in range(2))
    uptime, age = second.json()["uptime"], time.time() - started
    assert 0 < uptime < age + 0.1, f"uptime is in seconds: the process is {age:.1f} s old, and it says {uptime}"
    assert uptime > age - 5, f"the process is {age:.1f} s old, and it says {uptime}"
    assert uptime > first.json()["uptime"], "/health answers with an old answer"
    off = abs(datetime.fromisoformat(second.json()["timestamp"]).timestamp() - time.time())
    assert off < 5, f"the timestamp is not the present time in UTC: {second.json()['timestamp']} is {off:.0f} s off"
    for path in ("/health", "/livez", "/readyz"):
        stored = resilience.service.get(path).headers.get("Cache-Control")
        assert stored == "no-store", f"{path} may be stored by whoever is in between: Cache-Control: {stored}"
