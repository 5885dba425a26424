"""The service under test: its process, its HTTP client, and the target of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.backend import Backend
from ..backends.session.ports import PortTaken, free_port, with_free_port
from ..clock import SYSTEM, Clock
from ..errors import ResilienceError, ServerNotReady, SetupError, ending
from ..faults.fault import Strike
from ..faults.process import ProcessControl, Terminate
from ..history import Exchange, struck
from ..processes import CannotStart, ManagedProcess
from ..redaction import Private, remember_environment, scrubbed
from .fault_method import fault_method
from .process_limits import ProcessLimits
from .process_tree import ProcessTree
from .readiness import HttpReadiness, wait_for_readiness
from .service_spec import Service
from .target import ProcessFaults, ResourceFaults, StrikeRegistry
from .thread_clients import TIMEOUT, ThreadLocalClients

if TYPE_CHECKING:
    import httpx
    import psutil

READY_WITHIN = 2.0  # seconds from the start, after which any response counts while another system is struck
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL


class RunningService:
    """The process of a service, which keeps its port over restarts.

    Args:
        spec: the description of the start.
        backend: the backend whose supervisor starts the process.
        clock: the clock for waiting.
    """

    can_start = True

    def __init__(self, spec: Service, backend: Backend, clock: Clock = SYSTEM) -> None:
        self.spec = spec
        self._backend = backend
        self._clock = clock
        self._child: ManagedProcess | None = None
        self._port = 0
        self._log_start = 0
        self._clients = ThreadLocalClients(self._explain)
        self._was_ready = False
        self._failures = 0
        self._start_error: ResilienceError | None = None
        remember_environment(spec.env)

    @property
    def child(self) -> ManagedProcess:
        """The process of the service."""
        if self._child is None:
            raise SetupError("the service has not been started")
        return self._child

    @property
    def url(self) -> str:
        """The base URL of the service."""
        return f"http://{self.spec.host}:{self._port}"

    @property
    def client(self) -> httpx.Client:
        """The client of the calling thread. It keeps connections and ignores proxy variables of the environment."""
        return self._clients.of_this_thread(self.url)

    def begin(self) -> None:
        """Start the service for a test. After a failed first start, or two failures in a row, it is not started again.

        Raises:
            ServerNotReady, CannotStart: as for `start`. Later errors are short and quote the first one.
        """
        self.raise_start_error()
        try:
            self.start()
        except (ServerNotReady, CannotStart) as error:
            self._failures += 1
            if not self._was_ready or self._failures > 1:
                self._start_error = error
            raise
        self._was_ready, self._failures = True, 0

    def raise_start_error(self) -> None:
        """Raise the error of an earlier start that excludes another attempt.

        Raises:
            ServerNotReady, CannotStart: the service could not be started for an earlier test.
        """
        if self._start_error is not None:
            first = str(self._start_error).partition("\n")[0]
            kind = type(self._start_error)
            again = kind.__new__(kind, f"not started again, because an earlier start failed: {first}")
            vars(again).update(vars(self._start_error))
            raise again

    def start(self, *, ready_within: float | None = None) -> None:
        """Start the service unless it runs, and wait until it is ready.

        Args:
            ready_within: seconds after which any HTTP response is enough, because a service is not ready without a system that it
                needs. None to wait until it is ready.

        Raises:
            ServerNotReady: the process exited or did not become ready in time. The message has command, time, log and open ports.
            CannotStart: the program can't be executed.
        """
        if self._child is not None and self._child.running:
            return
        with_free_port(partial(self._start_on_a_port, ready_within=ready_within))

    def _start_on_a_port(self, attempt: int, *, ready_within: float | None) -> None:
        if self._port == 0 or attempt > 0:
            self._clients.close()
            self._port = free_port()
        cwd = Path(self.spec.cwd) if self.spec.cwd else Path.cwd()
        begins = self._child.log_size() if self._child is not None else 0
        try:
            self._child = self._backend.spawn(
                "service", list(self.spec.command), env=self._environment(), cwd=cwd, preload=self.spec.preload
            )
        except CannotStart as error:
            raise CannotStart("the service", self.spec.redacted_command_line, error.reason) from None
        self._wait_until_ready(self._child, begins, ready_within)

    def _environment(self) -> Mapping[str, str]:
        """Return the environment of the process, in a mapping whose values no traceback shows."""
        port = {self.spec.port_variable: str(self._port)}
        return Private({**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.env, **port})

    def log_text(self) -> str:
        """Return the output since the last `stop`, or since the beginning. It includes kills and restarts."""
        return self.child.log_text(self._log_start)

    def _wait_until_ready(self, child: ManagedProcess, begins: int, ready_within: float | None = None) -> None:
        """Wait until the service is ready. See `start`.

        Raises:
            ServerNotReady: the process exited or did not become ready in time.
            PortTaken: the process exited because another process has bound the port.
        """
        begun = self._clock.now()
        condition = HttpReadiness(self.spec, self._port)
        found = wait_for_readiness(
            child, condition, within=self.spec.within, response_after=ready_within, clock=self._clock
        )
        if found == "ready":
            return
        after = self._clock.now() - begun
        seen = [] if child.exit_code() is not None else condition.describe(child.processes())
        code = child.exit_code()
        child.kill()
        error = ServerNotReady(
            "the service",
            command=self.spec.redacted_command_line,
            within=self.spec.within,
            log=child.log_text(begins),
            exit_code=code,
            after=after,
            seen=seen,
        )
        if found == "ended" and "address already in use" in child.log_text(begins).lower():
            raise PortTaken(error)
        raise error

    def ready_status(self, within: float = 1.0) -> int:
        """Request the readiness path once and return the status.

        Args:
            within: seconds to wait for the connection, and again for the answer.

        Raises:
            OSError: there is no answer.
        """
        return HttpReadiness(self.spec, self._port).status(within)

    def _explain(self, exchange: Exchange, timeouts: dict[str, float | None]) -> str:
        """Describe a failed request: its time-out, the active strikes, and the exit of the process."""
        kinds = {"ConnectTimeout": "connect", "ReadTimeout": "read", "WriteTimeout": "write", "PoolTimeout": "pool"}
        given = timeouts.get(kinds.get(exchange.outcome, ""))
        lines = [str(exchange)]
        if given == TIMEOUT:
            lines.append(f"the client's default time-out is {TIMEOUT:g} s; timeout= of a request sets another")
        elif given is not None:
            lines.append(f"its timeout= was {given:g} s")
        lines.append(f"active strikes: {struck(exchange.begun, exchange.ended)}")
        code = self._child.exit_code() if self._child is not None else None
        if code is not None:
            tail = "\n    ".join(scrubbed(self.log_text()).rstrip().splitlines()[-15:])
            lines.append(f"the process of the service has exited with {ending(code)}; the end of its log:\n    {tail}")
        return "\n".join(lines)

    def processes(self) -> list[int]:
        """Return the process ids of the tree, the root first, or none after the root has exited."""
        return self.child.processes() if self._child is not None and self._child.running else []

    def tree(self) -> list[int]:
        """Return the process ids of the tree, also after the root has exited."""
        return self.child.processes() if self._child is not None else []

    @property
    def descriptors(self) -> set[int]:
        """The descriptors of the client in this process."""
        return self._clients.descriptors()

    def kill(self) -> None:
        """Send SIGKILL to the tree."""
        self.child.kill()

    def terminate(self) -> None:
        """Send SIGTERM, and SIGKILL after a time-out."""
        self.child.resume()  # a stopped process does not handle signals
        self.child.terminate(STOP_TIMEOUT)

    def pause(self) -> None:
        """Send SIGSTOP to the tree."""
        self.child.pause()

    def resume(self) -> None:
        """Send SIGCONT to the tree."""
        if self.child.running:
            self.child.resume()

    def stop(self) -> None:
        """Kill the process at once, and discard its state."""
        self._clients.close()
        if self._child is not None:
            self._child.kill()
            self._log_start = self._child.log_size()

    @property
    def limits(self) -> ProcessLimits:
        """The resource limits of the processes."""
        child = self.child
        begins = child.log_size()
        return ProcessLimits(ProcessTree(child.process, child.processes), self._backend, lambda: child.log_text(begins))


class ServiceProcesses:
    """Process control of a service, for process faults.

    Args:
        running: the service.
        strikes: returns the active strikes of the test. While others than those on the service last, it may not become ready.
    """

    can_start = True

    def __init__(self, running: RunningService, strikes: Callable[[], list[Strike]]) -> None:
        self._running = running
        self._strikes = strikes
        self.processes = running.processes
        self.kill = running.kill
        self.terminate = running.terminate
        self.pause = running.pause
        self.resume = running.resume

    def start(self) -> None:
        """Start the service, and wait until it is ready, or for 2 s until it responds while other systems are struck."""
        is_alone = all(strike.label.startswith("service.") for strike in self._strikes())
        self._running.start(ready_within=None if is_alone else READY_WITHIN)


class ServiceTarget(ProcessFaults, ResourceFaults):
    """The service under test, as a target.

    Attributes:
        url: "http://127.0.0.1:PORT".
        client: an httpx.Client with that base URL and a time-out of 10 s, one for each thread.
        process: the process as a psutil.Process.
        log: the output so far.
    """

    def __init__(self, ledger: StrikeRegistry, running: RunningService) -> None:
        super().__init__("service", ledger)
        self._running = running

    @property
    def url(self) -> str:
        """The base URL of the service."""
        return self._running.url

    @property
    def client(self) -> httpx.Client:
        """The httpx.Client of this thread, with the base URL of the service."""
        return self._running.client

    @property
    def process(self) -> psutil.Process:
        """The process of the service."""
        return self._running.child.process

    @property
    def log(self) -> str:
        """The output so far, stdout and stderr. A fresh process for a test starts a fresh log."""
        return self._running.log_text()

    @property
    def process_control(self) -> ProcessControl:
        return ServiceProcesses(self._running, self._ledger.active)

    @property
    def limits(self) -> ProcessLimits:
        """The resource limits of the processes."""
        return self._running.limits

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request. The options are those of httpx."""
        __tracebackhide__ = True
        return self.client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send GET. The options are those of httpx."""
        __tracebackhide__ = True
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send POST. The options are those of httpx, such as json={...}."""
        __tracebackhide__ = True
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        """Send PUT. The options are those of httpx."""
        __tracebackhide__ = True
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        """Send DELETE. The options are those of httpx."""
        __tracebackhide__ = True
        return self.request("DELETE", path, **options)

    terminate = fault_method(Terminate)

    def __repr__(self) -> str:
        return f"<ServiceTarget {self.url}, pid {self._running.child.pid}>"
