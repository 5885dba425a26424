"""The service under test: how it starts, and what a test asks and does to it."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.backend import Backend
from ..backends.session.ports import PortTaken, free_port, with_free_port
from ..clock import SYSTEM, Clock, wait_until
from ..errors import ResilienceError, ServerNotReady, SetupError, ending
from ..faults.process import Terminate
from ..history import Exchange, struck
from ..processes import CannotStart, ManagedProcess
from ..redaction import Private, remember_environment, scrubbed
from ..wire import http
from .fault_method import fault_method
from .not_ready import describe_state
from .process_limits import ProcessLimits
from .process_tree import ProcessTree
from .service_spec import Service
from .target import ProcessFaults, ResourceFaults, StrikeRegistry

if TYPE_CHECKING:
    import httpx
    import psutil

READY_INTERVAL = 0.005  # seconds between two looks at a service that starts
KEEP_ALIVE = 1.0  # seconds that an idle connection to the service is kept
TIMEOUT = 10.0  # seconds of the client, unless a call says otherwise
STOP_TIMEOUT = 5.0  # seconds for an orderly stop before it is killed


Explain = Callable[[Exchange, dict[str, float | None]], str]


class ThreadLocalClients:
    """An HTTP client for each thread that asks. In a pool that threads share, httpcore 1.0 may close a connection as idle while
    another thread sends its request on it: that request would fail, and nobody but us would be to blame.
    """

    def __init__(self, explain: Explain) -> None:
        self._local = threading.local()
        self._all: weakref.WeakSet[_ThreadClient] = weakref.WeakSet()
        self._explain = explain

    def of_this_thread(self, url: str) -> httpx.Client:
        """This thread's client; closed when the thread ends."""
        owned: _ThreadClient | None = getattr(self._local, "owned", None)
        if owned is None or owned.client.is_closed:
            owned = self._local.owned = _ThreadClient(url, self._explain)
            self._all.add(owned)
        return owned.client

    def close(self) -> None:
        """Close them all; whoever asks again gets a new one."""
        for owned in list(self._all):
            owned.client.close()

    def descriptors(self) -> set[int]:
        """What they have open in this process."""
        return {number for owned in list(self._all) for number in owned.transport.descriptors()}


class _ThreadClient:
    """A client that is closed when its thread is gone."""

    def __init__(self, url: str, explain: Explain) -> None:
        import ssl

        import httpx

        from .http_transport import Client, TrackingTransport

        # Servers close idle connections, uvicorn after 5 s: ours go before that, or a request would run into the close.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE)
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it talks HTTP; reading all certificates takes 30 ms
        self.transport = TrackingTransport(trust_env=False, limits=limits, verify=plain)
        self.client = Client(explain, base_url=url, timeout=TIMEOUT, trust_env=False, transport=self.transport)

    def __del__(self) -> None:
        if (client := getattr(self, "client", None)) is not None:
            client.close()


class RunningService:
    """A service's process: started, asked, signalled; the same port for as long as it lives.

    Args:
        spec: how to start it.
        backend: whose supervisor owns the process.
        clock: reads and spends time.
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
        """Its process."""
        if self._child is None:
            raise SetupError("the service has not been started")
        return self._child

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.spec.host}:{self._port}"

    @property
    def client(self) -> httpx.Client:
        """The calling thread's client: it keeps connections, and asks no proxy of the environment."""
        return self._clients.of_this_thread(self.url)

    def begin(self) -> None:
        """Start it for a test, as `start` does. A service that was never ready, or failed twice in a row, is not started again.

        Raises:
            ServerNotReady, CannotStart: as `start`; the later ones are short and repeat the first.
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
        """See whether there is any hope of starting it.

        Raises:
            ServerNotReady, CannotStart: an earlier test has shown that there is none.
        """
        if self._start_error is not None:
            first = str(self._start_error).partition("\n")[0]
            kind = type(self._start_error)
            again = kind.__new__(kind, f"not started again, as an earlier test has failed with: {first}")
            vars(again).update(vars(self._start_error))
            raise again

    def start(self) -> None:
        """Start it and wait until it is ready; nothing when it runs.

        Raises:
            ServerNotReady: it ended or did not get ready in time; shows command, time, log, and what it listens on.
            CannotStart: its program can't be executed.
        """
        if self._child is not None and self._child.running:
            return
        with_free_port(self._start_on_a_port)

    def _start_on_a_port(self, attempt: int) -> None:
        if self._port == 0 or attempt > 0:
            self._clients.close()
            self._port = free_port()
        cwd = Path(self.spec.cwd) if self.spec.cwd else Path.cwd()
        begins = self._child.log_size() if self._child is not None else 0
        try:
            self._child = self._backend.spawn("service", list(self.spec.command), env=self._environment(), cwd=cwd)
        except CannotStart as error:
            raise CannotStart("the service", self.spec.redacted_command_line, error.reason) from None
        self._wait_until_ready(self._child, begins)

    def _environment(self) -> Mapping[str, str]:
        """Secrets are in here: no traceback with locals shows them."""
        port = {self.spec.port_variable: str(self._port)}
        return Private({**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.env, **port})

    def log_text(self) -> str:
        """What it wrote since `stop` was called last, or since the beginning; over kills and restarts."""
        return self.child.log_text(self._log_start)

    def _wait_until_ready(self, child: ManagedProcess, begins: int) -> None:
        """Wait until the service answers.

        Raises:
            ServerNotReady: it ended or did not answer in time.
            PortTaken: it ended since another process has bound its port.
        """
        begun = self._clock.now()
        status: int | str = "no answer yet"

        def outcome() -> str | None:
            nonlocal status
            if child.exit_code() is not None:
                return "ended"
            try:
                status = _status(self.spec.host, self._port, self.spec.ready)
            except OSError as error:
                status = type(error).__name__
            return "ready" if isinstance(status, int) and 200 <= status < 400 and child.running else None

        found = wait_until(outcome, within=self.spec.within, every=READY_INTERVAL, clock=self._clock)
        if found == "ready":
            return
        after = self._clock.now() - begun
        seen = [] if child.exit_code() is not None else describe_state(self.spec, self._port, status, child.processes())
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

    def _explain(self, exchange: Exchange, timeouts: dict[str, float | None]) -> str:
        """Say more about a request that failed: which time-out it was, what struck meanwhile, whether the process has ended."""
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
            lines.append(f"the service's process has ended with {ending(code)}; its log ends:\n    {tail}")
        return "\n".join(lines)

    def processes(self) -> list[int]:
        """The ids of its processes while the first one runs; that one comes first."""
        return self.child.processes() if self._child is not None and self._child.running else []

    def tree(self) -> list[int]:
        """Its process and all that descends from it."""
        return self.child.processes() if self._child is not None else []

    @property
    def descriptors(self) -> set[int]:
        """What our client has open in this process."""
        return self._clients.descriptors()

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        self.child.terminate(STOP_TIMEOUT)

    def pause(self) -> None:
        """SIGSTOP."""
        self.child.pause()

    def resume(self) -> None:
        """SIGCONT."""
        if self.child.running:
            self.child.resume()

    def stop(self) -> None:
        """End it, at once: its state is thrown away."""
        self._clients.close()
        if self._child is not None:
            self._child.kill()
            self._log_start = self._child.log_size()

    @property
    def limits(self) -> ProcessLimits:
        """What its processes may use."""
        child = self.child
        begins = child.log_size()
        return ProcessLimits(ProcessTree(child.process, child.processes), self._backend, lambda: child.log_text(begins))


class ServiceTarget(ProcessFaults, ResourceFaults):
    """The service under test, in a test.

    Attributes:
        url: "http://127.0.0.1:PORT".
        client: an httpx.Client with that base URL; a request that takes longer than 10 s fails, unless it says timeout=. Each thread
            has its own.
        process: its psutil.Process.
        log: what it has written so far.
    """

    def __init__(self, ledger: StrikeRegistry, running: RunningService) -> None:
        super().__init__("service", ledger)
        self._running = running

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._running.url

    @property
    def client(self) -> httpx.Client:
        """An httpx.Client with the service's base URL."""
        return self._running.client

    @property
    def process(self) -> psutil.Process:
        """Its process."""
        return self._running.child.process

    @property
    def log(self) -> str:
        """What it wrote so far, stdout and stderr; a fresh process for a test begins a fresh log."""
        return self._running.log_text()

    @property
    def process_control(self) -> RunningService:
        return self._running

    @property
    def limits(self) -> ProcessLimits:
        """What its processes may use."""
        return self._running.limits

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask it; `options` are httpx's."""
        __tracebackhide__ = True
        return self.client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET; `options` are httpx's."""
        __tracebackhide__ = True
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """POST; `options` are httpx's, such as json={...}."""
        __tracebackhide__ = True
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        """PUT; `options` are httpx's."""
        __tracebackhide__ = True
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        """DELETE; `options` are httpx's."""
        __tracebackhide__ = True
        return self.request("DELETE", path, **options)

    terminate = fault_method(Terminate)

    def __repr__(self) -> str:
        return f"<ServiceTarget {self.url}, pid {self._running.child.pid}>"


def _status(host: str, port: int, path: str) -> int:
    """The status of one GET, without a client's weight: it is asked while the service starts on the same cores."""
    with socket.create_connection((host, port), timeout=1.0) as sock:
        sock.sendall(http.request("GET", path, f"{host}:{port}"))
        status = http.parse_status(sock.recv(64))
    if status is None:
        raise ConnectionError("no HTTP answer")
    return status
