"""TLS settings in the URLs of libpq and redis-py."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from urllib.parse import parse_qsl


def query_parameters(url_query: str) -> dict[str, str]:
    """Return the parameters in the query of a URL."""
    return dict(parse_qsl(url_query, keep_blank_values=True))


def postgres_context(settings: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context for libpq's `sslmode`, `sslrootcert`, `sslcert` and `sslkey`."""
    mode = settings.get("sslmode", "prefer")
    authority = settings.get("sslrootcert") or None
    system = authority == "system"
    context = ssl.create_default_context(cafile=None if system else authority)
    context.check_hostname = mode == "verify-full" or system
    verified = mode.startswith("verify-") or system or (mode == "require" and authority is not None)
    context.verify_mode = ssl.CERT_REQUIRED if verified else ssl.CERT_NONE
    if certificate := settings.get("sslcert"):
        context.load_cert_chain(certificate, settings.get("sslkey") or None, settings.get("sslpassword") or None)
    return context


def redis_context(settings: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context for redis-py's `ssl_cert_reqs`, `ssl_ca_certs`, `ssl_check_hostname`, `ssl_certfile` and `ssl_keyfile`."""
    context = ssl.create_default_context(
        cafile=settings.get("ssl_ca_certs"), capath=settings.get("ssl_ca_path"), cadata=settings.get("ssl_ca_data")
    )
    wanted = settings.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    verified = wanted == "required"
    hostname_checked = settings.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no", "f", "n")
    context.check_hostname = verified and hostname_checked
    context.verify_mode = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL}.get(wanted, ssl.CERT_REQUIRED)
    if certificate := settings.get("ssl_certfile"):
        context.load_cert_chain(certificate, settings.get("ssl_keyfile"), settings.get("ssl_password"))
    return context
