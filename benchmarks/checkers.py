"""Measure the CPU time of each checker over a history of 100,000 operations by four clients on 100 keys.

python benchmarks/checkers.py [--operations 100000] [--json FILE]

The history is that of a simulated store that keeps every promise, with 1 % of unknown outcomes and with conditional writes. Counters, accounts
and jobs have histories of their own. Each row has the better of two runs, the verdict, and the load of the machine. CPU time does not count
the time in which other processes run, but their use of caches still makes it longer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pytest_resilience import checkers  # noqa: E402
from pytest_resilience.history import History  # noqa: E402
from pytest_resilience.operation import Operation, ProbeMark  # noqa: E402
from tests.support.histories import Mix, true_history  # noqa: E402

GOAL = 2.0  # seconds of CPU for 100,000 operations
RUNS = 2
KINDS = ("create", "read", "read", "read", "update", "update", "delete")
LISTING = ("create", "read", "read", "read", "update", "update", "delete", "list")
MIX = Mix(clients=4, keys=100, info=0.01, fail=0.01)
READY = {"status": 200, "error": None}
STEADY = {"p95": 0.03, "error_rate": 0.05, "sources": []}
ACCOUNTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = dict(measured(arguments.operations))
    print(f"goal: {GOAL} s for 100,000 operations; slowest: {max(row['seconds'] for row in rows.values()):.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows))


def measured(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    print(f"{'checker, ' + format(count, ',') + ' operations':44} {'CPU s':>6} {'load':>6}  verdict")
    for name, checker, history in rows(count):
        seconds, verdict = min((measure(checker, history) for _ in range(RUNS)), key=lambda each: each[0])
        load = os.getloadavg()[0]
        print(f"{name:44} {seconds:6.2f} {load:6.1f}  {verdict.kind} {verdict.why}", flush=True)
        yield name, {"seconds": seconds, "load": load, "verdict": verdict.kind}


def measure(checker: checkers.Checker, history: History) -> tuple[float, checkers.Verdict]:
    began = time.process_time()
    verdict = checker(history)
    return time.process_time() - began, verdict


def rows(count: int) -> Iterator[tuple[str, checkers.Checker, History]]:
    """Yield the name of each row, its checker and its history."""
    registers = registers_history(count, KINDS)
    for make in (
        checkers.no_lost_writes,
        checkers.no_phantoms,
        checkers.no_cross_talk,
        checkers.no_resurrection,
        checkers.no_cached_errors,
        checkers.read_your_writes,
        checkers.monotonic_reads,
        lambda: checkers.bounded_staleness(0.1),
        checkers.linearizable,
        lambda: checkers.bounded_failure(5.0, amplification=3),
        lambda: checkers.recovered(5.0),
        checkers.health_tells_the_truth,
    ):
        checker = make()
        yield checker.name, checker, registers
    yield "linearizable, without versions", checkers.linearizable(), without_versions(registers)
    yield "linearizable, one stale read", checkers.linearizable(), with_stale_read(registers)
    lists = registers_history(count, LISTING)
    for make in (
        checkers.no_resurrection,
        checkers.no_cached_errors,
        checkers.read_your_writes,
        checkers.monotonic_reads,
        lambda: checkers.bounded_staleness(0.1, under_fault=0.2),
    ):
        checker = make()
        yield f"{checker.name}, many lists", checker, lists
    yield "unique_ids", checkers.unique_ids(), sequential(count, lambda n: {"f": "create", "key": str(n)})
    yield "counter", checkers.counter(), sequential(count, counting)
    yield "bank", checkers.bank(100 * ACCOUNTS), sequential(count, balances(random.Random(1)))
    yield "jobs_run", checkers.jobs_run(exactly_once=True), sequential(count, jobs)


def registers_history(count: int, kinds: tuple[str, ...]) -> History:
    """Return the history of 100 registers with marks of probes. Each list has about 50 of them."""
    mix = replace(MIX, operations=count, kinds=kinds)
    true = true_history(random.Random(1), mix)
    last = max(each.end for each in true.operations)
    marks = [ProbeMark("ready", READY, tenth / 10) for tenth in range(int(last * 10))]
    marks.append(ProbeMark("baseline", dict.fromkeys(("create", "read", "update"), STEADY), 0.0))
    counts = {"redis": {"connections": 1, "commands": 0}}, {"redis": {"connections": 9, "commands": count}}
    marks += [ProbeMark("upstream", counts[0], 0.0), ProbeMark("upstream", counts[1], last)]
    return History.of([*true.marks, *marks, *true.operations])


def without_versions(history: History) -> History:
    return History.of([each._replace(version=None, expected=None) for each in history.operations])


def with_stale_read(history: History) -> History:
    """Return the history with the value of one late read replaced by an old one of its key."""
    operations = history.operations
    reads = [each for each in operations if each.f == "read" and each.type == "ok" and each.value is not None]
    late = reads[-len(reads) // 10]
    old = next(each for each in reads if each.key == late.key)
    operations[late.index] = late._replace(value=old.value, version=old.version)
    return History.of(operations)


def sequential(count: int, fields: Callable[[int], dict[str, Any]]) -> History:
    """Return the history of one client with an operation every millisecond."""
    operations = (Operation(n, 0, time=n / 1000, end=n / 1000 + 0.0005, **fields(n)) for n in range(count))
    return History.of(operations)


def counting(n: int) -> dict[str, Any]:
    return {"f": "read", "value": n // 2 + 1} if n % 2 else {"f": "add", "value": 1}


def balances(chance: random.Random) -> Callable[[int], dict[str, Any]]:
    """Return a function that makes a transfer and returns the balances of all accounts."""
    accounts = {str(number): 100 for number in range(ACCOUNTS)}

    def read(_: int) -> dict[str, Any]:
        source, sink = chance.sample(sorted(accounts), 2)
        amount = chance.randint(0, accounts[source])
        accounts[source], accounts[sink] = accounts[source] - amount, accounts[sink] + amount
        return {"f": "read", "value": dict(accounts)}

    return read


def jobs(n: int) -> dict[str, Any]:
    return {"f": "run" if n % 2 else "enqueue", "key": str(n // 2)}


if __name__ == "__main__":
    main()
