"""Show what each driver raises for each act on a statement, and what the server has done, as the tables of docs/statement-errors.md.

Each driver is installed in a directory, and a program of benchmarks/statement_drivers/ plays scenarios with it through a proxy with one
rule, which acts on the first statement that matches. The state of the server is read by another connection.

scripts/bench statement_errors [--write | --check] [--directory DIR] [DRIVER ...]

Without a name, each driver is tried whose tools (uv, npm, Go, Maven) are on this machine. With --write the tables of the page are
replaced; those of other drivers stay. With --check the acts of the page are compared with those of this program. With --directory the
drivers remain installed there.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts" / "lib")]

import asyncpg  # noqa: E402
import redis  # noqa: E402
from drivers import DRIVERS, Driver, python_driver  # noqa: E402  # of scripts/lib
from record_drivers import create_account, url  # noqa: E402

from pytest_resilience.backends.backend import Address, Server  # noqa: E402
from pytest_resilience.backends.embedded.backend import EmbeddedBackend  # noqa: E402

PAGE = ROOT / "docs" / "statement-errors.md"
ROOM = Path(__file__).resolve().parent / "statement_drivers"
TRIED = DRIVERS | {
    "redis-py-8-resp2": DRIVERS["redis-py-8"],
    "redis-py-8-asyncio": Driver("redis", python_driver("redis_py_asyncio_client.py", "redis>=8,<9"), ("uv",)),
}
ARGUMENTS = {"redis-py-8-resp2": ["2"]}  # of a program, behind the URL
PATIENCE = 5.0  # seconds after which a driver under silence is taken to wait for ever. The clients' own time-outs are 1 or 2 seconds
LONGEST = 60.0  # seconds for one scenario
LENGTH = 90  # characters of the text of an error
NAME = "errors"  # of the proxy
UNSTABLE = (  # parts of texts of errors that differ between runs or machines, and what stands for them
    (r"`user=[^`]*`: ", "the server: "),
    (r"127\.0\.0\.1:\d+ \(127\.0\.0\.1\): ", ""),
    (r"(127\.0\.0\.1|localhost)\D{1,12}\d{4,5}", "ADDRESS"),
    (r"0x[0-9a-f]+", "0x0"),
)
Error = dict[str, str]


@dataclass(frozen=True)
class Act:
    """An act on one statement.

    Args:
        where: the statement, for the table.
        scenario: of the programs.
        text: the act, for the table.
        verb, act, settings: of the rule.
    """

    where: str
    scenario: str
    text: str
    verb: str
    act: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def rule(self) -> dict[str, Any]:
        """The attributes of the rule, which acts once unless the settings say otherwise."""
        return {"first": 1, "verb": self.verb, "act": self.act, **self.settings}

    @property
    def silent(self) -> bool:
        """True if the driver gets nothing until the heal."""
        return self.act == "hang" or self.settings.get("close") == "silence"

    @property
    def held(self) -> bool:
        """True if the statement waits in the proxy, and may go on after the heal."""
        return self.act == "hang" and self.verb != "connect"


READ = {"matching": "generate_series"}
ACTS = {
    "postgres": (
        Act("INSERT", "alone", 'error("40001")', "insert", "error", {"code": "40001"}),
        Act("INSERT in a transaction", "transaction", 'error("40001")', "insert", "error", {"code": "40001"}),
        Act("COMMIT", "commit", 'error("40001")', "commit", "error", {"code": "40001"}),
        Act("INSERT in a transaction", "transaction", 'fatal("57P01")', "insert", "fatal", {"code": "57P01"}),
        Act("INSERT", "alone", "reset()", "insert", "reset"),
        Act("INSERT in a transaction", "transaction", "reset()", "insert", "reset"),
        Act("INSERT", "alone", "hang()", "insert", "hang"),
        Act("INSERT", "alone", "delay(0.1)", "insert", "delay", {"delay_ms": 100}),
        Act("INSERT", "alone", "lose_answer()", "insert", "lose_answer"),
        Act("COMMIT", "commit", "lose_answer()", "commit", "lose_answer"),
        Act("COMMIT", "commit", 'lose_answer("silence")', "commit", "lose_answer", {"close": "silence"}),
        Act("SELECT", "read", "cut_answer(rows=2)", "select", "cut_answer", {"rows": 2, **READ}),
        Act("SELECT", "read", "cut_answer(bytes=10)", "select", "cut_answer", {"bytes": 10, **READ}),
        Act("connect", "connect", 'error("53300")', "connect", "error", {"code": "53300"}),
        Act("connect", "connect", "reset()", "connect", "reset"),
        Act("connect", "connect", "hang()", "connect", "hang"),
        Act("connect", "connect", "lose_answer()", "connect", "lose_answer"),
        Act("connect", "connect", "cut_answer(bytes=6)", "connect", "cut_answer", {"bytes": 6}),
        Act("connect", "connect", 'fatal("57P03")', "connect", "fatal", {"code": "57P03"}),
    ),
    "redis": (
        Act("SET", "set", 'error("LOADING")', "set", "error", {"code": "LOADING"}),
        Act("SET, each time", "set", 'error("LOADING")', "set", "error", {"code": "LOADING", "first": None}),
        Act("SET", "set", 'error("READONLY")', "set", "error", {"code": "READONLY"}),
        Act("SET", "set", 'error("OOM")', "set", "error", {"code": "OOM"}),
        Act("SET", "set", 'fatal("ERR gone")', "set", "fatal", {"code": "ERR gone"}),
        Act("SET", "set", "reset()", "set", "reset"),
        Act("SET", "set", "hang()", "set", "hang"),
        Act("SET", "set", "delay(0.1)", "set", "delay", {"delay_ms": 100}),
        Act("SET", "set", "lose_answer()", "set", "lose_answer"),
        Act("SET", "set", 'lose_answer("silence")', "set", "lose_answer", {"close": "silence"}),
        Act("GET", "get", "cut_answer(bytes=6)", "get", "cut_answer", {"bytes": 6}),
        Act("SET in MULTI", "multi", 'error("OOM")', "set", "error", {"code": "OOM"}),
        Act("SET in MULTI", "multi", 'error("WRONGTYPE")', "set", "error", {"code": "WRONGTYPE"}),
        Act("EXEC", "multi", 'error("EXECABORT")', "exec", "error", {"code": "EXECABORT"}),
        Act("EXEC", "multi", "lose_answer()", "exec", "lose_answer"),
        Act("connect", "connect", 'error("LOADING")', "connect", "error", {"code": "LOADING"}),
        Act("connect", "connect", 'fatal("ERR max number of clients reached")', "connect", "fatal", {"code": "ERR max number of clients reached"}),
        Act("connect", "connect", "reset()", "connect", "reset"),
        Act("connect", "connect", "hang()", "connect", "hang"),
        Act("connect", "connect", "lose_answer()", "connect", "lose_answer"),
    ),
}  # fmt: skip


# --- the proxy and the servers ---------------------------------------------------------------------------------------


class Gate:
    """A proxy with a protocol in front of a server, with one rule at a time."""

    def __init__(self, backend: EmbeddedBackend, protocol: str) -> None:
        self._api = backend.api
        server = backend.servers[protocol]
        body = {"name": NAME, "listen": "127.0.0.1:0", "upstream": str(server.upstream_address), "protocol": protocol}
        host, _, port = self.call("POST", "", body)["listen"].rpartition(":")
        self.address = Address(host, int(port))

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to the API of the proxy."""
        connection = http.client.HTTPConnection(*self._api, timeout=10)
        connection.request(method, f"/proxies{path}", None if body is None else json.dumps(body))
        response = connection.getresponse()
        text = response.read()
        connection.close()
        assert response.status < 300, text
        return json.loads(text) if text else None

    def strike(self, rule: dict[str, Any]) -> None:
        attributes = {name: value for name, value in rule.items() if value is not None}
        self.call("POST", f"/{NAME}/toxics", {"name": "rule", "type": "statement", "attributes": attributes})

    def matched(self) -> int:
        return int(self.call("GET", f"/{NAME}/counters")["toxics"]["rule"]["matched"])

    def heal(self) -> None:
        self.call("DELETE", f"/{NAME}/toxics/rule")

    def close(self) -> None:
        self.call("DELETE", f"/{NAME}")


class PostgresTable:
    """The table that the programs write to."""

    asked = "next", "checkout"  # after the act

    def __init__(self, server: Server) -> None:
        self._url = server.url(server.direct_address)

    def prepare(self) -> None:
        """End the sessions of the programs, and make the table empty."""

        async def prepare(connection: asyncpg.Connection) -> None:
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'story'")
            await connection.execute("CREATE TABLE IF NOT EXISTS acts (id int); GRANT ALL ON acts TO public")
            await connection.execute("DELETE FROM acts")

        self._run(prepare)

    def state(self) -> str:
        """Return the number of rows."""
        rows: int = self._run(lambda connection: connection.fetchval("SELECT count(*) FROM acts"))
        return {0: "none", 1: "one"}.get(rows, str(rows))

    def _run(self, work: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            connection = await asyncpg.connect(self._url)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(run())


class RedisKeys:
    """The keys that the programs set."""

    asked = ("next",)

    def __init__(self, server: Server) -> None:
        self._client = redis.Redis.from_url(server.url(server.direct_address), decode_responses=True)

    def prepare(self) -> None:
        """End the connections of the programs, and remove the keys."""
        self._client.client_kill_filter(_type="normal", skipme=True)
        self._client.delete("acts:a", "acts:b")
        self._client.set("acts:text", "0123456789")

    def state(self) -> str:
        """Return the values of the keys that are set."""
        values = zip(("a", "b"), self._client.mget("acts:a", "acts:b"), strict=True)
        return ", ".join(f"{name} = {value}" for name, value in values if value is not None) or "none"


STATES: dict[str, Callable[[Server], PostgresTable | RedisKeys]] = {"postgres": PostgresTable, "redis": RedisKeys}


# --- the drivers -----------------------------------------------------------------------------------------------------


class Program:
    """A program that plays scenarios with a driver, by the protocol of answers.py."""

    def __init__(self, command: list[str]) -> None:
        environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environ
        )
        assert self._process.stdout is not None
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._process.stdout, selectors.EVENT_READ)

    def begin(self, scenario: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{scenario}\n")

    def answers(self, within: float) -> bool:
        """Return True when there is an answer, and False after some seconds."""
        return bool(self._ready.select(within))

    def answer(self) -> dict[str, Any]:
        """Return the answer.

        Raises:
            RuntimeError: there is none within a minute, or the program has ended.
        """
        assert self._process.stdout is not None
        if not self.answers(LONGEST) or not (line := self._process.stdout.readline()):
            raise RuntimeError(f"{self._process.args}: no answer")
        return dict(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def error_text(error: Error | None) -> str:
    """Return the class of an error with its code, or the begin of its text."""
    if error is None:
        return "no error"
    if error["code"]:
        return f"`{error['kind']}` {error['code']}"
    text = " ".join(error["text"].split())
    for pattern, replacement in UNSTABLE:
        text = re.sub(pattern, replacement, text)
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return f"`{error['kind']}`" + (f": {text[:LENGTH].rstrip()}{'...' if text[LENGTH:] else ''}" if text else "")


def try_act(program: Program, gate: Gate, seen: PostgresTable | RedisKeys, act: Act) -> list[str]:
    """Play a scenario under one rule. Return a row of the table."""
    seen.prepare()
    gate.strike(act.rule)
    program.begin(act.scenario)
    waits = not program.answers(PATIENCE if act.silent else LONGEST)
    matched = gate.matched()
    if waits:
        gate.heal()
    answer = program.answer()
    state = seen.state()
    if not waits:
        matched = gate.matched()
        gate.heal()
        if act.held:
            time.sleep(0.3)
            state += f"; after the heal {seen.state()}"
    if act.verb == "connect" and ("checkout" in answer or answer["raised"]):
        matched = max(1, matched - 1)  # the last one is that of the statement afterwards
    following = [error_text(answer[name]) if name in answer else "" for name in seen.asked]
    return [
        act.where,
        f"`{act.text}`",
        "waits; after the heal " * waits + error_text(answer["raised"]),
        str(matched),
        *following,
        state,
    ]


SERVERS = {"postgres": "Postgres", "redis": "Valkey"}
COLUMNS = {
    "postgres": ("statement", "act", "raised", "sent", "next statement", "next checkout of the pool", "rows"),
    "redis": ("command", "act", "raised", "sent", "next command", "keys set"),
}


def table(name: str, backend: EmbeddedBackend, directory: Path) -> str:
    """Try all acts with one driver, and return its table."""
    driver, server = TRIED[name], backend.servers[TRIED[name].protocol]
    home = directory / name
    known = home / "command.json"
    if not known.exists():
        home.mkdir(parents=True)
        known.write_text(json.dumps(driver.prepare(ROOM, home)))
    columns = COLUMNS[driver.protocol]
    with ExitStack() as stack:
        gate = Gate(backend, driver.protocol)
        stack.callback(gate.close)
        program = Program(
            [*json.loads(known.read_text()), url(driver.protocol, gate.address), *ARGUMENTS.get(name, [])]
        )
        stack.callback(program.close)
        program.begin("version")
        lines = [f"{program.answer()['version']}, {SERVERS[driver.protocol]} {server.version.split()[0]}.", ""]
        lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        seen = STATES[driver.protocol](server)
        for act in ACTS[driver.protocol]:
            lines.append(f"| {' | '.join(try_act(program, gate, seen, act))} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def replace_table(page: str, name: str, text: str) -> str:
    """Return the page with another table between the markers of a driver."""
    block = re.compile(rf"(<!-- tried: {re.escape(name)} [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)
    assert len(block.findall(page)) == 1, f"{PAGE} needs one block for {name}"
    return block.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def missing_rows(page: str) -> list[str]:
    """Return the drivers of which the page does not have exactly the acts."""
    blocks = dict(re.findall(r"<!-- tried: (\S+) [^\n]*-->\n(.*?)<!-- end -->", page, re.DOTALL))
    rows = {name: re.findall(r"^\| ([^|`]*) \| `(.*?)` \|", blocks.get(name, ""), re.MULTILINE) for name in TRIED}
    return [name for name in TRIED if rows[name] != [(act.where, act.text) for act in ACTS[TRIED[name].protocol]]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("drivers", nargs="*", metavar="DRIVER", help=f"of {', '.join(TRIED)} (all)")
    parser.add_argument("--write", action="store_true", help="replace the tables of docs/statement-errors.md")
    parser.add_argument("--directory", type=Path, help="where the drivers are installed (default: removed at the end)")
    parser.add_argument(
        "--check", action="store_true", help="only print the drivers whose table has not the acts of today"
    )
    options = parser.parse_args()
    if options.check:
        found = missing_rows(PAGE.read_text())
        print(*found, sep="\n", end="\n" if found else "")
        return bool(found)
    if unknown := set(options.drivers) - TRIED.keys():
        parser.error(f"no driver {', '.join(sorted(unknown))}; there are {', '.join(TRIED)}")
    failed = False
    with tempfile.TemporaryDirectory() as temporary, EmbeddedBackend() as backend:
        asyncio.run(create_account(backend))
        for name in options.drivers or TRIED:
            if missing := TRIED[name].missing:
                print(f"{name}: left out, because {', '.join(missing)} is missing\n")
                continue
            try:
                text = table(name, backend, (options.directory or Path(temporary)).resolve())
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                print(f"{name}: left out, because of {error}\n", flush=True)
                failed = True
                continue
            print(f"## {name}\n\n{text}\n", flush=True)
            if options.write:
                PAGE.write_text(replace_table(PAGE.read_text(), name, text))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
