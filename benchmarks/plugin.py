"""What the plugin costs by itself (start.py measures whole processes): loaded and unused, clean state, strike, heal. Interleaved rounds, medians.

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

BARS = {
    "plugin loaded but unused": 10.0,
    "clean state between two tests": 5.0,
    "strike": 3.0,
    "heal": 3.0,
}  # ms, DESIGN.md


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
    """All that a run which does not use the plugin does for it: load it, declare and read its options, make the header line.

    Each in a process of its own. The difference of two whole runs of pytest, a third of a second each, is lost in their noise.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", UNUSED]

    with tempfile.TemporaryDirectory() as place:

        def once() -> float:
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, cwd=place, text=True)
            return float(run.stdout)

        once()  # bytecode is cached, as it is after anybody's first run
        return [once() for _ in range(rounds)]


def clean_state(stack: Stack, rounds: int) -> list[float]:
    """`begin` of a test after one that wrote a row and a key."""
    times = []
    for _ in range(rounds):
        stack._postgres_admin.fetch("insert into campaigns default values")
        stack._redis_admin.client.call("SET", "key", "value")
        times.append(milliseconds(lambda: stack.prepare_test(None)))
    return times


def strikes(stack: Stack, rounds: int) -> tuple[list[float], list[float]]:
    """From the call to its effect: the next connection is refused, and is let in again.

    A pause after each round: a strike that comes within 40 ms of the same proxy's heal waits for what was refused before.
    """

    def refused() -> bool:
        with socket.socket() as client:
            client.settimeout(1.0)  # as all clients that care; the kernel does not tell where the others went
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
    given = parser.parse_args()
    rows: dict[str, list[float]] = {"plugin loaded but unused": unused(given.rounds)}
    stack = Stack(EmbeddedBackend(), seed=1)
    try:
        stack._postgres_admin.fetch("create table campaigns (id bigserial primary key, name text)")
        stack.prepare_test(None)
        rows["clean state between two tests"] = clean_state(stack, given.rounds * 4)
        rows["strike"], rows["heal"] = strikes(stack, given.rounds * 4)
    finally:
        stack.close()
    print(f"{'what':32} {'median ms':>10} {'best':>8} {'bar':>6}")
    for name, values in rows.items():
        print(f"{name:32} {statistics.median(values):10.2f} {min(values):8.2f} {BARS[name]:6.1f}")
    if given.json:
        given.json.write_text(
            json.dumps({name: {"median_ms": statistics.median(v), "rounds": v} for name, v in rows.items()})
        )


if __name__ == "__main__":
    main()
