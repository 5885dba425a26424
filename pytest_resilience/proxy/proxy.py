"""Doors: a listener, an upstream, toxics, and the connections that come through."""

from __future__ import annotations

import _socket as so
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .address import Address, AddressError, look_up, numeric, split
from .admission import AdmissionControl
from .connection import Connection
from .descriptors import NO_RESOURCES, PAUSE, PER_CONNECTION, DescriptorBudget
from .event_loop import IN, EventLoop, Timer
from .heap import CHECK_INTERVAL, MIN_HELD, trim
from .installed_toxic import EventCounter, InstalledToxic
from .link import Link
from .listener import Listener
from .log import Log
from .resolver import Resolver
from .self_connections import SelfConnections

if TYPE_CHECKING:
    from .tls import TlsConfig


class ProxyRuntime:
    """What all proxies of a process share."""

    __slots__ = ("descriptors", "log", "loop", "refusals", "resolver", "seed", "self_connections")

    def __init__(self, loop: EventLoop, log: Log, seed: int, refusals: Any = None) -> None:
        self.loop = loop
        self.log = log
        self.seed = seed
        self.refusals = refusals
        self.resolver = Resolver(loop)
        self.descriptors = DescriptorBudget()
        self.self_connections = SelfConnections()


class Proxy:
    """A door: a listener, an upstream, toxics, and the connections that came through.

    Attributes:
        listen: the address as the API shows it: resolved once the port was bound, as sent before.
        rules: toxics, all upstream ones in chain order, then all downstream ones.
        cut: connections closed by disabling or deleting.
    """

    def __init__(self, context: ProxyRuntime, name: str, listen: str, upstream: str) -> None:
        self.context = context
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.enabled = False
        self.listener: Listener | None = None
        self.rules: list[InstalledToxic] = []
        self.connections: dict[int, Connection] = {}
        self.accepted = EventCounter()
        self.refused = EventCounter()
        self.unattributed = 0  # sockets that may have been refused here
        self.cut = EventCounter()
        self.received = [0, 0]  # of connections that are over: downstream, upstream
        self.sent = [0, 0]
        self.ports: dict[int, None] = {}  # of clients that we had, so that their end is not taken for a refusal
        self.dial_error: Exception = OSError()
        self.doorman: AdmissionControl | None = None
        self.tls: TlsConfig | None = None
        self.fillers: dict[int, None] = {}  # ports of our own connections that fill the backlog
        self._starved = False  # no descriptors or memory for another client
        self._resume: Timer | None = None
        self._held_timer: Timer | None = None
        self._held_peak = 0  # the most bytes that toxics held since memory was last given back
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
        self._take_listener(listener)
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
                self.doorman = AdmissionControl(self)
            self.doorman.set(options)

    def secure(self, tls: TlsConfig | None) -> None:
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
        self._take_listener(None)

    def _take_listener(self, listener: Listener | None) -> None:
        """Make `listener` this proxy's, in place of the one before."""
        own = self.context.self_connections
        if self.listener is not listener:
            if self.listener is not None and self.listener.family != so.AF_UNIX:
                own.closed(self.listener.address.port)
            if listener is not None and listener.family != so.AF_UNIX:
                own.listening(listener.address.port)
        self.listener = listener

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
        descriptors = self.context.descriptors
        if descriptors.taken >= descriptors.room:
            self._pause(listener, "the descriptors that clients may have are taken")
            return
        try:
            fd, address = listener.socket._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
        except OSError as error:
            if error.errno in NO_RESOURCES:
                descriptors.measure()
                self._pause(listener, error.strerror or str(error))
            return  # gone again, otherwise
        self._starved = False
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
        chain = self.context.self_connections.chain(address)
        if chain and self in chain:
            client.close()
            self.context.log.error("Proxy leads back to itself", name=self.name, upstream=self.upstream)
            return
        self.context.descriptors.taken += PER_CONNECTION
        now = self.context.loop.now()
        accepted = self.accepted
        accepted.count = number = accepted.count + 1
        accepted.last = now
        if number == 1:
            accepted.first = now
        connection = self.connections[number] = Connection(self, number, client, address, now, chain)
        if listener.family != so.AF_UNIX:
            self.ports[address[1]] = None
        log = self.context.log
        if log.infos:
            log.info("Accepted client", name=self.name, client=connection.shown_client, upstream=self.upstream)
        if self.doorman is None:
            connection.open()
        else:
            self.doorman.let_in(connection)

    def _pause(self, listener: Listener, reason: str) -> None:
        """Leave clients in the backlog for a while: there are no descriptors or no memory for another one."""
        self.unwatch_listener()
        if not self._starved:
            self._starved = True  # one line until a client is accepted again
            self.context.log.warning("Clients have to wait", name=self.name, err=reason)
        if self._resume is None:
            self._resume = self.context.loop.at(self.context.loop.now() + PAUSE, self._accept_again)

    def _accept_again(self) -> None:
        self._resume = None
        # The listener may have been told to refuse or to leave its backlog full in the meantime.
        hanging = self.doorman is not None and self.doorman.hanging
        if self.enabled and self.listener is not None and self.listener.listening and not hanging:
            self.watch_listener()

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
        self.context.descriptors.taken -= PER_CONNECTION
        if connection.dialled is not None:
            self.context.self_connections.forget(connection.dialled)
        for link in (connection.up, connection.down):
            self.received[link.upward] += link.bytes
            held = link.held() if link.stages or link.out is not None else 0
            self.sent[link.upward] += link.bytes - link.lost - held
            if held > MIN_HELD:
                self._held_peak += held  # it goes now, whatever was there at the last look

    # --- memory ------------------------------------------------------------------------------------------------------

    def watch_held(self) -> None:
        """Look from time to time how much the toxics hold, and give memory back when half of the most is gone."""
        if self._held_timer is None:
            self._held_peak = max(self._held_peak, MIN_HELD + 1)
            self._held_timer = self.context.loop.at(self.context.loop.now() + CHECK_INTERVAL, self._check_held)

    def _check_held(self) -> None:
        self._held_timer = None
        waiting = sum(
            stage.waiting
            for each in self.connections.values()
            for link in (each.up, each.down)
            for stage in link.stages
        )
        if waiting < self._held_peak // 2:
            trim()
            self._held_peak = waiting
        self._held_peak = max(self._held_peak, waiting)
        if self._held_peak > MIN_HELD:
            self.watch_held()
        else:
            self._held_peak = 0

    # --- toxics ------------------------------------------------------------------------------------------------------

    def links(self, rule: InstalledToxic) -> list[Link]:
        """Return the links that a toxic works on. A connection that is not dialled yet installs its toxics when it is."""
        return [each.up if rule.upward else each.down for each in self.connections.values() if each.started]

    def find(self, name: str) -> InstalledToxic | None:
        return next((rule for rule in self.rules if rule.name == name), None)

    def add(self, rule: InstalledToxic) -> None:
        """Put a toxic at the end of its stream's chain, on all connections, live ones too."""
        upstream = [each for each in self.rules if each.upward]
        downstream = [each for each in self.rules if not each.upward]
        (upstream if rule.upward else downstream).append(rule)
        self.rules = upstream + downstream
        rule.added_at = self.context.loop.now()
        self._each_link(rule, Link.add)

    def update(self, rule: InstalledToxic, *, aim: bool = False) -> None:
        """Have all links work on with the toxic's new settings; with `aim`, with a new trigger too."""
        now = self.context.loop.now()
        for link in self.links(rule):
            if not link.connection.closed:
                link.update(rule, now, aim=aim)

    def discard(self, rule: InstalledToxic) -> None:
        """Take a toxic away, and let go of what it holds."""
        self.rules = [each for each in self.rules if each is not rule]
        self._each_link(rule, Link.remove)

    def _each_link(self, rule: InstalledToxic, change: Callable[[Link, InstalledToxic, float], None]) -> None:
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
    digits = port_text.lstrip("0")
    if not port_text.isascii() or not port_text.isdigit() or len(digits) > 5 or int(digits or "0") > 65535:
        raise AddressError(f"address {text}: invalid port")
    port = int(digits or "0")
    family = numeric(host or "127.0.0.1")
    if family is not None:
        return [Address(family, host or "127.0.0.1", port)]
    if host == "localhost":
        return [Address(family, found, port) for family, found in look_up(host)]
    return None
