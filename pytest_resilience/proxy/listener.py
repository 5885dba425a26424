"""A listening socket that keeps its port while it refuses."""

from __future__ import annotations

import _socket as so
import os
import stat
from errno import EADDRINUSE, ECONNREFUSED

from .address import AddressError, SocketAddress, open_socket
from .event_loop import IN, EventLoop, Handler


class Listener:
    """A bound socket that listens or refuses. It keeps its port until `close`.

    While it refuses, it stays bound and does not listen: the kernel answers each attempt with RST, and no other process
    can listen on the port (SO_REUSEADDR is off at that time, and both would need it).
    """

    BACKLOG = 4096

    def __init__(self, address: SocketAddress) -> None:
        """Bind.

        Raises:
            AddressError: `listen tcp 127.0.0.1:3310: bind: address already in use` and the like.
        """
        self.family = address.family
        self.listening = False
        self._inode: tuple[int, int] | None = None  # of a unix socket's path
        try:
            self.socket = self._bind(address)
        except OSError as error:
            raise self._failed(address, error) from error
        name = self.socket.getsockname()
        self.address = address if self.family == so.AF_UNIX else SocketAddress(self.family, name[0], name[1])

    @staticmethod
    def _failed(address: SocketAddress, error: OSError) -> AddressError:
        where = f"unix {address.host}" if address.family == so.AF_UNIX else f"tcp {address}"
        return AddressError(f"listen {where}: bind: {_reason(error)}")

    def _bind(self, address: SocketAddress) -> so.socket:
        sock = open_socket(address.family)
        try:
            if address.family == so.AF_UNIX:
                _remove_stale(address.host)
                sock.bind(address.host)
                self._inode = _inode_of_socket(address.host)
                return sock
            sock.setsockopt(so.SOL_SOCKET, so.SO_REUSEADDR, 1)
            if address.family == so.AF_INET6:
                sock.setsockopt(so.IPPROTO_IPV6, so.IPV6_V6ONLY, 0)
            sock.bind(address.sockaddr)
            if address.port:
                return sock
            # When a socket stops listening, Linux keeps its port only if it was bound by number.
            try:
                return self._bind(SocketAddress(address.family, address.host, sock.getsockname()[1]))
            finally:
                sock.close()
        except BaseException:
            sock.close()
            raise

    def listen(self) -> None:
        """Accept from now on.

        Raises:
            AddressError: another process listens there, although this socket is bound to the port.
        """
        try:
            if self.socket.fileno() < 0:
                self.socket = self._bind(self.address)
            self._reuse(1)  # earlier connections may still be closing on this port
            self.socket.listen(self.BACKLOG)
        except OSError as error:
            raise self._failed(self.address, error) from error
        self.listening = True

    def watch(self, loop: EventLoop, on_client: Handler) -> None:
        """Have the loop call `on_client` when a client waits in the backlog."""
        fd = self.socket.fileno()
        if fd not in loop.handlers:
            loop.handlers[fd] = on_client
            loop.watch(fd, IN, 0)

    def unwatch(self, loop: EventLoop) -> None:
        """Leave clients in the backlog."""
        fd = self.socket.fileno()
        if fd in loop.handlers:
            loop.watch(fd, 0, IN)
            loop.unregister(fd, 0)

    def refuse(self) -> None:
        """Stop listening, and keep the port or the path of a unix socket, so that the kernel refuses clients."""
        self.listening = False
        if self.family == so.AF_UNIX:
            self.socket.close()  # a unix socket that was shut down can never listen again
            return
        try:
            self.socket.shutdown(so.SHUT_RDWR)
        except OSError:  # only Linux can do this; elsewhere another process may bind the port between these two lines
            self.socket.close()
            self.socket = self._bind(self.address)
        self._reuse(0)

    def yield_port(self) -> None:
        """Let another socket bind the port, for as long as neither listens."""
        if self.listening:
            self.refuse()
        self._reuse(1)

    def reclaim_port(self, listening: bool) -> None:
        """Take the port back, so that no other socket can bind it."""
        if listening:
            self.listen()
        else:
            self._reuse(0)

    def close(self) -> None:
        """Release the port, or remove the path of a unix socket if the socket that was bound is still there."""
        # Before the socket is closed: until then no other file can get its inode's number.
        if self._inode is not None and _inode_of_socket(self.address.host) == self._inode:
            os.unlink(self.address.host)  # noqa: PTH108  # pathlib costs more to import than all else here
        self.socket.close()

    def _reuse(self, on: int) -> None:
        if self.family != so.AF_UNIX:
            self.socket.setsockopt(so.SOL_SOCKET, so.SO_REUSEADDR, on)


def _inode_of_socket(path: str) -> tuple[int, int] | None:
    """Return device and inode of the unix socket at a path, or None for anything else, such as a symbolic link to a socket."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _remove_stale(path: str) -> None:
    """Remove a unix socket on which no process listens. Nothing but a socket is ever removed.

    Raises:
        OSError: EADDRINUSE, another kind of file is there, or a process listens.
    """
    in_use = OSError(EADDRINUSE, os.strerror(EADDRINUSE))
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise in_use
    probe = so.socket(so.AF_UNIX, so.SOCK_STREAM, 0)
    probe.setblocking(False)  # a full backlog would block the loop
    try:
        if probe.connect_ex(path) != ECONNREFUSED:
            raise in_use
        os.unlink(path)  # noqa: PTH108
    finally:
        probe.close()


def _reason(error: OSError) -> str:
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]
