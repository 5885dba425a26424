"""What happens at a proxy's door before a connection is relayed: slow accepts, refusals, connects that hang. Additions of ours.

TCP's handshake is the kernel's, so these are the means that there are: not to dial for a while (`accept_delay`), not to listen
(`refuse_after`, `refuse_when_down`: the kernel answers RST), and to let the backlog run full (`hang`: the kernel answers nothing,
and a client tries again after 1, 3, 7 ... seconds, so one that waited is in up to a second after the end of it).
"""

from __future__ import annotations

import _socket as so
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..wire.toxiproxy import ADMISSION_DEFAULTS
from .address import Address, AddressError, open_socket
from .event_loop import OUT, Timer
from .listener import Listener

if TYPE_CHECKING:
    from .connection import Connection
    from .proxy import Proxy

PROBE_INTERVAL = 0.05
"""Seconds between two looks whether an upstream that refused is back."""


class AdmissionControl:
    """Keeps one proxy's door. Only made for a proxy that has one of the options."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._loop = proxy.runtime.loop
        self.options: dict[str, Any] = dict(ADMISSION_DEFAULTS)
        self._admissions_left: int | None = None  # connections to let in before all are refused
        self._refusing = False
        self._fillers: list[so.socket] = []
        self._probe: so.socket | None = None
        self._timer: Timer | None = None

    def to_json(self) -> dict[str, Any]:
        """The options that are not at their default."""
        return {name: value for name, value in self.options.items() if value != ADMISSION_DEFAULTS[name]}

    def set(self, options: Mapping[str, Any]) -> None:
        """Take some options; the others stay."""
        self.options.update(options)
        if "refuse_after" in options:
            self._admissions_left = options["refuse_after"]
        self.apply()

    def clear(self) -> None:
        """Take all back but refuse_when_down, which is no fault but a way to be."""
        self.set({name: value for name, value in ADMISSION_DEFAULTS.items() if name != "refuse_when_down"})

    def apply(self) -> None:
        """Have the door as the options want it; after a change, and after the proxy was enabled."""
        if not self._proxy.enabled:
            self.stop()
            return
        self._set_hanging(on=bool(self.options["hang"]))
        self._set_refusing(on=self._admissions_left == 0 or self._probing)
        if self._probing and not self.options["refuse_when_down"]:
            self._stop_probing()
            self._set_refusing(on=self._admissions_left == 0)

    def stop(self) -> None:
        """The proxy stops."""
        self._refusing = False
        self._stop_probing()
        self._close_fillers()

    # --- called by the proxy -----------------------------------------------------------------------------------------

    def admit(self, connection: Connection) -> None:
        """A connection was accepted."""
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
        """The upstream could not be reached."""
        if self.options["refuse_when_down"] and not self._probing and self._proxy.enabled:
            self._schedule_probe()
            self._set_refusing(on=True)

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
        self._proxy.upstream.resolve(self._connect_probe)

    def _connect_probe(self, addresses: list[Address] | AddressError) -> None:
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

    @property
    def hanging(self) -> bool:
        """True while connects get no answer."""
        return bool(self._fillers)

    # --- hanging -----------------------------------------------------------------------------------------------------

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
        while True:  # those who wait already are let in, so that the backlog is ours to fill
            try:
                waiting, _ = listener.socket._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
            except OSError:
                break
            self._proxy.handle_accepted(waiting, _)
        listener.socket.listen(0)
        host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(listener.address.host, listener.address.host)
        for _ in range(3):  # a backlog of 0 holds one on Linux; where it holds more, three must do
            filler = open_socket(listener.family)
            filler.connect_ex((host, listener.address.port))
            self._proxy.backlog_fillers[filler.getsockname()[1]] = None
            self._fillers.append(filler)

    def _close_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
