"""What the embedded backend's parts have in common: a process of ours on a loopback port that is ready when it says so."""

from __future__ import annotations

import contextlib
import os
import signal
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from ...clock import SYSTEM, Clock, wait_until
from ...processes import PLAIN, ManagedProcess, RunAs, SupervisorClient
from ..backend import Address, Server
from ..managed_server import HOST, STOP_WITHIN, ManagedServer
from ..session.child_environ import SERVER_ENVIRON
from ..session.ports import PortTaken, free_port, with_free_port

START_WITHIN = 20.0  # seconds; it takes 0.04, so this is for machines that are nearly dead
POLL = 0.003  # seconds
MAX_PORTS = 5  # how many ports to try when others are quicker


class ServerProcess(ManagedServer):
    """A process of ours, waited for by asking it.

    Attributes:
        name: what it is.
        log: the file with its output, of all its starts.
        address: where it listens.
    """

    _stop_signal: int = signal.SIGTERM

    def __init__(
        self, supervisor: SupervisorClient, name: str, *, log: Path, clock: Clock = SYSTEM, user: RunAs = PLAIN
    ) -> None:
        super().__init__(name, clock)
        self.log = log
        self.address = Address(HOST, 0)
        self._supervisor = supervisor
        self._user = user
        self._child: ManagedProcess | None = None

    @abstractmethod
    def argv(self) -> list[str]:
        """The command, with the port as it is now."""

    @abstractmethod
    def is_ready(self, child: ManagedProcess) -> bool:
        """Ask once whether it serves. An OSError counts as no."""

    def environment(self) -> Mapping[str, str]:
        """Its whole environment."""
        return SERVER_ENVIRON

    def stdin(self) -> Path | None:
        """Return the file that it reads from its standard input; None for an empty one."""
        return None

    def launch(self) -> None:
        """Start it on a port that is free; `wait_until_ready` tells whether it worked."""
        self.address = Address(HOST, free_port())
        self._spawn()

    def _spawn(self) -> None:
        if self._child is not None:
            self._child.kill()  # its main process has ended; what is left of it must not meet the next one
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
        """Wait until it answers; when its port was taken meanwhile, it gets another.

        Args:
            ports: how many ports to try in all.

        Raises:
            ServerNotReady: it ended, or did not answer in time.
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
        if found == "ended" and "address already in use" in self.log_text(self._log_begin).lower():
            raise PortTaken(self._not_ready(child))
        if found != "ready":
            raise self._not_ready(child)

    def _not_ready(self, child: ManagedProcess) -> Exception:
        error = child.not_ready(START_WITHIN, self._log_begin)
        child.kill()
        self._expected_running = False
        return error

    def alive(self) -> bool:
        """Whether its main process exists; a paused one does."""
        return self._child is not None and self._child.running

    def processes(self) -> list[int]:
        """The ids of its processes, the main one first; empty when it is down."""
        return self._child.processes() if self._child is not None and self._child.running else []

    def start(self) -> None:
        """Start it again on its port, and wait until it answers. Nothing to do when it runs."""
        if not self.alive():
            self._spawn()
            self.wait_until_ready(ports=1)

    def kill(self) -> None:
        """SIGKILL to all its processes; returns when they are gone."""
        self._expected_running = False
        if self._child is not None:
            self._child.kill()

    def stop(self) -> None:
        """Have it shut down in order."""
        self._expected_running = False
        if self._child is not None:
            self._child.resume()  # a stopped process hears nothing
            self._child.terminate(STOP_WITHIN, how=self._stop_signal, clock=self._clock)

    def pause(self) -> None:
        """SIGSTOP to all its processes; returns when none of them runs."""
        if self._child is not None:
            self._child.pause()

    def resume(self) -> None:
        """Take a pause back."""
        if self._child is not None:
            self._child.resume()

    def log_size(self) -> int:
        """How many bytes its log has."""
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def log_text(self, since: int = 0) -> str:
        """Its log from byte `since` on."""
        return self._child.log_text(since) if self._child is not None else ""

    def _how_it_ended(self) -> str | None:
        if self._child is None or (code := self._child.exit_code()) is None:
            return None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


class LoopbackServer(ServerProcess, Server):
    """A server of ours on loopback, which the test and the proxy reach at the same address."""

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
