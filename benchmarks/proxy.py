"""Compare the embedded proxy ("ours" in the table) with a real toxiproxy-server.

The figures are request rates, CPU, memory, start-up, accuracy and API calls.

Four routes take turns in each round: direct, the embedded proxy, Toxiproxy, and a bare relay in C. Ratios are taken inside a round,
because the speed of a shared machine changes. The table has medians over the rounds, and the quartiles of the ratio to Toxiproxy. The
ratio of the bare relay to Toxiproxy is the limit of any proxy in user space on this machine.

Needs redis-benchmark (Debian: redis-tools), and pgbench for two more rows. Both are found on PATH, or named by $REDIS_BENCHMARK and
$PGBENCH. The real server is $TOXIPROXY_SERVER, or on PATH, or in ~/go/bin. Without it, the comparison is with direct only. The relay is
relay.c in this directory. Without a C compiler (cc) its column is empty.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h11
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402  # the checkout may not be installed

# Goals: requests per second relative to the real server.
GOALS = {
    "GET, 1 connection": 1.25,
    "GET, 50 connections": 1.25,
    "GET, 50 connections, -P 16": 1.25,
    "bulk 1 MiB": 2.0,
    "new connections": 2.4,
}
ROWS: dict[str, tuple[int, list[str]]] = {  # requests, redis-benchmark's arguments
    "GET, 1 connection": (8_000, ["-c", "1", "-t", "get"]),
    "GET, 50 connections": (20_000, ["-c", "50", "-t", "get"]),
    "GET, 50 connections, -P 16": (160_000, ["-c", "50", "-P", "16", "-t", "get"]),
    "bulk 1 MiB": (300, ["-c", "1", "GET", "bulk"]),
    "new connections": (2_000, ["-c", "20", "-k", "0", "-t", "get"]),
}
Routes = dict[str, tuple[str, int]]  # the address by name of the route
PGBENCH_ROWS = {"pgbench -S, 1 connection": ["-c", "1"], "pgbench -S, 20 connections": ["-c", "20"]}


class Proxy:
    """A process of the embedded proxy (name "ours") or of toxiproxy-server."""

    def __init__(self, name: str, command: list[str], level: str = "error") -> None:
        self.name = name
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "LOG_LEVEL": level},
        )
        assert self.process.stdout is not None
        if name == "ours":
            self.api = json.loads(self.process.stdout.readline())["address"]
        else:
            self.api = "127.0.0.1:" + command[command.index("-port") + 1]
        self._await_api()
        self.start_seconds = time.perf_counter() - begin
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.info = psutil.Process(self.process.pid)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def _await_api(self) -> None:
        host, port = self.api.rsplit(":", 1)
        with connect((host, int(port))) as client:
            client.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1000)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.api}{path}", data, method=method)
        with self._opener.open(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    def create_proxy(self, name: str, upstream: str) -> tuple[str, int]:
        listen = self.call("POST", "/proxies", {"name": name, "listen": "127.0.0.1:0", "upstream": upstream})["listen"]
        return "127.0.0.1", int(listen.rsplit(":", 1)[1])

    @property
    def cpu_seconds(self) -> float:
        times = self.info.cpu_times()
        return float(times.user + times.system)

    @property
    def rss(self) -> int:
        return int(self.info.memory_info().rss)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def embedded_command() -> list[str]:
    h11_home = str(Path(h11.__file__).parents[1])
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), h11_home]!r}; "
        "from pytest_resilience.proxy.__main__ import main; sys.exit(main(*sys.argv[1:]))"
    )
    return [sys.executable, "-I", "-S", "-c", code, "-host", "127.0.0.1", "-port", "0"]


def toxiproxy_command() -> list[str] | None:
    candidates = [
        os.environ.get("TOXIPROXY_SERVER"),
        shutil.which("toxiproxy-server"),
        str(Path.home() / "go/bin/server"),
    ]
    binary = next((each for each in candidates if each and Path(each).exists()), None)
    if binary is None:
        return None
    return [binary, "-host", "127.0.0.1", "-port", str(free_port())]


@contextmanager
def bare_relays(upstreams: dict[str, tuple[str, int]]) -> Iterator[dict[str, tuple[str, int]]]:
    """Run a relay of relay.c for each upstream, and yield their addresses. Without a compiler there are none."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("no C compiler (cc): the column of the bare relay is empty")
        yield {}
        return
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        program = Path(scratch) / "relay"
        subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("relay.c")], check=True)
        addresses = {}
        for name, (_, port) in upstreams.items():
            addresses[name] = "127.0.0.1", free_port()
            process = subprocess.Popen([program, str(addresses[name][1]), str(port)])
            stack.callback(process.wait)
            stack.callback(process.kill)
            connect(addresses[name]).close()
        yield addresses


def connect(address: tuple[str, int]) -> socket.socket:
    """Connect to a server that may not listen yet."""
    while True:
        try:
            return socket.create_connection(address, 5)
        except ConnectionRefusedError:
            time.sleep(0.0005)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def running(name: str) -> Iterator[Proxy | None]:
    command = embedded_command() if name == "ours" else toxiproxy_command()
    proxy = None if command is None else Proxy(name, command)
    try:
        yield proxy
    finally:
        if proxy is not None:
            proxy.stop()


# --- rates -----------------------------------------------------------------------------------------------------------


def redis_rate(tool: str, address: tuple[str, int], requests: int, arguments: list[str]) -> float:
    where = ["-h", address[0], "-p", str(address[1]), "-n", str(requests), "--csv"]
    completed = subprocess.run([tool, *where, *arguments], capture_output=True, text=True, timeout=60, check=True)
    return float(completed.stdout.splitlines()[-1].rsplit('","')[1].split('"')[0])


def pgbench_rate(
    tool: str, url: urllib.parse.ParseResult, address: tuple[str, int], arguments: list[str]
) -> tuple[float, int]:
    environment = {**os.environ, "PGPASSWORD": url.password or ""}
    where = ["-h", address[0], "-p", str(address[1]), "-U", url.username or "postgres", url.path.lstrip("/")]
    command = [tool, "-n", "-S", "-M", "prepared", "-T", "1", *arguments, *where]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment).stdout
    tps = next(float(line.split()[2]) for line in out.splitlines() if line.startswith("tps"))
    done = next(line.split(":")[1].split("/")[0] for line in out.splitlines() if "actually processed" in line)
    return tps, int(done)


class RateMeasurement:
    """Request rates of each row by each route, and the CPU time of a request in the proxies."""

    def __init__(self, proxies: list[Proxy]) -> None:
        self._proxies = {proxy.name: proxy for proxy in proxies}
        self._rates: dict[str, dict[str, list[float]]] = {}
        self._cpu: dict[str, dict[str, list[float]]] = {}

    def record(self, row: str, route: str, measure: Callable[[], tuple[float, int]]) -> None:
        """Call `measure`, which returns a rate and a number of requests."""
        proxy = self._proxies.get(route)
        before = proxy.cpu_seconds if proxy else 0.0
        rate, requests = measure()
        self._rates.setdefault(row, {}).setdefault(route, []).append(rate)
        if proxy:
            microseconds = (proxy.cpu_seconds - before) / requests * 1e6
            self._cpu.setdefault(row, {}).setdefault(route, []).append(microseconds)

    def measure_redis(self, tool: str, url: urllib.parse.ParseResult, routes: Routes, rounds: int, only: str) -> None:
        credentials = ["-a", url.password] if url.password else []
        if url.username:
            credentials = ["--user", url.username, *credentials]
        fill_bulk(routes["direct"], url)
        for number in range(rounds):
            for row, (requests, arguments) in ROWS.items():
                for route in rotate(list(routes), number) if only in row else ():
                    rate = partial(redis_rate, tool, routes[route], requests, [*credentials, *arguments])
                    self.record(row, route, lambda rate=rate, requests=requests: (rate(), requests))

    def measure_postgres(self, tool: str, url: urllib.parse.ParseResult, routes: Routes, rounds: int) -> None:
        fill_postgres(tool, url, routes["direct"])
        for number in range(rounds):
            for row, arguments in PGBENCH_ROWS.items():
                for route in rotate(list(routes), number):
                    self.record(row, route, partial(pgbench_rate, tool, url, routes[route], arguments))

    def summaries(self) -> dict[str, Any]:
        """Return the summary of each row."""
        return {row: summary(rates, self._cpu.get(row, {})) for row, rates in self._rates.items()}


def measure_rates(rounds: int, only: str) -> dict[str, Any]:
    redis_tool = os.environ.get("REDIS_BENCHMARK") or shutil.which("redis-benchmark")
    postgres_tool = os.environ.get("PGBENCH") or shutil.which("pgbench")
    with EmbeddedBackend() as backend, running("ours") as ours, running("toxiproxy") as real, ExitStack() as stack:
        proxies = [each for each in (ours, real) if each is not None]
        addresses = {name: backend.servers[name].direct_address for name in ("redis", "postgres")}
        urls = {name: urllib.parse.urlparse(backend.servers[name].url(addresses[name])) for name in addresses}
        direct = {name: (address.host, address.port) for name, address in addresses.items()}
        bare = stack.enter_context(bare_relays(direct))
        routes: dict[str, Routes] = {}
        for name, address in addresses.items():
            routes[name] = {"direct": direct[name]}
            routes[name] |= {proxy.name: proxy.create_proxy(name, str(address)) for proxy in proxies}
            routes[name] |= {"relay": bare[name]} if bare else {}
        measurement = RateMeasurement(proxies)
        if redis_tool:
            measurement.measure_redis(redis_tool, urls["redis"], routes["redis"], rounds, only)
        else:
            print("no redis-benchmark (Debian: redis-tools): its rows are left out")
        if postgres_tool and "pgbench".startswith(only[:7]):
            measurement.measure_postgres(postgres_tool, urls["postgres"], routes["postgres"], max(3, rounds // 3))
        loaded = {proxy.name: proxy.rss for proxy in proxies}
    return {"rates": measurement.summaries(), "rss_after_load": loaded}


def fill_postgres(tool: str, url: urllib.parse.ParseResult, address: tuple[str, int]) -> None:
    where = ["-h", address[0], "-p", str(address[1]), "-U", url.username or "postgres", url.path.lstrip("/")]
    environment = {**os.environ, "PGPASSWORD": url.password or ""}
    subprocess.run([tool, "-i", "-q", *where], check=True, capture_output=True, env=environment)


def rotate(routes: list[str], number: int) -> list[str]:
    """Return the routes in the order of a round. Each round begins with another route."""
    return routes[number % len(routes) :] + routes[: number % len(routes)]


def fill_bulk(address: tuple[str, int], url: urllib.parse.ParseResult) -> None:
    import redis

    with redis.Redis(host=address[0], port=address[1], username=url.username, password=url.password) as client:
        client.set("bulk", b"x" * 1048576)


def summary(routes: dict[str, list[float]], cpu: dict[str, list[float]]) -> dict[str, Any]:
    result: dict[str, Any] = {route: statistics.median(rates) for route, rates in routes.items()}
    ratios = {
        "ours/direct": ("ours", "direct"),
        "ours/toxiproxy": ("ours", "toxiproxy"),
        "toxiproxy/direct": ("toxiproxy", "direct"),
        "relay/toxiproxy": ("relay", "toxiproxy"),
        "ours/relay": ("ours", "relay"),
    }
    for name, (upper, lower) in ratios.items():
        if upper in routes and lower in routes:
            each = [a / b for a, b in zip(routes[upper], routes[lower], strict=True)]
            result[name] = quartiles(each)
    result["cpu_us_per_request"] = {route: statistics.median(each) for route, each in cpu.items()}
    if "toxiproxy" in cpu:
        result["cpu ours/toxiproxy"] = quartiles(
            [a / b for a, b in zip(cpu["ours"], cpu["toxiproxy"], strict=True) if b]
        )
    return result


def quartiles(values: list[float]) -> list[float]:
    """Return the median, the lower and the upper quartile."""
    if len(values) < 2:
        return [*values, *values, *values][:3]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return [middle, low, high]


# --- everything else -------------------------------------------------------------------------------------------------


@contextmanager
def echo_server() -> Iterator[int]:
    """Run a process that sends everything back, and yield its port."""
    code = (
        "import selectors,socket\n"
        "s=socket.create_server(('127.0.0.1',0),backlog=2048);print(s.getsockname()[1],flush=True)\n"
        "q=selectors.DefaultSelector();q.register(s,1)\n"
        "while 1:\n"
        " for k,_ in q.select():\n"
        "  if k.fileobj is s:\n   c=s.accept()[0];c.setsockopt(6,1,1);q.register(c,1)\n"
        "  else:\n"
        "   try: d=k.fileobj.recv(65536)\n"
        "   except OSError: d=b''\n"
        "   if d: k.fileobj.sendall(d)\n"
        "   else: q.unregister(k.fileobj);k.fileobj.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ping(client: socket.socket, count: int, pause: float) -> list[float]:
    """Return the times of round trips, in milliseconds."""
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        client.sendall(b"x")
        client.recv(1)
        times.append((time.perf_counter() - begin) * 1000)
        time.sleep(pause)
    return times


def measure_accuracy(latency_ms: int, count: int) -> dict[str, Any]:
    """Measure the time that a latency toxic adds beyond its latency, relative to the same round trips without a toxic."""
    result: dict[str, Any] = {}
    with echo_server() as port, running("ours") as ours, running("toxiproxy") as real:
        added: dict[str, list[float]] = {}
        base: dict[str, list[float]] = {}
        proxies = [each for each in (ours, real) if each is not None]
        clients = {
            each.name: socket.create_connection(each.create_proxy("echo", f"127.0.0.1:{port}")) for each in proxies
        }
        for _ in range(5):
            for each in proxies:
                base.setdefault(each.name, []).extend(ping(clients[each.name], count // 5, latency_ms / 1000))
            for each in proxies:
                each.call("POST", "/proxies/echo/toxics", {"type": "latency", "attributes": {"latency": latency_ms}})
                added.setdefault(each.name, []).extend(ping(clients[each.name], count // 5, 0.0))
                each.call("DELETE", "/proxies/echo/toxics/latency_downstream")
        for name, values in added.items():
            own = statistics.median(base[name])
            extra = sorted(value - latency_ms - own for value in values)
            result[name] = {
                "p50_ms": statistics.median(extra),
                "p95_ms": extra[int(len(extra) * 0.95)],
                "round_trip_ms": own,
            }
            clients[name].close()
    return result


def measure_start(rounds: int) -> dict[str, float]:
    """Measure the milliseconds from exec to the first response of the API."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in ("ours", "toxiproxy"):
            with running(name) as proxy:
                if proxy:
                    times.setdefault(name, []).append(proxy.start_seconds * 1000)
    return {name: statistics.median(each) for name, each in times.items()}


def measure_idle(count: int) -> dict[str, Any]:
    """Measure the RSS at the start and of an idle connection, and API calls without and with 200 connections."""
    result: dict[str, Any] = {}
    with echo_server() as port:
        for name in ("ours", "toxiproxy"):
            with running(name) as proxy:
                if proxy is None:
                    continue
                address = proxy.create_proxy("echo", f"127.0.0.1:{port}")
                fresh = proxy.rss
                calls = {0: api_times(proxy)}
                clients = [socket.create_connection(address) for _ in range(200)]
                for client in clients:
                    client.sendall(b"x")
                    client.recv(1)
                calls[200] = api_times(proxy)
                before = proxy.rss
                for _ in range(count):
                    clients.append(socket.create_connection(address))
                    clients[-1].sendall(b"x")
                    clients[-1].recv(1)
                result[name] = {
                    "rss_fresh_mb": fresh / 1e6,
                    "rss_per_idle_connection_bytes": (proxy.rss - before) / count,
                    "api_ms": calls,
                }
                for client in clients:
                    client.close()
    return result


def api_times(proxy: Proxy) -> dict[str, float]:
    """Return the median times of API calls on one connection, in milliseconds."""
    connection = http.client.HTTPConnection(proxy.api)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def timed(method: str, path: str, body: str | None = None) -> float:
        begin = time.perf_counter()
        connection.request(method, path, body)
        connection.getresponse().read()
        return (time.perf_counter() - begin) * 1000

    toxic = '{"type":"latency","attributes":{"latency":0}}'
    times: dict[str, list[float]] = {}
    for _ in range(25):
        times.setdefault("list", []).append(timed("GET", "/proxies"))
        times.setdefault("add toxic", []).append(timed("POST", "/proxies/echo/toxics", toxic))
        times.setdefault("remove toxic", []).append(timed("DELETE", "/proxies/echo/toxics/latency_downstream"))
        times.setdefault("reset", []).append(timed("POST", "/reset"))
    connection.close()
    return {name: statistics.median(each) for name, each in times.items()}


# --- the table -------------------------------------------------------------------------------------------------------


def print_table(result: dict[str, Any]) -> None:
    rows = result.get("rates", {})
    if rows:
        print(
            f"\n{'':32}{'direct/s':>10}{'ours/s':>10}{'toxi/s':>10}{'ours/direct':>12}"
            f"{'ours/toxi':>22}{'goal':>6}{'relay/toxi':>12}{'ours/relay':>12}{'CPU us':>14}{'CPU ratio':>10}"
        )
    for row, values in rows.items():
        ratio = values.get("ours/toxiproxy")
        goal = GOALS.get(row)
        cpu = values["cpu_us_per_request"]
        print(
            f"{row:32}{values['direct']:10.0f}{values['ours']:10.0f}{values.get('toxiproxy', 0):10.0f}"
            f"{values['ours/direct'][0]:12.2f}"
            + (f"{ratio[0]:8.2f} [{ratio[1]:.2f} - {ratio[2]:.2f}]" if ratio else " " * 22)
            + (f"{goal:6.2f}" if goal else " " * 6)
            + "".join(
                f"{values[name][0]:12.2f}" if name in values else " " * 12 for name in ("relay/toxiproxy", "ours/relay")
            )
            + f"{cpu.get('ours', 0):7.1f}/{cpu.get('toxiproxy', 0):.1f}"
            + (f"{values['cpu ours/toxiproxy'][0]:10.2f}" if "cpu ours/toxiproxy" in values else "")
        )
    for name, values in result.items():
        if name != "rates":
            print(f"\n{name}: {json.dumps(values, default=str)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds of the rate rows (9)")
    parser.add_argument("--only", default="", help="measure only the rate rows that contain this text")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.only != "none":
        result.update(measure_rates(options.rounds, options.only))
    if options.only in ("", "none"):
        result["latency 50 ms, added"] = measure_accuracy(50, 100)
        result["latency 5 ms, added"] = measure_accuracy(5, 300)
        result["start to first answer, ms"] = measure_start(options.rounds)
        result["idle"] = measure_idle(1000)
    print_table(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
