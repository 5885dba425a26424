"""Kills a part of small pytest sessions at random moments, and looks whether anything is left and whether the next run is well.

One round: a session begins, in a project of its own with real faults; at a moment drawn from the seed, from before its servers are up until
after its tests have begun, SIGKILL goes to one of
  pytest   all of it must be gone,
  worker   one of two of xdist's: what was that worker's must be gone, and the run goes on,
  proxy    the test that it dies in fails with the proxy's log, and the ones after it pass,
  supervisor   all its servers must be gone, and when the session has ended, the rest.
Then the same session runs once more, undisturbed, and must pass.

All processes of a round descend from this one, which is a subreaper: nobody gets away by forking, so "nothing is left" is a fact of the
kernel's. Other sessions on this machine don't disturb, and are not disturbed.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_resilience.backends.docker import engine as engines
from pytest_resilience.backends.session.session_dir import OWNER, PREFIX, in_use
from pytest_resilience.supervisor import (
    LINUX,
    PR_SET_CHILD_SUBREAPER,
    descendants,
    libc,
    process_table,
    remove_tree,
    send_signal,
)

VICTIMS = ("pytest", "worker", "proxy", "supervisor")
WITHIN = 2.0  # seconds: what we promise
AT_MOST = {"embedded": WITHIN, "docker": 20.0}  # seconds after which a round has failed; an engine takes its time
RUN_WITHIN = {"embedded": 60.0, "docker": 180.0}  # seconds for one session; it takes 2 or 10
LOOK_EVERY = {
    "embedded": 0.02,
    "docker": 0.1,
}  # seconds; each look costs a few milliseconds, an engine's more, which the session could use
TRIES = 5  # a session may be quicker than the one that the moment was drawn for
LATE = 0.1  # seconds before the end of a test's body in which a kill may be noticed only after it
GOODBYE = 10.0  # seconds for our own tidying

CONFTEST = """
import os, sys, time
import pytest
from pytest_resilience import Service

def note(*words):
    with open(f"notes-{os.getpid()}", "a") as file:
        print(*words, time.monotonic(), file=file)

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    note("begin", item.name)
    try:
        return (yield)
    finally:
        note("end", item.name)

def pytest_runtest_logreport(report):
    if report.failed:
        note("failed", report.nodeid.rpartition("::")[2])

@pytest.fixture(scope="session")
def resilience_service(resilience_stack):
    return Service([sys.executable, "-I", "-S", "service.py"], port_variable="PORT")

@pytest.fixture(autouse=True)
def ports(resilience):
    for server in resilience.postgres, resilience.redis:
        for url in server.url, server.direct_url:
            note("port", *url.rpartition("@")[2].rpartition("//")[2].partition("/")[0].split(":"))
    note("port", "127.0.0.1", resilience.service.url.rpartition(":")[2])
"""
SERVICE = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
TESTS = """
import asyncio, time, urllib.request
import asyncpg, pytest, redis

def ask_redis(resilience):
    with redis.Redis.from_url(resilience.redis.url, socket_timeout=0.2, socket_connect_timeout=1, retry=None) as client:
        return client.ping()

async def ask_postgres(resilience):
    connection = await asyncpg.connect(resilience.postgres.url, timeout=5)
    try:
        return await connection.fetchval("select 1")
    finally:
        connection.terminate()

def works(resilience):
    until = time.monotonic() + 0.15
    while time.monotonic() < until:
        assert ask_redis(resilience)
        assert asyncio.run(ask_postgres(resilience)) == 1
    assert urllib.request.urlopen(resilience.service.url, timeout=5).status == 200

def test_refused(resilience):
    with resilience.redis.refuse(), pytest.raises(redis.ConnectionError):
        ask_redis(resilience)
    works(resilience)

def test_slow(resilience):
    with resilience.postgres.latency(seconds=0.02):
        works(resilience)

def test_silent(resilience):
    with resilience.redis.blackhole(), pytest.raises(redis.TimeoutError):
        ask_redis(resilience)
    works(resilience)

def test_killed(resilience):
    with resilience.postgres.kill(), resilience.redis.pause():
        with pytest.raises(Exception):
            asyncio.run(ask_postgres(resilience))
    works(resilience)
"""
INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"  # or pytest-asyncio warns, where it is installed
COUNT = 4  # tests


@dataclass
class Note:
    """What a session wrote down: a word, its subject, and when."""

    what: str
    subject: str
    at: float


class Session:
    """One run of pytest in the project, and what is known of it.

    Args:
        backend: which.
        project: its directory.
        workers: xdist's; 0 for none.
    """

    def __init__(self, backend: str, project: Path, *, workers: int = 0) -> None:
        for old in project.glob("notes-*"):
            old.unlink()
        self._project = project
        self._limit = RUN_WITHIN[backend]
        self.output = project / "output"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "-p", "no:cacheprovider", "--tb=short"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, f"--resilience-backend={backend}"],
                cwd=project,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                start_new_session=True,
            )
        self.begun = time.monotonic()
        self.pid = self.process.pid
        self.pids = {self.pid}  # all that were ever seen of it

    def look(self) -> dict[int, tuple[int, str]]:
        """All processes that descend from us now, ourselves aside; reaps those that have ended."""
        me = os.getpid()
        self.process.poll()
        table = process_table(me)
        for pid, (parent, state) in table.items():
            if parent == me and state == "Z" and pid != self.pid:
                os.waitpid(pid, os.WNOHANG)
        found = {pid: table[pid] for pid in descendants([me], table) if pid != me and table[pid][1] != "Z"}
        self.pids.update(found)
        return found

    def orphans(self) -> list[int]:
        """Processes of ours that nobody in the session is the parent of any more."""
        table = self.look()
        kept = set(descendants([self.pid], table))
        return [pid for pid in table if pid not in kept]

    def await_end(self) -> bool:
        """Whether it ends by itself, in time."""
        while self.process.poll() is None:
            if time.monotonic() > self.begun + self._limit:
                return False
            self.look()
            time.sleep(0.05)
        return True

    def notes(self) -> list[Note]:
        """What it wrote down so far; the last line may be half written."""
        lines = [line for path in self._project.glob("notes-*") for line in path.read_text().splitlines()]
        rows = [line.split() for line in lines]
        return [Note(row[0], ":".join(row[1:-1]), float(row[-1])) for row in rows if len(row) >= 3 and "." in row[-1]]

    def failed(self) -> set[str]:
        """The tests that failed."""
        return {note.subject for note in self.notes() if note.what == "failed"}

    def text(self) -> str:
        """What pytest printed."""
        return self.output.read_text(errors="replace")


# -- where to strike

Blow = Callable[[], None]


def find_pytest(session: Session, _engine: engines.Engine | None) -> Blow | None:
    return lambda: kill(session, session.pid)


def find_worker(session: Session, _engine: engines.Engine | None) -> Blow | None:
    return _blow(session, lambda pid, parent: parent == session.pid and "sys.stdin.readline()" in command_of(pid))


def find_supervisor(session: Session, _engine: engines.Engine | None) -> Blow | None:
    # A child of the supervisor's that is not yet its program looks like the supervisor itself.
    return _blow(session, lambda pid, parent: "supervisor.main" in command_of(pid) and parent == session.pid)


def find_proxy(session: Session, engine: engines.Engine | None) -> Blow | None:
    if engine is None:
        return _blow(session, lambda pid, _: "pytest_resilience.proxy.__main__" in command_of(pid))
    for each in engine.labelled("containers", engines.SESSION):
        number, runs = each["Id"], each["State"] == "running"
        ours = owner_of(Path(each["Labels"][engines.OWNER])) == session.pid
        if ours and runs and each["Names"][0].endswith("-toxiproxy"):
            return lambda: _kill_container(engine, number)
    return None


def _kill_container(engine: engines.Engine, number: str) -> None:
    engine.ask("POST", f"/containers/{number}/kill?signal=KILL", within=10.0)


def _blow(session: Session, wanted: Callable[[int, int], bool]) -> Blow | None:
    found = [pid for pid, (parent, _) in session.look().items() if wanted(pid, parent)]
    return (lambda: kill(session, found[0])) if found else None


def kill(session: Session, pid: int) -> None:
    """SIGKILL; returns when it is dead, since only then its children show whom they have."""
    send_signal(pid, signal.SIGKILL)
    while pid in session.look():
        time.sleep(0.001)


FIND: Mapping[str, Callable[[Session, engines.Engine | None], Blow | None]] = {
    "pytest": find_pytest,
    "worker": find_worker,
    "proxy": find_proxy,
    "supervisor": find_supervisor,
}


def command_of(pid: int) -> str:
    """A process's command line, or nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def owner_of(file: Path) -> int | None:
    """Whose process an owner's file names."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


# -- what is left


def directories(session: Session) -> list[str]:
    """Directories of this session's processes, or of nobody's, that nobody alive has locked."""
    left = []
    for root in {Path("/dev/shm"), Path(tempfile.gettempdir())}:
        for path in [*root.glob(f"{PREFIX}*"), *root.glob(f".{PREFIX}*")]:
            owner = owner_of(path / OWNER)
            if (owner is None or owner in session.pids) and not in_use(path / OWNER) and path.exists():
                left.append(str(path))
    return left


def contained(engine: engines.Engine | None) -> list[str]:
    """Containers and networks of sessions that are over."""
    if engine is None:
        return []
    return [
        f"{kind[:-1]} {(each.get('Names') or [each.get('Name')])[0]}"
        for kind in ("containers", "networks")
        for each in engine.labelled(kind, engines.SESSION)
        if not in_use(Path(each["Labels"][engines.OWNER]))
    ]


def processes(pids: list[int]) -> list[str]:
    """How a message calls them."""
    return [f"process {pid}: {command_of(pid)[:100]}" for pid in pids]


def remains(session: Session, engine: engines.Engine | None, before: set[str], *, over: bool) -> list[str]:
    """What is left of a session that is over, or of a part of it that was killed."""
    pids = list(session.look()) if over else session.orphans()
    return processes(pids) or [each for each in directories(session) + contained(engine) if each not in before]


def ports(session: Session) -> list[str]:
    """Ports of the session on which somebody listens; of loopback, since a container's own went with its network."""
    answering = []
    for address in {note.subject for note in session.notes() if note.what == "port"}:
        if not address.startswith("127.0.0.1:"):
            continue
        host, _, port = address.rpartition(":")
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if port.isdigit() and probe.connect_ex((host, int(port))) == 0:
                answering.append(f"port {address} listens")
    return answering


# -- a round


@dataclass
class Verdict:
    """What came of one round."""

    number: int
    victim: str
    at: float = 0.0
    seconds: float | None = None
    next_run: bool = False
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        never = self.seconds is None or self.seconds == math.inf
        clean = "not clean" if never else f"clean after {self.seconds:.2f} s"
        lines = [f"{self.number:5} {self.victim:7} killed after {self.at:5.2f} s, {clean}"]
        return "\n".join([*lines, *(f"   !!! {each}" for each in self.wrong)])


class Killer:
    """Does rounds on one backend.

    Args:
        backend: which.
        seed: all chance follows from it and the round's number.
        project: a directory.
    """

    def __init__(self, backend: str, seed: int, project: Path) -> None:
        self._backend = backend
        self._seed = seed
        self._project = project
        self._engine = engines.find() if backend == "docker" else None
        self._spans: dict[int, float] = {}
        self._session: Session | None = None
        for name, text in (
            ("conftest.py", CONFTEST),
            ("service.py", SERVICE),
            ("test_it.py", TESTS),
            ("pytest.ini", INI),
        ):
            (project / name).write_text(text)

    def _start(self, workers: int) -> Session:
        self._session = Session(self._backend, self._project, workers=workers)
        return self._session

    def span(self, workers: int) -> float:
        """Seconds from a session's begin into its tests: where the moments are drawn from. Takes an undisturbed run."""
        if workers not in self._spans:
            session = self._start(workers)
            if not session.await_end() or session.process.returncode:
                raise SystemExit(f"kills: a session that nobody disturbs fails:\n{session.text()}")
            begins = [note.at - session.begun for note in session.notes() if note.what == "begin"]
            ends = [note.at - session.begun for note in session.notes() if note.what == "end"]
            self._spans[workers] = min(begins) + 0.8 * (max(ends) - min(begins))
        return self._spans[workers]

    def round(self, number: int, victim: str) -> Verdict:
        """Kill, look, and run once more."""
        workers = 2 if victim == "worker" else 0
        chance = random.Random(f"{self._seed} {number}")
        moment = chance.random() * self.span(workers)
        verdict = Verdict(number, victim)
        session = self._start(workers)
        before = {*directories(session), *contained(self._engine)}
        tries = 1
        while (killed_at := self._strike(session, victim, moment)) is None and tries < TRIES:
            session, tries, moment = self._start(workers), tries + 1, moment * 0.8
        if killed_at is None:
            verdict.wrong.append(f"there is no {victim} to kill: {_last(session)}")
            return verdict
        verdict.at = killed_at - session.begun

        def everything() -> list[str]:
            return remains(session, self._engine, before, over=True)

        if victim == "pytest":
            self._see_it_go(verdict, killed_at, everything)
        else:
            if victim == "worker":
                self._see_it_go(verdict, killed_at, lambda: remains(session, self._engine, before, over=False))
            if victim == "supervisor":
                self._see_it_go(verdict, killed_at, lambda: processes(session.orphans()))
            if not session.await_end():
                verdict.wrong.append(f"the run does not end: {_last(session)}")
                return verdict
            self._see_it_go(verdict, time.monotonic(), everything)
            JUDGE[victim](session, killed_at, verdict)
        verdict.wrong += ports(session)
        verdict.wrong += [f"came later: {each}" for each in everything()]
        self._once_more(verdict)
        return verdict

    def _strike(self, session: Session, victim: str, moment: float) -> float | None:
        """SIGKILL at the moment, or as soon after it as there is somebody to kill; when that was."""
        while session.process.poll() is None:
            if time.monotonic() - session.begun >= moment and (blow := FIND[victim](session, self._engine)) is not None:
                at = time.monotonic()
                blow()
                return at
            time.sleep(LOOK_EVERY[self._backend])
        return None

    def _see_it_go(self, verdict: Verdict, since: float, left: Callable[[], list[str]]) -> None:
        """Wait until nothing is left."""
        while found := left():
            if time.monotonic() - since > AT_MOST[self._backend]:
                verdict.wrong += [f"left after {time.monotonic() - since:.1f} s: {each}" for each in found]
                verdict.seconds = math.inf
                return
            time.sleep(LOOK_EVERY[self._backend])
        verdict.seconds = max(verdict.seconds or 0.0, time.monotonic() - since)

    def _once_more(self, verdict: Verdict) -> None:
        session = self._start(0)
        ended = session.await_end()
        text = session.text()
        if not ended:
            verdict.wrong.append(f"the next run does not end: {_last(session)}")
        elif session.process.returncode or f"{COUNT} passed" not in text:
            verdict.wrong.append(f"the next run fails:\n{text}")
        elif left := list(session.look()) + directories(session):
            verdict.wrong.append(f"the next run leaves something: {left}")
        else:
            verdict.next_run = True

    def tidy(self) -> None:
        """End whatever still runs of ours and remove what it left."""
        if self._session is None:
            return
        until = time.monotonic() + GOODBYE
        while (found := self._session.look()) and time.monotonic() < until:
            for pid in found:
                send_signal(pid, signal.SIGKILL)
            time.sleep(LOOK_EVERY[self._backend])
        for path in directories(self._session):
            remove_tree(path)
        if self._engine is not None:
            for each in self._engine.labelled("containers", engines.SESSION) + self._engine.labelled(
                "networks", engines.SESSION
            ):
                if not in_use(Path(each["Labels"][engines.OWNER])):
                    self._engine.remove(each["Labels"][engines.SESSION])


def _last(session: Session) -> str:
    return "\n".join(session.text().splitlines()[-40:])


def judge_worker(session: Session, _killed_at: float, verdict: Verdict) -> None:
    """The test that it was at fails, and no other."""
    text = session.text()
    if not session.notes() and "gateway_bootstrap" in text:
        return  # one that has not yet said hello takes xdist's controller along
    failed = int(found[1]) if (found := re.search(r"(\d+) failed", text)) else 0
    passed = int(found[1]) if (found := re.search(r"(\d+) passed", text)) else 0
    # A worker that dies between a test's report and its end has that test in both counts: it passed, and xdist calls it crashed.
    if failed > 1 or not COUNT <= passed + failed <= COUNT + failed or "error" in text.splitlines()[-1]:
        verdict.wrong.append(f"a killed worker costs more than the test that it was at:\n{text}")


def judge_proxy(session: Session, killed_at: float, verdict: Verdict) -> None:
    """The test in which it died fails, with its log; the others pass."""
    notes, failed, text = session.notes(), session.failed(), session.text()
    begun = {note.subject: note.at for note in notes if note.what == "begin"}
    ended = {note.subject: note.at for note in notes if note.what == "end"}
    if not begun or killed_at < min(begun.values()):  # while everything starts: all of it fails, or nobody notices
        fine = len(failed) in (0, 1, COUNT)
    else:
        during = {name for name, at in begun.items() if at <= killed_at <= ended[name] - LATE}
        fine = failed == during if during else len(failed) <= 1
    if not fine:
        verdict.wrong.append(f"the proxy's death fails {sorted(failed)}:\n{text}")
    elif failed and "its log" not in text:
        verdict.wrong.append(f"the proxy's death does not show its log:\n{text}")


def judge_supervisor(session: Session, _killed_at: float, verdict: Verdict) -> None:
    """Without it there are no servers: tests fail, and say why."""
    text = session.text()
    if session.process.returncode and "the supervisor" not in text:
        verdict.wrong.append(f"the failures don't say that the supervisor is gone:\n{text}")


JUDGE: Mapping[str, Callable[[Session, float, Verdict], None]] = {
    "worker": judge_worker,
    "proxy": judge_proxy,
    "supervisor": judge_supervisor,
}


def table(backend: str, verdicts: list[Verdict]) -> str:
    """Who was killed how often, and what came of it."""
    rows = [
        ("victim", "backend", "rounds", f"clean within {WITHIN:g} s", "slowest clean-up", "next run clean", "wrong")
    ]
    for victim in VICTIMS:
        of_it = [verdict for verdict in verdicts if verdict.victim == victim]
        if not of_it:
            continue
        took = [verdict.seconds for verdict in of_it if verdict.seconds is not None]
        rows.append(
            (
                victim,
                backend,
                str(len(of_it)),
                str(sum(seconds <= WITHIN for seconds in took)),
                f"{max(took):.2f} s" if took else "",
                str(sum(verdict.next_run for verdict in of_it)),
                str(sum(bool(verdict.wrong) for verdict in of_it)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@contextmanager
def killing(backend: str, seed: int) -> Iterator[Killer]:
    """A killer in a directory of its own; leaves nothing, however it ends."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="resilience-kills-") as project:
        killer = Killer(backend, seed, Path(project))
        try:
            yield killer
        finally:
            killer.tidy()


def main() -> int:
    """Returns the exit status: 0 when every round was well."""
    given = _arguments()
    verdicts: list[Verdict] = []
    begin = time.monotonic()
    try:
        with killing(given.backend, given.seed) as killer:
            for number in range(given.first, given.first + given.rounds):
                verdict = killer.round(number, given.victims[number % len(given.victims)])
                verdicts.append(verdict)
                print(verdict, flush=True)
                if verdict.wrong:
                    killer.tidy()
                    again = f"--seed {given.seed} --first {number} --rounds 1 --victims {','.join(given.victims)}"
                    print(f"   again: scripts/kills --backend {given.backend} {again}", flush=True)
    finally:  # also of what was done until somebody had enough
        wrong = sum(bool(verdict.wrong) for verdict in verdicts)
        seconds = time.monotonic() - begin
        print(f"\n{table(given.backend, verdicts)}\n")
        print(f"kills: {wrong} of {len(verdicts)} rounds went wrong, in {seconds:.0f} s (seed {given.seed})")
    return 1 if wrong else 0


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="scripts/kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=("embedded", "docker"), default="embedded")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first round, to repeat one")
    parser.add_argument("--seed", type=int, default=None, help="all chance follows from it (default: drawn)")
    parser.add_argument("--victims", type=lambda text: text.split(","), default=list(VICTIMS), help=", ".join(VICTIMS))
    given = parser.parse_args()
    if unknown := sorted(set(given.victims) - set(VICTIMS)):
        parser.error(f"no victim called {', '.join(unknown)}; there are: {', '.join(VICTIMS)}")
    if not LINUX:
        parser.error(
            "only Linux lets a process adopt the orphans below it, so only there can we know that none is left"
        )
    if given.seed is None:
        given.seed = random.SystemRandom().randrange(2**32)
    return given


if __name__ == "__main__":
    sys.exit(main())
