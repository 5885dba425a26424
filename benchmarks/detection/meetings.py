"""Play drawn schedules on the healthy service, judge all of its promises, and count which operations met which faults.

Each finding is a false alarm, or a bug of the service. The table proves that faults and operations met.

    python benchmarks/detection/meetings.py [--schedules 500] [--seed 1] [--minutes 20]

The table is also printed when the time is over, and after SIGINT or SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "chaos")]

from campaigns import Campaigns  # noqa: E402
from instances import describe_service  # noqa: E402
from promises import check_promises  # noqa: E402
from pytest_resilience import History, PromiseBroken, Resilience, Schedule, Stack  # noqa: E402
from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402
from pytest_resilience.strategies import schedules  # noqa: E402


def count_meetings(history: History, meetings: Counter[tuple[str, str]]) -> None:
    """Count each operation with each fault that lasted while it was under way."""
    for operation in history.operations:
        if operation.phase == "run":
            for fault in history.during(operation.time, operation.end):
                meetings[fault.label.partition("(")[0], operation.f] += 1


def table(resilience: Resilience, meetings: Counter[tuple[str, str]]) -> str:
    kinds = sorted({kind for _, kind in meetings})
    lines = [
        f"| fault | strikes | hit | {' | '.join(kinds)} |",
        f"| --- | --- | --- | {' | '.join('---' for _ in kinds)} |",
    ]
    for fault, count in sorted(resilience.tally.items()):
        cells = [
            str(count.struck),
            f"{count.hit}{'+?' if count.unknown else ''}",
            *(str(meetings[fault, kind]) for kind in kinds),
        ]
        lines.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=math.inf, help="the longest time (default: no limit)")
    given_options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    meetings: Counter[tuple[str, str]] = Counter()
    broken: list[str] = []
    stack = Stack(EmbeddedBackend(), seed=given_options.seed)
    begun = time.monotonic()
    played = Counter[str]()
    try:
        resilience = Resilience(stack, stack.prepare_test(describe_service(stack)))

        @seed(given_options.seed)
        @settings(
            max_examples=given_options.schedules,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(schedule=schedules("redis", "postgres"))
        def play(schedule: Schedule) -> None:
            if time.monotonic() > begun + 60 * given_options.minutes:
                return
            resilience.begin_example()
            try:
                history = resilience.play(schedule, Campaigns())
                count_meetings(history, meetings)
                played["schedules"] += 1
                played["episodes"] += len(schedule.episodes)
                check_promises(history, resilience.service.log)
            except (PromiseBroken, AssertionError) as error:
                broken.append(f"{schedule!r}\n{error}")
                print(broken[-1], flush=True)
            finally:
                resilience.end_example()

        with contextlib.suppress(KeyboardInterrupt):
            play()
        resilience.finish()
        print(table(resilience, meetings))
    finally:
        stack.close()
    minutes = (time.monotonic() - begun) / 60
    print(
        f"\n{played['schedules']} schedules with {played['episodes']} episodes in {minutes:.1f} minutes "
        f"({played['schedules'] / minutes:.0f} a minute), {len(broken)} broken promises; load {os.getloadavg()[0]:.1f}"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
