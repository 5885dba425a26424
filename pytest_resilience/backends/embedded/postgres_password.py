"""A password for each session, although all sessions copy the same data directory.

A cluster is made with a password that is thrown away. What the server keeps of it, the verifier, is a text of fixed length in a page of
the table of roles. Each session writes another verifier in its place before its server starts. So no file has a password, the template
has the verifier of a password that nobody knows, and no statement has to run before the server is ready.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import os
import re
from pathlib import Path
from typing import NamedTuple

from ...wording import counted
from .template_file import TemplateCorrupt

# The password is random and the server on loopback; 4096 iterations, the least that RFC 7677 wants, would cost 100 connections 0.5 s.
ITERATIONS = 1
RFC_ITERATIONS = 4096
STRICT_LIBRARY = "scramp"  # pg8000's library: it refuses fewer

VERIFIER = re.compile(rb"SCRAM-SHA-256\$\d{4}:[A-Za-z0-9+/=]{24}\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}")


class VerifierLocation(NamedTuple):
    """Where a cluster keeps the verifier of its only role.

    Args:
        file: below the data directory.
        verifier: what is there.
    """

    file: str
    verifier: str


def find_verifier(data: Path) -> VerifierLocation:
    """Return where the verifier is in a data directory whose server is shut down.

    Raises:
        TemplateCorrupt: it is not in exactly one place.
    """
    files = sorted(path for path in (data / "global").iterdir() if path.is_file())
    found = [(path, verifier) for path in files for verifier in VERIFIER.findall(path.read_bytes())]
    if len(found) != 1:
        raise TemplateCorrupt(f"{data} has {counted(len(found), 'verifiers')} where one was expected")
    path, verifier = found[0]
    return VerifierLocation(str(path.relative_to(data)), verifier.decode())


def set_password(data: Path, place: VerifierLocation, password: str) -> None:
    """Let the role's password be this one, in a data directory whose server does not run and whose pages have no checksums.

    Raises:
        TemplateCorrupt: the verifier is not where it was.
    """
    file = data / place.file
    content = file.read_bytes()
    new = verifier_for(password, RFC_ITERATIONS if importlib.util.find_spec(STRICT_LIBRARY) else ITERATIONS)
    if content.count(place.verifier.encode()) != 1 or len(new) != len(place.verifier):
        raise TemplateCorrupt(f"{place.file} has not the verifier that was written down")
    with file.open("r+b") as target:
        target.write(content.replace(place.verifier.encode(), new.encode()))


def verifier_for(password: str, iterations: int) -> str:
    """Return what Postgres keeps of a password (RFC 5803), in a length that is always the same."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(each).decode() for each in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations:04}:{salt64}${stored64}:{server64}"
