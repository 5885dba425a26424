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

PROBE = 0.05
"""Seconds between two looks whether an upstream that refused is back."""


class AdmissionControl:
    """Keeps one proxy's door. Only made for a proxy that has one of the options."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._loop = proxy.context.loop
        self.options: dict[str, Any] = dict(ADMISSION_DEFAULTS)
        self._left: int | None = None  # connections to let in before all are refused
        self._refusing = False
        self._fillers: list[so.socket] = []
        self._probe: so.socket | None = None
        self._timer: Timer | None = None

    def shown(self) -> dict[str, Any]:
        """The options that are not at their default."""
        return {name: value for name, value in self.options.items() if value != ADMISSION_DEFAULTS[name]}

    def set(self, options: Mapping[str, Any]) -> None:
        """Take some options; the others stay."""
        self.options.update(options)
        if "refuse_after" in options:
            self._left = options["refuse_after"]
        self.settle()

    def clear(self) -> None:
        """Take all back but refuse_when_down, which is no fault but a way to be."""
        self.set({name: value for name, value in ADMISSION_DEFAULTS.items() if name != "refuse_when_down"})

    def settle(self) -> None:
        """Have the door as the options want it; after a change, and after the proxy was enabled."""
        if not self._proxy.enabled:
            self.leave()
            return
        self._hang(on=bool(self.options["hang"]))
        self._refuse(on=self._left == 0 or self._probing)
        if self._probing and not self.options["refuse_when_down"]:
            self._stop_probing()
            self._refuse(on=self._left == 0)

    def leave(self) -> None:
        """The proxy stops."""
        self._refusing = False
        self._stop_probing()
        self._drop_fillers()

    # --- called by the proxy -----------------------------------------------------------------------------------------

    def let_in(self, connection: Connection) -> None:
        """A connection was accepted."""
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._left = 0
                self._refuse(on=True)
        delay = self.options["accept_delay"] / 1000
        if not delay:
            connection.open()
            return

        def open_late() -> None:
            if not connection.closed:
                connection.open()

        self._loop.at(self._loop.now() + delay, open_late)

    def upstream_failed(self) -> None:
        """The upstream could not be reached."""
        if self.options["refuse_when_down"] and not self._probing and self._proxy.enabled:
            self._look_later()
            self._refuse(on=True)

    # --- refusing ----------------------------------------------------------------------------------------------------

    def _refuse(self, *, on: bool) -> None:
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

    def _look_later(self) -> None:
        self._timer = self._loop.at(self._loop.now() + PROBE, self._look)

    def _look(self) -> None:
        self._timer = None
        try:
            targets = self._proxy.targets()
        except AddressError as error:
            self._look_at(error)
            return
        if targets is None:
            self._proxy.look_up(self._look_at)
        else:
            self._look_at(targets)

    def _look_at(self, targets: list[Address] | AddressError) -> None:
        if self._timer is not None or self._probe is not None:
            return
        try:
            if isinstance(targets, AddressError):
                raise OSError(str(targets))
            probe = open_socket(targets[0].family)
            probe.connect_ex(targets[0].sockaddr)
        except OSError:
            self._look_later()
            return
        self._probe = probe
        self._loop.handlers[probe.fileno()] = self._looked
        self._loop.watch(probe.fileno(), OUT, 0)

    def _looked(self, events: int) -> None:
        probe = self._probe
        if probe is None:
            return
        error = probe.getsockopt(so.SOL_SOCKET, so.SO_ERROR)
        self._stop_probing()
        if error:
            self._look_later()
        else:
            self.settle()

    def _stop_probing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._probe is not None:
            self._loop.forget(self._probe.fileno(), OUT)
            self._probe.close()
            self._probe = None

    @property
    def hanging(self) -> bool:
        """True while connects get no answer."""
        return bool(self._fillers)

    # --- hanging -----------------------------------------------------------------------------------------------------

    def _hang(self, *, on: bool) -> None:
        listener = self._proxy.listener
        if listener is None or listener.family == so.AF_UNIX or on == bool(self._fillers):
            return
        if not on:
            self._drop_fillers()
            listener.socket.listen(Listener.BACKLOG)
            self._proxy.watch_listener()
            return
        self._proxy.unwatch_listener()
        while True:  # those who wait already are let in, so that the backlog is ours to fill
            try:
                waiting, _ = listener.socket._accept()  # type: ignore[attr-defined]  # the C half of socket.accept()
            except OSError:
                break
            self._proxy.take_in(waiting, _)
        listener.socket.listen(0)
        host = {"::": "::1", "0.0.0.0": "127.0.0.1"}.get(listener.address.host, listener.address.host)
        for _ in range(3):  # a backlog of 0 holds one on Linux; where it holds more, three must do
            filler = open_socket(listener.family)
            filler.connect_ex((host, listener.address.port))
            self._proxy.fillers[filler.getsockname()[1]] = None
            self._fillers.append(filler)

    def _drop_fillers(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
