"""Doors: a listener, an upstream, toxics, and the connections that come through."""

from __future__ import annotations

import _socket as so
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .admission import AdmissionControl
from .connection import Connection
from .descriptors import NO_RESOURCES, PER_CONNECTION, RETRY_DELAY
from .event_counter import EventCounter
from .event_loop import IN, Timer
from .heap import HeldMemory
from .installed_toxic import InstalledToxic
from .link import Link
from .listener import Listener
from .runtime import ProxyRuntime
from .upstream import Upstream

if TYPE_CHECKING:
    from .tls import TlsConfig


class Proxy:
    """A door: a listener, an upstream, toxics, and the connections that came through.

    Attributes:
        listen: the address as the API shows it: resolved once the port was bound, as sent before.
        rules: toxics, all upstream ones in chain order, then all downstream ones.
        cut: connections closed by disabling or deleting.
    """

    def __init__(self, runtime: ProxyRuntime, name: str, listen: str, upstream: str) -> None:
        self.runtime = runtime
        self.name = name
        self.listen = listen
        self.upstream = Upstream(upstream, runtime.resolver)
        self.enabled = False
        self.listener: Listener | None = None
        self.toxics: list[InstalledToxic] = []
        self.connections: dict[int, Connection] = {}
        self.accepted = EventCounter()
        self.refused = EventCounter()
        self.unattributed = 0  # sockets that may have been refused here
        self.cut = EventCounter()
        self.received = [0, 0]  # of connections that are over: downstream, upstream
        self.sent = [0, 0]
        self.client_ports: dict[int, None] = {}  # of clients that we had, so that their end is not taken for a refusal
        self.admission: AdmissionControl | None = None
        self.tls: TlsConfig | None = None
        self.backlog_fillers: dict[int, None] = {}  # ports of our own connections that fill the backlog
        self._out_of_resources = False  # no descriptors or memory for another client
        self._resume: Timer | None = None
        self.held_memory = HeldMemory(runtime.loop, self.connections, lambda: self.toxics, self._count_queued)

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
        self.resume_accepting()
        fresh = not self.enabled
        if fresh:
            self.enabled = True
            self.runtime.log.info("Started proxy", name=self.name, listen=self.listen, upstream=self.upstream.text)
        if self.runtime.refused_connections is not None:
            self.runtime.refused_connections.stop_counting(self)
        if fresh and self.admission is not None:
            self.admission.apply()

    def stop(self) -> None:
        """Refuse from now on, and close all connections. The port stays ours."""
        if not self.enabled:
            return
        self.enabled = False
        if self.admission is not None:
            self.admission.stop()
        self.refuse()
        self.close_connections()
        self.runtime.log.info("Terminated proxy", name=self.name, listen=self.listen, upstream=self.upstream.text)

    def refuse(self) -> None:
        """Have the kernel refuse whoever comes; connections stay."""
        if self.listener is not None:
            self.pause_accepting()
            if self.runtime.refused_connections is not None:
                self.runtime.refused_connections.start_counting(self)
            self.listener.refuse()

    def set_admission(self, options: Mapping[str, Any]) -> None:
        """Take options for what happens at the door."""
        if options:
            if self.admission is None:
                self.admission = AdmissionControl(self)
            self.admission.set(options)

    def set_tls(self, tls: TlsConfig | None) -> None:
        """Talk TLS on new connections, or plain if None; those that there are stay as they are."""
        if tls is not None and self.tls is not None:
            tls.failures = self.tls.failures
        self.tls = tls

    def close_connections(self) -> None:
        """Close all connections."""
        live = list(self.connections.values())
        for connection in live:
            connection.close()
        if live:
            self.cut.add(self.runtime.loop.now(), len(live))

    def close(self, *, keep: bool = False) -> None:
        """Stop and give the port back, or leave it bound for whoever has the listener if `keep`."""
        self.stop()
        if self.runtime.refused_connections is not None:
            self.runtime.refused_connections.stop_counting(self)
        if self.listener is not None and not keep:
            self.listener.close()
        self._take_listener(None)

    def _take_listener(self, listener: Listener | None) -> None:
        """Make `listener` this proxy's, in place of the one before."""
        own = self.runtime.self_connections
        if self.listener is not listener:
            if self.listener is not None and self.listener.family != so.AF_UNIX:
                own.remove_listener(self.listener.address.port)
            if listener is not None and listener.family != so.AF_UNIX:
                own.add_listener(listener.address.port)
        self.listener = listener

    def resume_accepting(self) -> None:
        """Accept from now on."""
        loop = self.runtime.loop
        if self.listener is not None and self.listener.socket.fileno() not in loop.handlers:
            fd = self.listener.socket.fileno()
            loop.handlers[fd] = self.accept
            loop.watch(fd, IN, 0)

    def pause_accepting(self) -> None:
        """Accept no more; who connects waits in the backlog."""
        loop = self.runtime.loop
        if self.listener is not None and self.listener.socket.fileno() in loop.handlers:
            fd = self.listener.socket.fileno()
            loop.watch(fd, 0, IN)
            loop.unregister(fd, 0)

    # --- connections -------------------------------------------------------------------------------------------------

    def accept(self, events: int) -> None:
        """A client waits at the listener."""
        listener = self.listener
        if listener is None or not self.enabled:
            return
        descriptors = self.runtime.descriptors
        if descriptors.in_use >= descriptors.limit:
            self._back_off(listener, "the descriptors that clients may have are taken")
            return
        try:
            fd, address = listener.socket._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
        except OSError as error:
            if error.errno in NO_RESOURCES:
                descriptors.measure()
                self._back_off(listener, error.strerror or str(error))
            return  # gone again, otherwise
        self._out_of_resources = False
        self.handle_accepted(fd, address)

    def handle_accepted(self, fd: int, address: Any) -> None:
        """Relay for a client that was accepted."""
        listener = self.listener
        if listener is None:
            return
        client = so.socket(listener.family, so.SOCK_STREAM, listener.socket.proto, fd)
        client.setblocking(False)
        if self.backlog_fillers and address[1] in self.backlog_fillers:
            del self.backlog_fillers[address[1]]
            client.close()
            return
        chain = self.runtime.self_connections.chain_of(address)
        if chain and self in chain:
            client.close()
            self.runtime.log.error("Proxy leads back to itself", name=self.name, upstream=self.upstream.text)
            return
        self.runtime.descriptors.in_use += PER_CONNECTION
        now = self.runtime.loop.now()
        accepted = self.accepted
        accepted.count = number = accepted.count + 1
        accepted.last = now
        if number == 1:
            accepted.first = now
        connection = self.connections[number] = Connection(self, number, client, address, now, chain)
        if listener.family != so.AF_UNIX:
            self.client_ports[address[1]] = None
        log = self.runtime.log
        if log.infos:
            log.info("Accepted client", name=self.name, client=connection.client_address, upstream=self.upstream.text)
        if self.admission is None:
            connection.open()
        else:
            self.admission.admit(connection)

    def _back_off(self, listener: Listener, reason: str) -> None:
        """Leave clients in the backlog for a while: there are no descriptors or no memory for another one."""
        self.pause_accepting()
        if not self._out_of_resources:
            self._out_of_resources = True  # one line until a client is accepted again
            self.runtime.log.warning("Clients have to wait", name=self.name, err=reason)
        if self._resume is None:
            self._resume = self.runtime.loop.call_at(
                self.runtime.loop.now() + RETRY_DELAY, self._resume_accepting_later
            )

    def _resume_accepting_later(self) -> None:
        self._resume = None
        # The listener may have been told to refuse or to leave its backlog full in the meantime.
        hanging = self.admission is not None and self.admission.hanging
        if self.enabled and self.listener is not None and self.listener.listening and not hanging:
            self.resume_accepting()

    def on_connection_closed(self, connection: Connection) -> None:
        """A connection is over: keep its figures."""
        del self.connections[connection.number]
        self.runtime.descriptors.in_use -= PER_CONNECTION
        if connection.self_connection is not None:
            self.runtime.self_connections.remove_connection(connection.self_connection)
        for link in (connection.up, connection.down):
            self.received[link.upward] += link.bytes
            held = link.held_bytes() if link.stages or link.out is not None else 0
            self.sent[link.upward] += link.bytes - link.dropped - held
            self.held_memory.add_freed(held)

    def _count_queued(self) -> int:
        """Return the bytes that wait in the queues of all toxics."""
        return sum(
            stage.waiting
            for each in self.connections.values()
            for link in (each.up, each.down)
            for stage in link.stages
        )

    # --- toxics ------------------------------------------------------------------------------------------------------

    def links_of(self, toxic: InstalledToxic) -> list[Link]:
        """Return the links that a toxic works on. A connection that is not dialled yet installs its toxics when it is."""
        return [each.up if toxic.upward else each.down for each in self.connections.values() if each.started]

    def find_toxic(self, name: str) -> InstalledToxic | None:
        return next((toxic for toxic in self.toxics if toxic.name == name), None)

    def add_toxic(self, toxic: InstalledToxic) -> None:
        """Put a toxic at the end of its stream's chain, on all connections, live ones too."""
        upstream = [each for each in self.toxics if each.upward]
        downstream = [each for each in self.toxics if not each.upward]
        (upstream if toxic.upward else downstream).append(toxic)
        self.toxics = upstream + downstream
        toxic.added_at = self.runtime.loop.now()
        self._each_link(toxic, Link.add)

    def update_toxic(self, toxic: InstalledToxic, *, restart: bool = False) -> None:
        """Have all links work on with the toxic's new settings; with `aim`, with a new trigger too."""
        now = self.runtime.loop.now()
        for link in self.links_of(toxic):
            if not link.connection.closed:
                link.update(toxic, now, restart=restart)

    def remove_toxic(self, toxic: InstalledToxic) -> None:
        """Take a toxic away, and let go of what it holds."""
        self.toxics = [each for each in self.toxics if each is not toxic]
        self._each_link(toxic, Link.remove)

    def _each_link(self, toxic: InstalledToxic, change: Callable[[Link, InstalledToxic, float], None]) -> None:
        now = self.runtime.loop.now()
        for link in self.links_of(toxic):
            if not link.connection.closed:
                change(link, toxic, now)

    # --- what the API shows ------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream.text,
            "enabled": self.enabled,
            "Logger": {},  # leaks out of the original; some client may have it in a struct
            "toxics": [toxic.to_json() for toxic in self.toxics],
            **(self.admission.to_json() if self.admission is not None else {}),
            **({"tls": self.tls.as_json} if self.tls is not None else {}),
        }

    def total(self, *, upward: bool, sent: bool = False) -> int:
        """Bytes received (or sent on) in one direction since the proxy was made, live connections included."""
        past = self.sent if sent else self.received
        total = past[upward]
        for connection in self.connections.values():
            link = connection.up if upward else connection.down
            total += link.bytes - (link.dropped + link.held_bytes() if sent else 0)
        return total

    def counters_json(self) -> dict[str, Any]:
        """The body of GET /proxies/{p}/counters; times are of the machine's monotonic clock."""
        now = self.runtime.loop.now()
        refused = self.refused.to_json()
        refusals = self.runtime.refused_connections
        if refusals is None or not refusals.read():
            refused["count"] = None
        refused["unattributed"] = self.unattributed
        return {
            "now": now,
            "connections": len(self.connections),
            "accepted": self.accepted.to_json(),
            "refused": refused,
            "cut": self.cut.to_json(),
            "bytes": {"upstream": self.total(upward=True), "downstream": self.total(upward=False)},
            "toxics": {toxic.name: toxic.counters_json() for toxic in self.toxics},
            **({"tls": self.tls.counters_json()} if self.tls is not None else {}),
        }
