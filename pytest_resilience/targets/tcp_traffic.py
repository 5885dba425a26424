"""Detect whether data has reached a process tree over TCP (Linux only).

The kernel lists TCP sockets with the bytes that each has received, and reports each destroyed socket (sock_diag(7)). So a connection that
opened and closed between two samples is detected too.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..destroyed_sockets import DestroyedSockets, NotReported
from ..wire import sock_diag
from ..wire.sock_diag import FIN_WAIT2, LISTEN, TcpSocket
from . import procfs
from .process_tree import ProcessTree

if TYPE_CHECKING:
    import psutil

_LONG = 1 << 32  # milliseconds; longer than any timer of a closing socket


class TcpTraffic:
    """Data that reaches a process tree from now on. The processes must listen on a port."""

    def __init__(self, tree: ProcessTree) -> None:
        self._tree = tree
        self._destroyed: DestroyedSockets | None = None
        self._seen = False  # stays True
        try:
            self._destroyed = DestroyedSockets()
            self._destroyed.all()  # connections that have just closed would look like traffic
            inodes = self._inodes = _inodes(tree.members())
            sockets = list(_listed())
        except (OSError, NotReported):
            self._seen = True
            return
        self._ports = {each.port for each in sockets if each.state == LISTEN and each.inode in inodes}
        self._before = {each.cookie: each.received for each in sockets}
        self._pairs = {each.pair for each in sockets}
        self._closing = _closing(sockets, initial=True)
        self._tree_cookies = {each.cookie for each in sockets if each.inode in inodes}
        self._gone: list[TcpSocket] = []
        self._seen = not self._ports

    def none(self) -> bool:
        """True if certainly no data has reached the tree."""
        return not self._has_arrived() and not self._has_arrived(is_last=True)

    def close(self) -> None:
        """Unsubscribe from the notices of destroyed sockets."""
        if self._destroyed is not None:
            self._destroyed.close()

    def _has_arrived(self, *, is_last: bool = False) -> bool:
        if not self._seen:
            assert self._destroyed is not None, "opened by the constructor"
            try:
                inodes = _inodes(self._tree.members())
                self._gone += self._destroyed.all() if is_last else self._destroyed.reported()
                sockets = list(_listed())
            except (OSError, NotReported):
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
        if each.state == LISTEN:
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
        # The notice of an earlier connection arrives late, while its socket is still closing. Reused ports restart or end its timer.
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


def _closing(sockets: Iterable[TcpSocket], *, initial: bool = False) -> dict[tuple[int, int], int]:
    """Return the remaining time of each closing socket, by its pair of ports.

    Args:
        sockets: all listed sockets.
        initial: allow those in FIN_WAIT2 to restart their timer, as they do when the other end closes.
    """
    closing = [each for each in sockets if each.is_closing]
    return {each.pair: _LONG if initial and each.state == FIN_WAIT2 else each.expires_ms for each in closing}


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
    """Yield all TCP sockets of this network namespace.

    Raises:
        NotReported: the kernel has no such list.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag.NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        for family in socket.AF_INET, socket.AF_INET6:
            kernel.send(sock_diag.list_request(family))
            while True:
                data = kernel.recv(1 << 17)
                yield from sock_diag.sockets(data)
                if sock_diag.is_last(data):
                    break
            # An error for IPv6 means that the kernel has no IPv6.
            if sock_diag.has_error(data) and family == socket.AF_INET:
                raise NotReported
