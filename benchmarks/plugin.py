"""Measure the times of the plugin itself, for loading, the clean state of a test, a strike and a heal.

start.py measures whole processes.

python benchmarks/plugin.py [--rounds 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pytest_resilience import Stack
from pytest_resilience.backends.embedded.backend import EmbeddedBackend

GOALS = {
    "plugin loaded but unused": 10.0,
    "clean state between two tests": 5.0,
    "strike": 3.0,
    "heal": 3.0,
}  # ms


UNUSED = """
import time
from _pytest.config import get_config
config = get_config([])
begin = time.perf_counter()
from pytest_resilience import plugin
config.pluginmanager.register(plugin, "pytest_resilience")  # as the entry point does
loaded = time.perf_counter()
config.parse(["."])
parsed = time.perf_counter()
plugin.pytest_configure(config)
plugin.pytest_report_header(config)
print((time.perf_counter() - parsed + loaded - begin) * 1000)
"""


def milliseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def unused(rounds: int) -> list[float]:
    """Measure the loading of the plugin, its options and its header line, in a run that does not use it.

    Each round is a process. The difference of two whole runs of pytest, a third of a second each, is smaller than their noise.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", UNUSED]

    with tempfile.TemporaryDirectory() as directory:

        def once() -> float:
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, cwd=directory, text=True)
            return float(run.stdout)

        once()  # caches the bytecode, as a first run does
        return [once() for _ in range(rounds)]


def clean_state(stack: Stack, rounds: int) -> list[float]:
    """Measure how long the clean state of a test takes, after a test that wrote a row and a key."""
    times = []
    for _ in range(rounds):
        stack._postgres_admin.fetch("insert into campaigns default values")
        stack._redis_admin.client.call("SET", "key", "value")
        times.append(milliseconds(lambda: stack.prepare_test(None)))
    return times


def strikes(stack: Stack, rounds: int) -> tuple[list[float], list[float]]:
    """Measure from the call until the next connection is refused, and until it is accepted again.

    A strike within 40 ms of the same proxy's heal waits for the connections that were refused before, so a pause ends each round.
    """

    def refused() -> bool:
        with socket.socket() as client:
            client.settimeout(1.0)  # the kernel does not report connections that another client lost
            return client.connect_ex((stack.redis.host, stack.redis.port)) != 0

    struck, healed = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        active = stack.redis.refuse()
        assert refused()
        struck.append((time.perf_counter() - begin) * 1000)
        begin = time.perf_counter()
        active.heal()
        assert not refused()
        healed.append((time.perf_counter() - begin) * 1000)
        assert active.receipt.touched
        time.sleep(0.05)
    return struck, healed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: dict[str, list[float]] = {"plugin loaded but unused": unused(options.rounds)}
    stack = Stack(EmbeddedBackend(), seed=1)
    try:
        stack._postgres_admin.fetch("create table campaigns (id bigserial primary key, name text)")
        stack.prepare_test(None)
        rows["clean state between two tests"] = clean_state(stack, options.rounds * 4)
        rows["strike"], rows["heal"] = strikes(stack, options.rounds * 4)
    finally:
        stack.close()
    print(f"{'measurement':32} {'median ms':>10} {'best':>8} {'goal':>6}")
    for name, values in rows.items():
        print(f"{name:32} {statistics.median(values):10.2f} {min(values):8.2f} {GOALS[name]:6.1f}")
    if options.json:
        options.json.write_text(
            json.dumps({name: {"median_ms": statistics.median(v), "rounds": v} for name, v in rows.items()})
        )


if __name__ == "__main__":
    main()
