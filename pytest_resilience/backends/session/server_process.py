"""Base classes of the processes of servers and proxies. Each is a process on a loopback port, polled until it is ready."""

from __future__ import annotations

import contextlib
import os
import signal
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ...clock import SYSTEM, Clock, wait_until
from ...processes import PLAIN, ManagedProcess, RunAs, SupervisorClient, file_size
from ..backend import Address, Server
from ..managed_server import HOST, STOP_WITHIN, ManagedServer
from .child_environ import SERVER_ENVIRON
from .ports import free_port, taken_or, with_free_port

START_WITHIN = 20.0  # seconds; it takes 0.04, so this is for machines that are nearly dead
POLL = 0.003  # seconds
MAX_PORTS = 5  # that a server tries, if other processes bind them first


class ProcessContext(NamedTuple):
    """The environment that the processes of a session share.

    Args:
        supervisor: starts the processes.
        directory: has their data and logs.
        clock: the clock to wait with.
    """

    supervisor: SupervisorClient
    directory: Path
    clock: Clock = SYSTEM


class ServerProcess(ManagedServer):
    """A process that listens on loopback.

    Args:
        context: the session.
        name: the name in messages and of its log file.
        user: the user that it runs as.

    Attributes:
        log: the file with the output of all its starts.
        address: the address at which it listens.
    """

    _stop_signal: int = signal.SIGTERM

    def __init__(self, context: ProcessContext, name: str, *, user: RunAs = PLAIN) -> None:
        super().__init__(name, context.clock)
        self.log = context.directory / f"{name}.log"
        self.address = Address(HOST, 0)
        self._supervisor = context.supervisor
        self._user = user
        self._child: ManagedProcess | None = None

    @abstractmethod
    def argv(self) -> list[str]:
        """Return the command line for the present port."""

    @abstractmethod
    def is_ready(self, child: ManagedProcess) -> bool:
        """True if the server answers. Each call tries once.

        Raises:
            OSError: the server does not answer yet.
        """

    def environment(self) -> Mapping[str, str]:
        """Return the whole environment of the process."""
        return SERVER_ENVIRON

    def stdin(self) -> Path | None:
        """Return the file for its standard input, or None for an empty one."""
        return None

    def launch(self) -> None:
        """Start the process on a free port, without waiting for it (`wait_until_ready`)."""
        self.address = Address(HOST, free_port())
        self._spawn()

    def _spawn(self) -> None:
        if self._child is not None:
            self._child.kill()  # descendants that outlived the main process must not disturb the next start
        self._log_begin = self.log_size()
        self._child = self._supervisor.spawn(
            self.name,
            self.argv(),
            env=self.environment(),
            log=self.log,
            cwd=self.log.parent,
            user=self._user,
            stdin=self.stdin(),
        )
        self._expected_running = True

    def wait_until_ready(self, *, ports: int = MAX_PORTS) -> None:
        """Wait until the server answers. If another process has bound its port first, start it on another one.

        Args:
            ports: the number of ports to try.

        Raises:
            ServerNotReady: the process ended, or did not answer in time.
        """
        until = self._clock.now() + START_WITHIN

        def attempt(number: int) -> None:
            if number:
                self.launch()
            assert self._child is not None, "launch first"
            self._wait(self._child, until)

        with_free_port(attempt, tries=ports)

    def _wait(self, child: ManagedProcess, until: float) -> None:
        def outcome() -> str | None:
            if child.exit_code() is not None:
                return "ended"
            with contextlib.suppress(OSError):
                if self.is_ready(child):
                    return "ready"
            return None

        found = wait_until(outcome, within=until - self._clock.now(), every=POLL, clock=self._clock)
        if found == "ended":
            raise taken_or(self._not_ready(child), self.log_text(self._log_begin))
        if found != "ready":
            raise self._not_ready(child)

    def _not_ready(self, child: ManagedProcess) -> Exception:
        error = child.not_ready(START_WITHIN, self._log_begin)
        child.kill()
        self._expected_running = False
        return error

    def alive(self) -> bool:
        """True if the main process exists, paused or not."""
        return self._child is not None and self._child.running

    def processes(self) -> list[int]:
        """Return the ids of its processes, the main process first. The list is empty when it is down."""
        return self._child.processes() if self._child is not None and self._child.running else []

    def start(self) -> None:
        """Start the process on its port, and wait until it answers. Do nothing if it runs."""
        if not self.alive():
            self._spawn()
            self.wait_until_ready(ports=1)

    def kill(self) -> None:
        """Send SIGKILL to all its processes, and return when they have exited."""
        self._expected_running = False
        if self._child is not None:
            self._child.kill()

    def stop(self) -> None:
        """Shut it down in an orderly way."""
        self._expected_running = False
        if self._child is not None:
            self._child.resume()  # a stopped process does not handle signals
            self._child.terminate(STOP_WITHIN, how=self._stop_signal, clock=self._clock)

    def pause(self) -> None:
        """Send SIGSTOP to all its processes, and return when all have stopped."""
        if self._child is not None:
            self._child.pause()

    def resume(self) -> None:
        """Continue all its processes after `pause`."""
        if self._child is not None:
            self._child.resume()

    def log_size(self) -> int:
        """Return the size of its log in bytes."""
        return file_size(self.log)

    def log_text(self, since: int = 0) -> str:
        """Return its log from byte `since` on."""
        return self._child.log_text(since) if self._child is not None else ""

    def _how_it_ended(self) -> str | None:
        if self._child is None or (code := self._child.exit_code()) is None:
            return None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


class LoopbackServer(ServerProcess, Server):
    """A server process that the test and the proxy reach at one address."""

    @property
    def direct_address(self) -> Address:  # type: ignore[override]  # read-only here, as it should be
        return self.address

    def kill_session(self, pid: int) -> None:
        if pid not in self.processes():
            super().kill_session(pid)
        os.kill(pid, signal.SIGKILL)

    @property
    def upstream_address(self) -> Address:  # type: ignore[override]
        return self.address
