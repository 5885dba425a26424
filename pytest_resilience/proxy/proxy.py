"""One proxy: a listener, an upstream, toxics, and the connections that come through."""

from __future__ import annotations

import _socket as so
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .admission import AdmissionControl
from .connection import Connection, ConnectionSetup
from .descriptors import NO_RESOURCES, PER_CONNECTION, RETRY_DELAY
from .event_counter import EventCounter
from .event_loop import Timer
from .heap import HeldMemory
from .installed_toxic import InstalledToxic
from .link import Link
from .listener import Listener
from .runtime import ProxyRuntime
from .statements import InstalledRule, Rules
from .upstream import Upstream

if TYPE_CHECKING:
    from .tls_config import TlsConfig


class Proxy:
    """A listener, an upstream, toxics, and the connections that come through.

    Attributes:
        listen: the address as the API shows it: resolved once the port was bound, as sent before.
        toxics: all upstream ones in chain order, then all downstream ones.
        client_ports: ports of clients that were accepted. The end of such a client is no refused connection.
        cut: connections closed by disabling or deleting.
        unattributed: notices of sockets that may have been refused here, and times at which the kernel dropped notices.
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
        self.unattributed = 0
        self.cut = EventCounter()
        self.client_ports: dict[int, None] = {}
        self.admission: AdmissionControl | None = None
        self._received = [0, 0]  # bytes of closed connections: downstream, upstream
        self._sent = [0, 0]
        self._out_of_resources = False  # no descriptors or memory for another client
        self._retry: Timer | None = None
        self._setup = ConnectionSetup(
            name=name,
            upstream=self.upstream,
            toxics=self.toxics,
            tls=None,
            rules=None,
            runtime=runtime,
            held_memory=HeldMemory(runtime.loop, self.connections, self.toxics, self._queued_bytes),
            on_closed=self._on_connection_closed,
            on_upstream_failed=self._on_upstream_failed,
        )

    # --- on and off --------------------------------------------------------------------------------------------------

    def start(self, listener: Listener | None = None) -> None:
        """Listen, unless this proxy listens already.

        Args:
            listener: where to listen; None for the listener that this proxy has.

        Raises:
            AddressError: the address can't be bound. Nothing has changed then.
        """
        listener = listener or self.listener
        if listener is None:
            raise AssertionError("a proxy starts at a listener")
        if not listener.listening:
            listener.listen()
        self._set_listener(listener)
        self.listen = str(listener.address)
        self.resume_accepting()
        was_enabled = self.enabled
        if not was_enabled:
            self.enabled = True
            self.runtime.log.info("Started proxy", name=self.name, listen=self.listen, upstream=self.upstream.text)
        if self.runtime.refused_connections is not None:
            self.runtime.refused_connections.stop_counting(self)
        if not was_enabled and self.admission is not None:
            self.admission.apply()

    def stop(self) -> None:
        """Refuse clients from now on, and close all connections. The port stays bound."""
        if not self.enabled:
            return
        self.enabled = False
        if self.admission is not None:
            self.admission.stop()
        self.refuse()
        self.close_connections()
        self.runtime.log.info("Terminated proxy", name=self.name, listen=self.listen, upstream=self.upstream.text)

    def refuse(self) -> None:
        """Have the kernel refuse new clients. Connections stay."""
        if self.listener is not None:
            self.pause_accepting()
            if self.runtime.refused_connections is not None:
                self.runtime.refused_connections.start_counting(self)
            self.listener.refuse()

    def set_admission(self, options: Mapping[str, Any]) -> None:
        """Change options of the admission control."""
        if options:
            if self.admission is None:
                self.admission = AdmissionControl(self, self.upstream, self.runtime.loop)
            self.admission.set(options)

    @property
    def tls(self) -> TlsConfig | None:
        """The TLS options of new connections, or None for plain text."""
        return self._setup.tls

    def set_tls(self, tls: TlsConfig | None) -> None:
        """Use other TLS options for new connections. Live connections stay as they are."""
        if tls is not None and self.tls is not None:
            tls.failures = self.tls.failures
        self._setup = self._setup._replace(tls=tls)

    @property
    def rules(self) -> Rules | None:
        """The rules for the statements of new connections, or None if the proxy has no protocol."""
        return self._setup.rules

    def set_rules(self, rules: Rules | None) -> None:
        """Have these rules act on the statements of new connections. None stands for no protocol. Live connections stay as they are."""
        if rules is not self.rules:
            self._setup = self._setup._replace(rules=rules)

    def close_connections(self) -> None:
        """Close all connections."""
        live = list(self.connections.values())
        for connection in live:
            connection.close()
        if live:
            self.cut.add(self.runtime.loop.now(), len(live))

    def close(self, *, keep_port: bool = False) -> None:
        """Stop, and release the listener.

        Args:
            keep_port: leave the listener open: it is another proxy's now.
        """
        self.stop()
        if self.runtime.refused_connections is not None:
            self.runtime.refused_connections.stop_counting(self)
        if self.listener is not None and not keep_port:
            self.listener.close()
        self._set_listener(None)

    def _set_listener(self, listener: Listener | None) -> None:
        own = self.runtime.self_connections
        if self.listener is not listener:
            if self.listener is not None and self.listener.family != so.AF_UNIX:
                own.remove_listener(self.listener.address.port)
            if listener is not None and listener.family != so.AF_UNIX:
                own.add_listener(listener.address.port)
        self.listener = listener

    def resume_accepting(self) -> None:
        """Accept clients from now on."""
        if self.listener is not None:
            self.listener.watch(self.runtime.loop, self._accept)

    def pause_accepting(self) -> None:
        """Leave clients in the backlog from now on."""
        if self.listener is not None:
            self.listener.unwatch(self.runtime.loop)

    # --- connections -------------------------------------------------------------------------------------------------

    def _accept(self, events: int) -> None:
        listener = self.listener
        if listener is None or not self.enabled:
            return
        descriptors = self.runtime.descriptors
        if descriptors.in_use >= descriptors.limit:
            self._back_off("the descriptors that clients may have are taken")
            return
        try:
            fd, sockaddr = listener.socket._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
        except OSError as error:
            if error.errno in NO_RESOURCES:
                descriptors.measure()
                self._back_off(error.strerror or str(error))
            return  # with any other error, the client is gone
        self._out_of_resources = False
        self.handle_accepted(fd, sockaddr)

    def handle_accepted(self, fd: int, sockaddr: Any) -> None:
        """Relay for an accepted client."""
        listener = self.listener
        if listener is None:
            return
        client = so.socket(listener.family, so.SOCK_STREAM, listener.socket.proto, fd)
        client.setblocking(False)
        if self.admission is not None and self.admission.take_filler(sockaddr):
            client.close()
            return
        chain = self.runtime.self_connections.chain_of(sockaddr)
        if chain and self.upstream in chain:
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
        connection = self.connections[number] = Connection(self._setup, number, client, sockaddr, now, chain)
        if listener.family != so.AF_UNIX:
            self.client_ports[sockaddr[1]] = None
        log = self.runtime.log
        if log.infos:
            log.info("Accepted client", name=self.name, client=connection.client_address, upstream=self.upstream.text)
        if self.admission is None:
            connection.open()
        else:
            self.admission.admit(connection)

    def _back_off(self, reason: str) -> None:
        """Leave clients in the backlog for RETRY_DELAY, because descriptors or memory for another one are missing."""
        self.pause_accepting()
        if not self._out_of_resources:
            self._out_of_resources = True  # one log line until a client is accepted again
            self.runtime.log.warning("Clients have to wait", name=self.name, err=reason)
        if self._retry is None:
            self._retry = self.runtime.loop.call_at(self.runtime.loop.now() + RETRY_DELAY, self._end_back_off)

    def _end_back_off(self) -> None:
        self._retry = None
        # The proxy may refuse clients, or keep its backlog full, by now.
        hanging = self.admission is not None and self.admission.hanging
        if self.enabled and self.listener is not None and self.listener.listening and not hanging:
            self.resume_accepting()

    def _on_upstream_failed(self) -> bool:
        """Return True if the client gets a RST."""
        if self.admission is None:
            return False
        self.admission.upstream_failed()
        return bool(self.admission.options["refuse_when_down"])

    def _on_connection_closed(self, connection: Connection) -> None:
        """Add the figures of a closed connection to the totals."""
        del self.connections[connection.number]
        self.runtime.descriptors.in_use -= PER_CONNECTION
        if connection.self_connection is not None:
            self.runtime.self_connections.remove_connection(connection.self_connection)
        for link in (connection.up, connection.down):
            self._received[link.upward] += link.bytes
            held = link.held_bytes() if link.stages or link.out is not None else 0
            self._sent[link.upward] += link.bytes - link.dropped_bytes() - held
            self._setup.held_memory.add_freed(held)

    def _queued_bytes(self) -> int:
        """Return the bytes that wait in the queues of all toxics."""
        return sum(
            stage.waiting
            for each in self.connections.values()
            for link in (each.up, each.down)
            for stage in link.stages
        )

    # --- toxics ------------------------------------------------------------------------------------------------------

    def find_toxic(self, name: str) -> InstalledToxic | None:
        """Return the toxic of that name, or None if there is none."""
        return next((toxic for toxic in self.toxics if toxic.name == name), None)

    def add_toxic(self, toxic: InstalledToxic) -> None:
        """Put a toxic at the end of its stream's chain, on live connections too."""
        upstream = [each for each in self.toxics if each.upward]
        downstream = [each for each in self.toxics if not each.upward]
        (upstream if toxic.upward else downstream).append(toxic)
        self.toxics[:] = upstream + downstream
        toxic.added_at = self.runtime.loop.now()
        if isinstance(toxic, InstalledRule):
            toxic.install()
            self._notify_taps()
            return
        self._each_link(toxic, Link.add)

    def update_toxic(self, toxic: InstalledToxic, *, restart: bool = False) -> None:
        """Use the toxic's new settings on all links. With `restart`, restart the counts of its trigger too."""
        if isinstance(toxic, InstalledRule):
            self._notify_taps()
            return
        now = self.runtime.loop.now()
        for link in self._links_of(toxic):
            if not link.owner.closed:
                link.update(toxic, now, restart=restart)

    def remove_toxic(self, toxic: InstalledToxic) -> None:
        """Remove a toxic, and release what it holds."""
        self.toxics[:] = [each for each in self.toxics if each is not toxic]
        if isinstance(toxic, InstalledRule):
            toxic.uninstall()
            self._notify_taps()
            return
        self._each_link(toxic, Link.remove)

    def _notify_taps(self) -> None:
        """Have all taps take account of changed rules."""
        for connection in list(self.connections.values()):
            if connection.tap is not None:
                connection.tap.rules_changed()

    def _links_of(self, toxic: InstalledToxic) -> list[Link]:
        """Return the links that a toxic works on. A connection that is not dialled yet installs its toxics when it is."""
        return [each.up if toxic.upward else each.down for each in self.connections.values() if each.started]

    def _each_link(self, toxic: InstalledToxic, change: Callable[[Link, InstalledToxic, float], None]) -> None:
        now = self.runtime.loop.now()
        for link in self._links_of(toxic):
            if not link.owner.closed:
                change(link, toxic, now)

    # --- for the API -------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return the proxy as the API shows it."""
        return {
            "name": self.name,
            "listen": self.listen,
            "upstream": self.upstream.text,
            "enabled": self.enabled,
            "Logger": {},  # toxiproxy-server exposes this field by mistake, and a client may decode it
            "toxics": [toxic.to_json() for toxic in self.toxics],
            **(self.admission.to_json() if self.admission is not None else {}),
            **({"tls": self.tls.as_json} if self.tls is not None else {}),
            **({"protocol": self.rules.protocol} if self.rules is not None else {}),
        }

    def total(self, *, upward: bool, sent: bool = False) -> int:
        """Return the bytes received (or sent on) in one direction by all connections so far."""
        past = self._sent if sent else self._received
        total = past[upward]
        for connection in self.connections.values():
            link = connection.up if upward else connection.down
            total += link.bytes - (link.dropped_bytes() + link.held_bytes() if sent else 0)
        return total

    def counters_json(self) -> dict[str, Any]:
        """Return the body of GET /proxies/{p}/counters. Times are of the machine's monotonic clock."""
        now = self.runtime.loop.now()
        monitor = self.runtime.refused_connections
        is_reported = monitor is not None and monitor.read()
        refused = self.refused.to_json()
        if not is_reported:
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
            **(self.rules.counters_json() if self.rules is not None else {}),
        }
