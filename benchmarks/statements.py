"""Measure the cost of reading statements in the proxy, and compare its rates with those of microburst.

Five routes take turns in each round, in front of the same servers: the proxy without a protocol ("plain"), with a protocol and no rule
("tap"), with a rule that never matches ("rule"), microburst with such a rule ("microburst"), and a relay in C that reads nothing
("bare", see proxy.py). Ratios are taken inside a round. The ratio of bare to microburst is the limit of any proxy in user space with
one thread on this machine. The exit code is 1 if the median of a ratio of rates misses its goal. A second table has the CPU time of
the proxy for each statement, which other programs of the machine change less.

Needs redis-benchmark (Debian: redis-tools) and pgbench, as proxy.py does. Microburst is $MICROBURST, the path of its program, which has an
environment of its own: `uv tool install microburst==0.10.0`. Without it, its column is empty.

python benchmarks/statements.py [--rounds 7] [--only ROW] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from proxy import ROOT, Proxy, bare_relays, connect, fill_bulk, fill_postgres, free_port, redis_rate, rotate, running

sys.path.insert(0, str(ROOT))

from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # the checkout may not be installed

KINDS = ("redis", "postgres")
ROUTES = ("plain", "tap", "rule", "microburst", "bare")
GOALS = {("tap", "plain"): 0.9, ("rule", "plain"): 0.75, ("rule", "microburst"): 2.0}
LIMIT = ("bare", "microburst")
REDIS_ROWS: dict[str, tuple[int, list[str]]] = {  # requests, redis-benchmark's arguments
    "redis, 1 connection": (6_000, ["-c", "1", "-t", "get"]),
    "redis, 50 connections": (15_000, ["-c", "50", "-t", "get"]),
    "redis, 50 connections, 16 in a pipeline": (100_000, ["-c", "50", "-P", "16", "-t", "get"]),
    "redis, bulk 1 MiB": (200, ["-c", "1", "GET", "bulk"]),
}
DRAW = "\\set aid random(1, 100000)\n"
SELECT = "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\n"
PIPELINE = f"{DRAW}\\startpipeline\n{SELECT * 16}\\endpipeline\n"
# Script, connections, runs of the script by each, statements in a run.
POSTGRES_ROWS: dict[str, tuple[str, int, int, int]] = {
    "postgres, 1 connection": (DRAW + SELECT, 1, 1500, 1),
    "postgres, 50 connections": (DRAW + SELECT, 50, 50, 1),
    "postgres, 50 connections, 16 in a pipeline": (PIPELINE, 50, 10, 16),
    "postgres, bulk 1 MiB": ("SELECT repeat('x', 1048576);\n", 1, 60, 1),
}
RULES: dict[str, dict[str, Any]] = {
    "redis": {"verb": "get", "key": "nothing:*", "act": "error", "code": "OOM"},
    "postgres": {"verb": "select", "matching": "nothing", "act": "error", "code": "40001"},
}
MICROBURST_RULES: dict[str, dict[str, Any]] = {
    "redis": {"service": "redis", "operation": "get", "resource": "nothing:", "error": {"code": "OOM"}},
    "postgres": {"service": "postgres", "operation": "select", "sql": "nothing", "error": {"sqlstate": "40001"}},
}
Address = tuple[str, int]
Figures = dict[str, dict[str, list[float]]]  # by row and route


# --- routes ----------------------------------------------------------------------------------------------------------


@contextmanager
def microburst(program: str, kind: str, upstream: Address) -> Iterator[tuple[Address, psutil.Process]]:
    """Run microburst with a rule that never matches. Yield its address and its process."""
    port, control = free_port(), free_port()
    where = ["--port", str(port), "--control-port", str(control), "--upstream", f"{upstream[0]}:{upstream[1]}"]
    process = subprocess.Popen(
        [program, "--protocol", kind, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        connect(("127.0.0.1", control)).close()
        connect(("127.0.0.1", port)).close()
        body = json.dumps([MICROBURST_RULES[kind]]).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{control}/_microburst/rules", body, method="PATCH")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            assert response.status == 200
        yield ("127.0.0.1", port), psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def routes_of(proxy: Proxy, kind: str, upstream: Address) -> dict[str, Address]:
    """Create the three proxies in front of a server. Return their addresses."""
    routes = {}
    for route in ROUTES[:3]:
        name = f"{kind}-{route}"
        body = {"name": name, "listen": "127.0.0.1:0", "upstream": f"{upstream[0]}:{upstream[1]}"}
        listen = proxy.call("POST", "/proxies", body if route == "plain" else {**body, "protocol": kind})["listen"]
        routes[route] = ("127.0.0.1", int(listen.rsplit(":", 1)[1]))
        if route == "rule":
            toxic = {"name": "never", "type": "statement", "attributes": RULES[kind]}
            proxy.call("POST", f"/proxies/{name}/toxics", toxic)
    return routes


# --- measurement -----------------------------------------------------------------------------------------------------


class Measurement:
    """Rates, and microseconds of CPU for each statement.

    Args:
        processes: the proxy of each kind and route whose CPU time is measured.
    """

    def __init__(self, processes: dict[tuple[str, str], psutil.Process]) -> None:
        self._processes = processes
        self.rates: Figures = {}
        self.cpu: Figures = {}

    def record(self, kind: str, row: str, route: str, measure: Callable[[], tuple[float, int]]) -> None:
        """Call `measure`, which returns a rate and a number of statements."""
        process = self._processes.get((kind, route))
        before = cpu_seconds(process)
        rate, statements = measure()
        spent = cpu_seconds(process) - before
        self.rates.setdefault(row, {}).setdefault(route, []).append(rate)
        if process is not None:
            self.cpu.setdefault(row, {}).setdefault(route, []).append(spent / statements * 1e6)


def cpu_seconds(process: psutil.Process | None) -> float:
    """Return the CPU time that a process has used."""
    return sum(process.cpu_times()[:2]) if process is not None else 0.0


def ratio(routes: dict[str, list[float]], upper: str, lower: str) -> float | None:
    """Return the median of the ratios inside the rounds, or None without that route."""
    if upper not in routes or lower not in routes:
        return None
    return statistics.median(a / b for a, b in zip(routes[upper], routes[lower], strict=True) if b)


class RedisRows:
    """The rows of Redis. Without redis-benchmark there are none."""

    def __init__(self, url: urllib.parse.ParseResult, routes: dict[str, Address]) -> None:
        self._routes = routes
        self._tool = os.environ.get("REDIS_BENCHMARK") or shutil.which("redis-benchmark")
        self.rows = dict(REDIS_ROWS) if self._tool else {}
        fill_bulk(routes["plain"], url)

    def measure(self, row: str, route: str) -> tuple[float, int]:
        assert self._tool is not None, "without it there are no rows"
        requests, arguments = REDIS_ROWS[row]
        return redis_rate(self._tool, self._routes[route], requests, arguments), requests


class PostgresRows:
    """The rows of Postgres. Without pgbench there are none."""

    def __init__(self, url: urllib.parse.ParseResult, routes: dict[str, Address]) -> None:
        self._url = url
        self._routes = routes
        self._tool = os.environ.get("PGBENCH") or shutil.which("pgbench")
        self.rows = dict(POSTGRES_ROWS) if self._tool else {}
        if self._tool:
            fill_postgres(self._tool, url, routes["plain"])

    def measure(self, row: str, route: str) -> tuple[float, int]:
        script, connections, runs, statements = POSTGRES_ROWS[row]
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            out = self._run(["-f", file.name, "-t", str(runs), "-M", "prepared", "-c", str(connections)], route)
        rate = next(float(line.split()[2]) for line in out if line.startswith("tps"))
        return statements * rate, statements * runs * connections

    def _run(self, arguments: list[str], route: str) -> list[str]:
        assert self._tool is not None, "without it there are no rows"
        host, port = self._routes[route]
        environment = {**os.environ, "PGPASSWORD": self._url.password or "", "PGSSLMODE": "disable"}
        where = ["-h", host, "-p", str(port), "-U", self._url.username or "postgres", self._url.path.lstrip("/")]
        command = [self._tool, "-n", *arguments, *where]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)
        if "\ntps" not in done.stdout:
            raise RuntimeError(f"pgbench by {route}: {done.stderr.strip() or done.stdout}")
        return done.stdout.splitlines()


def measure(rounds: int, only: str) -> Measurement:
    program = os.environ.get("MICROBURST") or shutil.which("microburst")
    with EmbeddedBackend() as backend, running("ours") as proxy, ExitStack() as stack:
        assert proxy is not None, "it needs no program"
        processes = {(kind, route): proxy.info for kind in KINDS for route in ROUTES[:3]}
        measurement = Measurement(processes)
        for kind, rows_of in zip(KINDS, (RedisRows, PostgresRows), strict=True):
            server = backend.servers[kind]
            upstream = (server.direct_address.host, server.direct_address.port)
            routes = routes_of(proxy, kind, upstream)
            if program:
                started = stack.enter_context(microburst(program, kind, upstream))
                routes["microburst"], processes[kind, "microburst"] = started
            routes |= stack.enter_context(bare_relays({"bare": upstream}))
            rows = rows_of(urllib.parse.urlparse(server.url(server.direct_address)), routes)
            for number in range(rounds):
                for row in rows.rows:
                    for route in rotate(list(routes), number) if only in row else ():
                        measurement.record(kind, row, route, partial(rows.measure, row, route))
    return measurement


# --- report ----------------------------------------------------------------------------------------------------------


def print_table(title: str, figures: Figures, ratios: list[tuple[str, str]], digits: int) -> None:
    """Print the medians of each route, and the medians of the ratios inside the rounds."""
    print(f"| {title} | {' | '.join(ROUTES)} | {' | '.join('/'.join(pair) for pair in ratios)} |")
    print("| --- " * (1 + len(ROUTES) + len(ratios)) + "|")
    for row, routes in figures.items():
        cells = [f"{statistics.median(routes[route]):,.{digits}f}" if route in routes else "" for route in ROUTES]
        for upper, lower in ratios:
            found = ratio(routes, upper, lower)
            cells.append("" if found is None else f"{found:.2f}")
        print(f"| {row} | {' | '.join(cells)} |")


def missed_goals(rates: Figures) -> list[str]:
    """Return a line for each ratio of rates that misses its goal."""
    missed = []
    for row, routes in rates.items():
        for (upper, lower), goal in GOALS.items():
            found = ratio(routes, upper, lower)
            if found is not None and found < goal:
                limit = ratio(routes, *LIMIT) if lower == "microburst" else None
                possible = f", and the bare relay has {limit:.2f}" if limit is not None else ""
                missed.append(f"{row}: {upper} has {found:.2f} of the rate of {lower}, the goal is {goal}{possible}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="the rows with this text in their name")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.only)
    print_table("statements per second", found.rates, [*GOALS, LIMIT], 0)
    print()
    print_table("CPU of the proxy, µs for each statement", found.cpu, [(low, up) for up, low in GOALS], 1)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rates": found.rates, "cpu": found.cpu}, indent=1))
    missed = missed_goals(found.rates)
    print(*missed, sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
