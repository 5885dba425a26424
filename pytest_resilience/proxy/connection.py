"""A client and its upstream: dial, pair, half-close, close, reset."""

from __future__ import annotations

import _socket as so
from errno import EINPROGRESS, EINVAL
from struct import pack
from typing import TYPE_CHECKING, Any

from .address import Address, AddressError, join_host_port, open_socket
from .descriptors import NO_RESOURCES
from .event_loop import IN
from .link import Link

if TYPE_CHECKING:
    from random import Random  # noqa: TID251  # only its type

    from .proxy import Proxy
    from .self_connections import Endpoint
    from .tls import TlsStream

_RST_ON_CLOSE = pack("ii", 1, 0)  # struct linger: on, zero seconds


class Connection:
    """A client, its upstream, and a link for each direction.

    Attributes:
        number: 1 for the first connection that the proxy accepted.
        address: the client's, as accept told it.
        since: when it was accepted, in seconds of the loop's clock.
        started: True once both directions are watched and the proxy's toxics are installed.
        chain: proxies of this process that the connection has come through before.
        dialled: what `SelfConnections` knows the upstream's socket by, where the upstream is a proxy of this process.
    """

    __slots__ = (
        "_connected",
        "_remaining",
        "accepted_at",
        "chain",
        "client",
        "client_sockaddr",
        "closed",
        "down",
        "number",
        "proxy",
        "self_connection",
        "started",
        "up",
        "upstream",
    )

    def __init__(
        self, proxy: Proxy, number: int, client: so.socket, address: Any, since: float, chain: tuple[object, ...] = ()
    ) -> None:
        self.proxy = proxy
        self.number = number
        self.client_sockaddr = address
        self.accepted_at = since
        self.chain = chain
        self.self_connection: Endpoint | None = None
        self.closed = False
        self.started = False
        self._connected = False
        loop = proxy.runtime.loop
        self.up = up = Link(self, loop, upward=True)
        self.down = down = Link(self, loop, upward=False)
        up.peer = down
        down.peer = up
        up.fd = client.fileno()
        self.client: so.socket | TlsStream = client
        if proxy.tls is not None:
            self.client = proxy.tls.to_client(client, up, loop)
        up.recv_into = self.client.recv_into
        down.send = self.client.send
        self.upstream: so.socket | TlsStream | None = None
        self._remaining: list[Address] | None = None

    def open(self) -> None:
        """Dial the upstream, and start both directions without waiting for it to answer."""
        self.proxy.upstream.resolve(self._on_resolved)

    def _on_resolved(self, found: list[Address] | AddressError) -> None:
        if self.closed:
            return
        if isinstance(found, AddressError):
            self.dial_failed(found)
        else:
            self._start(found)

    def _start(self, addresses: list[Address]) -> None:
        up = self.up
        error = self._dial(addresses[0])
        if error is not None:
            self._remaining = addresses[1:]
            self.dial_failed(error)
            if self.closed:
                return
        elif len(addresses) > 1:
            self._remaining = addresses[1:]
        up.loop.handlers[up.fd] = up.on_event
        up.loop.watch(up.fd, IN, 0)
        up.mask = IN
        self.started = True
        if self.proxy.toxics:
            for toxic in self.proxy.toxics:
                (up if toxic.upward else self.down).add(toxic, max(self.accepted_at, toxic.added_at))
                if self.closed:
                    return

    def _dial(self, target: Address) -> Exception | None:
        """Start to connect to `target`. Return the error if that failed at once."""
        upstream = failure = None
        try:
            upstream = open_socket(target.family)
            error = upstream.connect_ex(target.sockaddr)
        except OSError as failed:
            error = failed.errno or EINVAL  # a path that is too long has no number of its own
            failure = failed
            if error in NO_RESOURCES:
                self.proxy.runtime.descriptors.measure()
        if upstream is None or error not in (0, EINPROGRESS):
            if upstream is not None:
                upstream.close()
                failure = OSError(error, "connect")
            return failure
        down = self.down
        proxy = self.proxy
        self_connections = proxy.runtime.self_connections
        if target.port in self_connections.ports:
            self.self_connection = self_connections.add_connection(upstream.getsockname(), (*self.chain, proxy))
        down.loop = proxy.runtime.loop
        down.fd = fd = upstream.fileno()
        self.upstream = upstream
        if proxy.tls is not None:
            self.upstream = proxy.tls.to_upstream(upstream, down, proxy.runtime.loop, proxy.upstream.text)
        self.up.send = self.upstream.send
        down.recv_into = self.upstream.recv_into
        loop = down.loop
        loop.handlers[fd] = down.on_event
        loop.watch(fd, IN, 0)  # an error is always told; that it can be written to, we find out by writing
        down.mask = IN
        return None

    @property
    def connected(self) -> bool:
        """The upstream has answered at least once."""
        if not self._connected and self.upstream is not None:
            if self.down.bytes or self.down.ended:
                self._connected = True
            else:
                try:
                    self.upstream.getpeername()
                    self._connected = True
                except OSError:
                    pass
        return self._connected

    def dial_failed(self, error: Exception) -> None:
        """The upstream can't be reached at this address: try the next one, or give the client up."""
        while self._remaining:
            target = self._remaining.pop(0)
            down = self.down
            waiting = down.mask & ~IN
            if self.upstream is not None:
                down.loop.unregister(down.fd, down.mask)
                self.upstream.close()
                self.upstream = None
                down.mask = 0
            if self._dial(target) is None:
                down.watch(down.mask | waiting)
                return
        log = self.proxy.runtime.log
        if log.errors:
            log.error(
                "Unable to open connection to upstream",
                name=self.proxy.name,
                client=self.client_address,
                err=str(error),
            )
        admission = self.proxy.admission
        if admission is not None:
            admission.upstream_failed()
            if admission.options["refuse_when_down"]:
                self.close(reset=True)
                return
        self.close(reset=self.up.bytes > 0)  # as the kernel does it when unread data is thrown away

    def tls_failed(self, link: Link, why: str) -> None:
        """TLS at the link's source did not come about, or broke: close, with a RST for a client that waits for an answer."""
        self.proxy.runtime.log.warning(
            "TLS failed",
            name=self.proxy.name,
            client=self.client_address,
            side="client" if link.upward else "upstream",
            err=why,
        )
        if not link.upward and self.up.bytes:
            try:
                self.client.setsockopt(so.SOL_SOCKET, so.SO_LINGER, _RST_ON_CLOSE)
            except OSError:
                pass  # as in close()
        self.close()

    def half_closed(self, link: Link) -> None:
        """One direction is at its end: tell its destination, or close if the other one is too."""
        if link.peer.done:
            self.close()
            return
        destination = self.upstream if link.upward else self.client
        try:
            if destination is not None:
                destination.shutdown(so.SHUT_WR)
        except OSError:
            pass  # it is gone, which its own link finds out

    def close(self, *, reset: bool = False) -> None:
        """Close both sockets; with RST if `reset`. What is held is lost."""
        if self.closed:
            return
        self.closed = True
        up, down = self.up, self.down
        for link, sock in ((up, self.client), (down, self.upstream)):
            if link.timer is not None:
                link.timer.cancel()
            if sock is not None:
                link.loop.unregister(link.fd, link.mask)
                if reset:
                    try:
                        sock.setsockopt(so.SOL_SOCKET, so.SO_LINGER, _RST_ON_CLOSE)
                    except OSError:
                        pass  # macOS refuses on a socket that the peer has reset
                sock.close()
        self.proxy.on_connection_closed(self)
        # No circles left behind, so that memory is freed at once and not by the garbage collector.
        self.up = self.down = up.peer = down.peer = _CLOSED.up
        up.stages = down.stages = ()

    @property
    def queue_limit(self) -> int:
        """The bytes that one toxic may queue on one direction of this connection."""
        return self.proxy.held_memory.queue_limit()

    def watch_held_memory(self) -> None:
        """Take note that a toxic has queued so much that the memory has to be given back afterwards."""
        self.proxy.held_memory.watch()

    def random_for(self, toxic: str, upward: bool) -> Random:
        """The generator for one toxic on one of our links: the same for the same seed, whatever else happened."""
        from random import Random  # noqa: TID251  # seeded, from the seed that the controller hands in; and here, as it loads slowly

        direction = "upstream" if upward else "downstream"
        return Random(f"{self.proxy.runtime.seed}/{self.proxy.name}/{self.number}/{direction}/{toxic}")

    def to_json(self) -> dict[str, Any]:
        """The connection as GET /proxies/{p}/connections shows it; `since` is of the machine's monotonic clock."""
        return {
            "number": self.number,
            "client": self.client_address,
            "upstream": self.proxy.upstream.text,
            "via": self.local_address,
            "since": self.accepted_at,
            "connected": self.connected,
            "bytes": {"upstream": self.up.bytes, "downstream": self.down.bytes},
            "held": {"upstream": self.up.held_bytes(), "downstream": self.down.held_bytes()},
        }

    @property
    def client_address(self) -> str:
        return (
            join_host_port(self.client_sockaddr[0], self.client_sockaddr[1])
            if isinstance(self.client_sockaddr, tuple)
            else "unix"
        )

    @property
    def local_address(self) -> str | None:
        """Our own address towards the upstream, by which the upstream knows the client; None before there is one."""
        try:
            address = self.upstream.getsockname() if self.upstream is not None else None
        except OSError:
            return None
        return join_host_port(address[0], address[1]) if isinstance(address, tuple) else None


class _ClosedConnection(Connection):
    """Whom a closed connection's links point to: closed too, so nothing happens to it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.closed = True
        self.up = self.down = Link(self, None, upward=True)  # type: ignore[arg-type]  # never looked at
        self.up.peer = self.up


_CLOSED = _ClosedConnection()
