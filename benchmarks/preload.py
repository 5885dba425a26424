"""Measure the start of the bundled service as a fork of preloaded modules, relative to a plain start.

    python benchmarks/preload.py [--starts 15] [--json FILE]

Both kinds of start take turns, so that a busy machine slows both. "Ready" is the first good answer of /readyz. CPU time is that of the
service until then. Compare ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "chaos")]

import healthy  # noqa: E402  # the checkout may not be installed
import instances  # noqa: E402
from pytest_resilience import Service  # noqa: E402
from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402
from pytest_resilience.stack import Stack  # noqa: E402
from pytest_resilience.targets.service import RunningService  # noqa: E402

GOAL = 3.0  # a plain start takes at least this many times as long


def measured_start(running: RunningService) -> tuple[float, float]:
    """Start a service once. Return the seconds until it is ready, and its CPU seconds."""
    begun = time.perf_counter()
    running.start()
    ready = time.perf_counter() - begun
    used = running.child.process.cpu_times()
    running.stop()
    return ready, used.user + used.system


def main() -> int:
    """Print the medians and their ratios. Return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    stack = Stack(EmbeddedBackend(), 1)
    try:
        with tempfile.TemporaryDirectory() as journal:
            env = healthy.settings(stack.postgres.url, stack.redis.url) | {"JOURNAL_DIR": journal}
            specs = [
                Service(instances.COMMAND, ready="/readyz", cwd=ROOT, env=env, preload=preload)
                for preload in ((), instances.PRELOADED)
            ]
            services = [RunningService(spec, stack.backend_for_processes) for spec in specs]
            for running in services:
                measured_start(running)  # the first one creates tables and imports modules
            starts = [[measured_start(running) for running in services] for _ in range(options.starts)]
    finally:
        stack.close()
    plain, forked = ([statistics.median(pair[kind][column] for pair in starts) for column in (0, 1)] for kind in (0, 1))
    print(f"plain start:  ready after {1000 * plain[0]:.0f} ms, CPU {1000 * plain[1]:.0f} ms")
    print(f"forked start: ready after {1000 * forked[0]:.0f} ms, CPU {1000 * forked[1]:.0f} ms")
    ratio = plain[0] / forked[0]
    print(f"ratio: {ratio:.1f} (goal: {GOAL:g}), CPU {plain[1] / forked[1]:.1f}")
    if options.json:
        options.json.write_text(json.dumps({"plain": plain, "forked": forked, "ratio": ratio}))
    return 0 if ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
