"""The address that a proxy dials."""

from __future__ import annotations

import _socket as so
from collections.abc import Callable

from .address import AddressError, SocketAddress, lookup_host, numeric_family, split_host_port
from .resolver import Resolver


class Upstream:
    """A proxy's upstream, parsed once, and looked up for each connection if it is a name.

    Args:
        text: "host:port", "[v6]:port" or "unix:/path".
        resolver: looks names up without blocking.

    Attributes:
        text: as the API shows it.
    """

    __slots__ = ("_addresses", "_resolver", "text")

    def __init__(self, text: str, resolver: Resolver) -> None:
        self.text = text
        self._resolver = resolver
        self._addresses: list[SocketAddress] | None = None

    def change(self, text: str) -> None:
        """Dial another address from now on."""
        self.text = text
        self._addresses = None

    def resolve(self, then: Callable[[list[SocketAddress] | AddressError], None]) -> None:
        """Call `then` with the addresses to dial, in order, or with the error.

        The call happens before `resolve` returns unless the upstream is a name.
        """
        if self._addresses is None:
            try:
                self._addresses = parse_upstream(self.text)
            except AddressError as error:
                then(error)
                return
        if self._addresses is None:
            self._look_up(then)
        else:
            then(self._addresses)

    def _look_up(self, then: Callable[[list[SocketAddress] | AddressError], None]) -> None:
        host, port = split_host_port(self.text)

        def on_result(result: list[tuple[int, str]] | AddressError) -> None:
            if isinstance(result, AddressError):
                then(result)
            else:
                then([SocketAddress(family, numeric, int(port)) for family, numeric in result])

        self._resolver.resolve(host, on_result)


def parse_upstream(text: str) -> list[SocketAddress] | None:
    """Return the addresses of an upstream, or None for a name that has to be looked up.

    `localhost` is looked up here, as its addresses never change.

    Raises:
        AddressError: the text is no address.
    """
    if text.startswith("unix:"):
        return [SocketAddress(so.AF_UNIX, text[5:], 0)]
    host, port_text = split_host_port(text)
    digits = port_text.lstrip("0")
    if not port_text.isascii() or not port_text.isdigit() or len(digits) > 5 or int(digits or "0") > 65535:
        raise AddressError(f"address {text}: invalid port")
    port = int(digits or "0")
    family = numeric_family(host or "127.0.0.1")
    if family is not None:
        return [SocketAddress(family, host or "127.0.0.1", port)]
    if host == "localhost":
        return [SocketAddress(family, numeric, port) for family, numeric in lookup_host(host)]
    return None
