"""Counting the connections that were refused while a proxy was disabled. Linux only.

A disabled proxy's port is bound and does not listen, so the kernel answers by itself and we never see the client. But it tells
whoever subscribes, without privileges, about each TCP socket that is destroyed (sock_diag(7), SKNLGRP_INET_TCP_DESTROY and its
IPv6 sibling), and the client's socket of a refused attempt is one: state CLOSE, destination port ours. It comes when the client
closes that socket, and a little late: whoever wants to be sure asks again until nothing changes. A client that blocked in connect()
without a timeout is told about with port 0: those are counted apart, as "unattributed", so that nobody concludes from a count of 0
that nobody came.
"""

from __future__ import annotations

import _socket as so
from struct import Struct
from typing import TYPE_CHECKING

from .event_loop import IN, EventLoop, Timer

if TYPE_CHECKING:
    from .proxy import Proxy

_NETLINK_SOCK_DIAG = 4
_GROUPS = (1 << 0) | (1 << 2)  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
_HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, sender
_MESSAGE = Struct("=BBBB")  # struct inet_diag_msg: family, state, timer, retransmits, then struct inet_diag_sockid:
_PORTS = Struct(">HH")  # source, destination; two addresses of 16 bytes follow
_CLOSE = 7
GRACE_PERIOD = 0.25
"""Seconds for which refusals are still told after a proxy was enabled again."""

_V4_MAPPED = bytes(10) + b"\xff\xff"


class RefusedConnectionMonitor:
    """Listens to the kernel while at least one proxy is disabled."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._socket: so.socket | None = None
        self._proxies: dict[int, Proxy] = {}  # disabled ones, by port
        self._leaving: dict[int, Timer] = {}  # of those, the ones that are enabled again
        self.available = hasattr(so, "AF_NETLINK")

    def start_counting(self, proxy: Proxy) -> None:
        """Count for this proxy from now on."""
        if proxy.listener is None or proxy.listener.family == so.AF_UNIX:
            return
        if self._socket is None and self.available:
            self._subscribe()
        port = proxy.listener.address.port
        leaving = self._leaving.pop(port, None)
        if leaving is not None:
            leaving.cancel()
        self._proxies[port] = proxy

    def stop_counting(self, proxy: Proxy) -> None:
        """Count no more for this proxy, but for what is still on its way."""
        if proxy.listener is None:
            return
        port = proxy.listener.address.port
        if self._proxies.get(port) is proxy and port not in self._leaving:
            self._leaving[port] = self._loop.call_at(self._loop.now() + GRACE_PERIOD, lambda: self._forget(port))

    def _forget(self, port: int) -> None:
        del self._leaving[port]
        del self._proxies[port]
        if not self._proxies and self._socket is not None:
            self._loop.watch(self._socket.fileno(), 0, IN)
            self._loop.unregister(self._socket.fileno(), 0)
            self._socket.close()
            self._socket = None

    def _subscribe(self) -> None:
        try:
            sock = so.socket(so.AF_NETLINK, so.SOCK_RAW, _NETLINK_SOCK_DIAG)
        except OSError:
            self.available = False
            return
        try:
            sock.bind((0, _GROUPS))
        except OSError:
            sock.close()
            self.available = False
            return
        sock.setblocking(False)
        self._socket = sock
        self._loop.handlers[sock.fileno()] = self._on_event
        self._loop.watch(sock.fileno(), IN, 0)

    def read(self) -> bool:
        """Take in what the kernel has told until now, which may be a few milliseconds late. False where it tells nothing."""
        if self._socket is not None:
            self._on_event(IN)
        return self.available

    def _on_event(self, events: int) -> None:
        sock = self._socket
        while sock is not None:
            try:
                data = sock.recv(65536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: more came than we could take; what is lost is lost
                continue
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        start = 0
        while start + _HEADER.size <= len(data):
            length = _HEADER.unpack_from(data, start)[0]
            body = start + _HEADER.size
            if length < _HEADER.size + 40:
                return
            family, state, _, _ = _MESSAGE.unpack_from(data, body)
            source, destination = _PORTS.unpack_from(data, body + 4)
            target = data[body + 24 : body + 40]
            if state == _CLOSE and source and not destination and not any(data[body + 8 : body + 24]):
                # Its port was given to it by connect(): who binds a port by himself keeps the address too.
                for each in self._proxies.values():  # it may have been refused by any of them, or have gone elsewhere
                    each.unattributed += 1
            proxy = self._proxies.get(destination) if state == _CLOSE else None
            if proxy is not None and _is_at(proxy, family, target):
                if source in proxy.client_ports:
                    del proxy.client_ports[source]  # a client that we had, at its end
                else:
                    proxy.refused.add(self._loop.now())
            start += (length + 3) & ~3


def _is_at(proxy: Proxy, family: int, target: bytes) -> bool:
    """Whether the attempt went to the proxy's own address, and not to the same port of another host."""
    if proxy.listener is None:
        return False
    host = proxy.listener.address.host
    if host in ("::", "0.0.0.0"):
        return True
    own = so.inet_pton(proxy.listener.family, host)
    if family == so.AF_INET:
        return target[:4] == own[-4:]
    return target in (own, _V4_MAPPED + own)
