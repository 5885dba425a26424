"""The service under test: how it starts, and what a test asks and does to it."""

from __future__ import annotations

import os
import re
import socket
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends.backend import Backend
from ..backends.ports import free_port
from ..clock import SYSTEM, Clock
from ..errors import ServerNotReady, SetupError
from ..faults.fault import Strike
from ..faults.process import Terminate
from ..processes import Child
from ..redaction import Private
from .means import Means
from .spec import Service
from .target import Ledger, NeedyFaults, ProcessFaults
from .tree import Tree

if TYPE_CHECKING:
    import httpx
    import psutil

PORT_TRIES = 3  # another process may take a free port before the service binds it
ASK_EVERY = 0.005  # seconds between two looks at a service that starts
KEEP_ALIVE = 1.0  # seconds that an idle connection to the service is kept
STOP_WITHIN = 5.0  # seconds for an orderly stop before it is killed


class Clients:
    """An HTTP client for each thread that asks. In a pool that threads share, httpcore 1.0 may close a connection as idle while
    another thread sends its request on it: that request would fail, and nobody but us would be to blame.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._all: weakref.WeakSet[_Owned] = weakref.WeakSet()

    def of_this_thread(self, url: str) -> httpx.Client:
        """This thread's client; closed when the thread ends."""
        owned: _Owned | None = getattr(self._local, "owned", None)
        if owned is None or owned.client.is_closed:
            owned = self._local.owned = _Owned(url)
            self._all.add(owned)
        return owned.client

    def close(self) -> None:
        """Close them all; whoever asks again gets a new one."""
        for owned in list(self._all):
            owned.client.close()

    def descriptors(self) -> set[int]:
        """What they have open in this process."""
        return {number for owned in list(self._all) for number in owned.transport.descriptors()}


class _Owned:
    """A client that is closed when its thread is gone."""

    def __init__(self, url: str) -> None:
        import ssl

        import httpx

        from .transport import Transport

        # Servers close idle connections, uvicorn after 5 s: ours go before that, or a request would run into the close.
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE)
        plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it talks HTTP; reading all certificates takes 30 ms
        self.transport = Transport(trust_env=False, limits=limits, verify=plain)
        self.client = httpx.Client(base_url=url, timeout=10.0, trust_env=False, transport=self.transport)

    def __del__(self) -> None:
        if (client := getattr(self, "client", None)) is not None:
            client.close()


class RunningService:
    """A service's process: started, asked, signalled; the same port for as long as it lives.

    Args:
        spec: how to start it.
        backend: whose keeper owns the process.
        clock: reads and spends time.
    """

    def __init__(self, spec: Service, backend: Backend, clock: Clock = SYSTEM) -> None:
        self.spec = spec
        self._backend = backend
        self._clock = clock
        self._child: Child | None = None
        self._port = 0
        self._life_begins = 0
        self._clients = Clients()

    @property
    def child(self) -> Child:
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

    def start(self) -> None:
        """Start it and wait until it is ready; nothing when it runs.

        Raises:
            ServerNotReady: it ended or did not get ready in time; shows command, time and log.
        """
        if self._child is not None and self._child.running:
            return
        for attempt in range(PORT_TRIES):
            if self._port == 0 or attempt > 0:
                self._clients.close()
                self._port = free_port()
            cwd = Path(self.spec.cwd) if self.spec.cwd else Path.cwd()
            begins = self._child.log_size() if self._child is not None else 0
            self._child = self._backend.spawn("service", list(self.spec.command), env=self._environment(), cwd=cwd)
            if self._wait_until_ready(self._child, begins, last=attempt == PORT_TRIES - 1):
                return

    def _environment(self) -> Mapping[str, str]:
        """Secrets are in here: no traceback with locals shows them."""
        port = {self.spec.port_variable: str(self._port)}
        return Private({**os.environ, "PYTHONUNBUFFERED": "1", **self.spec.env, **port})

    def log_text(self) -> str:
        """What it wrote since `stop` was called last, or since the beginning; over kills and restarts."""
        return self.child.log_text(self._life_begins)

    def _wait_until_ready(self, child: Child, begins: int, *, last: bool) -> bool:
        """Wait; False when another process has taken the port and it is worth another try."""
        give_up = self._clock.now() + self.spec.within
        status: int | str = "no answer yet"
        while True:
            code = child.exit_code()
            if code is not None:
                if not last and "address already in use" in child.log_text(begins).lower():
                    return False
                break
            try:
                status = _status(self.spec.host, self._port, self.spec.ready)
            except OSError as error:
                status = type(error).__name__
            if isinstance(status, int) and 200 <= status < 400 and child.running:
                return True
            if self._clock.now() > give_up:
                break
            self._clock.sleep(ASK_EVERY)
        within = self.spec.within
        log = f"{child.log_text(begins)}\n(GET {self.spec.ready} on port {self._port}: {status})"
        code = child.exit_code()
        child.kill()
        raise ServerNotReady("the service", command=self.spec.command, within=within, log=log, exit_code=code)

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
        self.child.terminate(STOP_WITHIN)

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
            self._life_begins = self._child.log_size()

    @property
    def means(self) -> Means:
        """What its processes may use."""
        child = self.child
        begins = child.log_size()
        return Means(Tree(child.process, child.processes), self._backend, lambda: child.log_text(begins))


class ServiceTarget(ProcessFaults, NeedyFaults):
    """The service under test, in a test.

    Attributes:
        url: "http://127.0.0.1:PORT".
        client: an httpx.Client with that base URL and 10 s timeouts; each thread has its own.
        process: its psutil.Process.
        log: what it has written so far.
    """

    def __init__(self, ledger: Ledger, running: RunningService) -> None:
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
    def body(self) -> RunningService:
        return self._running

    @property
    def means(self) -> Means:
        """What its processes may use."""
        return self._running.means

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask it; `options` are httpx's."""
        try:
            return self.client.request(method, path, **options)
        except Exception as error:
            code = self._running.child.exit_code()
            if code is not None:
                tail = "\n    ".join(self.log.rstrip().splitlines()[-15:])
                error.add_note(f"the service's process has ended with exit code {code}; its log ends:\n    {tail}")
            raise

    def get(self, path: str, **options: Any) -> httpx.Response:
        """GET; `options` are httpx's."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """POST; `options` are httpx's, such as json={...}."""
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> httpx.Response:
        """PUT; `options` are httpx's."""
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        """DELETE; `options` are httpx's."""
        return self.request("DELETE", path, **options)

    def terminate(self) -> Strike:
        """SIGTERM and wait for the end: an orderly stop; the heal starts it again."""
        return Terminate().strike(self)

    def __repr__(self) -> str:
        return f"<ServiceTarget {self.url}, pid {self._running.child.pid}>"


def _status(host: str, port: int, path: str) -> int:
    """The status of one GET, without a client's weight: it is asked while the service starts on the same cores."""
    with socket.create_connection((host, port), timeout=1.0) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
        head = sock.recv(64)
    found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if found is None:
        raise ConnectionError("no HTTP answer")
    return int(found[1])
