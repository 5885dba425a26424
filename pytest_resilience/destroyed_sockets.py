"""The kernel's notices of destroyed TCP sockets (Linux only).

A process without privileges can subscribe to a notice of each TCP socket of its network namespace that is destroyed (sock_diag(7)). A
kernel thread of each processor sends the notices of the sockets that this processor has destroyed, in order. The notices are late where
the processor stalls, and the kernel drops those for which a subscriber's buffer has no room.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from struct import Struct

from .clock import SYSTEM
from .wire import sock_diag
from .wire.sock_diag import TcpSocket

_SO_COOKIE = 57
_COOKIE = Struct("=Q")
NOTICE_TIMEOUT = 2.0  # seconds within which a notice arrives, on a busy machine too


class NotReported(Exception):
    """The kernel does not report TCP sockets."""


class NoticesDropped(NotReported):
    """The kernel has dropped notices, because other programs destroyed many sockets."""


class DestroyedSockets:
    """A subscription to the TCP sockets that are destroyed from now on.

    Raises:
        OSError: this system has no such notices.
    """

    def __init__(self) -> None:
        self._notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sock_diag.NETLINK_SOCK_DIAG)
        try:
            _enlarge_buffer(self._notices)
            self._notices.bind((0, sock_diag.DESTROY_GROUPS))
            self._notices.setblocking(False)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the subscription."""
        self._notices.close()

    def reported(self) -> Iterator[TcpSocket]:
        """Yield the sockets whose notices have arrived since the last call.

        Raises:
            NoticesDropped: some are lost.
        """
        while True:
            try:
                data = self._notices.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:  # ENOBUFS
                raise NoticesDropped from error
            yield from sock_diag.sockets(data)

    def all(self) -> list[TcpSocket]:
        """Return all sockets that were destroyed until now, and not returned before.

        This destroys a socket on each processor, and waits for the notices of these sockets.

        Raises:
            NotReported: a notice does not arrive within NOTICE_TIMEOUT.
            NoticesDropped: some are lost.
        """
        found: list[TcpSocket] = []
        missing = _destroy_sockets()
        give_up = SYSTEM.now() + NOTICE_TIMEOUT
        arrived = select.poll()
        arrived.register(self._notices, select.POLLIN)
        while missing:
            if not arrived.poll(max(0.0, give_up - SYSTEM.now()) * 1000):
                raise NotReported
            new = list(self.reported())
            missing -= {each.cookie for each in new}
            found += new
        return found


def wait_for_notices() -> bool:
    """Wait until all subscribers of this network namespace have the notices of the sockets that were destroyed until now.

    Returns:
        False if that is not known: a notice does not arrive, or this system has none.
    """
    give_up = SYSTEM.now() + NOTICE_TIMEOUT
    while True:
        try:
            with contextlib.closing(DestroyedSockets()) as destroyed:
                destroyed.all()
        except NoticesDropped:
            if SYSTEM.now() > give_up:
                return False
        except (AttributeError, OSError, NotReported):
            return False
        else:
            return True


def _enlarge_buffer(notices: socket.socket) -> None:
    """Enlarge the receive buffer of a socket, beyond the limit of the system where this user may."""
    try:
        notices.setsockopt(socket.SOL_SOCKET, sock_diag.SO_RCVBUFFORCE, sock_diag.EVENT_BUFFER)
    except PermissionError:
        notices.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, sock_diag.EVENT_BUFFER)


def _destroy_sockets() -> set[int]:
    """Destroy a socket on each processor. Return their cookies."""
    cookies: set[int] = set()
    allowed = os.sched_getaffinity(0)
    try:
        for processor in {*range(os.cpu_count() or 1), *allowed}:
            # A container that may not use the processor has destroyed nothing there.
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {processor})
            with socket.socket() as sock:
                cookies.add(*_COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size)))
    finally:
        with contextlib.suppress(OSError):  # this sandbox forbids the call, which has changed nothing above
            os.sched_setaffinity(0, allowed)
    return cookies
