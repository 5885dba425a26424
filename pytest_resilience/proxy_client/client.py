"""Drives a Toxiproxy over HTTP, ours or the real one; the only file that knows toxiproxy-python.

Strikes go over one kept-alive connection of our own, because toxiproxy-python opens a new one for each call and keeps the
server's address in a global; its objects are made here for those who want to type `proxy.add_toxic(...)` themselves.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

from ..clock import SYSTEM, wait_until
from ..errors import BackendDied, SetupError

if TYPE_CHECKING:
    from http.client import HTTPConnection

    import toxiproxy

ANSWER_WITHIN = 10.0  # seconds; the proxy answers in about one millisecond, so this is a dead one
QUIET = 0.002  # seconds without news of refused connections after which there is none; the kernel takes a tenth of that as a rule
KNOWN_WITHIN = 0.5  # seconds from the end of a server until its parent knows of it
TOLD_WITHIN = 0.04  # seconds for which such news may still come; seen: up to 8 ms on a busy machine
LOGGED_WITHIN = 0.25  # seconds from the end of a connection until the real server's log tells of it, which it does after it has closed it


@dataclass(frozen=True)
class Tally:
    """What came by, counted: connections, bytes, and when (seconds of the monotonic clock)."""

    connections: int = 0
    bytes: int = 0
    first: float | None = None
    last: float | None = None

    def since(self, before: Tally) -> Tally:
        """What came by after `before` was counted."""
        count = self.connections - before.connections
        new_first = self.first if before.connections == 0 else None
        return Tally(
            count, self.bytes - before.bytes, (new_first or self.last) if count else None, self.last if count else None
        )


# What Toxiproxy 2.12 has not and ours has.
TOXIPROXY_UNSUPPORTED = {
    f"{server}.{fault}": reason
    for server in ("postgres", "redis")
    for fault, reason in (
        ("half_open", "Toxiproxy's toxics strike all connections, new ones too"),
        ("slow_accept", "Toxiproxy accepts at once"),
    )
}


class ConnectionCounts(NamedTuple):
    """How many connections of a proxy have begun and ended so far, by what its backend can see."""

    accepted: int
    ended: int


class ProxiedClients(NamedTuple):
    """Whom a proxy serves now, by what its backend can see.

    Args:
        host: the address by which the servers know the proxy.
        ports: its clients', in the order in which it dialled for them.
    """

    host: str
    ports: Sequence[int]


@dataclass(frozen=True)
class ProxyCounters:
    """What one proxy has counted.

    `refused` is None where refusals can't be seen; `unattributed` counts clients that may have been refused here or elsewhere.

    The real Toxiproxy counts next to nothing: `live`, `cut` and `toxics` are None then, `seen` is what its backend knows in their
    place, and `closed_bytes` is what the connections that have ended had carried, where its metrics are switched on.
    """

    now: float
    live: int | None
    accepted: Tally
    refused: Tally | None
    cut: Tally | None
    unattributed: int = 0
    toxics: Mapping[str, Tally] | None = field(default_factory=dict)
    seen: ConnectionCounts | None = None
    closed_bytes: int = 0

    def ended_since(self, before: ProxyCounters) -> int | None:
        """How many connections have ended since, at least; None when that is not known."""
        if self.seen is not None and before.seen is not None:
            return self.seen.ended - before.seen.ended
        return 1 if self.closed_bytes > before.closed_bytes else None

    def may_yet_end(self, before: ProxyCounters) -> bool:
        """Whether no connection is known to have ended since, although one could have."""
        return self.seen is not None and self.seen.accepted > self.seen.ended and not self.ended_since(before)

    def idle_since(self, before: ProxyCounters) -> bool:
        """Whether it is certain that there was no connection then and has been none since."""
        return before.seen is not None and before.seen == self.seen and before.seen.accepted == before.seen.ended


def _counted(raw: Mapping[str, Any]) -> Tally | None:
    count = raw.get("count", raw.get("connections"))
    if count is None:
        return None
    return Tally(count, raw.get("bytes", 0), raw.get("first"), raw.get("last"))


class ToxiproxyError(SetupError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def _death(check: Callable[[], None]) -> BackendDied | None:
    try:
        check()
    except BackendDied as died:
        return died
    return None


class ToxiproxyClient:
    """One Toxiproxy server's HTTP API. Threads may share it.

    Args:
        host: where the API listens.
        port: its port.
        seen: what a backend sees of a proxy's connections where the server does not count them.
        behind: whom a backend sees behind a proxy where the server does not say.
        check: raises BackendDied with the server's log when it is known to have ended.

    Attributes:
        counts: whether the server counts as ours does; None when it has not been asked yet.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        seen: Callable[[str], ConnectionCounts | None] | None = None,
        behind: Callable[[str], ProxiedClients | None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.seen = seen
        self.behind = behind
        self._check = check
        self.counts: bool | None = None
        self._has_metrics = True
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None

    def request(self, method: str, path: str, body: object = None) -> Any:
        """One call; returns the decoded JSON answer, or None for an empty one.

        Raises:
            SetupError: the server refused it (4xx, 5xx); the message is the server's.
            BackendDied: nobody answers.
        """
        from http.client import HTTPException

        data = None if body is None else json.dumps(body).encode()
        with self._lock:
            kept = self._connection is not None
            try:
                status, answer = self._exchange(method, path, data)
            except (OSError, HTTPException) as error:
                self._forget_connection()
                try:
                    # A kept-alive connection may have been closed meanwhile: that is worth one more try, a fresh one is not.
                    if not kept:
                        raise
                    status, answer = self._exchange(method, path, data)
                except (OSError, HTTPException):
                    self._forget_connection()
                    raise self._died(error) from error
        if status >= 400:
            raise ToxiproxyError(status, f"the proxy refused {method} {path}: {status} {_reason(answer)}")
        return json.loads(answer) if answer else None

    def _died(self, error: Exception) -> BackendDied:
        """What to say when nobody answers: the log of a server that has ended, of which its parent may know a moment later."""
        died = None
        if self._check is not None:
            died = wait_until(partial(_death, self._check), within=KNOWN_WITHIN, every=0.005)
        return died or BackendDied(
            f"the proxy's API at {self.host}:{self.port} does not answer: {type(error).__name__}: {error}"
        )

    def closed_bytes(self, proxy: str) -> int:
        """What the connections of a proxy that have ended had carried, by the server's metrics; 0 where they are switched off."""
        if not self._has_metrics:
            return 0
        with self._lock:
            try:
                status, answer = self._exchange("GET", "/metrics", None)
            except OSError:
                self._forget_connection()
                return 0
        self._has_metrics = status == 200
        return _received(answer.decode(), proxy) if self._has_metrics else 0

    def _exchange(self, method: str, path: str, data: bytes | None) -> tuple[int, bytes]:
        if self._connection is None:
            from http.client import HTTPConnection

            self._connection = HTTPConnection(self.host, self.port, timeout=ANSWER_WITHIN)
        self._connection.request(method, path, body=data)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _forget_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def populate(self, doors: list[tuple[str, str, str]]) -> list[ProxyHandle]:
        """Create proxies, each given as (name, listen, upstream); returns them in order."""
        made = self.request("POST", "/populate", [{"name": n, "listen": li, "upstream": up} for n, li, up in doors])
        return [ProxyHandle(self, proxy["name"], proxy["listen"]) for proxy in made["proxies"]]

    def create(self, name: str, listen: str, upstream: str) -> ProxyHandle:
        """Create one proxy, which must not be there yet.

        Raises:
            SetupError: the server refused it: the name is taken, or the port.
        """
        made = self.request("POST", "/proxies", {"name": name, "listen": listen, "upstream": upstream})
        return ProxyHandle(self, made["name"], made["listen"])

    def reset(self) -> None:
        """Enable all proxies and remove all toxics."""
        self.request("POST", "/reset")

    @property
    def descriptors(self) -> set[int]:
        """What the connection to the API has open in this process."""
        with self._lock:
            sock = self._connection.sock if self._connection is not None else None
            return {sock.fileno()} if sock is not None else set()

    def close(self) -> None:
        """Close the connection to the API."""
        with self._lock:
            self._forget_connection()

    def library(self) -> toxiproxy.Toxiproxy:
        """A toxiproxy-python client of this server (its address is a global of that library: one server per process)."""
        import toxiproxy

        _DirectToLoopback.install()
        client = toxiproxy.Toxiproxy()
        client.update_api_consumer(self.host, self.port)
        return client


class _DirectToLoopback:
    """The `requests` of toxiproxy-python, which asks no HTTP proxy of the environment for an address of this machine.

    HTTP_PROXY names a proxy for everything, and requests obeys unless NO_PROXY lists the host. Other hosts are reached as before.
    """

    def __init__(self, requests: Any) -> None:
        self._requests = requests

    @classmethod
    def install(cls) -> None:
        """Have toxiproxy-python use an instance of this class. A second call changes nothing."""
        from toxiproxy import api

        if not isinstance(api.requests, cls):
            api.requests = cls(api.requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._requests, name)

    def get(self, url: str, **options: Any) -> Any:
        return self._request("GET", url, options)

    def post(self, url: str, **options: Any) -> Any:
        return self._request("POST", url, options)

    def delete(self, url: str, **options: Any) -> Any:
        return self._request("DELETE", url, options)

    def _request(self, method: str, url: str, options: Mapping[str, Any]) -> Any:
        if not _is_loopback(urlsplit(url).hostname or ""):
            return self._requests.request(method, url, **options)
        with self._requests.Session() as session:
            session.trust_env = False
            return session.request(method, url, **options)


def _is_loopback(host: str) -> bool:
    """True if `host` is an address of this machine that no other machine can reach."""
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class ProxyHandle:
    """One proxy: what strikes it, and what it counted.

    Args:
        control: the server's API.
        name: the proxy's name.
        listen: where it listens, "host:port".

    Attributes:
        marks: what was counted each time that somebody shut it while it was open, so that no strike is credited with a later one's.
    """

    def __init__(self, control: ToxiproxyClient, name: str, listen: str) -> None:
        self.control = control
        self.name = name
        self.listen = listen
        self._path = f"/proxies/{quote(name, safe='')}"
        self._shut = 0
        self._opened_at = float("-inf")
        self._names = itertools.count(1)
        self.marks: list[ProxyCounters] = []

    def shut(self) -> None:
        """Refuse and cut; counts, so that two who shut it must both open it again."""
        if self._shut == 0:
            self.control.request("POST", self._path, {"enabled": False})
        self._shut += 1

    def open(self) -> None:
        """Take one `shut` back; the last one lets connections in again."""
        if self._shut == 1:
            self.control.request("POST", self._path, {"enabled": True})
            self._opened_at = self.now()
        self._shut = max(0, self._shut - 1)

    @property
    def shut_by(self) -> int:
        """How many have shut it and not opened it again."""
        return self._shut

    def mark(self) -> ProxyCounters:
        """What was counted before it is shut."""
        counters = self.settled()
        if self._shut == 0:
            self.marks.append(counters)
        return counters

    def cut(self) -> None:
        """Close the connections that exist; new ones are refused for a millisecond, and let in then. Nothing when it is shut."""
        if self._shut == 0:
            self.control.request("POST", self._path, {"enabled": False})
            self.control.request("POST", self._path, {"enabled": True})

    def add_toxic(
        self, kind: str, *, stream: str, attributes: Mapping[str, int], label: str, clients: Sequence[str] = ()
    ) -> str:
        """Add a toxic at the end of a stream's chain; returns its name, which starts with `label`.

        Args:
            kind: Toxiproxy's type.
            stream: "upstream" or "downstream".
            attributes: Toxiproxy's, in its units.
            label: what the name starts with.
            clients: "host:port" of the only connections that it shall work on (our proxy's addition); empty for all.
        """
        name = f"{label}-{next(self._names)}-{stream}"
        toxic: dict[str, object] = {"name": name, "type": kind, "stream": stream, "toxicity": 1.0}
        toxic["attributes"] = dict(attributes)
        if clients:
            toxic["connections"] = list(clients)
        self.control.request("POST", f"{self._path}/toxics", toxic)
        return name

    def clients(self) -> list[str]:
        """The addresses of all who are connected now, "host:port" each (our proxy's addition)."""
        return [connection["client"] for connection in self.control.request("GET", f"{self._path}/connections")]

    def by_upstream_port(self, known: Sequence[tuple[str, int | None]] = ()) -> dict[int, int] | None:
        """For each connection the port that the server knows it by, and its client's; None where neither proxy nor backend can tell.

        Args:
            known: the server's clients by address and port, in the order in which they came. The real Toxiproxy dials for one client
                after the other, in the order in which it accepted them, and says no more: so they are paired one by one, or not at all
                when there is one more on either side.
        """
        try:
            connections = self.control.request("GET", f"{self._path}/connections")
        except ToxiproxyError:
            behind = self.control.behind(self.name) if self.control.behind is not None else None
            if behind is None:
                return None
            ports = [port for host, port in known if host == behind.host and port is not None]
            return dict(zip(ports, behind.ports, strict=True)) if len(ports) == len(behind.ports) else {}
        pairs = [(connection.get("via"), connection["client"]) for connection in connections]
        return {_port(via): _port(client) for via, client in pairs if via and client != "unix"}

    def delay_accept(self, milliseconds: int) -> None:
        """Wait so long between a client's connect and the dial (our proxy's addition)."""
        self.control.request("POST", self._path, {"accept_delay": milliseconds})

    def remove_toxic(self, name: str) -> None:
        """Remove a toxic; what it held goes out, at once and in order."""
        self.control.request("DELETE", f"{self._path}/toxics/{quote(name, safe='')}")

    def now(self) -> float:
        """The moment on the clock that counters use."""
        return SYSTEM.now()

    def counters(self) -> ProxyCounters:
        """What the proxy has counted so far."""
        if self.control.counts is False:
            return self._seen()
        try:
            raw = self.control.request("GET", f"{self._path}/counters")
        except ToxiproxyError as refusal:
            if refusal.status != 404 or self.control.counts:
                raise
            self.control.counts = False
            return self._seen()
        self.control.counts = True
        return ProxyCounters(
            now=raw["now"],
            live=raw["connections"],
            accepted=_counted(raw["accepted"]) or Tally(),
            refused=_counted(raw["refused"]),
            cut=_counted(raw["cut"]) or Tally(),
            unattributed=raw["refused"].get("unattributed", 0),
            toxics={name: _counted(toxic) or Tally() for name, toxic in raw["toxics"].items()},
        )

    @property
    def told_until(self) -> float:
        """Until when the kernel may still tell of connections that were refused up to now."""
        return (self.now() if self._shut else self._opened_at) + TOLD_WITHIN

    def settled(self, before: ProxyCounters | None = None) -> ProxyCounters:
        """What the proxy has counted, with the refused connections of which the kernel tells a moment after the client knows; and
        with an end since `before`, if given.
        """
        until = self.told_until
        counters = self.counters() if before is None else self.with_ends(before)
        while counters.refused is not None and self.now() < until:
            SYSTEM.sleep(QUIET)
            before, counters = counters, self.counters()
            if (before.refused, before.unattributed) == (counters.refused, counters.unattributed):
                break
        return counters

    def with_ends(self, before: ProxyCounters) -> ProxyCounters:
        """What the proxy has counted, with the end of a connection of which the real server's log tells a moment after the client knows.

        Where none has ended since `before` although somebody is connected, that moment is waited for.
        """
        until = self.now() + LOGGED_WITHIN
        counters = self.counters()
        while counters.may_yet_end(before) and self.now() < until:
            SYSTEM.sleep(QUIET)
            counters = self.counters()
        return counters

    def _seen(self) -> ProxyCounters:
        """What can be known of the real server."""
        seen = self.control.seen(self.name) if self.control.seen is not None else None
        return ProxyCounters(
            now=self.now(),
            live=None,
            accepted=Tally(seen.accepted if seen is not None else 0),
            refused=None,
            cut=None,
            toxics=None,
            seen=seen,
            closed_bytes=self.control.closed_bytes(self.name),
        )

    def reset(self) -> None:
        """Enable this proxy and remove its toxics, as the server's reset does with all of them."""
        shown = self.control.request("GET", self._path)
        if not shown["enabled"]:
            self.control.request("POST", self._path, {"enabled": True})
        for toxic in shown["toxics"]:
            self.remove_toxic(toxic["name"])
        self.forget()

    def forget(self) -> None:
        """Forget who shut it: the server was reset."""
        self._shut = 0

    def library(self) -> toxiproxy.Proxy:
        """toxiproxy-python's object for this proxy."""
        proxy = self.control.library().get_proxy(self.name)
        assert proxy is not None, f"the proxy {self.name} is gone from its server"
        return proxy


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def _received(metrics: str, proxy: str) -> int:
    """The bytes that a proxy's closed connections had carried, out of the server's metrics."""
    label = f'proxy="{proxy}"'
    lines = (
        line
        for line in metrics.splitlines()
        if line.startswith("toxiproxy_proxy_received_bytes_total{") and label in line
    )
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def _reason(answer: bytes) -> str:
    try:
        decoded = json.loads(answer)
        return str(decoded["error"])
    except (ValueError, TypeError, KeyError):
        return answer.decode(errors="replace").strip()
