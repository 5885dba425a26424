"""Checks of hosts, URLs and files at the start, so that a setting that can never work is refused.

Each check returns the problem, in words that hold nothing of the value, or None.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

# Parameters of libpq that asyncpg does not interpret. It would send them, and Postgres would refuse every session.
_LIBPQ_ONLY = {
    *(
        "channel_binding",
        "client_encoding",
        "connect_timeout",
        "fallback_application_name",
        "gssdelegation",
        "gssencmode",
    ),
    *("hostaddr", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts"),
    *(
        "replication",
        "require_auth",
        "requirepeer",
        "requiressl",
        "scram_client_key",
        "scram_server_key",
        "sslcertmode",
    ),
    *("sslcompression", "sslcrldir", "sslkeylogfile", "sslsni", "tcp_user_timeout"),
}
_ARGUMENTS = (
    *("host", "port", "user", "password", "passfile", "database", "ssl", "service", "servicefile", "direct_tls"),
    *("server_settings", "target_session_attrs", "krbsrvname", "gsslib"),
)
_LABEL = re.compile(r"[\w-]{1,63}")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def host_problem(host: str) -> str | None:
    """Return the problem of the name or address of a host."""
    try:
        ip_address(host.partition("%")[0])
        return None
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "its host is no name or address"
    try:
        host.encode("idna")
    except UnicodeError:
        return "its host is no name or address"
    return None


def text_problem(text: str) -> str | None:
    """Return the problem of the text of any setting."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it is not in UTF-8"
    return "it has a character that cannot be printed" if not text.isprintable() else None


def url_problem(text: str) -> str | None:
    """Return the problem of a URL of any kind (spaces, percent-encoding, a fragment)."""
    if any(character.isspace() for character in text):
        return "it has a space; write %20"
    if _PERCENT.search(text):
        return "it has a % that two hexadecimal digits do not follow; write %25"
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        return "it has a percent-encoded character that is not in UTF-8"
    if "\0" in decoded:
        return "it has a percent-encoded NUL"
    if "#" in text:
        return "it has a #; in a name or password write %23"
    return None


def postgres_url_problem(text: str) -> str | None:
    """Return the problem of a URL of Postgres. asyncpg parses the URL here as at each connect."""
    parts = urlsplit(text)
    problem = url_problem(text) or _query_problem(parts)
    if problem is not None:
        return problem
    unknown = next((name for name, _ in parse_qsl(parts.query) if name in _LIBPQ_ONLY), None)
    if unknown is not None:
        return f"asyncpg does not support its parameter {unknown}"
    if "@" in parts.netloc.partition("@")[2]:
        return "its name or password has an @; write %40"
    ports = dict(parse_qsl(parts.query)).get("port", "1")
    if not all(_is_port(each) for each in ports.split(",")):
        return "its port is not from 1 to 65535"
    from asyncpg import connect_utils

    try:
        addresses, _ = connect_utils._parse_connect_dsn_and_args(dsn=text, **dict.fromkeys(_ARGUMENTS))
    except OSError:
        return "it names a file that cannot be read, or no user"
    except Exception as error:  # noqa: BLE001  # each connect would raise this error, whatever it is
        parameters = (
            "sslmode",
            "target_session_attrs",
            "sslnegotiation",
            "gsslib",
            "root certificate",
            "port",
            "user name",
        )
        named = next((each for each in parameters if each in str(error)), None)
        return f"asyncpg cannot read its {named}" if named else f"asyncpg cannot read it ({type(error).__name__})"
    for address in addresses:
        if isinstance(address, tuple):
            host, port = address
            problem = host_problem(host) or (None if 1 <= port <= 65_535 else "its port is not from 1 to 65535")
            if problem is not None:
                return problem
    return None


def redis_url_problem(text: str) -> str | None:
    """Return the problem of a URL of Redis."""
    parts = urlsplit(text)
    problem = url_problem(text) or _query_problem(parts) or _authority_problem(parts)
    if problem is not None:
        return problem
    if not re.fullmatch(r"(/\d*)?", parts.path, re.ASCII):
        return "its database is no number"
    if (
        parts.query or parts.scheme == "rediss"
    ):  # only then, because redis is slow to import and the start does not need it
        from redis.asyncio import Redis

        try:
            pool = Redis.from_url(text).connection_pool
            connection = pool.connection_class(**pool.connection_kwargs)
            context = getattr(connection, "ssl_context", None)
            if context is not None:
                context.get()
        except Exception as error:  # noqa: BLE001  # each connect would raise this error, whatever it is
            return f"redis cannot read its parameters ({type(error).__name__})"
    return None


def upstash_url_problem(text: str) -> str | None:
    """Return the problem of the URL of Upstash."""
    return url_problem(text) or _authority_problem(urlsplit(text))


def gateway_url_problem(text: str) -> str | None:
    """Return the problem of the URL of the gateway."""
    parts = urlsplit(text)
    problem = url_problem(text) or _authority_problem(parts)
    return problem or (None if text.isascii() else "it has a character that is not ASCII; encode it with %")


def certificates_problem(path: str) -> str | None:
    """Return the problem of a file of trusted certificates."""
    import ssl

    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ValueError):
        return "it cannot be read as that"
    return None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65_535


def _query_problem(parts: SplitResult) -> str | None:
    if not parts.query:
        return None
    try:
        names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)]
    except ValueError:
        return "its parameters are not name=value"
    return None if len(names) == len(set(names)) else "one of its parameters is given twice"


def _authority_problem(parts: SplitResult) -> str | None:
    if parts.port == 0:
        return "its port is not from 1 to 65535"
    return host_problem(parts.hostname or "")
