"""Addresses as Go reads them, and listening sockets that keep their port while they refuse.

"host:port", "[v6]:port", ":port", "" (any port on all interfaces) and "unix:/path". A name is resolved to its first IPv4
address if it has one. All interfaces are `[::]`, which takes IPv4 too.
"""

from __future__ import annotations

import _socket as so
import os
import stat
from collections.abc import Callable
from errno import EADDRINUSE, ECONNREFUSED
from typing import Any, NamedTuple

_V4_MAPPED = bytes(10) + b"\xff\xff"
_STREAM = so.SOCK_STREAM | getattr(so, "SOCK_NONBLOCK", 0)  # saves a system call where there is one


class AddressError(Exception):
    """An address that can't be read, resolved or bound; the text is Go's."""


class Address(NamedTuple):
    """A resolved address.

    Attributes:
        family: AF_INET, AF_INET6 or AF_UNIX.
        host: numeric, or the path of a unix socket.
        port: 0 to 65535; 0 lets the kernel choose.
    """

    family: int
    host: str
    port: int

    def __str__(self) -> str:
        if self.family == so.AF_UNIX:
            return f"unix:{self.host}"
        return show(self.host, self.port)

    @property
    def sockaddr(self) -> Any:
        return self.host if self.family == so.AF_UNIX else (self.host, self.port)


def show(host: str, port: int) -> str:
    """host:port, with brackets where they belong."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(text: str) -> tuple[str, str]:
    """Host and port, unresolved.

    Raises:
        AddressError: `address X: missing port in address` and its kin.
    """

    def refuse(why: str) -> AddressError:
        return AddressError(f"address {text}: {why}")

    if not text:
        return "", ""
    host, colon, port = text.rpartition(":")
    if not colon or (text.startswith("[") and text.endswith("]")):
        raise refuse("missing port in address")
    if host.startswith("["):
        if not host.endswith("]"):
            raise refuse("missing ']' in address" if "]" not in host else "missing port in address")
        return host[1:-1], port
    if ":" in host:
        raise refuse("too many colons in address")
    return host, port


def _port(text: str) -> int:
    if not text:
        return 0
    digits = text[1:] if text[0] in "+-" else text
    if digits.isascii() and digits.isdigit():
        number = int(text) if len(text) < 10 else -1
        if not 0 <= number <= 65535:
            raise AddressError(f"address {text}: invalid port")
        return number
    try:
        return so.getservbyname(text, "tcp")
    except (OSError, ValueError):  # ValueError: a character that no service's name has
        raise AddressError(f"lookup tcp/{text}: unknown port") from None


def numeric(host: str) -> int | None:
    """The family of a numeric address; None if it is a name."""
    for family in (so.AF_INET, so.AF_INET6):
        try:
            so.inet_pton(family, host)
        except (OSError, ValueError):  # ValueError: a character that no address has
            continue
        return family
    return None


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a numeric address. An IPv4 address inside IPv6 counts as what it is."""
    if ":" not in host:
        return host.startswith("127.")
    data = so.inet_pton(so.AF_INET6, host)
    return data == bytes(15) + b"\x01" or data.startswith(_V4_MAPPED + b"\x7f")


def _has_ipv6() -> bool:
    try:
        probe = so.socket(so.AF_INET6, so.SOCK_STREAM, so.IPPROTO_TCP)
    except OSError:
        return False
    try:
        probe.bind(("::", 0))
    except OSError:
        return False
    finally:
        probe.close()
    return True


def resolve(text: str, find: Callable[[str], list[tuple[int, str]]] | None = None) -> Address:
    """Where a proxy that is told to listen at `text` really listens.

    Args:
        text: the address.
        find: looks a name up; None: `look_up`, which may block.

    Raises:
        AddressError: it can't be read or resolved.
    """
    if text.startswith("unix:"):
        return Address(so.AF_UNIX, text[5:], 0)
    host, port_text = split(text)
    port = _port(port_text)
    if host in ("", "0.0.0.0", "::"):
        return Address(so.AF_INET6, "::", port) if _has_ipv6() else Address(so.AF_INET, "0.0.0.0", port)
    family = numeric(host)
    if family is None:
        family, host = (find or look_up)(host)[0]
    return Address(family, host, port)


def look_up(host: str) -> list[tuple[int, str]]:
    """Family and numeric address of a name, IPv4 first. May block for as long as the system's resolver does.

    Raises:
        AddressError: `lookup X: no such host`.
    """
    try:
        found = so.getaddrinfo(host, None, 0, so.SOCK_STREAM)
    except (OSError, ValueError):  # ValueError: a character, or a length, that no name has
        raise AddressError(f"lookup {host}: no such host") from None
    seen = dict.fromkeys((int(family), str(address[0])) for family, _, _, _, address in found)
    return sorted(seen, key=lambda each: each[0] != so.AF_INET)


def open_socket(family: int) -> so.socket:
    """A non-blocking stream socket that sends small messages at once."""
    if family == so.AF_UNIX:
        sock = so.socket(so.AF_UNIX, so.SOCK_STREAM, 0)
    else:
        # IPPROTO_TCP and not 0: asyncio, for one, sets NODELAY only on sockets that say they are TCP.
        sock = so.socket(family, _STREAM, so.IPPROTO_TCP)
        sock.setsockopt(so.IPPROTO_TCP, so.TCP_NODELAY, 1)
        if _STREAM != so.SOCK_STREAM:
            return sock
    sock.setblocking(False)
    return sock


class Listener:
    """A bound socket that listens or refuses. It keeps its port until `close`.

    While it refuses, it stays bound and does not listen: the kernel answers each attempt with RST, and no other process
    can listen on the port (SO_REUSEADDR is off at that time, and both would need it).
    """

    BACKLOG = 4096

    def __init__(self, address: Address) -> None:
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
        self.address = address if self.family == so.AF_UNIX else Address(self.family, name[0], name[1])

    @staticmethod
    def _failed(address: Address, error: OSError) -> AddressError:
        where = f"unix {address.host}" if address.family == so.AF_UNIX else f"tcp {address}"
        return AddressError(f"listen {where}: bind: {_reason(error)}")

    def _bind(self, address: Address) -> so.socket:
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
            # Linux keeps the port of a socket that stops listening only if it was asked for by number.
            try:
                return self._bind(Address(address.family, address.host, sock.getsockname()[1]))
            finally:
                sock.close()
        except BaseException:
            sock.close()
            raise

    def listen(self) -> None:
        """Accept from now on.

        Raises:
            AddressError: somebody else listens there, although we hold the port.
        """
        try:
            if self.socket.fileno() < 0:
                self.socket = self._bind(self.address)
            self._reuse(1)  # connections of the last time may still be closing on this port
            self.socket.listen(self.BACKLOG)
        except OSError as error:
            raise self._failed(self.address, error) from error
        self.listening = True

    def refuse(self) -> None:
        """Stop listening and keep the port, or the path of a unix socket: the kernel refuses who connects to it."""
        self.listening = False
        if self.family == so.AF_UNIX:
            self.socket.close()  # one that was shut down could never listen again
            return
        try:
            self.socket.shutdown(so.SHUT_RDWR)
        except OSError:  # only Linux can do this; elsewhere somebody may slip in between these two lines
            self.socket.close()
            self.socket = self._bind(self.address)
        self._reuse(0)

    def step_aside(self) -> None:
        """Let somebody else bind the port, for as long as neither listens."""
        if self.listening:
            self.refuse()
        self._reuse(1)

    def step_back(self, listening: bool) -> None:
        """Take the port for ourselves again."""
        if listening:
            self.listen()
        else:
            self._reuse(0)

    def close(self) -> None:
        """Give the port back, or remove the path of a unix socket if what is there is still the socket that was bound."""
        # Before the socket is closed: until then no other file can get its inode's number.
        if self._inode is not None and _inode_of_socket(self.address.host) == self._inode:
            os.unlink(self.address.host)  # noqa: PTH108  # pathlib costs more to import than all else here
        self.socket.close()

    def _reuse(self, on: int) -> None:
        if self.family != so.AF_UNIX:
            self.socket.setsockopt(so.SOL_SOCKET, so.SO_REUSEADDR, on)


def _inode_of_socket(path: str) -> tuple[int, int] | None:
    """Return device and inode of the unix socket at a path; None for anything else, a symbolic link to a socket included."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _remove_stale(path: str) -> None:
    """Remove a unix socket on which no process listens. Nothing but a socket is ever removed.

    Raises:
        OSError: EADDRINUSE, there is something else, or a process listens.
    """
    in_use = OSError(EADDRINUSE, os.strerror(EADDRINUSE))
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise in_use
    probe = so.socket(so.AF_UNIX, so.SOCK_STREAM, 0)
    probe.setblocking(False)  # a full backlog would keep all waiting
    try:
        if probe.connect_ex(path) != ECONNREFUSED:
            raise in_use
        os.unlink(path)  # noqa: PTH108
    finally:
        probe.close()


def _reason(error: OSError) -> str:
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]
