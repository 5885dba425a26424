"""A certificate authority for one session, and the certificate of the servers that it starts.

The authority's key is never stored, so no other certificate can be made after the start. The files lie in the session's directory.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import NamedTuple

from ...wire import x509
from .p256 import PrivateKey

AUTHORITY = "pytest-resilience: authority of one session"
SERVER = "pytest-resilience: servers of one session"
HOSTS = ("localhost", "127.0.0.1", "::1")


class Certificates(NamedTuple):
    """Paths of PEM files.

    Args:
        ca: the certificate of the authority, for clients.
        cert: the certificate of the servers.
        key: the key of the servers, readable by the user only.
    """

    ca: Path
    cert: Path
    key: Path


def create_certificates(directory: Path) -> Certificates:
    """Make an authority and the certificate of servers on loopback, in files of a directory that is created.

    The dates of the certificates are 2000 and 9999, so that tests may change the clock.
    """
    directory.mkdir(mode=0o700)
    authority, server = PrivateKey(), PrivateKey()
    ca = x509.authority(AUTHORITY, _serial(), authority.public, authority.sign)
    cert = x509.server(SERVER, HOSTS, (AUTHORITY, authority.public), _serial(), server.public, authority.sign)
    key = x509.private_key(server.secret, server.public)
    return Certificates(
        _write(directory / "ca.pem", x509.pem("CERTIFICATE", ca)),
        _write(directory / "server.pem", x509.pem("CERTIFICATE", cert)),
        _write(directory / "server.key", x509.pem("EC PRIVATE KEY", key)),
    )


def _serial() -> int:
    return 1 + secrets.randbits(127)


def _write(path: Path, text: str) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return path
