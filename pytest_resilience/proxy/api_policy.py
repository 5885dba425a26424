"""The requests that the API refuses by policy: those of web pages, and those with paths of files on the proxy's machine.

The API has no password, and any process that reaches it has the rights of the proxy's user. A path in a request would read, create
or remove files with these rights. So the API accepts paths in the config file only, unless it runs with -allow-paths. Web pages are
recognised by the headers that browsers cannot omit or forge: Host, Origin and Sec-Fetch-Site, besides User-Agent as in Toxiproxy.
"""

from __future__ import annotations

import _socket as so
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..wire.api_error import bad_body
from ..wire.toxiproxy import ProxyBody, TlsBody
from .address import is_loopback, numeric_family

if TYPE_CHECKING:
    from .proxy import Proxy

_EVERYWHERE = ("", "0.0.0.0", "::")
_PATHS_OF_TLS = ("cert", "key", "ca")
_HOW = "start the proxy with -allow-paths, or write it into the -config file"


# --- paths -----------------------------------------------------------------------------------------------------------


def refuse_paths(body: ProxyBody, existing: Proxy | None, tls_files: str = "") -> None:
    """Refuse unix sockets and TLS files in a request's body, unless they repeat those of the proxy.

    Args:
        body: of a creation or an update, or one entry of populate.
        existing: the proxy that has this name now.
        tls_files: a directory whose files are accepted; "" for none.

    Raises:
        ApiError: 400 that names the field and the flag.
    """
    for field, sent, own in (
        ("listen", body.listen, existing and existing.listen),
        ("upstream", body.upstream, existing and existing.upstream.text),
    ):
        if sent is not None and sent.startswith("unix:") and sent != own:
            raise bad_body(f"{field}: unix sockets are not taken over the API: {_HOW}")
    if body.tls is None or (
        existing is not None and existing.tls is not None and existing.tls.as_json == body.tls.as_json
    ):
        return
    for field, path in _files(body.tls):
        if not tls_files or not _is_in(tls_files, path):
            raise bad_body(f"{field}: file names are not taken over the API: {_HOW}")


def _files(tls: TlsBody) -> Iterable[tuple[str, str]]:
    for side, options in tls.as_json.items():
        for key in _PATHS_OF_TLS:
            if key in options:
                yield f"tls.{side}.{key}", options[key]


def _is_in(directory: str, path: str) -> bool:
    """True if a file lies in a directory itself, links resolved."""
    real = os.path.realpath
    try:
        return os.path.dirname(real(path)) == real(directory)  # noqa: PTH120  # pathlib costs more to import than all else here
    except ValueError:  # a NUL, which has a better error later
        return False


# --- web pages -------------------------------------------------------------------------------------------------------


class CrossOriginProtection:
    """A check for requests that a web page may have made.

    Args:
        host: the value of -host. For all interfaces any Host is served: the operator has opened the API, and the names of the
            machine are unknown to it.
        listener: the socket of the API.
    """

    def __init__(self, host: str, listener: so.socket) -> None:
        name = listener.getsockname()
        address, self._port = str(name[0]), int(name[1])
        self._names = {_bare(host), _bare(address)} - {""}
        self._any_host = host in _EVERYWHERE or address in _EVERYWHERE

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], target: str) -> str:
        """Return the reason to refuse a request, or "" to accept it.

        Args:
            headers: names in lower case, and values.
            target: the request's target. Its absolute form has a host, too.
        """
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if not target.startswith("/") and "://" in target:
            hosts.append(target.partition("://")[2].partition("/")[0].partition("?")[0])
        port = self._port
        for host in hosts:
            name, port = _split(host)
            if not (self._any_host or self._is_own(name)):
                return f"Host {host!r} is not this API's: it is localhost, or the name given with -host"
        for header, value in headers:
            text = value.decode("latin-1")
            if header == b"origin" and not self._is_own_origin(text, {port, self._port}):
                return f"Origin {text!r} is a web page of another origin"
            if header == b"sec-fetch-site" and text not in ("same-origin", "none"):
                return f"Sec-Fetch-Site {text!r}: the request comes from a web page of another origin"
        return ""

    def _is_own(self, name: str) -> bool:
        return name == "localhost" or name in self._names or (numeric_family(name) is not None and is_loopback(name))

    def _is_own_origin(self, origin: str, ports: set[int]) -> bool:
        scheme, _, host = origin.partition("://")
        name, port = _split(host)
        return scheme == "http" and self._is_own(name) and port in ports


def _split(host: str) -> tuple[str, int]:
    """Return the name and the port of a Host header. The name is empty if the header is invalid."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        return _bare(host), 80
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        return "", -1
    return _bare(name), int(port)


def _bare(name: str) -> str:
    """Return a host's name in lower case, without the brackets of IPv6 and the dot at the end."""
    if name.startswith("[") and name.endswith("]"):
        return name[1:-1].lower() if ":" in name else ""
    return name.lower().removesuffix(".")
