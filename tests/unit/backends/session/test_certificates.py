"""The authority of a session and the certificate of its servers, checked by OpenSSL."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_resilience.backends.session.certificates import Certificates, create_certificates
from pytest_resilience.backends.session.p256 import PrivateKey


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return create_certificates(tmp_path / "tls")


def shake_hands(server: Certificates, ca: Path, host: str) -> None:
    """Do a handshake in memory.

    Raises:
        ssl.SSLCertVerificationError: the client does not accept the certificate for that host.
    """
    trusting = ssl.create_default_context(cafile=str(ca))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(server.cert, server.key)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [trusting.wrap_bio(down, up, server_hostname=host), serving.wrap_bio(up, down, server_side=True)]
    done: set[int] = set()
    for turn in range(8):
        try:
            sides[turn % 2].do_handshake()
            done.add(turn % 2)
        except ssl.SSLWantReadError:
            pass
    assert done == {0, 1}


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_certificate_is_valid_for_the_hosts_of_loopback(certificates: Certificates, host: str) -> None:
    shake_hands(certificates, certificates.ca, host)


def test_certificate_is_not_valid_for_another_host(certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"example\.org"):
        shake_hands(certificates, certificates.ca, "example.org")


def test_authority_of_another_session_is_not_trusted(certificates: Certificates, tmp_path: Path) -> None:
    other = create_certificates(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificates, other.ca, "localhost")


def test_files_are_for_the_user_only_and_have_no_key_of_the_authority(certificates: Certificates) -> None:
    folder = certificates.ca.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "ca.pem": 0o600,
        "server.pem": 0o600,
        "server.key": 0o600,
    }
    keys = [path.name for path in folder.iterdir() if "PRIVATE KEY" in path.read_text()]
    assert keys == ["server.key"]


def test_keys_and_signatures_are_those_of_p256():
    for data in b"", b"data", bytes(1000):
        key = PrivateKey()
        public = ec.derive_private_key(key.secret, ec.SECP256R1()).public_key()
        assert public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == key.public
        public.verify(utils.encode_dss_signature(*key.sign(data)), data, ec.ECDSA(hashes.SHA256()))
