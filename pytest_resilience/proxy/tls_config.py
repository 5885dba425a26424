"""A proxy's TLS options, with the certificates read from their files. Imported only if TLS is used, as ssl is slow to import."""

from __future__ import annotations

import _socket as so
import os
import ssl
import stat
from collections.abc import Callable
from typing import Any

from ..wire.api_error import ApiError, bad_body
from ..wire.postgres_tls import ClientSide, ServerSide
from ..wire.toxiproxy import TlsBody
from .address import AddressError, split_host_port
from .event_counter import EventCounter
from .event_loop import EventLoop
from .tls import TlsOwner, TlsReader, TlsStream


class TlsConfig:
    """The TLS options of one proxy.

    Attributes:
        as_json: as on the wire.
        failures: handshakes that failed and TLS that broke, by side.
    """

    def __init__(self, body: TlsBody) -> None:
        """Read the files. Later changes of the files take effect when the options are sent again.

        Raises:
            ApiError: 400 with the field and the reason, and without any content of the file.
        """
        self.as_json = body.as_json
        self.failures = {"client": EventCounter(), "upstream": EventCounter()}
        self._client = None if body.client is None else _server_context(body.client)
        self._upstream = None if body.upstream is None else _client_context(body.upstream)
        self._server_name: str | None = (body.upstream or {}).get("server_name")
        if self._upstream is not None and self._server_name is not None:
            try:
                self._upstream.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=self._server_name)
            except ValueError as error:
                raise bad_body(f"tls.upstream.server_name: {error}") from None

    def counters_json(self) -> dict[str, Any]:
        """Return the counters for GET /proxies/{p}/counters."""
        return {"failed": {side: counter.to_json() for side, counter in self.failures.items()}}

    def client_stream(self, sock: so.socket, reader: TlsReader, owner: TlsOwner, loop: EventLoop) -> TlsStream | None:
        """Return the TLS stream over a client's socket, or None if there is no TLS to clients.

        A client of Postgres may begin with an SSLRequest.
        """
        if self._client is None:
            return None
        return TlsStream(sock, self._client, None, reader, owner, loop, self.failures["client"], ServerSide())

    def upstream_stream(
        self, sock: so.socket, upstream: str, reader: TlsReader, owner: TlsOwner, loop: EventLoop, protocol: str = ""
    ) -> TlsStream | None:
        """Return the TLS stream over a socket to the upstream, or None if there is no TLS to the upstream.

        The certificate has to be for the host in `upstream`, unless the options name another one. With the protocol "postgres", TLS
        begins with an SSLRequest.
        """
        if self._upstream is None:
            return None
        name = self._server_name or _host(upstream)
        negotiation = ClientSide() if protocol == "postgres" else None
        return TlsStream(sock, self._upstream, name, reader, owner, loop, self.failures["upstream"], negotiation)


def _host(upstream: str) -> str:
    """Return the default name for an upstream's certificate."""
    if upstream.startswith("unix:"):
        return "localhost"
    try:
        return split_host_port(upstream)[0].strip(".") or "localhost"
    except AddressError:  # such an upstream cannot be dialled
        return "localhost"


# --- certificates ----------------------------------------------------------------------------------------------------


def _server_context(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _configure(context, "tls.client", options)
    if "ca" in options:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _client_context(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _configure(context, "tls.upstream", options)
    if not options.get("verify", True):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif "ca" not in options:
        context.load_default_certs()
    return context


def _configure(context: ssl.SSLContext, where: str, options: dict[str, Any]) -> None:
    context.options |= ssl.OP_NO_RENEGOTIATION  # so that writing never waits for reading
    if "ca" in options:
        _load(f"{where}.ca", options["ca"], context.load_verify_locations)
    if "cert" in options:
        certificate, key = options["cert"], options["key"]
        # Each file is loaded alone first, as OpenSSL does not name the one that is wrong.
        _load(f"{where}.cert", certificate, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations)
        # Without this password OpenSSL would prompt at the terminal and block.
        _load(f"{where}.key", key, lambda path: context.load_cert_chain(certificate, path, lambda: ""))
    if "alpn" in options:
        try:
            context.set_alpn_protocols(options["alpn"])
        except (ssl.SSLError, ValueError):
            raise bad_body(f"{where}.alpn: a protocol's name has 1 to 255 ASCII characters") from None


def _load(field: str, path: str, load: Callable[[str], object]) -> None:
    def refuse(reason: str) -> ApiError:
        return bad_body(f"{field}: {path}: {reason}")

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # a pipe would block the loop
            raise refuse("not a regular file")
        load(path)
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        raise refuse("not PEM of the right kind, or encrypted" if reason in ("", "pem lib") else reason) from None
    except OSError as error:
        raise refuse(error.strerror or type(error).__name__) from None
    except ValueError as error:  # OpenSSL's other errors; Python's words for a NUL differ between versions
        raise refuse("embedded null byte" if "\0" in path else str(error)) from None
