"""Start, watch and reap processes: nothing outlives the session that started it.

All of them are children of the supervisor (supervisor.py), a small process, and each signal goes through it: it alone
reaps them, so a signal can't reach a stranger who was given the same process id.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import shutil
import signal as signals
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, Self

from .clock import SYSTEM, Clock, wait_until
from .errors import BackendDied, ResilienceError, ServerNotReady
from .redaction import Private, redacted_command
from .wording import listed

if TYPE_CHECKING:
    import psutil

POLL = 0.003  # seconds between two looks at a child that is to end
GOODBYE = 5.0  # seconds for the supervisor to end everything; it takes about 50 ms
SAID = 1 << 16  # bytes of what it says about its own end
ANSWER_WITHIN = (
    30.0  # seconds for the supervisor to answer one request; the slowest, a kill, takes three on a busy machine
)
LOOK_EVERY = 1.0  # seconds between two looks whether a supervisor that does not answer is stopped
COMMANDS = 25.0  # seconds more when it has commands to run at the end
_HERE = str(Path(__file__).parent)
_RUN = "import sys; sys.path.append(sys.argv[1]); import supervisor; supervisor.main(*sys.argv[2:])"  # imported: its bytecode is cached


class RunAs(NamedTuple):
    """As whom a process runs. "userns" and "setuid" need root: for programs that refuse to run as root."""

    mode: Literal["plain", "userns", "setuid"] = "plain"
    uid: int = 65534
    gid: int = 65534


PLAIN = RunAs()


class CannotStart(ResilienceError):
    """The program could not be executed at all."""

    def __init__(self, name: str, argv: Sequence[str], reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name} could not be started: {reason}\n  command: {' '.join(redacted_command(argv))}")


class ManagedProcess:
    """One process that the supervisor started, and all that descends from it.

    Attributes:
        name: what it is, for messages.
        argv: its command line.
        pid: its process id; only valid while it runs.
        log: the file that has its output.
    """

    def __init__(
        self, supervisor: SupervisorClient, number: int, pid: int, name: str, argv: Sequence[str], log: Path
    ) -> None:
        self._supervisor = supervisor
        self._number = number
        self._exit_code: int | None = None
        self.name = name
        self.argv = list(argv)
        self.pid = pid
        self.log = log

    def __repr__(self) -> str:
        return f"<{self.name}, process {self.pid}>"

    def exit_code(self) -> int | None:
        """Its exit code (minus the signal that ended it), or None while it runs."""
        if self._exit_code is None:
            self._exit_code = self._supervisor.ask("exit_code", self._number)
        return self._exit_code

    @property
    def running(self) -> bool:
        """Whether it has not ended; a paused process runs too."""
        return self.exit_code() is None

    @cached_property
    def process(self) -> psutil.Process:
        """Psutil's view of it."""
        import psutil  # paid for by those who look

        return psutil.Process(self.pid)

    def processes(self) -> list[int]:
        """The ids of the processes of its tree, parents first."""
        return list(self._supervisor.ask("tree", self._number))

    def signal(self, number: int) -> bool:
        """Send a signal to the process itself; False when it has ended."""
        return bool(self._supervisor.ask("signal", self._number, int(number)))

    def pause(self) -> None:
        """Stop its whole tree; returns when every process in it has stopped.

        Raises:
            ResilienceError: one of them did not stop.
        """
        if unstopped := self._supervisor.ask("pause", self._number):
            raise ResilienceError(f"{self.name}: {listed('processes', unstopped)} did not stop")

    def resume(self) -> None:
        """Let its whole tree go on."""
        self._supervisor.ask("resume", self._number)

    def kill(self) -> None:
        """SIGKILL its whole tree, also what outlived the process itself; returns when all are gone.

        Raises:
            ResilienceError: one of them is still there.
        """
        if left := self._supervisor.ask("kill", self._number):
            raise ResilienceError(f"{self.name}: not gone after SIGKILL: {listed('processes', left)}")

    def terminate(self, within: float, *, how: int = signals.SIGTERM, clock: Clock = SYSTEM) -> int:
        """SIGTERM, then SIGKILL when it takes too long, and to whatever it leaves behind.

        Args:
            within: seconds that it has to end by itself.
            how: the signal that asks it to.
            clock: what to wait with.

        Returns:
            Its exit code: -9 when it had to be killed.
        """
        self.signal(how)
        self.wait(within, clock=clock)
        self.kill()
        code = self.exit_code()
        assert code is not None, "kill() returns when it is gone"
        return code

    def wait(self, within: float, *, clock: Clock = SYSTEM) -> int | None:
        """Wait until it has ended.

        Args:
            within: seconds to wait at most.
            clock: what to wait with.

        Returns:
            Its exit code, or None when it still runs.
        """
        wait_until(lambda: not self.running, within=within, every=POLL, clock=clock)
        return self.exit_code()

    def log_size(self) -> int:
        """How many bytes it wrote so far."""
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def log_text(self, since: int = 0) -> str:
        """What it wrote, from byte `since` on."""
        try:
            with self.log.open("rb") as file:
                file.seek(since)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def not_ready(self, within: float, since: int = 0) -> ServerNotReady:
        """The error that says that it did not come up, with its log from byte `since` on.

        Args:
            within: seconds that it had.
            since: where in the log this start begins.
        """
        return ServerNotReady(
            self.name,
            command=self.argv,
            within=within,
            log=self.log_text(since),
            exit_code=self.exit_code(),
        )


class SupervisorClient:
    """The client of the supervisor process; safe to use from several threads, useless in a fork.

    A context manager; whoever starts one closes it. If nobody does, the process ends everything when this one ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._overdue = 0  # the number of a request whose answer did not come in time
        self._owned: list[Path] = []
        self._pid_files: list[Path] = []
        self._commands: list[Private] = []
        self._errors: IO[bytes] | None = None
        self._channel: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, *, owning: Sequence[Path] = ()) -> None:
        """Start the process; it takes its first request about 15 ms later, which nobody has to wait for.

        Args:
            owning: directories as for `own`, from the first moment on; they need not be there yet.
        """
        if self._process is not None:
            return
        self._owned.extend(owning)
        with contextlib.ExitStack() as on_error:
            errors = tempfile.TemporaryFile()  # noqa: SIM115  # until close(); has no name, so nothing is left behind
            on_error.callback(errors.close)
            ours, theirs = socket.socketpair()
            on_error.callback(ours.close)
            with theirs:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        "-c",
                        _RUN,
                        _HERE,
                        str(theirs.fileno()),
                        str(os.getpid()),
                        *map(str, owning),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,
                )
            on_error.pop_all()
        self._errors, self._channel = errors, ours

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None = None,
        user: RunAs = PLAIN,
        stdin: Path | None = None,
    ) -> ManagedProcess:
        """Start a process, in a session of its own.

        Args:
            name: what it is, for messages.
            argv: program and arguments; a program without a slash is looked for in `env`'s PATH.
            env: its whole environment. Never shown anywhere.
            log: the file that its output is appended to.
            cwd: where it runs; None for where this process was when the supervisor started.
            user: as whom it runs.
            stdin: the file that it reads; None for an empty one.

        Raises:
            CannotStart: the program can't be executed.
        """
        request = Private(
            argv=[str(word) for word in argv],
            env=dict(env),
            log=str(log),
            cwd=str(cwd) if cwd else None,
            user=tuple(user),
            stdin=str(stdin) if stdin else None,
        )
        try:
            number, pid = self.ask("spawn", request)
        except SupervisorError as refusal:
            raise CannotStart(name, argv, _why_not(request, env, str(refusal))) from None
        return ManagedProcess(self, number, pid, name, argv, log)

    def user_namespaces(self) -> bool:
        """Whether this machine lets us into a user namespace."""
        return bool(self.ask("user_namespaces"))

    def can_become(self, uid: int, gid: int) -> bool:
        """Return whether a process that is started here may become that user."""
        return bool(self.ask("can_become", uid, gid))

    def own(self, path: Path) -> None:
        """Have a directory deleted at the end, whatever the end is."""
        self._owned.append(path)
        self.ask("own", str(path))

    def release_shared_memory(self, pid_file: Path) -> None:
        """Have the shared memory of a Postgres released at the end, if it could not do it itself.

        Args:
            pid_file: its postmaster.pid, which says what to release.
        """
        self._pid_files.append(pid_file)
        self.ask("release_shared_memory", str(pid_file))

    def at_end(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Have a command run at the end, whatever the end is: when all processes are gone, before the directories go.

        Args:
            argv: program and arguments.
            env: its whole environment. Never shown anywhere.
            log: the file that its output is appended to.
        """
        request = Private(
            argv=[str(word) for word in argv],
            env=dict(env),
            log=str(log),
            cwd=None,
            user=tuple(PLAIN),
            stdin=None,
        )
        self._commands.append(request)
        self.ask("at_end", request)

    def disown(self, path: Path) -> None:
        """Leave a directory alone again."""
        if path in self._owned:
            self._owned.remove(path)
        self.ask("disown", str(path))

    def ask(self, request: str, *arguments: Any) -> Any:
        """One request to the supervisor and its answer.

        Raises:
            BackendDied: the supervisor is gone, and everything with it.
            SupervisorError: it could not do that.
        """
        if os.getpid() != self._owner:
            raise ResilienceError(
                "this is a fork of the process that started the servers; only the original may command them"
            )
        with self._lock:
            if self._channel is None:
                raise BackendDied("the supervisor is not running: it was not started, or has been closed")
            try:
                if self._overdue:  # send nothing to a process that does not read
                    self._answer_to(self._overdue, LOOK_EVERY)
                    self._overdue = 0
                self._asked += 1
                _send(self._channel, (self._asked, request, tuple(map(_plain, arguments))))
                done, value = self._answer_to(self._asked, ANSWER_WITHIN)
            except (OSError, EOFError):
                raise self._supervisor_died() from None
        if not done:
            raise SupervisorError(value)
        return value

    def _answer_to(self, number: int, within: float) -> tuple[bool, Any]:
        """Wait for the answer to one request, and pass over answers to requests that Ctrl-C cut short.

        Raises:
            BackendDied: there is no answer within `within` seconds, or the supervisor is stopped.
        """
        assert self._channel is not None, "ask() has looked"
        until = SYSTEM.now() + within
        while True:
            left = until - SYSTEM.now()
            if not select.select([self._channel], [], [], max(0.0, min(left, LOOK_EVERY)))[0]:
                stopped = self._stopped
                if stopped or left <= 0:
                    self._overdue = number
                    raise BackendDied(
                        f"the supervisor (process {self.pid}) is stopped, so no server can be asked or struck; continue it: "
                        f"kill -CONT {self.pid}"
                        if stopped
                        else f"the supervisor (process {self.pid}) has not answered within {within:g} s"
                    )
                continue
            answered, done, value = _receive(self._channel)
            if answered == number:
                return bool(done), value

    @property
    def _stopped(self) -> bool:
        """True if a signal or a debugger has stopped the supervisor."""
        import psutil

        try:
            status = psutil.Process(self.pid).status()
        except psutil.Error:
            return False
        return status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)

    def close(self) -> None:
        """End everything that it started and delete everything that it owns; returns when that is done. May be called again."""
        if os.getpid() != self._owner or self._channel is None or self._process is None:
            return
        self._channel.close()  # the supervisor takes this for the end, as it would our death
        self._channel = None
        self._process.send_signal(signals.SIGCONT)  # a stopped supervisor could not clean up
        try:
            self._process.wait(GOODBYE + (COMMANDS if self._commands else 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._clean_up_after_it()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _supervisor_died(self) -> BackendDied:
        assert self._process is not None, "start() made it"
        code = self._process.poll()
        # Its place in the file is shared with the supervisor: read from the beginning without moving it.
        said = os.pread(self._errors.fileno(), SAID, 0).decode(errors="replace").strip() if self._errors else ""
        return BackendDied(
            f"the supervisor (process {self.pid}, exit code {code}) is gone, and with it all servers that it started; somebody "
            f"must have killed it{', or it failed: ' + said if said else ''}"
        )

    def _clean_up_after_it(self) -> None:
        """What a supervisor that was killed could not do; its children died with it."""
        if not any(path.exists() for path in self._owned):
            return
        from . import supervisor  # its own functions, for once on this side

        for command in self._commands:
            try:
                with open(command["log"], "ab") as log:  # noqa: PTH123  # as the supervisor has it
                    subprocess.run(
                        command["argv"], env=command["env"], stdout=log, stderr=log, timeout=COMMANDS, check=False
                    )
            except (OSError, subprocess.TimeoutExpired):
                continue
        for pid_file in self._pid_files:
            supervisor.release_shared_memory(str(pid_file))
        for path in self._owned:
            supervisor.remove_tree(str(path))


class SupervisorError(ResilienceError):
    """The supervisor could not do what was asked."""


def _why_not(request: Mapping[str, Any], env: Mapping[str, str], refusal: str) -> str:
    """Return why a program could not be executed, as the files say it; else as the kernel said it."""
    program, cwd = request["argv"][0], Path(request["cwd"] or ".")
    if not cwd.exists():
        return f"its working directory {str(cwd)!r} does not exist"
    if not cwd.is_dir():
        return f"its working directory {str(cwd)!r} is no directory"
    if "/" not in program:
        places = env.get("PATH", os.defpath)
        return refusal if shutil.which(program, path=places) else f"{program!r} is not on PATH ({places})"
    file = cwd / program
    if not file.exists():
        return f"there is no file {program!r}" + ("" if program.startswith("/") else f" in {str(cwd)!r}")
    if file.is_dir():
        return f"{program!r} is a directory"
    if not os.access(file, os.X_OK):
        return f"{program!r} is not executable (chmod +x)"
    try:
        with file.open("rb") as text:
            first = text.read(200).partition(b"\n")[0].decode(errors="replace")
    except OSError:
        return refusal
    if first.startswith("#!") and "FileNotFoundError" in refusal:
        return f"the first line of {program!r} names an interpreter that is not there: {first!r}"
    if "Exec format" in refusal:
        return f"{program!r} is neither a program for this machine nor a script that begins with #!"
    return refusal


def _plain(argument: Any) -> Any:
    """Return an argument as marshal takes it."""
    return dict(argument) if isinstance(argument, Private) else argument


def _send(channel: socket.socket, message: Any) -> None:
    data = marshal.dumps(message)
    channel.sendall(len(data).to_bytes(4, "big") + data)


def _receive(channel: socket.socket) -> Any:
    """One message, taken from the channel in one piece or not at all, so that Ctrl-C does not leave half of it there."""
    size = channel.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
    data = channel.recv(4 + int.from_bytes(size, "big"), socket.MSG_WAITALL)
    if len(data) < 4:
        raise EOFError
    return marshal.loads(data[4:])
