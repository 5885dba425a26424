"""Measure the time to ready and the memory at rest of the bundled service, relative to an older commit.

    python benchmarks/service_start.py [--against c3224e7] [--starts 15] [--json FILE]

Each start takes the environment of the chaos suite, with an embedded Postgres and Redis behind their proxies. The two versions take turns,
so that a busy machine slows both. "Ready" is the first 200 of /readyz, counted from the exec. CPU time is less disturbed by other processes
than time. Memory and threads are read a while after that, when the modules that are imported late are there. Compare ratios.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "chaos")]

import healthy  # noqa: E402  # the checkout may not be installed
from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402
from pytest_resilience.stack import Stack  # noqa: E402

BEFORE_ROOMS = "c3224e7"  # the last commit before jobs, cadence, live updates and metrics
GOALS = {"ready_ms": 1.2, "rest_mib": 1.5}  # relative to that commit
LISTENING = re.compile(rb"Server LISTENING on http://[\d.]+:(\d+)")
GIVE_UP_AFTER = 20.0  # seconds
POLL = 0.002  # seconds


@dataclass(frozen=True)
class Start:
    """One start.

    Attributes:
        ready_ms: from the exec to the first 200 of /readyz.
        ready_cpu_ms: user and system time until then.
        rest_mib: resident memory at rest.
        rest_cpu_ms: user and system time until then.
        threads: at rest.
    """

    ready_ms: float
    ready_cpu_ms: float
    rest_mib: float
    rest_cpu_ms: float
    threads: int


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Extract the service of a commit into a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        archive = subprocess.run(["git", "archive", commit, "service"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
        subprocess.run(["tar", "--extract", "--directory", directory], input=archive.stdout, check=True)
        yield Path(directory)


def wait_for_port(log: Path, deadline: float) -> int:
    while time.perf_counter() < deadline:
        found = LISTENING.search(log.read_bytes())
        if found:
            return int(found[1])
        time.sleep(POLL)
    raise SystemExit(f"the service does not listen; its log:\n{log.read_text()}")


def wait_until_ready(port: int, deadline: float) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    while time.perf_counter() < deadline:
        connection.request("GET", "/readyz")
        with connection.getresponse() as response:
            response.read()
            if response.status == 200:
                connection.close()
                return
        time.sleep(POLL)
    raise SystemExit("the service does not become ready")


def cpu_ms(process: psutil.Process) -> float:
    """Return the CPU time of a process. Linux has it in nanoseconds for each thread, elsewhere it has the clock's ticks."""
    threads = [*Path(f"/proc/{process.pid}/task").glob("*/schedstat")]
    if threads:
        return sum(int(each.read_text().split()[0]) for each in threads) / 1e6
    times = process.cpu_times()
    return 1000 * (times.user + times.system)


def start_once(directory: Path, environment: dict[str, str], rest: float) -> Start:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        variables = environment | {"JOURNAL_DIR": str(Path(scratch, "journal"))}
        with log.open("wb") as output:
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=directory, env=variables, stdout=output, stderr=output
            )
        try:
            deadline = begun + GIVE_UP_AFTER
            wait_until_ready(wait_for_port(log, deadline), deadline)
            ready, seen = time.perf_counter() - begun, psutil.Process(process.pid)
            ready_cpu = cpu_ms(seen)
            time.sleep(rest)
            memory = seen.memory_info().rss / 2**20
            return Start(1000 * ready, ready_cpu, memory, cpu_ms(seen), seen.num_threads())
        finally:
            process.kill()
            process.wait()


def measure(versions: dict[str, Path], starts: int, rest: float) -> dict[str, list[Start]]:
    stack = Stack(EmbeddedBackend(), seed=1)
    try:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        environment = inherited | healthy.settings(stack.postgres.url, stack.redis.url) | {"PORT": "0"}
        for directory in versions.values():
            start_once(directory, environment, 0.0)  # caches the bytecode, and creates the tables
        results: dict[str, list[Start]] = {name: [] for name in versions}
        for _ in range(starts):
            for name, directory in versions.items():
                results[name].append(start_once(directory, environment, rest))
        return results
    finally:
        stack.close()


def report(results: dict[str, list[Start]]) -> None:
    old, new = results.values()
    print(
        f"{'median of ' + str(len(new)) + ' starts':28}{next(iter(results)):>12}{'this':>12}{'ratio':>8}{'best':>8}  goal"
    )
    for name in (field.name for field in fields(Start)):
        before, now = ([getattr(each, name) for each in starts] for starts in (old, new))
        middle = statistics.median(now) / statistics.median(before)
        best = min(now) / min(before)
        goal = f"{GOALS[name]:g}" if name in GOALS else ""
        print(
            f"{name:28}{statistics.median(before):12.1f}{statistics.median(now):12.1f}{middle:8.2f}{best:8.2f}  {goal}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", default=BEFORE_ROOMS, help="the older commit")
    parser.add_argument("--starts", type=int, default=15, help="of each version")
    parser.add_argument("--rest", type=float, default=2.0, help="seconds from ready to rest")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with checkout(arguments.against) as older:
        results = measure({arguments.against: older, "this": ROOT}, arguments.starts, arguments.rest)
    report(results)
    print(f"{os.cpu_count()} cores, load {load_before:.1f} to {os.getloadavg()[0]:.1f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({name: [asdict(s) for s in starts] for name, starts in results.items()}))


if __name__ == "__main__":
    main()
