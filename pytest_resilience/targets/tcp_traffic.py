"""Detect whether data has reached a process tree over TCP (Linux only).

The kernel lists TCP sockets with the bytes that each has received, and reports each destroyed socket to subscribers without privileges
(sock_diag(7)). So a connection that opened and closed between two samples is detected too.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ..clock import SYSTEM
from . import procfs
from .process_tree import ProcessTree

if TYPE_CHECKING:
    import psutil

_NETLINK_SOCK_DIAG = 4
_SO_RCVBUFFORCE = 33
_SO_COOKIE = 57
_COOKIE = Struct("=Q")
_GROUPS = (1 << 0) | (1 << 2)  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301
_DONE, _ERROR = 3, 2
_INFO = 2  # INET_DIAG_INFO: the attribute that holds struct tcp_info
_HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, sender
_REQUEST = Struct("=BBBBI48s")  # struct inet_diag_req_v2: family, protocol, extensions, padding, states, socket
_MESSAGE = Struct(
    "=4B2s2s36sQIIIII"
)  # struct inet_diag_msg: family, state, ..., ports, addresses, cookie, ..., queue, ..., inode
_ATTRIBUTE = Struct("=HH")
_RECEIVED = Struct("=Q")
_RECEIVED_AT = 128  # of tcpi_bytes_received in struct tcp_info
_FIN_WAIT2, _TIME_WAIT, _LISTEN = 5, 6, 10
_LONG = 1 << 32  # milliseconds; longer than any timer of a closing socket
EVENT_TIMEOUT = 2.0  # seconds within which the event of a destroyed socket arrives, on a busy machine too
EVENT_BUFFER = 8 << 20  # bytes; connections of other programs fill the default of 200 KiB with 300 events


class TrafficUnknown(Exception):
    """The kernel does not report TCP sockets."""


class TcpSocket(NamedTuple):
    """One TCP socket.

    Args:
        state: the kernel's number of the state.
        port: the local port.
        peer: the remote port.
        cookie: the identity of the socket.
        queue: for a listener, the number of connections in its backlog.
        inode: the inode, which the descriptors of a process refer to.
        expires_ms: for a closing socket, the milliseconds until it is removed.
        received: bytes received, plus one for the end of the stream; -1 if not counted.
    """

    state: int
    port: int
    peer: int
    cookie: int
    expires_ms: int
    queue: int
    inode: int
    received: int

    @property
    def pair(self) -> tuple[int, int]:
        return self.port, self.peer

    @property
    def is_closing(self) -> bool:
        """True if only its ports are left: in TIME_WAIT, or in FIN_WAIT2 and closed."""
        return self.state == _TIME_WAIT or (self.state == _FIN_WAIT2 and self.received < 0)


class TcpTraffic:
    """Data that reaches a process tree from now on. The processes must listen on a port."""

    def __init__(self, tree: ProcessTree) -> None:
        self._tree = tree
        self._events: socket.socket | None = None
        self._seen = False  # stays True
        try:
            self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
            _enlarge_buffer(self._events)
            self._events.bind((0, _GROUPS))
            self._events.setblocking(False)
            self._wait_for_events()  # of connections that have just closed; they would look like traffic
            inodes = self._inodes = _inodes(tree.members())
            sockets = list(_listed())
        except (OSError, TrafficUnknown):
            self._seen = True
            return
        self._ports = {each.port for each in sockets if each.state == _LISTEN and each.inode in inodes}
        self._before = {each.cookie: each.received for each in sockets}
        self._pairs = {each.pair for each in sockets}
        self._closing = _closing(sockets, initial=True)
        self._tree_cookies = {each.cookie for each in sockets if each.inode in inodes}
        self._gone: list[TcpSocket] = []
        self._seen = not self._ports

    def none(self) -> bool:
        """True if certainly no data has reached the tree."""
        return not self._has_arrived() and not self._has_arrived(all_events=True)

    def close(self) -> None:
        """Unsubscribe from the events."""
        if self._events is not None:
            self._events.close()

    def _has_arrived(self, *, all_events: bool = False) -> bool:
        if not self._seen:
            try:
                inodes = _inodes(self._tree.members())
                self._gone += self._wait_for_events() if all_events else self._destroyed()
                sockets = list(_listed())
            except (OSError, TrafficUnknown):
                self._seen = True
                return True
            closing = _closing(sockets)
            self._seen = (
                bool(inodes - self._inodes)
                or any(self._is_new(each, closing) for each in self._gone)
                or any(self._shows_traffic(each, inodes) for each in sockets)
            )
        return self._seen

    def _shows_traffic(self, each: TcpSocket, inodes: set[int]) -> bool:
        """True if a listed socket proves that data has arrived."""
        if each.state == _LISTEN:
            return each.inode in inodes and each.queue > 0
        if each.is_closing:  # has no counters
            if not self._belongs_to_tree(each):
                return False
            known = self._closing.get(each.pair)
            return each.pair not in self._pairs if known is None else each.expires_ms > known
        return (each.inode in inodes or self._is_server(each)) and self._grew(each)

    def _is_new(self, each: TcpSocket, closing: dict[tuple[int, int], int]) -> bool:
        """True if a destroyed socket proves that data had arrived."""
        if not self._belongs_to_tree(each):
            return False
        if each.cookie in self._before:
            return self._is_server(each) and self._grew(each)
        # The event of an earlier connection arrives late, while its socket is still closing. Reused ports restart or end its timer.
        for pair in (each.pair, each.pair[::-1]):
            if pair in self._closing and closing.get(pair, self._closing[pair] + 1) <= self._closing[pair]:
                return False
        return True

    def _belongs_to_tree(self, each: TcpSocket) -> bool:
        return each.cookie in self._tree_cookies or bool({each.port, each.peer} & self._ports)

    def _is_server(self, each: TcpSocket) -> bool:
        return each.cookie in self._tree_cookies or each.port in self._ports

    def _grew(self, each: TcpSocket) -> bool:
        return each.received > max(0, self._before.get(each.cookie, 0)) + 1

    def _wait_for_events(self) -> list[TcpSocket]:
        """Return the events of all sockets that were destroyed so far.

        Each processor reports its destroyed sockets in order, and may be late. So this destroys a socket on each processor, and waits
        for these events.

        Raises:
            TrafficUnknown: an event does not arrive.
        """
        assert self._events is not None, "opened by the constructor"
        events: list[TcpSocket] = []
        missing = _destroy_sockets()
        give_up = SYSTEM.now() + EVENT_TIMEOUT
        while missing:
            if not select.select([self._events], [], [], max(0.0, give_up - SYSTEM.now()))[0]:
                raise TrafficUnknown
            new = list(self._destroyed())
            missing -= {each.cookie for each in new}
            events += new
        return events

    def _destroyed(self) -> Iterator[TcpSocket]:
        assert self._events is not None, "opened by the constructor"
        while True:
            try:
                data = self._events.recv(1 << 16)
            except BlockingIOError:
                return
            yield from _sockets(data)


def _enlarge_buffer(events: socket.socket) -> None:
    """Enlarge the receive buffer of a socket, beyond the limit of the system where this user may."""
    try:
        events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, EVENT_BUFFER)
    except PermissionError:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, EVENT_BUFFER)


def _destroy_sockets() -> set[int]:
    """Destroy a socket on each processor. Return their cookies."""
    cookies: set[int] = set()
    allowed = os.sched_getaffinity(0)
    try:
        for processor in {*range(os.cpu_count() or 1), *allowed}:
            with contextlib.suppress(OSError):  # this container may not use it, and neither may the tree
                os.sched_setaffinity(0, {processor})
            with socket.socket() as sock:
                cookies.add(*_COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size)))
    finally:
        os.sched_setaffinity(0, allowed)
    return cookies


def _closing(sockets: Iterable[TcpSocket], *, initial: bool = False) -> dict[tuple[int, int], int]:
    """Return the remaining time of each closing socket, by its pair of ports.

    Args:
        sockets: all listed sockets.
        initial: allow those in FIN_WAIT2 to restart their timer, as they do when the other end closes.
    """
    closing = [each for each in sockets if each.is_closing]
    return {each.pair: _LONG if initial and each.state == _FIN_WAIT2 else each.expires_ms for each in closing}


def _inodes(processes: Iterable[psutil.Process]) -> set[int]:
    import psutil

    found = set()
    for process in processes:
        try:
            found |= procfs.sockets(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def _listed() -> Iterator[TcpSocket]:
    """Yield all TCP sockets of this network namespace."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(1.0)
        for family in socket.AF_INET, socket.AF_INET6:
            body = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, 0xFFFFFFFF, bytes(48))
            sock.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, family, 0) + body)
            while True:
                data = sock.recv(1 << 17)
                yield from _sockets(data)
                if _kinds(data) & {_DONE, _ERROR}:
                    break
            if (
                _ERROR in _kinds(data) and family == socket.AF_INET
            ):  # an error for IPv6 means that the kernel has no IPv6
                raise TrafficUnknown


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    begin = 0  # of a message; a copy of the rest for each message would take longer than all other work
    while len(data) - begin >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data, begin)
        yield kind, data[begin + _HEADER.size : begin + length]
        begin += (length + 3) & ~3


def _kinds(data: bytes) -> set[int]:
    return {kind for kind, _ in _messages(data)}


def _sockets(data: bytes) -> Iterator[TcpSocket]:
    for kind, body in _messages(data):
        if kind == _SOCK_DIAG_BY_FAMILY:
            _, state, _, _, port, peer, _, cookie, expires_ms, queue, _, _, inode = _MESSAGE.unpack_from(body)
            yield TcpSocket(
                state,
                int.from_bytes(port, "big"),
                int.from_bytes(peer, "big"),
                cookie,
                expires_ms,
                queue,
                inode,
                _received(body[_MESSAGE.size :]),
            )


def _received(attributes: bytes) -> int:
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _INFO and length >= _ATTRIBUTE.size + _RECEIVED_AT + 8:
            return int(_RECEIVED.unpack_from(attributes, _ATTRIBUTE.size + _RECEIVED_AT)[0])
        attributes = attributes[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return -1
