"""The fork servers of a session: processes that have imported modules and fork a Python program for each start."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from ...clock import SYSTEM, Clock, wait_until
from ...processes import CannotStart, ManagedProcess, SupervisorClient, SupervisorError
from ...python_command import PythonCommand
from ...redaction import Private

IMPORT_TIMEOUT = 60.0  # seconds for the imports
# Variables that the interpreter, the loader and the C library read at the start of a process, by the begin of their names.
AT_START = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "LC_", "LANG")
POLL_INTERVAL = 0.003  # seconds between two looks whether the imports are done
_PACKAGE = str(Path(__file__).parents[2])
_RUN = (
    "import sys; sys.path.insert(0, sys.argv[1]); import fork_server; del sys.path[0]; fork_server.main(*sys.argv[2:])"
)
CAN_FORK = sys.platform == "linux"


class ForkServer:
    """A process that has imported modules, and forks itself for each start of a Python program. See fork_server.py.

    Args:
        supervisor: the client of its supervisor.
        process: the process.
        number: its number at the supervisor.
    """

    def __init__(self, supervisor: SupervisorClient, process: ManagedProcess, number: int) -> None:
        self._supervisor = supervisor
        self._process = process
        self._number = number

    @classmethod
    def start(
        cls,
        supervisor: SupervisorClient,
        command: PythonCommand,
        modules: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
    ) -> Self:
        """Start the process and return at once.

        Args:
            supervisor: starts the process.
            command: the program that it will fork.
            modules: the names of the modules to import.
            env: its whole environment. No message contains it.
            log: the file for its output.
            cwd: its working directory.

        Raises:
            CannotStart: the interpreter can't be executed.
        """
        argv = [*command.interpreter, "-c", _RUN, _PACKAGE, command.kind, command.program, *modules]
        name = f"the fork server for {command.program}"
        number, pid = supervisor.start_process("start_fork_server", name, argv, env=env, log=log, cwd=cwd)
        return cls(supervisor, ManagedProcess(supervisor, number, pid, name, argv, log), number)

    @property
    def running(self) -> bool:
        """True until the process has exited."""
        return self._process.running

    def wait_until_ready(self, within: float, clock: Clock = SYSTEM) -> None:
        """Wait until the modules are imported.

        Args:
            within: seconds.
            clock: the clock for waiting.

        Raises:
            CannotStart: a module can't be imported, or has left something that a fork can't have; or the time is over.
        """

        def state() -> tuple[bool, str] | None:
            done, problem = self._supervisor.request("fork_server_state", self._number)
            return (done, problem) if done else None

        found = wait_until(state, within=within, every=POLL_INTERVAL, clock=clock)
        if found is not None and not found[1]:
            return
        problem = found[1] if found is not None else f"they are not imported after {within:g} s"
        self._process.kill()
        log = self._process.log_text().strip()
        nl = "\n"
        raise CannotStart(
            "the service", self._process.argv[:1], f"preloading modules failed: {problem}{log and nl + log}"
        )

    def spawn(
        self, name: str, command: Sequence[str], argv: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path
    ) -> ManagedProcess:
        """Fork a program.

        Args:
            name: the name in messages.
            command: the command line that the program would have without a fork server.
            argv: the value of `sys.argv`.
            env: the whole environment. No message contains it.
            log: the file to which the output is appended.
            cwd: the working directory.

        Raises:
            CannotStart: the program can't be forked; the message has the reason.
        """
        request = Private(command=list(command), argv=list(argv), env=dict(env), log=str(log), cwd=str(cwd))
        try:
            number, pid = self._supervisor.request("fork_program", self._number, request)
        except SupervisorError as refusal:
            raise CannotStart(name, command, str(refusal)) from None
        return ManagedProcess(self._supervisor, number, pid, name, command, log)


class _Key(NamedTuple):
    """The properties in which the programs of one fork server are equal."""

    interpreter: tuple[str, ...]
    kind: str
    program: str
    modules: tuple[str, ...]
    cwd: Path
    environment: tuple[tuple[str, str], ...]


class ForkServers:
    """The fork servers of a session, each of which starts with the first program that needs it.

    Args:
        supervisor: starts the processes.
        directory: for their logs.
        clock: the clock for waiting.
    """

    def __init__(self, supervisor: SupervisorClient, directory: Path, clock: Clock = SYSTEM) -> None:
        self._supervisor = supervisor
        self._directory = directory
        self._clock = clock
        self._servers: dict[_Key, ForkServer] = {}

    def spawn(
        self, name: str, argv: Sequence[str], modules: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path
    ) -> ManagedProcess:
        """Fork a Python program.

        Args:
            name: the name in messages.
            argv: the interpreter, its options, and the program with its arguments.
            modules: the modules that the fork server has imported.
            env: the whole environment of the program.
            log: the file to which the output is appended.
            cwd: the working directory.

        Raises:
            CannotStart: a module can't be imported, or it can't be used after a fork; the message has the reason.
        """
        command = PythonCommand.parse(argv)
        at_start = tuple(sorted((name, value) for name, value in env.items() if name.startswith(AT_START)))
        key = _Key(tuple(command.interpreter), command.kind, command.program, tuple(modules), cwd, at_start)
        server = self._servers.get(key)
        if server is None or not server.running:
            server = self._servers[key] = self._start(name, command, key)
        try:
            return server.spawn(name, argv, command.argv, env=env, log=log, cwd=cwd)
        except CannotStart:
            if server.running:
                raise
        server = self._servers[key] = self._start(name, command, key)  # another process has killed it
        return server.spawn(name, argv, command.argv, env=env, log=log, cwd=cwd)

    def _start(self, name: str, command: PythonCommand, key: _Key) -> ForkServer:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(AT_START)}
        server = ForkServer.start(
            self._supervisor,
            command,
            key.modules,
            env=inherited | dict(key.environment),
            log=self._directory / f"{name}-imports-{len(self._servers)}.log",
            cwd=key.cwd,
        )
        server.wait_until_ready(IMPORT_TIMEOUT, self._clock)
        return server
