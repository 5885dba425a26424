"""The upstream of a TCP system, read from "host:port" or a URL, and the hosts that tests may strike."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..errors import SetupError
from ..hosts import EXPECTED_HOST, joined, normalized_host
from ..proxy_client.client import is_loopback
from ..redaction import redacted, remember_url

DEFAULT_PORTS = {"http": 80, "https": 443}


class TcpUpstream(NamedTuple):
    """The address that the proxy of a TCP system dials, and the form of the system's URL.

    Args:
        host: a name, or a numeric address without brackets.
        port: 1 to 65535; 0 for a service that has not chosen its port yet.
        scheme: the scheme of the URL of the system.
        userinfo: user and password in the URL, ending in "@"; "" for none.
        rest: path, query and fragment of the URL; "" for none.
    """

    host: str
    port: int
    scheme: str = "http"
    userinfo: str = ""
    rest: str = ""

    @property
    def address(self) -> str:
        """The address as "host:port", with brackets around an IPv6 address."""
        return joined(self.host, self.port)

    def url(self, host: str, port: int) -> str:
        """Return the URL of the system at another address."""
        return f"{self.scheme}://{self.userinfo}{joined(host, port)}{self.rest}"


def read_upstream(system: str, upstream: object, hosts: Collection[str]) -> TcpUpstream:
    """Return the upstream that a user has named.

    Args:
        system: the name of the TCP system, for messages.
        upstream: "host:port", or a URL with a port or with a scheme that implies one (http, https).
        hosts: the hosts beside loopback that tests may strike, in lower case.

    Raises:
        SetupError: the text can't be read, or names a host that is neither on loopback nor one of `hosts`.
    """
    found = _parsed(system, upstream)
    if not is_loopback(found.host) and found.host not in hosts:
        allowed = ", ".join(sorted(hosts)) or "none"
        raise SetupError(
            f"{system}: the upstream's host {found.host!r} is not loopback, and resilience_hosts does not name it (it has: "
            f"{allowed}). If tests may strike connections to it, set the ini option `resilience_hosts = {found.host}` (or "
            "--resilience-hosts, or override the fixture resilience_hosts)"
        )
    return found


def upstream_of_service(system: str, host: str, port: int, hosts: Collection[str]) -> TcpUpstream:
    """Return the upstream that a service is.

    Args:
        system: the name of the TCP system, for messages.
        host: the host of the service.
        port: its port; 0 before it has chosen one.
        hosts: the hosts beside loopback that tests may strike, in lower case.

    Raises:
        SetupError: the host is neither on loopback nor one of `hosts`.
    """
    return read_upstream(system, joined(host, port or 1), hosts)._replace(port=port)


def read_hosts(hosts: Iterable[object]) -> frozenset[str]:
    """Return the hosts that tests may strike, in lower case.

    Args:
        hosts: names or numeric addresses, without ports.

    Raises:
        SetupError: one of them is no host, such as a URL or an address with a port.
    """
    if isinstance(hosts, str):
        raise SetupError(f"resilience_hosts: must be a list of hosts, such as [{hosts!r}]")
    return frozenset(_checked_host(host) for host in hosts)


def _checked_host(host: object) -> str:
    found = normalized_host(host)
    if found is None:
        raise SetupError(f"resilience_hosts: must be {EXPECTED_HOST}, got {redacted(str(host))!r}")
    return found


def _parsed(system: str, upstream: object) -> TcpUpstream:
    if not isinstance(upstream, str):
        raise _unreadable(system, repr(upstream))
    remember_url(upstream if "://" in upstream else f"tcp://{upstream}")
    try:
        parts = urlsplit(upstream if "://" in upstream else f"//{upstream}")
        port = parts.port if parts.port is not None else DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise _unreadable(system, repr(redacted(upstream))) from None
    rest = upstream.partition(parts.netloc)[2] if parts.netloc else ""
    if not parts.hostname or not port or (rest and not parts.scheme) or " " in upstream:
        raise _unreadable(system, repr(redacted(upstream)))
    return TcpUpstream(parts.hostname, port, parts.scheme or "http", _userinfo(parts), rest)


def _userinfo(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[0] + "@" if "@" in parts.netloc else ""


def _unreadable(system: str, shown: str) -> SetupError:
    return SetupError(
        f"{system}: the upstream must be host:port, such as '127.0.0.1:9000', or a URL with a port, such as "
        f"'http://127.0.0.1:9000/v1', got {shown}"
    )
