"""Listeners and connections: accept, dial, pair, close, reset."""

from __future__ import annotations

import _socket as so
from collections.abc import Callable, Mapping
from errno import EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM
from struct import pack
from typing import TYPE_CHECKING, Any

from .address import Address, AddressError, Listener, look_up, numeric, open_socket, show, split
from .doorman import Doorman
from .link import Link
from .log import Log
from .loop import IN, Loop
from .resolver import Resolver
from .rule import Counter, Rule

if TYPE_CHECKING:
    from random import Random  # noqa: TID251  # only its type

    from .tls import Side, Tls

_RST_ON_CLOSE = pack("ii", 1, 0)  # struct linger: on, zero seconds
_NO_RESOURCES = (EMFILE, ENFILE, ENOBUFS, ENOMEM)


class Context:
    """What all proxies of a process share."""

    __slots__ = ("log", "loop", "refusals", "resolver", "seed")

    def __init__(self, loop: Loop, log: Log, seed: int, refusals: Any = None) -> None:
        self.loop = loop
        self.log = log
        self.seed = seed
        self.refusals = refusals
        self.resolver = Resolver(loop)


class Connection:
    """A client, its upstream, and a link for each direction.

    Attributes:
        number: 1 for the first connection that the proxy accepted.
        address: the client's, as accept told it.
        since: when it was accepted, in seconds of the loop's clock.
    """

    __slots__ = (
        "_connected",
        "_targets",
        "address",
        "client",
        "closed",
        "down",
        "number",
        "proxy",
        "since",
        "up",
        "upstream",
    )

    def __init__(self, proxy: Proxy, number: int, client: so.socket, address: Any, since: float) -> None:
        self.proxy = proxy
        self.number = number
        self.address = address
        self.since = since
        self.closed = False
        self._connected = False
        loop = proxy.context.loop
        self.up = up = Link(self, loop, upward=True)
        self.down = down = Link(self, loop, upward=False)
        up.peer = down
        down.peer = up
        up.fd = client.fileno()
        self.client: so.socket | Side = client
        if proxy.tls is not None:
            self.client = proxy.tls.to_client(client, up, loop)
        up.recv_into = self.client.recv_into
        down.send = self.client.send
        self.upstream: so.socket | Side | None = None
        self._targets: list[Address] | None = None

    def open(self) -> None:
        """Dial the upstream, and start both directions without waiting for it to answer."""
        try:
            targets = self.proxy.targets()
        except AddressError as error:
            self.dial_failed(error)
            return
        if targets is None:
            self.proxy.look_up(self._looked_up)
        else:
            self._start(targets)

    def _looked_up(self, found: list[Address] | AddressError) -> None:
        if self.closed:
            return
        if isinstance(found, AddressError):
            self.dial_failed(found)
        else:
            self._start(found)

    def _start(self, targets: list[Address]) -> None:
        up = self.up
        if not self._dial(targets[0]):
            self._targets = targets[1:]
            self.dial_failed(self.proxy.dial_error)
            if self.closed:
                return
        elif len(targets) > 1:
            self._targets = targets[1:]
        up.loop.handlers[up.fd] = up.on_event
        up.loop.watch(up.fd, IN, 0)
        up.mask = IN
        if self.proxy.rules:
            for rule in self.proxy.rules:
                (up if rule.upward else self.down).add(rule, self.since)
                if self.closed:
                    return

    def _dial(self, target: Address) -> bool:
        """Start to connect to `target`; False if that failed at once."""
        upstream = None
        try:
            upstream = open_socket(target.family)
            error = upstream.connect_ex(target.sockaddr)
        except OSError as failed:
            error = failed.errno or EINPROGRESS
            self.proxy.dial_error = failed
        if upstream is None or error not in (0, EINPROGRESS):
            if upstream is not None:
                upstream.close()
                self.proxy.dial_error = OSError(error, "connect")
            return False
        down = self.down
        proxy = self.proxy
        down.loop = proxy.context.loop
        down.fd = fd = upstream.fileno()
        self.upstream = upstream
        if proxy.tls is not None:
            self.upstream = proxy.tls.to_upstream(upstream, down, proxy.context.loop, proxy.upstream)
        self.up.send = self.upstream.send
        down.recv_into = self.upstream.recv_into
        loop = down.loop
        loop.handlers[fd] = down.on_event
        loop.watch(fd, IN, 0)  # an error is always told; that it can be written to, we find out by writing
        down.mask = IN
        return True

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
        while self._targets:
            target = self._targets.pop(0)
            down = self.down
            waiting = down.mask & ~IN
            if self.upstream is not None:
                down.loop.forget(down.fd, down.mask)
                self.upstream.close()
                self.upstream = None
                down.mask = 0
            if self._dial(target):
                down.watch(down.mask | waiting)
                return
        log = self.proxy.context.log
        if log.errors:
            log.error(
                "Unable to open connection to upstream", name=self.proxy.name, client=self.shown_client, err=str(error)
            )
        doorman = self.proxy.doorman
        if doorman is not None:
            doorman.upstream_failed()
            if doorman.options["refuse_when_down"]:
                self.close(reset=True)
                return
        self.close(reset=self.up.bytes > 0)  # as the kernel does it when unread data is thrown away

    def tls_failed(self, link: Link, why: str) -> None:
        """TLS at the link's source did not come about, or broke: close, with a RST for a client that waits for an answer."""
        self.proxy.context.log.warning(
            "TLS failed",
            name=self.proxy.name,
            client=self.shown_client,
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
                link.loop.forget(link.fd, link.mask)
                if reset:
                    try:
                        sock.setsockopt(so.SOL_SOCKET, so.SO_LINGER, _RST_ON_CLOSE)
                    except OSError:
                        pass  # macOS refuses on a socket that the peer has reset
                sock.close()
        self.proxy.ended(self)
        # No circles left behind, so that memory is freed at once and not by the garbage collector.
        self.up = self.down = up.peer = down.peer = _NOBODY.up
        up.stages = down.stages = ()

    def chance(self, rule: str, upward: bool) -> Random:
        """The generator for one toxic on one of our links: the same for the same seed, whatever else happened."""
        from random import Random  # noqa: TID251  # seeded, from the seed that the controller hands in; and here, as it loads slowly

        direction = "upstream" if upward else "downstream"
        return Random(f"{self.proxy.context.seed}/{self.proxy.name}/{self.number}/{direction}/{rule}")

    def shown(self) -> dict[str, Any]:
        """The connection as GET /proxies/{p}/connections shows it; `since` is of the machine's monotonic clock."""
        return {
            "number": self.number,
            "client": self.shown_client,
            "upstream": self.proxy.upstream,
            "via": self.shown_via,
            "since": self.since,
            "connected": self.connected,
            "bytes": {"upstream": self.up.bytes, "downstream": self.down.bytes},
            "held": {"upstream": self.up.held(), "downstream": self.down.held()},
        }

    @property
    def shown_client(self) -> str:
        return show(self.address[0], self.address[1]) if isinstance(self.address, tuple) else "unix"

    @property
    def shown_via(self) -> str | None:
        """Our own address towards the upstream, by which the upstream knows the client; None before there is one."""
        try:
            address = self.upstream.getsockname() if self.upstream is not None else None
        except OSError:
            return None
        return show(address[0], address[1]) if isinstance(address, tuple) else None


class _Nobody(Connection):
    """Whom a closed connection's links point to: closed too, so nothing happens to it."""

    __slots__ = ()

    def __init__(self) -> None:
        self.closed = True
        self.up = self.down = Link(self, None, upward=True)  # type: ignore[arg-type]  # never looked at
        self.up.peer = self.up


_NOBODY = _Nobody()


class Proxy:
    """A door: a listener, an upstream, toxics, and the connections that came through.

    Attributes:
        listen: the address as the API shows it: resolved once the port was bound, as sent before.
        rules: toxics, all upstream ones in chain order, then all downstream ones.
        cut: connections closed by disabling or deleting.
    """

    def __init__(self, context: Context, name: str, listen: str, upstream: str) -> None:
        self.context = context
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.enabled = False
        self.listener: Listener | None = None
        self.rules: list[Rule] = []
        self.connections: dict[int, Connection] = {}
        self.accepted = Counter()
        self.refused = Counter()
        self.unattributed = 0  # sockets that may have been refused here
        self.cut = Counter()
        self.received = [0, 0]  # of connections that are over: downstream, upstream
        self.sent = [0, 0]
        self.ports: dict[int, None] = {}  # of clients that we had, so that their end is not taken for a refusal
        self.dial_error: Exception = OSError()
        self.doorman: Doorman | None = None
        self.tls: Tls | None = None
        self.fillers: dict[int, None] = {}  # ports of our own connections that fill the backlog
        self._targets: list[Address] | None = None

    # --- on and off --------------------------------------------------------------------------------------------------

    def start(self, listener: Listener | None = None) -> None:
        """Listen, at `listener` or where we listened before. Nothing happens if we do already.

        Raises:
            AddressError: the address can't be bound; nothing has changed.
        """
        listener = listener or self.listener
        if listener is None:
            raise AssertionError("a proxy starts at a listener")
        if not listener.listening:
            listener.listen()
        self.listener = listener
        self.listen = str(listener.address)
        self.watch_listener()
        fresh = not self.enabled
        if fresh:
            self.enabled = True
            self.context.log.info("Started proxy", name=self.name, listen=self.listen, upstream=self.upstream)
        if self.context.refusals is not None:
            self.context.refusals.enabled(self)
        if fresh and self.doorman is not None:
            self.doorman.settle()

    def stop(self) -> None:
        """Refuse from now on, and close all connections. The port stays ours."""
        if not self.enabled:
            return
        self.enabled = False
        if self.doorman is not None:
            self.doorman.leave()
        self.refuse()
        self.cut_all()
        self.context.log.info("Terminated proxy", name=self.name, listen=self.listen, upstream=self.upstream)

    def refuse(self) -> None:
        """Have the kernel refuse whoever comes; connections stay."""
        if self.listener is not None:
            self.unwatch_listener()
            if self.context.refusals is not None:
                self.context.refusals.disabled(self)
            self.listener.refuse()

    def keep_door(self, options: Mapping[str, Any]) -> None:
        """Take options for what happens at the door."""
        if options:
            if self.doorman is None:
                self.doorman = Doorman(self)
            self.doorman.set(options)

    def secure(self, tls: Tls | None) -> None:
        """Talk TLS on new connections, or plain if None; those that there are stay as they are."""
        if tls is not None and self.tls is not None:
            tls.failures = self.tls.failures
        self.tls = tls

    def cut_all(self) -> None:
        """Close all connections."""
        live = list(self.connections.values())
        for connection in live:
            connection.close()
        if live:
            self.cut.add(self.context.loop.now(), len(live))

    def remove(self, *, keep: bool = False) -> None:
        """Stop and give the port back, or leave it bound for whoever has the listener if `keep`."""
        self.stop()
        if self.context.refusals is not None:
            self.context.refusals.enabled(self)
        if self.listener is not None and not keep:
            self.listener.close()
        self.listener = None

    def watch_listener(self) -> None:
        """Accept from now on."""
        loop = self.context.loop
        if self.listener is not None and self.listener.socket.fileno() not in loop.handlers:
            fd = self.listener.socket.fileno()
            loop.handlers[fd] = self.accept
            loop.watch(fd, IN, 0)

    def unwatch_listener(self) -> None:
        """Accept no more; who connects waits in the backlog."""
        loop = self.context.loop
        if self.listener is not None and self.listener.socket.fileno() in loop.handlers:
            fd = self.listener.socket.fileno()
            loop.watch(fd, 0, IN)
            loop.forget(fd, 0)

    # --- connections -------------------------------------------------------------------------------------------------

    def accept(self, events: int) -> None:
        """A client waits at the listener."""
        listener = self.listener
        if listener is None or not self.enabled:
            return
        try:
            fd, address = listener.socket._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
        except OSError as error:
            if error.errno in _NO_RESOURCES:
                self._pause(listener)
            return  # gone again, otherwise
        self.take_in(fd, address)

    def take_in(self, fd: int, address: Any) -> None:
        """Relay for a client that was accepted."""
        listener = self.listener
        if listener is None:
            return
        client = so.socket(listener.family, so.SOCK_STREAM, listener.socket.proto, fd)
        client.setblocking(False)
        if self.fillers and address[1] in self.fillers:
            del self.fillers[address[1]]
            client.close()
            return
        now = self.context.loop.now()
        accepted = self.accepted
        accepted.count = number = accepted.count + 1
        accepted.last = now
        if number == 1:
            accepted.first = now
        connection = self.connections[number] = Connection(self, number, client, address, now)
        if listener.family != so.AF_UNIX:
            self.ports[address[1]] = None
        log = self.context.log
        if log.infos:
            log.info("Accepted client", name=self.name, client=connection.shown_client, upstream=self.upstream)
        if self.doorman is None:
            connection.open()
        else:
            self.doorman.let_in(connection)

    def _pause(self, listener: Listener) -> None:
        """Out of descriptors or memory: those who wait go on waiting, and we don't spin."""
        self.unwatch_listener()
        loop = self.context.loop

        def again() -> None:
            if self.enabled and self.listener is listener:
                self.start()

        loop.at(loop.now() + 0.05, again)

    def targets(self) -> list[Address] | None:
        """Where to dial, in order; None if a name has to be looked up first.

        Raises:
            AddressError: the upstream's address can't be read.
        """
        if self._targets is None:
            self._targets = find_upstream(self.upstream)
        return self._targets

    def look_up(self, then: Callable[[list[Address] | AddressError], None]) -> None:
        """Look up the upstream's name, as for each connection, and go on with the addresses."""
        host, port = split(self.upstream)

        def found(answer: list[tuple[int, str]] | AddressError) -> None:
            if isinstance(answer, AddressError):
                then(answer)
            else:
                then([Address(family, each, int(port)) for family, each in answer])

        self.context.resolver.ask(host, found)

    def forget_targets(self) -> None:
        """The upstream has changed."""
        self._targets = None

    def ended(self, connection: Connection) -> None:
        """A connection is over: keep its figures."""
        del self.connections[connection.number]
        for link in (connection.up, connection.down):
            self.received[link.upward] += link.bytes
            held = link.held() if link.stages or link.out is not None else 0
            self.sent[link.upward] += link.bytes - link.lost - held

    # --- toxics ------------------------------------------------------------------------------------------------------

    def links(self, rule: Rule) -> list[Link]:
        return [each.up if rule.upward else each.down for each in self.connections.values()]

    def find(self, name: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.name == name), None)

    def add(self, rule: Rule) -> None:
        """Put a toxic at the end of its stream's chain, on all connections, live ones too."""
        upstream = [each for each in self.rules if each.upward]
        downstream = [each for each in self.rules if not each.upward]
        (upstream if rule.upward else downstream).append(rule)
        self.rules = upstream + downstream
        self._each_link(rule, Link.add)

    def update(self, rule: Rule, *, aim: bool = False) -> None:
        """Have all links work on with the toxic's new settings; with `aim`, with a new trigger too."""
        now = self.context.loop.now()
        for link in self.links(rule):
            if not link.connection.closed:
                link.update(rule, now, aim=aim)

    def discard(self, rule: Rule) -> None:
        """Take a toxic away, and let go of what it holds."""
        self.rules = [each for each in self.rules if each is not rule]
        self._each_link(rule, Link.remove)

    def _each_link(self, rule: Rule, change: Callable[[Link, Rule, float], None]) -> None:
        now = self.context.loop.now()
        for link in self.links(rule):
            if not link.connection.closed:
                change(link, rule, now)

    # --- what the API shows ------------------------------------------------------------------------------------------

    def shown(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream,
            "enabled": self.enabled,
            "Logger": {},  # leaks out of the original; some client may have it in a struct
            "toxics": [rule.shown() for rule in self.rules],
            **(self.doorman.shown() if self.doorman is not None else {}),
            **({"tls": self.tls.shown} if self.tls is not None else {}),
        }

    def total(self, *, upward: bool, sent: bool = False) -> int:
        """Bytes received (or sent on) in one direction since the proxy was made, live connections included."""
        past = self.sent if sent else self.received
        total = past[upward]
        for connection in self.connections.values():
            link = connection.up if upward else connection.down
            total += link.bytes - (link.lost + link.held() if sent else 0)
        return total

    def counted(self) -> dict[str, Any]:
        """The body of GET /proxies/{p}/counters; times are of the machine's monotonic clock."""
        now = self.context.loop.now()
        refused = self.refused.shown()
        refusals = self.context.refusals
        if refusals is None or not refusals.read():
            refused["count"] = None
        refused["unattributed"] = self.unattributed
        return {
            "now": now,
            "connections": len(self.connections),
            "accepted": self.accepted.shown(),
            "refused": refused,
            "cut": self.cut.shown(),
            "bytes": {"upstream": self.total(upward=True), "downstream": self.total(upward=False)},
            "toxics": {rule.name: rule.counted() for rule in self.rules},
            **({"tls": self.tls.counted()} if self.tls is not None else {}),
        }


def find_upstream(text: str) -> list[Address] | None:
    """Where `text` leads; None if it is a name to look up. `localhost` is not: it never changes.

    Raises:
        AddressError: it can't be read.
    """
    if text.startswith("unix:"):
        return [Address(so.AF_UNIX, text[5:], 0)]
    host, port_text = split(text)
    if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
        raise AddressError(f"address {text}: invalid port")
    port = int(port_text)
    family = numeric(host or "127.0.0.1")
    if family is not None:
        return [Address(family, host or "127.0.0.1", port)]
    if host == "localhost":
        return [Address(family, found, port) for family, found in look_up(host)]
    return None
