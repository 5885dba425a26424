"""Addresses as Go reads them, and the sockets to reach them.

"host:port", "[v6]:port", ":port", "" (any port on all interfaces) and "unix:/path". A name is resolved to its first IPv4
address if it has one. All interfaces are `[::]`, which takes IPv4 too.
"""

from __future__ import annotations

import _socket as so
from collections.abc import Callable
from typing import Any, NamedTuple

_V4_MAPPED = bytes(10) + b"\xff\xff"
_STREAM = so.SOCK_STREAM | getattr(so, "SOCK_NONBLOCK", 0)  # saves a system call where there is one


class AddressError(Exception):
    """An address that can't be read, resolved or bound. Its text is Go's."""


class SocketAddress(NamedTuple):
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
        return join_host_port(self.host, self.port)

    @property
    def sockaddr(self) -> Any:
        return self.host if self.family == so.AF_UNIX else (self.host, self.port)


def join_host_port(host: str, port: int) -> str:
    """Return "host:port", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, str]:
    """Return the host and the port of an address as text.

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


def numeric_family(host: str) -> int | None:
    """Return the family of a numeric address, or None for a name."""
    for family in (so.AF_INET, so.AF_INET6):
        try:
            so.inet_pton(family, host)
        except (OSError, ValueError):  # ValueError: a character that no address has
            continue
        return family
    return None


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a numeric address. An IPv4 address inside IPv6 counts as IPv4."""
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


def resolve_listen_address(text: str, find: Callable[[str], list[tuple[int, str]]] | None = None) -> SocketAddress:
    """Return the address to listen on.

    Args:
        text: the address.
        find: looks a name up; None: `look_up`, which may block.

    Raises:
        AddressError: the address can't be read or resolved.
    """
    if text.startswith("unix:"):
        return SocketAddress(so.AF_UNIX, text[5:], 0)
    host, port_text = split_host_port(text)
    port = _port(port_text)
    if host in ("", "0.0.0.0", "::"):
        return SocketAddress(so.AF_INET6, "::", port) if _has_ipv6() else SocketAddress(so.AF_INET, "0.0.0.0", port)
    family = numeric_family(host)
    if family is None:
        family, host = (find or lookup_host)(host)[0]
    return SocketAddress(family, host, port)


def lookup_host(host: str) -> list[tuple[int, str]]:
    """Return the families and numeric addresses of a name, IPv4 first. It blocks for as long as the system's resolver does.

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
    """Return a non-blocking stream socket that sends small messages at once."""
    if family == so.AF_UNIX:
        sock = so.socket(so.AF_UNIX, so.SOCK_STREAM, 0)
    else:
        # IPPROTO_TCP and not 0, because asyncio for one sets NODELAY only on sockets with this protocol.
        sock = so.socket(family, _STREAM, so.IPPROTO_TCP)
        sock.setsockopt(so.IPPROTO_TCP, so.TCP_NODELAY, 1)
        if _STREAM != so.SOCK_STREAM:
            return sock
    sock.setblocking(False)
    return sock
