"""Measure requests per second and latency of the bundled service: healthy, with Redis away, and with the queue at work.

    python benchmarks/service_load.py [--rounds 5] [--seconds 2] [--clients 16] [--json FILE]

The service runs with the settings of the chaos suite, on an embedded Postgres and Redis behind their proxies. Each client has one
connection, and reads nine times for each write. The states take turns, so that a busy machine slows all of them. Compare ratios: the
clients run on the same cores as the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "chaos")]

import healthy  # noqa: E402  # the checkout may not be installed
from pytest_resilience import eventually  # noqa: E402
from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402
from pytest_resilience.stack import Stack  # noqa: E402

LISTENING = re.compile(r"Server LISTENING on http://127\.0\.0\.1:(\d+)")
CAMPAIGNS = 50  # that the clients read
RECIPIENTS = 20_000  # more than the worker can send while one round lasts
JSON_BODY = b'{"name": "Autumn sale", "message": "Twenty percent off until Sunday"}'


@dataclass(frozen=True)
class Round:
    """One measurement of one state.

    Attributes:
        rate: requests per second.
        p50_ms, p99_ms: of the requests.
        failed: requests without a 200.
        deliveries: per second, of the worker.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    failed: int
    deliveries: float


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\n\r\n".encode() + body


async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send one request. Return the status."""
    writer.write(data)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    await reader.readexactly(int(length[1]) if length else 0)
    return head[9:12]


async def client(port: int, ids: list[int], end: float, times: list[float]) -> int:
    """Send requests until the end. Return the number of those that failed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    failed = sent = 0
    while time.perf_counter() < end:
        i = ids[sent % len(ids)]
        data = request("GET", f"/api/campaigns/{i}") if sent % 10 else request("PUT", f"/api/campaigns/{i}", JSON_BODY)
        begun = time.perf_counter()
        failed += await send(reader, writer, data) != b"200"
        times.append(time.perf_counter() - begun)
        sent += 1
    writer.close()
    return failed


async def load(port: int, ids: list[int], clients: int, seconds: float) -> tuple[list[float], int]:
    """Run the clients. Return the times of all requests in seconds, and the number of those that failed."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    failed = await asyncio.gather(*(client(port, ids[number:] + ids[:number], end, times) for number in range(clients)))
    return times, sum(failed)


class Service:
    """The process of the service, with campaigns to read and contacts to send to."""

    def __init__(self, url: str, log: Path, stack: Stack) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=60)
        self._log = log
        self.stack = stack
        self.port = int(url.rpartition(":")[2])
        eventually(lambda: self._http.get("/readyz").json()["status"] == "ready", within=10)
        self.ids = [self.create() for _ in range(CAMPAIGNS)]
        rows = "".join(f"Name {i},name{i}@example.com,+46 8 {i:06}\n" for i in range(RECIPIENTS))
        reply = self._http.post(
            "/api/contacts/import", content=f"name,email,phone\n{rows}", headers={"Content-Type": "text/csv"}
        )
        assert reply.json()["imported"] == RECIPIENTS, reply.text

    def create(self) -> int:
        return int(
            self._http.post("/api/campaigns", content=JSON_BODY, headers={"Content-Type": "application/json"}).json()[
                "id"
            ]
        )

    def start_job(self) -> str:
        job = str(self._http.post(f"/api/campaigns/{self.create()}/send").json()["job_id"])
        eventually(lambda: self.sent(job), within=15)
        return job

    def sent(self, job: str) -> int:
        return int(self._http.get(f"/api/jobs/{job}").json()["sent"])

    def is_sent(self, job: str) -> bool:
        return bool(self._http.get(f"/api/jobs/{job}").json()["status"] == "completed")

    def lose_redis(self) -> None:
        eventually(lambda: self._http.get("/readyz").json()["status"] == "degraded", within=5)

    def recover(self) -> None:
        eventually(lambda: self._http.get("/readyz").json()["status"] == "ready", within=5)


def measure(service: Service, state: str, clients: int, seconds: float) -> Round:
    with ExitStack() as stack:
        job, before = None, 0
        if state == "Redis away":
            stack.enter_context(service.stack.redis.refuse())
            service.lose_redis()
        if state == "queue at work":
            job = service.start_job()
            before = service.sent(job)
        begun = time.perf_counter()
        times, failed = asyncio.run(load(service.port, service.ids, clients, seconds))
        took = time.perf_counter() - begun
        deliveries = (service.sent(job) - before) / took if job else 0.0
    if job:
        eventually(lambda: service.is_sent(job), within=120)
    service.recover()
    times.sort()
    return Round(
        len(times) / took, 1000 * statistics.median(times), 1000 * times[-1 - len(times) // 100], failed, deliveries
    )


@contextmanager
def running() -> Iterator[Service]:
    stack = Stack(EmbeddedBackend(), seed=1)
    with tempfile.TemporaryDirectory() as scratch:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        settings = healthy.settings(stack.postgres.url, stack.redis.url) | {"PORT": "0", "JOURNAL_DIR": scratch}
        log = Path(scratch, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=ROOT, env=inherited | settings, stdout=output, stderr=output
            )
        try:
            port = eventually(lambda: next(iter(LISTENING.findall(log.read_text())), None), within=10)
            yield Service(f"http://127.0.0.1:{port}", log, stack)
        finally:
            process.kill()
            process.wait()
            stack.close()


def report(results: dict[str, list[Round]]) -> None:
    names = ("rate", "p50_ms", "p99_ms", "deliveries")
    middle = {
        state: [statistics.median(getattr(r, name) for r in rounds) for name in names]
        for state, rounds in results.items()
    }
    print(
        f"{'':16}{'requests/s':>12}{'ratio':>8}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}{'failed':>8}{'deliveries/s':>14}"
    )
    for state, (rate, p50, p99, deliveries) in middle.items():
        failed = sum(r.failed for r in results[state])
        ratios = rate / middle["healthy"][0], p99 / middle["healthy"][2]
        print(f"{state:16}{rate:12.0f}{ratios[0]:8.2f}{p50:9.1f}{p99:9.1f}{ratios[1]:8.2f}{failed:8}{deliveries:14.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each state")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each round")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    states = ("healthy", "Redis away", "queue at work")
    results: dict[str, list[Round]] = {state: [] for state in states}
    with running() as service:
        measure(service, "healthy", arguments.clients, 0.5)  # fills the caches and opens the connections
        for _ in range(arguments.rounds):
            for state in states:
                results[state].append(measure(service, state, arguments.clients, arguments.seconds))
    report(results)
    print(f"{os.cpu_count()} cores, load {load_before:.1f} to {os.getloadavg()[0]:.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({state: [asdict(r) for r in rounds] for state, rounds in results.items()}))


if __name__ == "__main__":
    main()
