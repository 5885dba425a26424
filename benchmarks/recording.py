"""Measure the cost of recording an operation, in memory and with the history file, beside the load of the machine.

A round without a history calls the same function bare. The goal counts the time of one operation above that.

python benchmarks/recording.py [--rounds 7] [--operations 20000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pytest_resilience import History
from pytest_resilience.history_file import HistoryFile
from pytest_resilience.redaction import new_password

GOAL = 20.0  # microseconds for each operation, with the file


def by_hand(history: History, operations: int) -> None:
    client = history.client()
    for n in range(operations):
        invocation = client.invoke("update", key="17", value=f"w0.{n}")
        invocation.ok(version=n, source="postgres", state="hit")


def by_recorded(history: History, operations: int) -> None:
    write = history.recorded(divmod, f="update", key=lambda key, _: key, value=lambda _, value: value)
    for n in range(operations):
        write(17, n + 1)


def by_four_threads(history: History, operations: int) -> None:
    threads = [threading.Thread(target=by_hand, args=(history, operations // 4)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def microseconds(record: Callable[[History, int], None], operations: int, path: Path | None) -> float:
    """Return the CPU time of one operation, which a busy machine changes less than the elapsed time."""
    history = History(start=time.monotonic(), file=HistoryFile(path) if path is not None else None)
    begin = time.process_time()
    record(history, operations)
    history.close()
    spent = time.process_time() - begin
    assert len(history.operations) == operations
    return spent / operations * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--operations", type=int, default=20000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for _ in range(3):
        new_password()  # as many as a session remembers, each of which is looked for in each text
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "history.jsonl"
        cases = {
            "in memory": (by_hand, None),
            "with the file": (by_hand, file),
            "with the file, by recorded()": (by_recorded, file),
            "with the file, 4 threads": (by_four_threads, file),
        }
        for name, (record, path) in cases.items():
            times = [microseconds(record, arguments.operations, path) for _ in range(arguments.rounds)]
            results[name] = statistics.median(times)
            print(
                f"{name:30} {results[name]:6.1f} µs CPU an operation, best {min(times):.1f}, load {os.getloadavg()[0]:.1f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"microseconds": results, "load": os.getloadavg()[0]}, indent=1))
    slow = [name for name, median in results.items() if median > GOAL]
    print(f"goal: at most {GOAL:.0f} µs: {'missed: ' + ', '.join(slow) if slow else 'met'}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
