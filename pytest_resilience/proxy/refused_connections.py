"""The count of connections that the kernel refused while a proxy was disabled. Linux only.

The port of a disabled proxy is bound and does not listen, so the kernel answers an attempt without this process. A process without
privileges can subscribe to a notice of each TCP socket that is destroyed (sock_diag(7), SKNLGRP_INET_TCP_DESTROY and its IPv6
sibling). The client's socket of a refused attempt is one of them: its state is CLOSE, and its destination is the proxy's port.

The socket of a client that was accepted is destroyed too, and perhaps not before the proxy is disabled. The notice has the statistics of
the socket, in which the peer of a refused attempt has acknowledged nothing, not even the SYN.

The notice comes when the client closes that socket. A kernel thread of each processor sends it, a few milliseconds later and more where
the processor stalls: a reader that needs the exact count first waits for notices of its own. A client that blocks in connect() without a
timeout is reported with port 0, and the kernel drops notices for which the buffer has no room. Both are counted apart, as "unattributed",
so that a count of 0 does not pass for proof that no client came.
"""

from __future__ import annotations

import _socket as so
from array import array
from contextlib import suppress
from struct import Struct
from sys import byteorder
from typing import Protocol

from ..wire.sock_diag import DESTROY_GROUPS, HEADER, NETLINK_SOCK_DIAG
from .event_counter import EventCounter
from .event_loop import IN, EventLoop, Timer
from .listener import Listener

_MESSAGE = Struct("=BBBB")  # struct inet_diag_msg: family, state, timer, retransmits, then struct inet_diag_sockid:
_PORTS = Struct(">HH")  # source, destination; two addresses of 16 bytes follow
_MESSAGE_SIZE = 72  # of struct inet_diag_msg, behind which are attributes
_ATTRIBUTE = Struct("=HH")  # struct nlattr: length, type; then the value, padded to 4 bytes
_INFO = 2  # INET_DIAG_INFO, struct tcp_info
_BYTES_ACKED = Struct("=Q")
_BYTES_ACKED_AT = 120  # in struct tcp_info
_CLOSE = 7
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_FILTER = Struct("@HP")  # struct sock_fprog: number of instructions, their address
_INSTRUCTION = Struct("=HBBI")  # struct sock_filter: code, jumps if true and if false, operand
_LOAD_HALF, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x15, 0x06  # linux/bpf_common.h
_PASS, _DROP = 0xFFFFFFFF, 0
_BUFFER = 208 << 10  # bytes, of which the kernel makes twice as many; that is room for 330 notices
GRACE_PERIOD = 2.5
"""Seconds for which refused connections are still counted after a proxy was enabled again. A reader waits less for the notices."""

_V4_MAPPED = bytes(10) + b"\xff\xff"


class CountsRefusals(Protocol):
    """A proxy with a count of its refused connections.

    Attributes:
        client_ports: ports of clients that were accepted. An attempt may have the port of one of them that has ended.
        unattributed: notices of sockets that any disabled proxy may have refused, and times at which the kernel dropped notices.
    """

    client_ports: dict[int, None]
    refused: EventCounter
    unattributed: int

    @property
    def listener(self) -> Listener | None: ...


class RefusedConnectionMonitor:
    """A subscription to the kernel's notices, open while at least one proxy is disabled.

    Attributes:
        available: False where the kernel sends no notices.
    """

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._socket: so.socket | None = None
        self._ports: dict[CountsRefusals, int] = {}  # of disabled proxies
        self._leaving: dict[CountsRefusals, Timer] = {}  # those of them that are enabled again
        self.available = hasattr(so, "AF_NETLINK")

    def start_counting(self, proxy: CountsRefusals) -> None:
        """Count the refused connections of a proxy from now on."""
        if proxy.listener is None or proxy.listener.family == so.AF_UNIX:
            return
        if self._socket is None and self.available:
            self._subscribe()
        leaving = self._leaving.pop(proxy, None)
        if leaving is not None:
            leaving.cancel()
        self._ports[proxy] = proxy.listener.address.port
        self._filter()

    def stop_counting(self, proxy: CountsRefusals) -> None:
        """Stop counting for a proxy when GRACE_PERIOD is over, because notices of earlier refusals may still come."""
        if proxy in self._ports and proxy not in self._leaving:
            self._leaving[proxy] = self._loop.call_at(self._loop.now() + GRACE_PERIOD, lambda: self._forget(proxy))

    def _forget(self, proxy: CountsRefusals) -> None:
        self.read()
        del self._leaving[proxy]
        del self._ports[proxy]
        if self._ports:
            self._filter()
        elif self._socket is not None:
            self._loop.watch(self._socket.fileno(), 0, IN)
            self._loop.unregister(self._socket.fileno(), 0)
            self._socket.close()
            self._socket = None

    def _subscribe(self) -> None:
        try:
            sock = so.socket(so.AF_NETLINK, so.SOCK_RAW, NETLINK_SOCK_DIAG)
        except OSError:
            self.available = False
            return
        try:
            sock.setsockopt(so.SOL_SOCKET, so.SO_RCVBUF, _BUFFER)
            sock.bind((0, DESTROY_GROUPS))
        except OSError:
            sock.close()
            self.available = False
            return
        sock.setblocking(False)
        self._socket = sock
        self._loop.handlers[sock.fileno()] = self._on_event
        self._loop.watch(sock.fileno(), IN, 0)

    def _filter(self) -> None:
        """Have the kernel deliver the notices that `_parse` counts, and not those of all sockets of the machine."""
        if self._socket is None:
            return
        program = array("Q", _filter_program(set(self._ports.values())))
        address, length = program.buffer_info()
        try:
            self._socket.setsockopt(so.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER.pack(length, address))
        except OSError:  # too many ports, or a system without filters
            with suppress(OSError):
                self._socket.setsockopt(so.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def read(self) -> bool:
        """Count what the kernel has reported so far. Return False where it reports nothing."""
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
            except OSError:  # ENOBUFS: the kernel dropped notices, for which the buffer had no room
                self._count_unattributed()
                continue
            self._parse(data)

    def _count_unattributed(self) -> None:
        """Count for each proxy, although the attempt may have gone elsewhere."""
        for proxy in self._ports:
            proxy.unattributed += 1

    def _parse(self, data: bytes) -> None:
        start = 0
        while start + HEADER.size <= len(data):
            length = HEADER.unpack_from(data, start)[0]
            body = start + HEADER.size
            if length < HEADER.size + 40:
                return
            family, state, _, _ = _MESSAGE.unpack_from(data, body)
            source, destination = _PORTS.unpack_from(data, body + 4)
            target = data[body + 24 : body + 40]
            if state == _CLOSE and source and not destination and not any(data[body + 8 : body + 24]):
                # connect() chose the source port: a client that binds a port itself keeps its address, too.
                self._count_unattributed()
            for proxy, port in self._ports.items():
                if state == _CLOSE and port == destination and _is_address_of(proxy, family, target):
                    if source in proxy.client_ports and _was_connected(data[body + _MESSAGE_SIZE : start + length]):
                        del proxy.client_ports[source]  # the end of a client that was accepted
                    else:
                        proxy.refused.add(self._loop.now())
            start += (length + 3) & ~3


def _filter_program(ports: set[int]) -> list[int]:
    """Return a classic BPF program that passes notices with one of some destinations, and those with a source only."""
    program = [_instruction(_LOAD_HALF, HEADER.size + 6)]  # the destination
    for port in sorted(ports):
        program += _instruction(_JUMP_IF_EQUAL, port, if_not=1), _instruction(_RETURN, _PASS)
    return [
        *program,
        _instruction(_JUMP_IF_EQUAL, 0, if_not=2),
        _instruction(_LOAD_HALF, HEADER.size + 4),  # the source
        _instruction(_JUMP_IF_EQUAL, 0, if_not=1),
        _instruction(_RETURN, _DROP),
        _instruction(_RETURN, _PASS),
    ]


def _instruction(code: int, value: int, *, if_not: int = 0) -> int:
    """Return a struct sock_filter as the number that an array holds.

    Args:
        code: the operation.
        value: its operand.
        if_not: instructions that a comparison skips where it is false.
    """
    return int.from_bytes(_INSTRUCTION.pack(code, 0, if_not, value), byteorder)


def _was_connected(attributes: bytes) -> bool:
    """True if the peer of a socket has acknowledged something, the SYN included."""
    start = 0
    while start + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, start)
        if kind == _INFO and length >= _ATTRIBUTE.size + _BYTES_ACKED_AT + _BYTES_ACKED.size:
            return bool(_BYTES_ACKED.unpack_from(attributes, start + _ATTRIBUTE.size + _BYTES_ACKED_AT)[0])
        start += max(_ATTRIBUTE.size, length + 3 & ~3)
    return True  # this kernel does not report it


def _is_address_of(proxy: CountsRefusals, family: int, target: bytes) -> bool:
    """True if an attempt went to the proxy's own address, and not to another host's port of the same number."""
    if proxy.listener is None:
        return False
    host = proxy.listener.address.host
    if host in ("::", "0.0.0.0"):
        return True
    own = so.inet_pton(proxy.listener.family, host)
    if family == so.AF_INET:
        return target[:4] == own[-4:]
    return target in (own, _V4_MAPPED + own)
