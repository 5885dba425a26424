"""Start, observe and end processes, so that none outlives the session that started it.

All of them are children of the supervisor (supervisor.py), and each signal goes through it. The supervisor alone reaps its children,
so a signal can't reach another process that was given the same process id.
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
from .errors import BackendDied, ProcessEnded, ResilienceError, ServerNotReady
from .redaction import Private, redacted_command
from .wording import listed

if TYPE_CHECKING:
    import psutil

POLL_INTERVAL = 0.003  # seconds between two checks of a process that is to exit
SHUTDOWN_TIMEOUT = 5.0  # seconds for the supervisor to shut down; it takes about 50 ms
MAX_STDERR_BYTES = 1 << 16  # of the supervisor, in the error about its end
RESPONSE_TIMEOUT = (
    30.0  # seconds for the supervisor to handle a request; the slowest, a kill, takes 3 s on a busy machine
)
STOPPED_CHECK_INTERVAL = 1.0  # seconds between two checks for a stopped supervisor, while it does not respond
EXIT_COMMANDS_TIMEOUT = 25.0  # additional seconds for a shutdown with exit commands
ENDING_SIGNALS = frozenset({signals.SIGTERM, signals.SIGINT, signals.SIGQUIT, signals.SIGKILL})
KEEP = "Use `.process` while the process runs. The psutil.Process that it returns remains valid after the end."
_HERE = str(Path(__file__).parent)
_RUN = "import sys; sys.path.append(sys.argv[1]); import supervisor; supervisor.main(*sys.argv[2:])"  # imported: its bytecode is cached


class RunAs(NamedTuple):
    """The user of a process. The modes "userns" and "setuid" need root and serve programs that refuse to run as root."""

    mode: Literal["plain", "userns", "setuid"] = "plain"
    uid: int = 65534
    gid: int = 65534


PLAIN = RunAs()


class CannotStart(ResilienceError):
    """The program could not be executed."""

    def __init__(self, name: str, argv: Sequence[str], reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name} could not be started: {reason}\n  command: {' '.join(redacted_command(argv))}")


class ManagedProcess:
    """A process that the supervisor started, with all its descendants.

    Attributes:
        name: the name in messages.
        argv: the command line.
        pid: the process id; valid while the process runs.
        log: the file with the output.
    """

    def __init__(
        self, supervisor: SupervisorClient, number: int, pid: int, name: str, argv: Sequence[str], log: Path
    ) -> None:
        self._supervisor = supervisor
        self._number = number
        self._exit_code: int | None = None
        self._end_requested = False
        self.name = name
        self.argv = list(argv)
        self.pid = pid
        self.log = log

    def __repr__(self) -> str:
        return f"<{self.name}, process {self.pid}>"

    def exit_code(self) -> int | None:
        """Return the exit code (negative for a signal), or None while the process runs."""
        if self._exit_code is None:
            self._exit_code = self._supervisor.request("exit_code", self._number)
        return self._exit_code

    def ended_ago(self, clock: Clock = SYSTEM) -> float | None:
        """Return the seconds since the exit, or None while the process runs."""
        ended = self._supervisor.request("ended_at", self._number)
        return None if ended is None else max(0.0, clock.now() - ended)

    @property
    def running(self) -> bool:
        """True until the process has exited. A paused process counts as running."""
        return self.exit_code() is None

    @property
    def died(self) -> bool:
        """True if the process has exited without `kill`, `terminate` or one of `ENDING_SIGNALS`."""
        return not self.running and not self._end_requested

    def _request_end(self) -> None:
        self._end_requested = self._end_requested or self.running

    @cached_property
    def process(self) -> psutil.Process:
        """The process as a `psutil.Process`. It can be read first while the process runs, and remains after that.

        Raises:
            ProcessEnded: the process has exited, and this is the first use.
        """
        import psutil  # takes 10 ms to import

        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            if self.running:  # otherwise another process may have its id
                return process
        raise self.ended(f"the process {self.name!r}", KEEP)

    def ended(self, title: str, remedy: str, since: int = 0) -> ProcessEnded:
        """Return the error for a process that was needed after its end, with its log from byte `since` on.

        Args:
            title: the process in the message.
            remedy: the change of the test by which a process runs where one is needed.
            since: the position in the log at which the message may begin.
        """
        return ProcessEnded(
            title,
            self.pid,
            remedy=remedy,
            exit_code=self.exit_code(),
            ago=self.ended_ago(),
            log=self.log_text(since),
        )

    def processes(self) -> list[int]:
        """Return the process ids of the tree, parents first."""
        return list(self._supervisor.request("tree", self._number))

    def signal(self, number: int) -> bool:
        """Send a signal to the process, not to its descendants. Return False if the process has exited."""
        if number in ENDING_SIGNALS:
            self._request_end()
        return bool(self._supervisor.request("signal", self._number, int(number)))

    def pause(self) -> None:
        """Stop the whole tree. Return when every process in it has stopped.

        Raises:
            ResilienceError: a process did not stop.
        """
        if unstopped := self._supervisor.request("pause", self._number):
            raise ResilienceError(f"{self.name}: {listed('processes', unstopped)} did not stop")

    def resume(self) -> None:
        """Continue the whole tree."""
        self._supervisor.request("resume", self._number)

    def kill(self) -> None:
        """Send SIGKILL to the whole tree, including descendants that outlived the process. Return when all have exited.

        Raises:
            ResilienceError: a process has not exited.
        """
        self._request_end()
        if left := self._supervisor.request("kill", self._number):
            raise ResilienceError(f"{self.name}: still running after SIGKILL: {listed('processes', left)}")

    def terminate(self, within: float, *, how: int = signals.SIGTERM, clock: Clock = SYSTEM) -> int:
        """Send SIGTERM, then SIGKILL to a process that takes too long and to the remaining descendants.

        Args:
            within: seconds between the two signals.
            how: the first signal.
            clock: the clock for waiting.

        Returns:
            The exit code; -9 after SIGKILL.
        """
        self.signal(how)
        self.wait(within, clock=clock)
        self.kill()
        code = self.exit_code()
        assert code is not None, "kill() returns after the exit"
        return code

    def wait(self, within: float, *, clock: Clock = SYSTEM) -> int | None:
        """Wait until the process has exited.

        Args:
            within: the maximum wait in seconds.
            clock: the clock for waiting.

        Returns:
            The exit code, or None if the process still runs.
        """
        wait_until(lambda: not self.running, within=within, every=POLL_INTERVAL, clock=clock)
        return self.exit_code()

    def log_size(self) -> int:
        """Return the size of the log in bytes."""
        return file_size(self.log)

    def log_text(self, since: int = 0) -> str:
        """Return the log from byte `since` on."""
        try:
            with self.log.open("rb") as file:
                file.seek(since)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def not_ready(self, within: float, since: int = 0) -> ServerNotReady:
        """Return the error for a process that did not become ready, with its log from byte `since` on.

        Args:
            within: the seconds that it was given.
            since: the position in the log at which this start begins.
        """
        return ServerNotReady(
            self.name,
            command=self.argv,
            within=within,
            log=self.log_text(since),
            exit_code=self.exit_code(),
        )


class SupervisorClient:
    """The client of the supervisor process. Threads may share it; a fork must not use it.

    A context manager: `close` shuts the supervisor down. Without `close`, the supervisor shuts down when this process exits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._overdue = 0  # the number of a request whose response did not arrive in time
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
        """The process id of the supervisor."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, *, owning: Sequence[Path] = ()) -> None:
        """Start the process and return at once. It handles its first request about 15 ms later.

        Args:
            owning: directories as for `delete_at_exit`, registered from the start; they need not exist yet.
        """
        if self._process is not None:
            return
        self._owned.extend(owning)
        with contextlib.ExitStack() as on_error:
            errors = tempfile.TemporaryFile()  # noqa: SIM115  # open until close(); a file without a name
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
        """Start a process in a new session.

        Args:
            name: the name in messages.
            argv: program and arguments; a program without a slash is searched in the PATH of `env`.
            env: the whole environment. No message contains it.
            log: the file to which the output is appended.
            cwd: the working directory; None for that of this process at the start of the supervisor.
            user: the user that the process runs as.
            stdin: the file for standard input; None for no input.

        Raises:
            CannotStart: the program can't be executed.
        """
        number, pid = self.start_process("spawn", name, argv, env=env, log=log, cwd=cwd, user=user, stdin=stdin)
        return ManagedProcess(self, number, pid, name, argv, log)

    def start_process(
        self,
        request_name: Literal["spawn", "start_fork_server"],
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path | None,
        user: RunAs = PLAIN,
        stdin: Path | None = None,
    ) -> tuple[int, int]:
        """Send a request that starts a process. Return its number at the supervisor and its process id.

        Args:
            request_name: the request.
            name: as for `spawn`.
            argv: as for `spawn`.
            env: as for `spawn`.
            log: as for `spawn`.
            cwd: as for `spawn`.
            user: as for `spawn`.
            stdin: as for `spawn`.

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
            number, pid = self.request(request_name, request)
        except SupervisorError as refusal:
            raise CannotStart(name, argv, _start_failure_reason(request, env, str(refusal))) from None
        return number, pid

    def user_namespaces(self) -> bool:
        """Return True if the supervisor may create a user namespace."""
        return bool(self.request("user_namespaces"))

    def can_become(self, uid: int, gid: int) -> bool:
        """Return True if a child of the supervisor may become that user."""
        return bool(self.request("can_become", uid, gid))

    def delete_at_exit(self, path: Path) -> None:
        """Register a directory that the supervisor deletes when the session ends, SIGKILL included."""
        self._owned.append(path)
        self.request("delete_at_exit", str(path))

    def share_lock(self, path: Path) -> None:
        """Let the supervisor hold the lock on a file (flock) too, until it has cleaned up.

        Args:
            path: the file. This process holds the lock as a shared lock.
        """
        self.request("share_lock", str(path))

    def release_shared_memory(self, pid_file: Path) -> None:
        """Register the shared memory of a Postgres, which the supervisor removes at the end if Postgres was killed.

        Args:
            pid_file: the file postmaster.pid, which names the segment.
        """
        self._pid_files.append(pid_file)
        self.request("release_shared_memory", str(pid_file))

    def run_at_exit(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Register a command that the supervisor runs at the end, after the processes and before the directories are removed.

        Args:
            argv: program and arguments.
            env: the whole environment. No message contains it.
            log: the file to which the output is appended.
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
        self.request("run_at_exit", request)

    def request(self, name: str, *arguments: Any) -> Any:
        """Send one request to the supervisor and return its response.

        Raises:
            BackendDied: the supervisor has exited, and with it all servers.
            SupervisorError: the request failed.
        """
        if os.getpid() != self._owner:
            raise ResilienceError(
                "this is a fork of the process that started the servers; only the original may command them"
            )
        with self._lock:
            if self._channel is None:
                raise BackendDied("the supervisor is not running: it was not started, or has been closed")
            try:
                if self._overdue:  # a process that does not read gets no further request
                    self._response_to(self._overdue, STOPPED_CHECK_INTERVAL)
                    self._overdue = 0
                self._requests += 1
                _send(self._channel, (self._requests, name, tuple(map(_plain, arguments))))
                done, value = self._response_to(self._requests, RESPONSE_TIMEOUT)
            except (OSError, EOFError):
                raise self._supervisor_died() from None
        if not done:
            raise SupervisorError(value)
        return value

    def _response_to(self, number: int, within: float) -> tuple[bool, Any]:
        """Wait for the response to one request. Skip responses to requests that Ctrl-C has interrupted.

        Raises:
            BackendDied: there is no response within `within` seconds, or the supervisor is stopped.
        """
        assert self._channel is not None, "request() has checked this"
        until = SYSTEM.now() + within
        readable = select.poll()
        readable.register(self._channel, select.POLLIN)
        while True:
            left = until - SYSTEM.now()
            if not readable.poll(max(0.0, min(left, STOPPED_CHECK_INTERVAL)) * 1000):
                stopped = self._stopped
                if stopped or left <= 0:
                    self._overdue = number
                    raise BackendDied(
                        f"the supervisor (process {self.pid}) is stopped, so no server can be reached or struck; continue it: "
                        f"kill -CONT {self.pid}"
                        if stopped
                        else f"the supervisor (process {self.pid}) has not responded within {within:g} s"
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
        """Shut the supervisor down: end all processes, delete all registered directories. Return when that is done.

        A second call does nothing.
        """
        if os.getpid() != self._owner or self._channel is None or self._process is None:
            return
        self._channel.close()  # the supervisor shuts down when the channel is closed
        self._channel = None
        self._process.send_signal(signals.SIGCONT)  # a stopped supervisor could not clean up
        try:
            self._process.wait(SHUTDOWN_TIMEOUT + (EXIT_COMMANDS_TIMEOUT if self._commands else 0.0))
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
        # The file position is shared with the supervisor, so read without moving it.
        errors = (
            os.pread(self._errors.fileno(), MAX_STDERR_BYTES, 0).decode(errors="replace").strip()
            if self._errors
            else ""
        )
        return BackendDied(
            f"the supervisor (process {self.pid}, exit code {code}) is gone, and with it all servers that it started: it was "
            f"killed{', or it failed: ' + errors if errors else ''}"
        )

    def _clean_up_after_it(self) -> None:
        """Clean up in place of a supervisor that was killed. Its children died with it."""
        assert self._process is not None, "start() made it"
        from . import supervisor  # the same functions, in this process

        if self._process.returncode != 0:
            supervisor.kill_orphans(self.pid)
        if not any(path.exists() for path in self._owned):
            return
        for command in self._commands:
            try:
                with open(command["log"], "ab") as log:  # noqa: PTH123  # as in the supervisor
                    subprocess.run(
                        command["argv"],
                        env=command["env"],
                        stdout=log,
                        stderr=log,
                        timeout=EXIT_COMMANDS_TIMEOUT,
                        check=False,
                    )
            except (OSError, subprocess.TimeoutExpired):
                continue
        for pid_file in self._pid_files:
            supervisor.release_shared_memory(str(pid_file))
        for path in self._owned:
            supervisor.remove_tree(str(path))


class SupervisorError(ResilienceError):
    """A request to the supervisor failed."""


def file_size(file: Path) -> int:
    """Return the size of a file in bytes, and 0 for a file that does not exist."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _start_failure_reason(request: Mapping[str, Any], env: Mapping[str, str], refusal: str) -> str:
    """Return the reason for which a program could not be executed, from the file system or else from the kernel's error."""
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
    """Return an argument in a form that marshal accepts."""
    return dict(argument) if isinstance(argument, Private) else argument


def _send(channel: socket.socket, message: Any) -> None:
    data = marshal.dumps(message)
    channel.sendall(len(data).to_bytes(4, "big") + data)


def _receive(channel: socket.socket) -> Any:
    """Return one message, read in one piece or not at all, so that Ctrl-C does not leave half of a message in the channel."""
    size = channel.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL)
    data = channel.recv(4 + int.from_bytes(size, "big"), socket.MSG_WAITALL)
    if len(data) < 4:
        raise EOFError
    return marshal.loads(data[4:])
