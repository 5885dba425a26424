"""Measure how long the embedded backend takes to start and stop, cold and in phases, and to restart after faults.

    python benchmarks/embedded.py [--rounds 15] [--json FILE]

The goal is 150 ms until Postgres, Redis and the proxy run, with the template cached. Compare medians of a quiet machine. The output has the
load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from pytest_resilience.backends.embedded import backend as embedded
from pytest_resilience.backends.embedded import template_file as template
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.session import server_process as local
from pytest_resilience.backends.session import session_dir as scratch
from pytest_resilience.processes import SupervisorClient

GOAL_MS = 150.0
# The phases of a start: owner, method, label. They overlap, since Redis and the proxy start while the data directory is copied.
PHASES: list[tuple[Any, str, str]] = [
    (embedded, "find_postgres", "find Postgres"),
    (embedded, "find_redis", "find Redis"),
    (scratch.SessionDirectory, "__init__", "session directory"),
    (SupervisorClient, "start", "supervisor: exec"),
    (embedded, "postgres_account", "supervisor: first answer (as root)"),
    (template.DataDirTemplate, "__init__", "template: open"),
    (template.DataDirTemplate, "copy_essential", "template: copy, first part"),
    (template.DataDirTemplate, "copy_remaining", "template: copy, rest"),
    (embedded, "remove_stale", "remove stale sessions"),
    (local.ServerProcess, "wait_until_ready", "await"),
]


class Stopwatch:
    """Samples in milliseconds, by name."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.samples.setdefault(name, []).append((time.perf_counter() - begin) * 1000)

    def wrap(self, owner: Any, method: str, label: str) -> None:
        """Replace a function by one that times each call."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            name = f"{label} {args[0].name}" if label == "await" else label
            with self.time(f"  {name}"):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each name, with count, median, best and worst."""
        return [
            {
                "what": name,
                "rounds": len(times),
                "median_ms": round(statistics.median(times), 1),
                "best_ms": round(min(times), 1),
                "worst_ms": round(max(times), 1),
            }
            for name, times in self.samples.items()
        ]


def measure_warm(watch: Stopwatch, rounds: int) -> None:
    for _ in range(rounds):
        backend = EmbeddedBackend()
        with watch.time("up: Postgres + Redis + proxy, template cached"):
            backend.start()
        with watch.time("down: close"):
            backend.close()


def measure_cold(watch: Stopwatch, rounds: int) -> None:
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            backend = EmbeddedBackend(environ={**os.environ, "XDG_CACHE_HOME": cache})
            os.environ["XDG_CACHE_HOME"] = cache
            with watch.time("up: no template yet (initdb)"):
                backend.start()
            backend.close()
            del os.environ["XDG_CACHE_HOME"]


def measure_faults(watch: Stopwatch, rounds: int) -> None:
    with EmbeddedBackend() as backend:
        for name, server in backend.servers.items():
            for _ in range(rounds):
                with watch.time(f"{name}: kill -9, until gone"):
                    server.kill()
                with watch.time(f"{name}: start again, same port"):
                    server.start()
                with watch.time(f"{name}: pause"):
                    server.pause()
                with watch.time(f"{name}: resume"):
                    server.resume()
                with watch.time(f"{name}: stop in order"):
                    server.stop()
                server.start()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=15, help="rounds of each measurement, of cold ones a third")
    options.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = options.parse_args()
    measure_warm(Stopwatch(), 2)  # bytecode and page cache
    watch, phases = Stopwatch(), Stopwatch()
    load_before = os.getloadavg()[0]
    measure_warm(watch, arguments.rounds)
    measure_cold(watch, max(3, arguments.rounds // 3))
    measure_faults(watch, arguments.rounds)
    for phase in PHASES:
        phases.wrap(*phase)
    measure_warm(phases, arguments.rounds)
    rows = watch.rows() + [row for row in phases.rows() if row["what"].startswith(" ")]
    facts = {
        "cores": os.cpu_count(),
        "load": [round(load_before, 1), round(os.getloadavg()[0], 1)],
        "root": os.geteuid() == 0,
    }
    print(f"{'what':<50}{'median':>9}{'best':>9}{'worst':>9}  ms")
    for row in rows:
        print(f"{row['what']:<50}{row['median_ms']:>9}{row['best_ms']:>9}{row['worst_ms']:>9}")
    up = rows[0]["median_ms"]
    print(
        f"\n{facts}\ngoal: {GOAL_MS:g} ms up, template cached: {'reached' if up <= GOAL_MS else 'MISSED'} with {up} ms"
    )
    report = json.dumps({"facts": facts, "goal_ms": GOAL_MS, "rows": rows})
    print(report)
    if arguments.json:
        arguments.json.write_text(report + "\n")


if __name__ == "__main__":
    main()
