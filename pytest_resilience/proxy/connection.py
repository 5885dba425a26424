"""One client and its upstream: dial, pair, half-close, close, reset."""

from __future__ import annotations

import _socket as so
from collections.abc import Callable, Iterable
from errno import EINPROGRESS, EINVAL
from struct import pack
from typing import TYPE_CHECKING, Any, NamedTuple

from .address import AddressError, SocketAddress, join_host_port, open_socket
from .descriptors import NO_RESOURCES
from .event_loop import IN
from .heap import HeldMemory
from .installed_toxic import InstalledToxic
from .link import Link
from .runtime import ProxyRuntime
from .statements import Rules, create_tap
from .tap import Piece, Tap, Watcher
from .upstream import Upstream

if TYPE_CHECKING:
    from random import Random  # noqa: TID251  # only its type

    from .self_connections import Endpoint
    from .tls import TlsStream
    from .tls_config import TlsConfig

_RST_ON_CLOSE = pack("ii", 1, 0)  # struct linger: on, zero seconds


class ConnectionSetup(NamedTuple):
    """The part of a proxy that its connections use.

    Attributes:
        name: of the proxy.
        toxics: the proxy's own list, so that a connection that is dialled late gets the toxics of that time.
        tls: None for plain text on both sides.
        rules: of the proxy's protocol; None for a proxy without protocol.
        on_closed: called when the connection is closed.
        on_upstream_failed: called when no address of the upstream can be reached. Returns True if the client gets a RST.
    """

    name: str
    upstream: Upstream
    toxics: list[InstalledToxic]
    tls: TlsConfig | None
    rules: Rules | None
    runtime: ProxyRuntime
    held_memory: HeldMemory
    on_closed: Callable[[Connection], None]
    on_upstream_failed: Callable[[], bool]


class Connection:
    """A client, its upstream, and a link for each direction.

    Attributes:
        number: 1 for the first connection that the proxy accepted.
        client_sockaddr: the client's address, as accept() returned it.
        accepted_at: seconds of the loop's clock.
        started: True once both directions are watched and the proxy's toxics are installed.
        chain: upstreams of proxies of this process that the connection has come through before.
        self_connection: the key of `SelfConnections` for the upstream's socket, if the upstream is a proxy of this process.
        tap: reads the protocol of the connection; None for a proxy without protocol.
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
        "self_connection",
        "setup",
        "started",
        "tap",
        "up",
        "upstream",
    )

    def __init__(
        self,
        setup: ConnectionSetup,
        number: int,
        client: so.socket,
        sockaddr: Any,
        accepted_at: float,
        chain: tuple[object, ...] = (),
    ) -> None:
        self.setup = setup
        self.number = number
        self.client_sockaddr = sockaddr
        self.accepted_at = accepted_at
        self.chain = chain
        self.self_connection: Endpoint | None = None
        self.closed = False
        self.started = False
        self._connected = False
        loop = setup.runtime.loop
        self.up = up = Link(self, loop, upward=True)
        self.down = down = Link(self, loop, upward=False)
        up.peer = down
        down.peer = up
        up.fd = client.fileno()
        self.client: so.socket | TlsStream = client
        if setup.tls is not None:
            stream = setup.tls.client_stream(client, up, self, loop)
            if stream is not None:
                self.client = up.loop = stream
        up.recv_into = self.client.recv_into
        down.send = self.client.send
        self.upstream: so.socket | TlsStream | None = None
        self._remaining: list[SocketAddress] | None = None  # addresses of the upstream that were not tried yet
        self.tap: Tap | None = None if setup.rules is None else create_tap(self, setup.rules)

    # --- dialling ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Dial the upstream, and start both directions without waiting for the upstream to answer."""
        self.setup.upstream.resolve(self._on_resolved)

    def _on_resolved(self, result: list[SocketAddress] | AddressError) -> None:
        if self.closed:
            return
        if isinstance(result, AddressError):
            self.dial_failed(result)
        else:
            self._start(result)

    def _start(self, addresses: list[SocketAddress]) -> None:
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
        if self.setup.toxics:
            for toxic in self.setup.toxics:
                if not toxic.on_links:
                    continue
                (up if toxic.upward else self.down).add(toxic, max(self.accepted_at, toxic.added_at))
                if self.closed:
                    return

    def _dial(self, address: SocketAddress) -> Exception | None:
        """Start to connect to `address`. Return the error if that fails at once."""
        upstream = failure = None
        runtime = self.setup.runtime
        try:
            upstream = open_socket(address.family)
            error = upstream.connect_ex(address.sockaddr)
        except OSError as failed:
            error = failed.errno or EINVAL  # the error for a path that is too long has no number
            failure = failed
            if error in NO_RESOURCES:
                runtime.descriptors.measure()
        if upstream is None or error not in (0, EINPROGRESS):
            if upstream is not None:
                upstream.close()
                failure = OSError(error, "connect")
            return failure
        down = self.down
        loop = runtime.loop
        if address.port in runtime.self_connections.ports:
            chain = (*self.chain, self.setup.upstream)
            self.self_connection = runtime.self_connections.add_connection(upstream.getsockname(), chain)
        down.loop = loop
        down.fd = fd = upstream.fileno()
        self.upstream = upstream
        if self.setup.tls is not None:
            protocol = self.setup.rules.protocol if self.setup.rules is not None else ""
            stream = self.setup.tls.upstream_stream(upstream, self.setup.upstream.text, down, self, loop, protocol)
            if stream is not None:
                self.upstream = down.loop = stream
        self.up.send = self.upstream.send
        down.recv_into = self.upstream.recv_into
        down.loop.handlers[fd] = down.on_event
        down.loop.watch(fd, IN, 0)  # errors are always reported; writing shows whether the socket is connected
        down.mask = IN
        return None

    @property
    def connected(self) -> bool:
        """True if the upstream has answered at least once."""
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
        """Try the next address of the upstream. Close the connection if there is none."""
        while self._remaining:
            address = self._remaining.pop(0)
            down = self.down
            waiting = down.mask & ~IN
            if self.upstream is not None:
                down.loop.unregister(down.fd, down.mask)
                self.upstream.close()
                self.upstream = None
                down.mask = 0
            if self._dial(address) is None:
                down.watch(down.mask | waiting)
                return
        log = self.setup.runtime.log
        if log.errors:
            log.error(
                "Unable to open connection to upstream",
                name=self.setup.name,
                client=self.client_address,
                err=str(error),
            )
        reset = self.setup.on_upstream_failed()
        self.close(reset=reset or self.up.bytes > 0)  # the kernel too sends a RST when it discards unread data

    # --- closing -----------------------------------------------------------------------------------------------------

    def tls_failed(self, reason: str, *, upward: bool) -> None:
        """Close after a failed handshake or a broken TLS stream. A client that waits for an answer gets a RST.

        Args:
            reason: for the log.
            upward: True if TLS failed with the client, False if with the upstream.
        """
        self.setup.runtime.log.warning(
            "TLS failed",
            name=self.setup.name,
            client=self.client_address,
            side="client" if upward else "upstream",
            err=reason,
        )
        if not upward and self.up.bytes:
            try:
                self.client.setsockopt(so.SOL_SOCKET, so.SO_LINGER, _RST_ON_CLOSE)
            except OSError:
                pass  # as in close()
        self.close()

    def half_closed(self, link: Link) -> None:
        """Pass the end of one direction on to its destination, or close if the other direction has ended, too."""
        if link.peer.done:
            self.close()
            return
        destination = self.upstream if link.upward else self.client
        try:
            if destination is not None:
                destination.shutdown(so.SHUT_WR)
        except OSError:
            pass  # the destination is gone; reading from it will report that

    def close(self, *, reset: bool = False) -> None:
        """Close both sockets, with a RST if `reset`. Data that is held is lost."""
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
                        pass  # macOS refuses this on a socket that its peer has reset
                sock.close()
        self.setup.on_closed(self)
        # Break the reference cycles, so that memory is freed at once and not by the garbage collector.
        self.up = self.down = up.peer = down.peer = _CLOSED.up
        up.stages = down.stages = ()
        up.tap = down.tap = self.tap = None

    # --- for the tap -------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the time of the loop's clock, in seconds."""
        return self.setup.runtime.loop.now()

    def write(self, pieces: Iterable[Piece], *, upward: bool) -> None:
        """Write pieces into one direction, behind what waits there. No tap sees the pieces."""
        (self.up if upward else self.down).write_pieces(pieces)

    def watch(self, up: Watcher | None, down: Watcher | None) -> None:
        """Have the tap called for the data of each direction. A direction with None is not watched."""
        if not self.closed:
            self.up.tap = up
            self.down.tap = down

    # --- for the toxics ----------------------------------------------------------------------------------------------

    @property
    def queue_limit(self) -> int:
        """The bytes that one toxic may queue on one direction of this connection."""
        return self.setup.held_memory.queue_limit()

    def watch_held_memory(self) -> None:
        """Release memory later, because a toxic has queued much."""
        self.setup.held_memory.watch()

    def random_for(self, toxic: str, *, upward: bool) -> Random:
        """Return a new generator for one toxic on one link. Its numbers depend on the seed and the names only."""
        from random import Random  # noqa: TID251  # seeded by the controller; imported here, as it is slow to import

        direction = "upstream" if upward else "downstream"
        return Random(f"{self.setup.runtime.seed}/{self.setup.name}/{self.number}/{direction}/{toxic}")

    # --- for the API -------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the connection as GET /proxies/{p}/connections shows it. `since` is a time of the machine's monotonic clock."""
        return {
            "number": self.number,
            "client": self.client_address,
            "upstream": self.setup.upstream.text,
            "via": self.local_address,
            "since": self.accepted_at,
            "connected": self.connected,
            "bytes": {"upstream": self.up.bytes, "downstream": self.down.bytes},
            "held": {"upstream": self.up.held_bytes(), "downstream": self.down.held_bytes()},
        }

    @property
    def client_address(self) -> str:
        """The client's "host:port", or "unix"."""
        sockaddr = self.client_sockaddr
        return join_host_port(sockaddr[0], sockaddr[1]) if isinstance(sockaddr, tuple) else "unix"

    @property
    def local_address(self) -> str | None:
        """The address under which the upstream sees this connection, or None before there is one."""
        try:
            sockaddr = self.upstream.getsockname() if self.upstream is not None else None
        except OSError:
            return None
        return join_host_port(sockaddr[0], sockaddr[1]) if isinstance(sockaddr, tuple) else None


class _ClosedConnection(Connection):
    """The owner of a link that the links of closed connections have as their peer. Nothing happens to it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.closed = True
        self.tap = None
        self.up = self.down = Link(self, None, upward=True)  # type: ignore[arg-type]  # its loop is never used
        self.up.peer = self.up


_CLOSED = _ClosedConnection()
