"""A password for each session, although all sessions copy one data directory.

A cluster is created with a random password that is not stored. Its verifier is a text of fixed length in a page of the table of roles.
Each session overwrites it with the verifier of a new password before its server starts. So no file has a password, the password of the
template is lost, and no statement has to run before the server is ready.
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

# The password is random and the server on loopback. 4096 iterations, the minimum of RFC 7677, would cost 100 connections 0.5 s.
ITERATIONS = 1
RFC_ITERATIONS = 4096
STRICT_LIBRARY = "scramp"  # of pg8000, refuses fewer

VERIFIER = re.compile(rb"SCRAM-SHA-256\$\d{4}:[A-Za-z0-9+/=]{24}\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}")


class VerifierLocation(NamedTuple):
    """The verifier of the only role of a cluster.

    Args:
        file: its file, relative to the data directory.
        verifier: its text.
    """

    file: str
    verifier: str


def find_verifier(data: Path) -> VerifierLocation:
    """Return the verifier in the data directory of a server that is shut down.

    Raises:
        TemplateCorrupt: the directory has none, or several.
    """
    files = sorted(path for path in (data / "global").iterdir() if path.is_file())
    found = [(path, verifier) for path in files for verifier in VERIFIER.findall(path.read_bytes())]
    if len(found) != 1:
        raise TemplateCorrupt(f"{data} has {counted(len(found), 'verifiers')} where one was expected")
    path, verifier = found[0]
    return VerifierLocation(str(path.relative_to(data)), verifier.decode())


def set_password(data: Path, location: VerifierLocation, password: str) -> None:
    """Replace the password of the role in a data directory. Its server must not run, and its pages must have no checksums.

    Raises:
        TemplateCorrupt: the file does not have the verifier.
    """
    file = data / location.file
    content = file.read_bytes()
    new = verifier_for(password, RFC_ITERATIONS if importlib.util.find_spec(STRICT_LIBRARY) else ITERATIONS)
    if content.count(location.verifier.encode()) != 1 or len(new) != len(location.verifier):
        raise TemplateCorrupt(f"{location.file} does not have the recorded verifier")
    with file.open("r+b") as target:
        target.write(content.replace(location.verifier.encode(), new.encode()))


def verifier_for(password: str, iterations: int) -> str:
    """Return the SCRAM verifier of a password (RFC 5803), always of one length."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(each).decode() for each in (salt, stored, server))
    return f"SCRAM-SHA-256${iterations:04}:{salt64}${stored64}:{server64}"
