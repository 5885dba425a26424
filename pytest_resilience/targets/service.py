"""The service under test: its process, its HTTP client, and the target of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.backend import Backend
from ..backends.session.ports import PORT_TRIES, PortTaken
from ..clock import SYSTEM, Clock
from ..errors import ProcessEnded, ResilienceError, ServerNotReady, SetupError, ending
from ..faults.fault import Strike
from ..faults.process import ProcessControl, Terminate
from ..history import Exchange, struck
from ..hosts import joined
from ..processes import CannotStart, ManagedProcess, file_size
from ..redaction import Private, remember_environment, scrubbed
from .fault_method import fault_method
from .process_limits import ProcessLimits
from .process_tree import ProcessTree
from .readiness import HttpReadiness, ServiceStart, http_readiness
from .service_ports import ServicePorts
from .service_spec import Service
from .starting import INTERVAL, Startup, run_setup
from .target import ProcessFaults, ResourceFaults, StrikeRegistry
from .thread_clients import ThreadLocalClients

if TYPE_CHECKING:
    import httpx
    import psutil

READY_WITHIN = 2.0  # seconds from the start, after which any response counts while another system is struck
LOG_LINES = 15  # of a process that has ended, in messages
ENDED = (
    "A service that a fault has ended runs again after the heal. One that has ended for another reason starts for the next test. A "
    "psutil.Process that `.process` has returned before the end remains valid."
)
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL


class RunningService:
    """The process of a service, which keeps its ports over restarts.

    Args:
        spec: the description of the start.
        backend: the backend whose supervisor starts the process.
        clock: the clock for waiting.
        name: the name of the service among those of the session.
        ports: its ports; None for ports of its own.

    Attributes:
        title: the service in messages, such as "the service 'worker'".
    """

    can_start = True

    def __init__(
        self,
        spec: Service,
        backend: Backend,
        clock: Clock = SYSTEM,
        *,
        name: str = "service",
        ports: ServicePorts | None = None,
    ) -> None:
        self.spec = spec
        self.name = name
        self.title = "the service" if name == "service" else f"the service {name!r}"
        self._log_name = name if name == "service" else f"service-{name}"
        self._backend = backend
        self._clock = clock
        self._child: ManagedProcess | None = None
        self._start: ServiceStart | None = None
        self._ports = ports if ports is not None else ServicePorts(spec)
        self._log_start = self._log_size()
        self._is_stopped = False
        self._clients = ThreadLocalClients(self._explain, spec.timeout)
        self._was_ready = False
        self._failures = 0
        self._start_error: ResilienceError | None = None
        self._deaths: list[str] = []  # of processes that have been replaced
        remember_environment(spec.env)

    @property
    def child(self) -> ManagedProcess:
        """The process of the service."""
        if self._child is None:
            raise SetupError(f"{self.title} has not been started")
        return self._child

    @property
    def ports(self) -> dict[str, int]:
        """The ports by name.

        Raises:
            SetupError: the service has no port.
        """
        if not self.spec.has_port:
            raise SetupError(
                f"{self.title} has no port: nothing in its command or environment is {{port}}, and its port_variable is None"
            )
        return dict(self._ports.numbers)

    @property
    def port(self) -> int:
        """The first port."""
        return self.ports[self.spec.ports[0]]

    @property
    def url(self) -> str:
        """The base URL of the service."""
        return f"http://{joined(self.spec.host, self.port)}"

    @property
    def client(self) -> httpx.Client:
        """The client of the calling thread. It keeps connections and ignores proxy variables of the environment."""
        return self._clients.of_this_thread(self.url)

    @property
    def answers_http(self) -> bool:
        """True if a path or URL of the service is requested to find it ready."""
        return self._http is not None

    @property
    def _http(self) -> HttpReadiness | None:
        return http_readiness(self._start) if self._start is not None else None

    def prepare(self) -> None:
        """Run the commands of `Service(setup=...)`. After a failure, the service is never started.

        Raises:
            SetupError: a command failed, or did not end in time.
            CannotStart: the program of a command can't be executed.
        """
        try:
            run_setup(self.title, self.spec, self._spawn_setup)
        except (SetupError, CannotStart) as error:
            self._start_error = error
            raise

    def _spawn_setup(self, number: int, words: Sequence[str]) -> ManagedProcess:
        self._ports.reserve()
        return self._spawn(f"{self._log_name}-setup-{number + 1}", f"a setup command of {self.title}", words)

    def beginning(self) -> Generator[None]:
        """Start the service for a test, and yield until it is ready.

        After a failed first start, or two failures in a row, it is not started again.

        Raises:
            ServerNotReady, CannotStart, SetupError: as for `start` and `prepare`. Later errors are short and quote the first one.
        """
        self.raise_start_error()
        try:
            yield from self._starting()
        except (ServerNotReady, CannotStart) as error:
            self._failures += 1
            if not self._was_ready or self._failures > 1:
                self._start_error = error
            raise
        self._was_ready, self._failures = True, 0

    def raise_start_error(self) -> None:
        """Raise the error of an earlier start that excludes another attempt.

        Raises:
            ServerNotReady, CannotStart, SetupError: the service could not be started for an earlier test.
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
            ready_within: seconds after which a response of any kind is enough, because a service is not ready without a system that
                it needs; a service without HTTP then only has to run. None to wait until it is ready.

        Raises:
            ServerNotReady: the process exited or did not become ready in time. The message has command, time, log and open ports.
            CannotStart: the program can't be executed.
        """
        for _ in self._starting(ready_within):
            self._clock.sleep(INTERVAL)

    def _starting(self, ready_within: float | None = None) -> Generator[None]:
        if self._child is not None and self._child.running:
            return
        self._deaths = self.deaths()
        if self._is_stopped:  # services of one name share a log, and another one may have written since
            self._log_start, self._is_stopped = self._log_size(), False
        for number in range(PORT_TRIES):
            try:
                yield from self._starting_on_ports(number, ready_within)
            except PortTaken as taken:
                if number == PORT_TRIES - 1:
                    raise taken.error from None
            else:
                return

    def _starting_on_ports(self, attempt: int, ready_within: float | None) -> Generator[None]:
        self._ports.reserve()
        if attempt > 0:
            self._ports.draw()
        begins = self._log_size()
        child = self._child = self._spawn(self._log_name, self.title, self.spec.command, self.spec.preload)
        self._start = ServiceStart(self.spec, child, self._ports.numbers, begins)
        startup = Startup(self.title, self._start, child, self._ports.numbers, self._clock)
        yield from startup.until_ready(response_after=ready_within, is_first=not self._was_ready)
        if self.spec.has_port:
            self._clients.follow(self.url)
            self._ports.announce()

    def _spawn(self, log: str, title: str, words: Sequence[str], preload: Sequence[str] = ()) -> ManagedProcess:
        cwd = Path(self.spec.cwd) if self.spec.cwd else Path.cwd()
        try:
            return self._backend.spawn(
                log,
                [self._ports.filled(word) for word in words],
                env=self._environment(),
                cwd=cwd,
                preload=preload,
            )
        except CannotStart as error:
            raise CannotStart(title, self.spec.redacted(map(self._ports.filled, words)), error.reason) from None

    def _environment(self) -> Mapping[str, str]:
        """Return the environment of the process, in a mapping whose values no traceback shows."""
        variable = self.spec.port_variable
        port = {variable: self._ports.filled("{port}")} if variable is not None else {}
        env = {name: self._ports.filled(value) for name, value in self.spec.env.items()}
        return Private({**os.environ, "PYTHONUNBUFFERED": "1", **env, **port})

    def _log_size(self) -> int:
        return file_size(self._backend.directory / f"{self._log_name}.log")

    def log_text(self) -> str:
        """Return the output since the last `stop`, or since the beginning. It includes kills and restarts."""
        return self.child.log_text(self._log_start)

    def ready_status(self, within: float = 1.0) -> int:
        """Request the readiness path or URL once and return the status. See `answers_http`.

        Args:
            within: seconds to wait for the connection, and again for the answer.

        Raises:
            OSError: there is no answer.
        """
        assert self._http is not None, "answers_http"
        return self._http.status(within)

    def _explain(self, exchange: Exchange, timeouts: dict[str, float | None]) -> str:
        """Describe a failed request: its time-out, the active strikes, and the exit of the process."""
        kinds = {"ConnectTimeout": "connect", "ReadTimeout": "read", "WriteTimeout": "write", "PoolTimeout": "pool"}
        given = timeouts.get(kinds.get(exchange.outcome, ""))
        lines = [str(exchange)]
        if given is not None and given == self.spec.timeout:
            lines.append(
                f"the client's default time-out is {given:g} s; timeout= of a request sets another, and Service(timeout=...) the default"
            )
        elif given is not None:
            lines.append(f"its timeout= was {given:g} s")
        lines.append(f"active strikes: {struck(exchange.begun, exchange.ended)}")
        code = self._child.exit_code() if self._child is not None else None
        if code is not None:
            tail = "\n    ".join(last_lines(self.log_text()))
            lines.append(f"the process of {self.title} has exited with {ending(code)}; the end of its log:\n    {tail}")
        return "\n".join(lines)

    @property
    def current(self) -> ManagedProcess | None:
        """The last process of the service, or None before the first start."""
        return self._child

    def deaths(self) -> list[str]:
        """Return a sentence for each process that has ended by itself since the last `stop`, with the end of its log."""
        if self._child is None or not self._child.died:
            return self._deaths
        return [*self._deaths, death_notice(self.title, self._child, self._log_start)]

    def death(self) -> str | None:
        """Return a sentence if the last process has ended by itself, and None otherwise."""
        died = self._child is not None and self._child.died
        return self.deaths()[-1].partition(";")[0] if died else None

    def ended(self) -> ProcessEnded | None:
        """Return the error for a test that needs the last process after its end, or None while the process runs."""
        if self._child is None or self._child.running:
            return None
        return self._child.ended(self.title, ENDED, self._log_start)

    @property
    def process(self) -> psutil.Process:
        """The last process of the service.

        Raises:
            ProcessEnded: the process has exited, and this is the first use.
        """
        try:
            return self.child.process
        except ProcessEnded:
            raise self.child.ended(self.title, ENDED, self._log_start) from None

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
            self._log_start, self._is_stopped = self._child.log_size(), True
        self._deaths = []

    @property
    def limits(self) -> ProcessLimits:
        """The resource limits of the processes.

        Raises:
            ProcessEnded: the process has exited.
        """
        if (ended := self.ended()) is not None:
            raise ended
        child = self.child
        begins = child.log_size()
        return ProcessLimits(ProcessTree(child.process, child.processes), self._backend, lambda: child.log_text(begins))


def last_lines(log: str) -> list[str]:
    """Return the last lines of a log without secrets."""
    return scrubbed(log).rstrip().splitlines()[-LOG_LINES:]


def death_notice(title: str, child: ManagedProcess, log_start: int = 0) -> str:
    """Return a sentence for a process that has ended, and the end of its log in further lines.

    Args:
        title: the process in the sentence.
        child: the process.
        log_start: the position at which its log begins.
    """
    code = child.exit_code()
    assert code is not None, "it has ended"
    lines = last_lines(child.log_text(log_start)) or ["(it wrote nothing)"]
    return "\n".join(
        [f"{title} has ended with {ending(code)}; the end of its log:", *(f"    {line}" for line in lines)]
    )


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
        is_alone = all(strike.label.startswith(f"{self._running.name}.") for strike in self._strikes())
        self._running.start(ready_within=None if is_alone else READY_WITHIN)


class ServiceTarget(ProcessFaults, ResourceFaults):
    """The service under test, as a target.

    Attributes:
        name: the name of the service, with which the labels of its faults begin.
        url: "http://127.0.0.1:PORT", with the first port.
        port: the first port.
        ports: all ports by name.
        client: an httpx.Client with that base URL, one for each thread. Its time-out is that of `Service(timeout=...)`, 10 s.
        process: the process as a psutil.Process.
        log: the output so far.
    """

    def __init__(self, ledger: StrikeRegistry, running: RunningService) -> None:
        super().__init__(running.name, ledger)
        self._running = running

    @property
    def url(self) -> str:
        """The base URL of the service."""
        return self._running.url

    @property
    def port(self) -> int:
        """The first port of the service."""
        return self._running.port

    @property
    def ports(self) -> dict[str, int]:
        """The ports of the service by name."""
        return self._running.ports

    @property
    def client(self) -> httpx.Client:
        """The httpx.Client of this thread, with the base URL of the service."""
        return self._running.client

    @property
    def process(self) -> psutil.Process:
        """The process of the service. It can be read first while the process runs, and remains after that."""
        return self._running.process

    def ended(self) -> ProcessEnded | None:
        """Return the error for a strike on the processes of the service after their end, or None while they run."""
        return self._running.ended()

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
        where = self.url if self._running.spec.has_port else self.name
        return f"<ServiceTarget {where}, pid {self._running.child.pid}>"
