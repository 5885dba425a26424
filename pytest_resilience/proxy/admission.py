"""Admission control, which Toxiproxy does not have. It makes accepts slow, refuses connections, and lets connects hang.

The kernel performs the TCP handshake, so a proxy has three ways to disturb it:

- `accept_delay`: dial the upstream later.
- `refuse_after`, `refuse_when_down`: do not listen. The kernel answers with a RST.
- `hang`: let the backlog run full. The kernel does not answer, and a client tries again after 1, 3, 7 ... seconds. So a client that
  waits is accepted up to a second after the end of `hang`.
"""

from __future__ import annotations

import _socket as so
from collections.abc import Mapping
from typing import Any, Protocol

from ..wire.toxiproxy import ADMISSION_DEFAULTS
from .address import AddressError, SocketAddress, open_socket
from .event_loop import OUT, EventLoop, Timer
from .listener import Listener
from .upstream import Upstream

PROBE_INTERVAL = 0.05
"""Seconds between two attempts to connect to an upstream that refused."""


class HasListener(Protocol):
    """A proxy with a listener that admission control switches."""

    @property
    def enabled(self) -> bool: ...
    @property
    def listener(self) -> Listener | None: ...
    def start(self) -> None:
        """Listen."""

    def refuse(self) -> None:
        """Stop listening, and keep the port."""

    def resume_accepting(self) -> None:
        """Accept the clients in the backlog."""

    def pause_accepting(self) -> None:
        """Leave clients in the backlog."""

    def handle_accepted(self, fd: int, sockaddr: Any) -> None:
        """Relay for an accepted client."""


class Admittable(Protocol):
    """An accepted connection that is not dialled yet."""

    closed: bool

    def open(self) -> None:
        """Dial the upstream."""


class AdmissionControl:
    """The admission control of one proxy. Only a proxy with one of the options has it.

    Args:
        proxy: admits connections.
        upstream: of that proxy; probed while it is down.
    """

    def __init__(self, proxy: HasListener, upstream: Upstream, loop: EventLoop) -> None:
        self._proxy = proxy
        self._upstream = upstream
        self._loop = loop
        self.options: dict[str, Any] = dict(ADMISSION_DEFAULTS)
        self._admissions_left: int | None = None  # connections to admit before all are refused
        self._refusing = False
        self._fillers: list[so.socket] = []
        self._filler_ports: dict[int, None] = {}  # of fillers that were not accepted yet
        self._probe: so.socket | None = None
        self._timer: Timer | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the options that are not at their default."""
        return {name: value for name, value in self.options.items() if value != ADMISSION_DEFAULTS[name]}

    def set(self, options: Mapping[str, Any]) -> None:
        """Change some options, and leave the others."""
        self.options.update(options)
        if "refuse_after" in options:
            self._admissions_left = options["refuse_after"]
        self.apply()

    def clear(self) -> None:
        """Set all options to their defaults, except refuse_when_down, which is no fault."""
        self.set({name: value for name, value in ADMISSION_DEFAULTS.items() if name != "refuse_when_down"})

    def apply(self) -> None:
        """Bring the listener into the state that the options describe, after a change of them or of `enabled`."""
        if not self._proxy.enabled:
            self.stop()
            return
        self._set_hanging(on=bool(self.options["hang"]))
        self._set_refusing(on=self._admissions_left == 0 or self._probing)
        if self._probing and not self.options["refuse_when_down"]:
            self._stop_probing()
            self._set_refusing(on=self._admissions_left == 0)

    def stop(self) -> None:
        """Release everything when the proxy stops."""
        self._refusing = False
        self._stop_probing()
        self._close_fillers()

    # --- called by the proxy -----------------------------------------------------------------------------------------

    def admit(self, connection: Admittable) -> None:
        """Let an accepted connection dial its upstream, after `accept_delay`."""
        if self._admissions_left is not None:
            self._admissions_left -= 1
            if self._admissions_left <= 0:
                self._admissions_left = 0
                self._set_refusing(on=True)
        delay = self.options["accept_delay"] / 1000
        if not delay:
            connection.open()
            return

        def open_late() -> None:
            if not connection.closed:
                connection.open()

        self._loop.call_at(self._loop.now() + delay, open_late)

    def upstream_failed(self) -> None:
        """Refuse clients from now on if `refuse_when_down` is set, because the upstream could not be reached."""
        if self.options["refuse_when_down"] and not self._probing and self._proxy.enabled:
            self._schedule_probe()
            self._set_refusing(on=True)

    def take_filler(self, sockaddr: Any) -> bool:
        """True, once, for an accepted connection that only fills the backlog."""
        if not self._filler_ports or sockaddr[1] not in self._filler_ports:
            return False
        del self._filler_ports[sockaddr[1]]
        return True

    # --- refusing ----------------------------------------------------------------------------------------------------

    def _set_refusing(self, *, on: bool) -> None:
        if on == self._refusing:
            return
        self._refusing = on
        if on:
            self._proxy.refuse()
        else:
            self._proxy.start()

    @property
    def _probing(self) -> bool:
        return self._timer is not None or self._probe is not None

    def _schedule_probe(self) -> None:
        self._timer = self._loop.call_at(self._loop.now() + PROBE_INTERVAL, self._probe_upstream)

    def _probe_upstream(self) -> None:
        self._timer = None
        self._upstream.resolve(self._connect_probe)

    def _connect_probe(self, addresses: list[SocketAddress] | AddressError) -> None:
        if self._timer is not None or self._probe is not None:
            return
        try:
            if isinstance(addresses, AddressError):
                raise OSError(str(addresses))
            probe = open_socket(addresses[0].family)
            probe.connect_ex(addresses[0].sockaddr)
        except OSError:
            self._schedule_probe()
            return
        self._probe = probe
        self._loop.handlers[probe.fileno()] = self._on_probe_result
        self._loop.watch(probe.fileno(), OUT, 0)

    def _on_probe_result(self, events: int) -> None:
        probe = self._probe
        if probe is None:
            return
        error = probe.getsockopt(so.SOL_SOCKET, so.SO_ERROR)
        self._stop_probing()
        if error:
            self._schedule_probe()
        else:
            self.apply()

    def _stop_probing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._probe is not None:
            self._loop.unregister(self._probe.fileno(), OUT)
            self._probe.close()
            self._probe = None

    # --- hanging -----------------------------------------------------------------------------------------------------

    @property
    def hanging(self) -> bool:
        """True while connects get no answer."""
        return bool(self._fillers)

    def _set_hanging(self, *, on: bool) -> None:
        listener = self._proxy.listener
        if listener is None or listener.family == so.AF_UNIX or on == bool(self._fillers):
            return
        if not on:
            self._close_fillers()
            listener.socket.listen(Listener.BACKLOG)
            self._proxy.resume_accepting()
            return
        self._proxy.pause_accepting()
        while True:  # admit clients that wait already, so that only fillers are in the backlog
            try:
                fd, sockaddr = listener.socket._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
            except OSError:
                break
            self._proxy.handle_accepted(fd, sockaddr)
        listener.socket.listen(0)
        host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(listener.address.host, listener.address.host)
        for _ in range(3):  # a backlog of 0 holds one connection on Linux, and up to three elsewhere
            filler = open_socket(listener.family)
            filler.connect_ex((host, listener.address.port))
            self._filler_ports[filler.getsockname()[1]] = None
            self._fillers.append(filler)

    def _close_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
