"""The endpoints of the external backend, read from options. The backend connects to nothing else."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ...errors import SetupError
from ...redaction import redacted, remember, remember_url
from ..backend import Address
from ..settings import Settings

API_PORT = 8474


class ServerEndpoint(NamedTuple):
    """A server behind the external Toxiproxy.

    Args:
        scheme: the scheme of its URL.
        address: its address for the Toxiproxy.
        user, password: the login; None if its URL has none.
        database: the first database to connect to (Postgres) or the database to use (Redis); empty if its URL has none.
        query: the query of its URL, part of all URLs of this server.
    """

    scheme: str
    address: Address
    user: str | None
    password: str | None
    database: str
    query: str

    def __repr__(self) -> str:
        return f"<{self.scheme} at {self.address}>"


class ExternalEndpoints(NamedTuple):
    """All endpoints of the external backend.

    Args:
        api: the address of the Toxiproxy's API.
        ports: the ports on which its proxies may listen; empty for any.
        postgres, redis: the servers behind it.
    """

    api: Address
    ports: range
    postgres: ServerEndpoint
    redis: ServerEndpoint


def read_endpoints(settings: Settings) -> ExternalEndpoints:
    """Read the options of the external backend.

    Raises:
        SetupError: an option can't be read. The message has the expected form, and never a password.
    """
    return ExternalEndpoints(
        _api(settings.toxiproxy or ""),
        _ports(settings.toxiproxy_ports),
        _upstream("--resilience-postgres-upstream", settings.postgres_upstream or "", ("postgresql", "postgres"), 5432),
        _upstream("--resilience-redis-upstream", settings.redis_upstream or "", ("redis", "rediss"), 6379),
    )


def _api(text: str) -> Address:
    remember_url(text if "://" in text else f"http://{text}")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme != "http" or not host or parts.path.strip("/"):
        raise SetupError(f"--resilience-toxiproxy must be a URL such as http://127.0.0.1:8474, got {redacted(text)!r}")
    return Address(host, port or API_PORT)


def _ports(text: str | None) -> range:
    if text is None:
        return range(0)
    found = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if not found or not 0 < int(found[1]) <= int(found[2]) < 65536 or int(found[2]) - int(found[1]) < 3:
        raise SetupError(f"--resilience-toxiproxy-ports must be four ports at least, such as 20001-20010, got {text!r}")
    return range(int(found[1]), int(found[2]) + 1)


def _upstream(option: str, text: str, schemes: tuple[str, ...], port: int) -> ServerEndpoint:
    expected = f"{option} must be host:port, or a URL such as {schemes[0]}://user:password@host:{port}"
    remember_url(text if "://" in text else f"{schemes[0]}://{text}")
    try:
        parts = urlsplit(text if "://" in text else f"{schemes[0]}://{text}")
        address = Address(parts.hostname or "", parts.port or port)
    except ValueError:
        raise SetupError(expected) from None
    if parts.scheme not in schemes or not address.host:
        raise SetupError(expected)
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    query = dict(parse_qsl(parts.query))
    remember(query.get("password"))
    return ServerEndpoint(parts.scheme, address, user, password, unquote(parts.path.strip("/")), parts.query)
