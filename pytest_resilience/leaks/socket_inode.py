"""The inode of a TCP socket of this machine, looked up by its two ends (Linux).

The kernel finds one socket by its addresses in microseconds (sock_diag(7), NETLINK_SOCK_DIAG). /proc/net/tcp takes milliseconds, because
the kernel walks through its whole table of connections.
"""

from __future__ import annotations

import socket
import struct

from ..wire.sock_diag import HEADER, NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY

NLM_F_REQUEST = 1
ALL_STATES = 0xFFFFFFFF
NO_COOKIE = (0xFFFFFFFF, 0xFFFFFFFF)
# struct inet_diag_req_v2, the ports and addresses in network order
REQUEST = struct.Struct("=BBBxI2s2s16s16sI2I")
ANSWER = struct.Struct("=BBBB48sIIIII")  # struct inet_diag_msg
MAX_ANSWER = 4096  # bytes
LONGEST = 1.0  # seconds; the kernel answers at once


def socket_inode(host: str, local: int, remote: int) -> int | None:
    """Return the inode of the socket that connects two ports of one address.

    Args:
        host: the IP address of both ends.
        local: the port of the socket.
        remote: the port of its peer.

    Returns:
        None without such a socket, for a host name, and where the system has no such lookup.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.inet_pton(family, host).ljust(16, b"\0")
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(LONGEST)
            kernel.sendto(_request(family, address, local, remote), (0, 0))
            answer = kernel.recv(MAX_ANSWER)
    except (AttributeError, OSError):  # no such family or protocol of sockets, or no IP address
        return None
    _, kind, _, _, _ = HEADER.unpack_from(answer)
    if kind != SOCK_DIAG_BY_FAMILY:
        return None
    inode: int = ANSWER.unpack_from(answer, HEADER.size)[-1]
    return inode or None  # 0 after the socket was closed, in TIME_WAIT


def _request(family: int, address: bytes, local: int, remote: int) -> bytes:
    ports = struct.pack("!H", local), struct.pack("!H", remote)
    body = REQUEST.pack(family, socket.IPPROTO_TCP, 0, ALL_STATES, *ports, address, address, 0, *NO_COOKIE)
    return HEADER.pack(HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 1, 0) + body
