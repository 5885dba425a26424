"""The kernel's messages about TCP sockets, in its list and in the notices of destroyed sockets (sock_diag(7), Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

NETLINK_SOCK_DIAG = 4
HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, sender
DESTROY_GROUPS = (1 << 0) | (1 << 2)  # SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY
SO_RCVBUFFORCE = 33
EVENT_BUFFER = 8 << 20  # bytes; connections of other programs fill the default of 200 KiB with 160 notices
FIN_WAIT2, LISTEN = 5, 10
_IPPROTO_TCP = 6
_TIME_WAIT = 6
SOCK_DIAG_BY_FAMILY = 20  # the type of a request, and of an answer that is no error
_REQUEST_DUMP = 0x301
_DONE, _ERROR = 3, 2
_INFO = 2  # INET_DIAG_INFO: the attribute that holds struct tcp_info
_REQUEST = Struct("=BBBBI48s")  # struct inet_diag_req_v2: family, protocol, extensions, padding, states, socket
_MESSAGE = Struct(
    "=4B2s2s36sQIIIII"
)  # struct inet_diag_msg: family, state, ..., ports, addresses, cookie, ..., queue, ..., inode
_ATTRIBUTE = Struct("=HH")
_RECEIVED = Struct("=Q")
_RECEIVED_AT = 128  # of tcpi_bytes_received in struct tcp_info


class TcpSocket(NamedTuple):
    """One TCP socket, open or destroyed.

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
        return self.state == _TIME_WAIT or (self.state == FIN_WAIT2 and self.received < 0)


def list_request(family: int) -> bytes:
    """Return a request for the list of all TCP sockets of a family, AF_INET or AF_INET6."""
    body = _REQUEST.pack(family, _IPPROTO_TCP, 1 << (_INFO - 1), 0, 0xFFFFFFFF, bytes(48))
    return HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, family, 0) + body


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the body of each message."""
    begin = 0  # of a message; a copy of the rest for each message would take longer than all other work
    while len(data) - begin >= HEADER.size:
        length, kind, *_ = HEADER.unpack_from(data, begin)
        yield kind, data[begin + HEADER.size : begin + length]
        begin += (length + 3) & ~3


def is_last(data: bytes) -> bool:
    """True if some messages end a list."""
    return any(kind in (_DONE, _ERROR) for kind, _ in messages(data))


def has_error(data: bytes) -> bool:
    """True if some messages tell an error, such as a family that the kernel does not have."""
    return any(kind == _ERROR for kind, _ in messages(data))


def sockets(data: bytes) -> Iterator[TcpSocket]:
    """Yield the sockets in some messages."""
    for kind, body in messages(data):
        if kind == SOCK_DIAG_BY_FAMILY:
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
