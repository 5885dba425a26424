"""The fork servers of a session: processes that have imported modules and fork a Python program for each start."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...clock import SYSTEM, Clock
from ...processes import CannotStart, ForkServer, ManagedProcess, SupervisorClient
from ...python_command import PythonCommand

IMPORT_TIMEOUT = 60.0  # seconds for the imports
# Variables that the interpreter, the loader and the C library read at the start of a process, by the begin of their names.
AT_START = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "LC_", "LANG")
CAN_FORK = sys.platform == "linux"


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
