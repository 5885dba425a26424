"""Kill or interrupt a part of small pytest sessions at random moments, and check that nothing is left and that the next session passes.

A round starts a session of the project in kill_soak_project.py. The seed decides the moment of the SIGKILL, from before the servers are up
until after the first tests have begun. The target of the SIGKILL is one of
  pytest      Everything must be gone.
  controller  The pytest process of a session with two xdist workers. Everything must be gone, once execnet has ended the workers.
  worker      One of two xdist workers. Its servers and proxies must be gone, and the session continues.
  proxy       The test that it dies in fails with the proxy's log, and the tests after it pass.
  supervisor  All servers must be gone at once, and everything else when the session has ended.
  interrupt   No SIGKILL: the whole process group gets SIGINT, as by Ctrl-C. Pytest ends in order, and everything must be gone. The
              session has xdist workers in every second such round.
Then the same session runs once more without a kill, and must pass.

This process is a subreaper, so every process of a round stays its descendant. The kernel's process table therefore shows what is left, and
other sessions on this machine make no difference.
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

from kill_soak_project import FILES, TEST_COUNT

from pytest_resilience.backends.docker import engine as engines
from pytest_resilience.backends.session.session_dir import OWNER, PREFIX, is_locked
from pytest_resilience.supervisor import (
    LINUX,
    PR_SET_CHILD_SUBREAPER,
    descendants,
    libc,
    process_table,
    remove_tree,
    send_signal,
)

SESSION_DIRECTORY = re.compile(rf"\.?{PREFIX}[0-9a-f]{{12}}")  # and not the cache of another user
TARGETS = ("pytest", "controller", "worker", "proxy", "supervisor", "interrupt")
PROMISED = 2.0  # seconds within which the plugin promises that everything is gone
START_ATTEMPTS = 5  # a session may end before the moment that was drawn for it
EXECNET_TIMEOUTS = 15.0  # seconds for which execnet lets a worker without its controller go on; most end after 5
REPORT_DELAY = 0.1  # seconds before the end of a test's body in which the test may not notice the kill
TIDY_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Limits:
    """Times of a backend, in seconds.

    Args:
        cleanup: after the kill, until everything must be gone. A Docker engine is slow.
        session: for one session, which takes 2 s on processes and 10 s in containers.
        poll: between two looks at the processes. A look costs the session some milliseconds, more with an engine.
    """

    cleanup: float
    session: float
    poll: float


LIMITS = {
    "embedded": Limits(cleanup=PROMISED, session=60.0, poll=0.02),
    "docker": Limits(cleanup=20.0, session=180.0, poll=0.1),
}


@dataclass
class Note:
    """A line that a session wrote, with its first word, its subject and the monotonic time."""

    event: str
    subject: str
    at: float


class Session:
    """One run of pytest in the project.

    Args:
        backend: of the plugin.
        project: the directory.
        workers: of xdist; 0 runs the tests without xdist.
    """

    def __init__(self, backend: str, project: Path, *, workers: int = 0) -> None:
        for old in project.glob("notes-*"):
            old.unlink()
        self._project = project
        self._limit = LIMITS[backend].session
        self.log = project / "output"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "-p", "no:cacheprovider", "--tb=short"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--resilience-backend={backend}"],
                cwd=project,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.pid = self.process.pid
        self.pids = {self.pid}  # of every process that the session ever had

    def living(self) -> dict[int, tuple[int, str]]:
        """Return parent and state of each living descendant of this process, and reap those that have ended."""
        me = os.getpid()
        self.process.poll()
        table = process_table(me)
        for pid, (parent, state) in table.items():
            if parent == me and state == "Z" and pid != self.pid:
                os.waitpid(pid, os.WNOHANG)
        living = {pid: table[pid] for pid in descendants([me], table) if pid != me and table[pid][1] != "Z"}
        self.pids.update(living)
        return living

    def orphans(self) -> list[int]:
        """Return the living processes that do not descend from pytest any more."""
        table = self.living()
        below_pytest = set(descendants([self.pid], table))
        return [pid for pid in table if pid not in below_pytest]

    def wait(self) -> bool:
        """Wait for the end of the session. Return False if the time limit passes first."""
        while self.process.poll() is None:
            if time.monotonic() > self.started_at + self._limit:
                return False
            self.living()
            time.sleep(0.05)
        return True

    def notes(self, event: str = "") -> list[Note]:
        """Return the notes so far, or those with one word. The last line of a file may be incomplete and is left out."""
        lines = [line for path in self._project.glob("notes-*") for line in path.read_text().splitlines()]
        rows = [line.split() for line in lines]
        notes = [Note(row[0], ":".join(row[1:-1]), float(row[-1])) for row in rows if len(row) >= 3 and "." in row[-1]]
        return [note for note in notes if event in ("", note.event)]

    def failed(self) -> set[str]:
        """Return the names of the failed tests."""
        return {note.subject for note in self.notes("failed")}

    def output(self) -> str:
        """Return what pytest printed."""
        return self.log.read_text(errors="replace")

    def last_lines(self) -> str:
        """Return the end of what pytest printed."""
        return "\n".join(self.output().splitlines()[-40:])


# -- the kill

KillAction = Callable[[], None]


def find_pytest(session: Session, _engine: engines.Engine | None) -> KillAction | None:
    return lambda: kill(session, session.pid)


def find_worker(session: Session, _engine: engines.Engine | None) -> KillAction | None:
    return _find(session, lambda pid, parent: parent == session.pid and "sys.stdin.readline()" in command_line(pid))


def find_supervisor(session: Session, _engine: engines.Engine | None) -> KillAction | None:
    # The supervisor's own children have its command line until they run their program.
    return _find(session, lambda pid, parent: parent == session.pid and "supervisor.main" in command_line(pid))


def find_proxy(session: Session, engine: engines.Engine | None) -> KillAction | None:
    if engine is None:
        return _find(session, lambda pid, _: "pytest_resilience.proxy.__main__" in command_line(pid))
    for container in engine.find_labelled("containers", engines.SESSION):
        number, running = container["Id"], container["State"] == "running"
        of_session = read_owner(Path(container["Labels"][engines.OWNER])) == session.pid
        if of_session and running and container["Names"][0].endswith("-toxiproxy"):
            return lambda: _kill_container(engine, number)
    return None


def _kill_container(engine: engines.Engine, number: str) -> None:
    engine.request("POST", f"/containers/{number}/kill?signal=KILL", within=10.0)


def _find(session: Session, matches: Callable[[int, int], bool]) -> KillAction | None:
    pids = [pid for pid, (parent, _) in session.living().items() if matches(pid, parent)]
    return (lambda: kill(session, pids[0])) if pids else None


def kill(session: Session, pid: int) -> None:
    """Send SIGKILL and wait until the process is gone. Only then its children have their new parent."""
    send_signal(pid, signal.SIGKILL)
    while pid in session.living():
        time.sleep(0.001)


def find_process_group(session: Session, _engine: engines.Engine | None) -> KillAction | None:
    return lambda: os.killpg(session.pid, signal.SIGINT)


FIND: Mapping[str, Callable[[Session, engines.Engine | None], KillAction | None]] = {
    "pytest": find_pytest,
    "controller": find_pytest,
    "worker": find_worker,
    "proxy": find_proxy,
    "supervisor": find_supervisor,
    "interrupt": find_process_group,
}


def command_line(pid: int) -> str:
    """Return the command line of a process, or an empty string if the process is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def read_owner(file: Path) -> int | None:
    """Return the process id in the owner file of a session directory."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


# -- the remains


def session_directories(session: Session) -> list[str]:
    """Return the directories that no living process has locked and that belong to this session or have no owner."""
    unlocked = []
    for root in {Path("/dev/shm"), Path(tempfile.gettempdir())}:
        for path in filter(lambda path: SESSION_DIRECTORY.fullmatch(path.name), root.iterdir()):
            owner = read_owner(path / OWNER)
            if (owner is None or owner in session.pids) and not is_locked(path / OWNER) and path.exists():
                unlocked.append(str(path))
    return unlocked


def engine_objects(engine: engines.Engine | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kind and description of the containers and networks of sessions that have ended."""
    if engine is None:
        return
    for kind in "containers", "networks":
        for each in engine.find_labelled(kind, engines.SESSION):
            if not is_locked(Path(each["Labels"][engines.OWNER])):
                yield kind.removesuffix("s"), each


def stale_files(session: Session, engine: engines.Engine | None) -> list[str]:
    """Return the session directories, containers and networks that no living session uses."""
    objects = [f"{kind} {(each.get('Names') or [each.get('Name')])[0]}" for kind, each in engine_objects(engine)]
    return session_directories(session) + objects


def describe_processes(pids: list[int]) -> list[str]:
    """Return a line for each process."""
    return [f"process {pid}: {command_line(pid)[:100]}" for pid in pids]


def listening_ports(session: Session) -> list[str]:
    """Return the loopback ports of the session that still accept connections. A container's ports went with its network."""
    listening = []
    for address in {note.subject for note in session.notes("port")}:
        host, _, port = address.rpartition(":")
        if host != "127.0.0.1" or not port.isdigit():
            continue
        with socket.socket() as client:
            client.settimeout(0.5)
            if client.connect_ex((host, int(port))) == 0:
                listening.append(f"port {address} listens")
    return listening


# -- the rounds


@dataclass
class RoundResult:
    """The result of one round.

    Args:
        number: of the round.
        target: of the kill.
        killed_after: seconds from the start of the session to the kill.
        clean_after: the longest time in seconds until everything was gone; None before the kill, infinite if something stayed.
        next_passed: True if the next session passed.
        problems: what went wrong.
    """

    number: int
    target: str
    killed_after: float = 0.0
    clean_after: float | None = None
    next_passed: bool = False
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        unclean = self.clean_after is None or self.clean_after == math.inf
        clean = "not clean" if unclean else f"clean after {self.clean_after:.2f} s"
        lines = [f"{self.number:5} {self.target:10} killed after {self.killed_after:5.2f} s, {clean}"]
        return "\n".join([*lines, *(f"   !!! {problem}" for problem in self.problems)])


class KillSoak:
    """The rounds on one backend.

    Args:
        backend: of the plugin.
        seed: with the number of a round, the source of all its chance.
        project: an empty directory.
    """

    def __init__(self, backend: str, seed: int, project: Path) -> None:
        self._backend = backend
        self._limits = LIMITS[backend]
        self._seed = seed
        self._project = project
        self._engine = engines.find_engine() if backend == "docker" else None
        self._spans: dict[int, float] = {}
        self._session: Session | None = None
        for name, text in FILES.items():
            (project / name).write_text(text)

    def _start(self, workers: int) -> Session:
        self._session = Session(self._backend, self._project, workers=workers)
        return self._session

    def _span(self, workers: int) -> float:
        """Return the length in seconds of an undisturbed session up to its last test. Moments are drawn from it."""
        if workers not in self._spans:
            session = self._start(workers)
            if not session.wait() or session.process.returncode:
                raise SystemExit(f"kills: an undisturbed session fails:\n{session.output()}")
            begins = [note.at - session.started_at for note in session.notes("begin")]
            ends = [note.at - session.started_at for note in session.notes("end")]
            self._spans[workers] = min(begins) + 0.8 * (max(ends) - min(begins))
        return self._spans[workers]

    def run(self, number: int, target: str) -> RoundResult:
        """Run a session with a kill, check it, and run a session without a kill."""
        result = RoundResult(number, target)
        with_workers = target in ("worker", "controller") or (
            target == "interrupt" and number % (2 * len(TARGETS)) < len(TARGETS)
        )
        workers = 2 if with_workers else 0
        moment = random.Random(f"{self._seed} {number}").random() * self._span(workers)
        session = self._start(workers)
        stale_before = set(stale_files(session, self._engine))
        attempts = 1
        while (killed_at := self._kill(session, target, moment)) is None and attempts < START_ATTEMPTS:
            session, attempts, moment = self._start(workers), attempts + 1, moment * 0.8
        if killed_at is None:
            result.problems.append(f"there is no {target} to kill: {session.last_lines()}")
            return result
        result.killed_after = killed_at - session.started_at

        def remains(pids: Callable[[], list[int]]) -> list[str]:
            new_files = (path for path in stale_files(session, self._engine) if path not in stale_before)
            return describe_processes(pids()) or list(new_files)

        if target == "worker":
            self._wait_until_clean(result, killed_at, lambda: remains(session.orphans))
        elif target == "supervisor":
            self._wait_until_clean(result, killed_at, lambda: describe_processes(session.orphans()))
        if not session.wait():
            result.problems.append(f"the session does not end: {session.last_lines()}")
            return result
        over_at = killed_at if target in ("pytest", "controller") else time.monotonic()
        self._wait_until_clean(result, over_at, lambda: remains(lambda: list(session.living())))
        if target in CHECK_OUTCOME:
            result.problems += CHECK_OUTCOME[target](session, killed_at)
        result.problems += listening_ports(session)
        result.problems += [f"appeared later: {each}" for each in remains(lambda: list(session.living()))]
        self._run_undisturbed(result)
        return result

    def _kill(self, session: Session, target: str, moment: float) -> float | None:
        """Send SIGKILL `moment` seconds after the start, or as soon as the target exists.

        Returns:
            The monotonic time of the kill. None if the session ended before it.
        """
        while session.process.poll() is None:
            late_enough = time.monotonic() - session.started_at >= moment
            if late_enough and (action := FIND[target](session, self._engine)) is not None:
                at = time.monotonic()
                action()
                return at
            time.sleep(self._limits.poll)
        return None

    def _wait_until_clean(self, result: RoundResult, since: float, remains: Callable[[], list[str]]) -> None:
        """Wait until nothing remains, and record the seconds since `since`."""
        while found := remains():
            if time.monotonic() - since > self._limits.cleanup + (
                EXECNET_TIMEOUTS if result.target == "controller" else 0.0
            ):
                result.problems += [f"left after {time.monotonic() - since:.1f} s: {each}" for each in found]
                result.clean_after = math.inf
                return
            time.sleep(self._limits.poll)
        result.clean_after = max(result.clean_after or 0.0, time.monotonic() - since)

    def _run_undisturbed(self, result: RoundResult) -> None:
        """Run a session without a kill, and record whether it passed and left nothing."""
        session = self._start(0)
        ended = session.wait()
        output = session.output()
        if not ended:
            result.problems.append(f"the next session does not end: {session.last_lines()}")
        elif session.process.returncode or f"{TEST_COUNT} passed" not in output:
            result.problems.append(f"the next session fails:\n{output}")
        elif remains := describe_processes(list(session.living())) + session_directories(session):
            result.problems.append(f"the next session leaves: {remains}")
        else:
            result.next_passed = True

    def tidy(self) -> None:
        """Kill what still runs of the last session, and remove what it left."""
        if self._session is None:
            return
        deadline = time.monotonic() + TIDY_TIMEOUT
        while (pids := list(self._session.living())) and time.monotonic() < deadline:
            for pid in pids:
                send_signal(pid, signal.SIGKILL)
            time.sleep(self._limits.poll)
        for path in session_directories(self._session):
            remove_tree(path)
        if self._engine is not None:
            for _, each in engine_objects(self._engine):
                self._engine.remove(each["Labels"][engines.SESSION])


def check_worker(session: Session, _killed_at: float) -> list[str]:
    """Check that at most the test fails that the worker was running."""
    output = session.output()
    if not session.notes() and "gateway_bootstrap" in output:
        return []  # the end of a worker that has not yet connected ends xdist's controller
    failed = int(found[1]) if (found := re.search(r"(\d+) failed", output)) else 0
    passed = int(found[1]) if (found := re.search(r"(\d+) passed", output)) else 0
    # A worker that dies between a test's report and its end has that test in both counts: it passed, and xdist calls it crashed.
    in_range = failed <= 1 and TEST_COUNT <= passed + failed <= TEST_COUNT + failed
    if in_range and "error" not in output.splitlines()[-1]:
        return []
    return [f"a killed worker costs more than the test that it was running:\n{output}"]


def check_proxy(session: Session, killed_at: float) -> list[str]:
    """Check that the test in which the proxy died fails with the proxy's log, and that the rest pass."""
    failed, output = session.failed(), session.output()
    began = {note.subject: note.at for note in session.notes("begin")}
    ended = {note.subject: note.at for note in session.notes("end")}
    if not began or killed_at < min(
        began.values()
    ):  # at the start, either every test fails or none uses the dead proxy
        expected = len(failed) in (0, 1, TEST_COUNT)
    else:
        during = {name for name, at in began.items() if at <= killed_at <= ended[name] - REPORT_DELAY}
        expected = failed == during if during else len(failed) <= 1
    if not expected:
        return [f"the death of the proxy fails {sorted(failed)}:\n{output}"]
    if failed and "its log" not in output:
        return [f"the failure does not show the log of the dead proxy:\n{output}"]
    return []


def check_supervisor(session: Session, _killed_at: float) -> list[str]:
    """Check that failures name the missing supervisor."""
    output = session.output()
    if session.process.returncode and "the supervisor" not in output:
        return [f"the failures do not name the missing supervisor:\n{output}"]
    return []


def check_interrupt(session: Session, _killed_at: float) -> list[str]:
    """Check that pytest ended as by Ctrl-C, without an error of ours."""
    output = session.output()
    is_interrupted = session.process.returncode in (2, -signal.SIGINT, 128 + signal.SIGINT)
    has_begun = "collected" in output or "bringing up nodes" in output  # before, Python or pytest is being imported
    if not has_begun or (is_interrupted and "INTERNALERROR" not in output):
        return []
    return [f"Ctrl-C ends the session with exit code {session.process.returncode}:\n{output}"]


CHECK_OUTCOME: Mapping[str, Callable[[Session, float], list[str]]] = {
    "worker": check_worker,
    "proxy": check_proxy,
    "supervisor": check_supervisor,
    "interrupt": check_interrupt,
}


def summary_table(backend: str, results: list[RoundResult]) -> str:
    """Return a row for each target."""
    rows = [
        ("target", "backend", "rounds", f"clean within {PROMISED:g} s", "slowest clean-up", "next run clean", "failed")
    ]
    for target in TARGETS:
        of_target = [result for result in results if result.target == target]
        if not of_target:
            continue
        seconds = [result.clean_after for result in of_target if result.clean_after is not None]
        rows.append(
            (
                target,
                backend,
                str(len(of_target)),
                str(sum(each <= PROMISED for each in seconds)),
                f"{max(seconds):.2f} s" if seconds else "",
                str(sum(result.next_passed for result in of_target)),
                str(sum(bool(result.problems) for result in of_target)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


@contextmanager
def kill_soak(backend: str, seed: int) -> Iterator[KillSoak]:
    """Provide a KillSoak in a temporary directory, and leave nothing at the end."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell ignores it for background jobs, and children inherit that
    with tempfile.TemporaryDirectory(prefix="resilience-kills-") as project:
        soak = KillSoak(backend, seed, Path(project))
        try:
            yield soak
        finally:
            soak.tidy()


def main() -> int:
    """Return 0 if every round was clean, else 1."""
    options = _parse_arguments()
    results: list[RoundResult] = []
    begin = time.monotonic()
    try:
        with kill_soak(options.backend, options.seed) as soak:
            for number in range(options.first, options.first + options.rounds):
                result = soak.run(number, options.targets[number % len(options.targets)])
                results.append(result)
                print(result, flush=True)
                if result.problems:
                    soak.tidy()
                    again = f"--seed {options.seed} --first {number} --rounds 1 --targets {','.join(options.targets)}"
                    print(f"   again: scripts/kills --backend {options.backend} {again}", flush=True)
    finally:  # an interrupted run has a summary too
        failed = sum(bool(result.problems) for result in results)
        seconds = time.monotonic() - begin
        print(f"\n{summary_table(options.backend, results)}\n")
        print(f"kills: {failed} of {len(results)} rounds failed, in {seconds:.0f} s (seed {options.seed})")
    return 1 if failed else 0


def _parse_arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="scripts/kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", choices=tuple(LIMITS), default="embedded")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="number of rounds (default: 200)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first round, to repeat one")
    parser.add_argument("--seed", type=int, default=None, help="the seed of all random choices (default: drawn)")
    parser.add_argument("--targets", type=lambda text: text.split(","), default=list(TARGETS), help=", ".join(TARGETS))
    options = parser.parse_args()
    if unknown := sorted(set(options.targets) - set(TARGETS)):
        parser.error(f"no target named {', '.join(unknown)}; the targets are: {', '.join(TARGETS)}")
    if not LINUX:
        parser.error("needs Linux, where a process can adopt orphaned descendants and so see all that is left")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(2**32)
    return options


if __name__ == "__main__":
    sys.exit(main())
