"""URLs of a Postgres without TLS.

A URL without `sslmode` works with all clients. SQLAlchemy's asyncpg and pg8000 dialects and Tortoise pass each word of a query to the
driver as a keyword, and asyncpg has no keyword `sslmode`. But asyncpg and libpq (psycopg) read what a URL leaves out from the
environment, and would demand TLS of this server. So a query is added only where the environment would break those.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

# With one of these set, a client without `sslmode` may demand TLS, or fail while it prepares for TLS.
TLS_VARIABLES = (
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLROOTCERT",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLMAXPROTOCOLVERSION",
    "PGREQUIRESSL",
)
MODES_WITHOUT_TLS = ("", "disable", "allow", "prefer")
# The values of PGTARGETSESSIONATTRS that a primary satisfies.
PRIMARY_ATTRS = ("", "any", "read-write", "primary", "prefer-standby")


def postgres_url(user: str, password: str, address: object, database: str, *, ca_file: Path | None = None) -> str:
    """Return the URL of a Postgres.

    Args:
        user: the role that connects.
        password: the password of that role.
        address: "host:port".
        database: the database to connect to.
        ca_file: the authority of the server's certificate; None for a server without TLS.
    """
    settings = required_query(os.environ) if ca_file is None else query_with_tls(os.environ, ca_file)
    query = "&".join(f"{name}={value}" for name, value in settings.items())
    return f"postgresql://{user}:{quote(password, safe='')}@{address}/{database}" + (f"?{query}" if query else "")


def query_with_tls(environ: Mapping[str, str], ca_file: Path) -> dict[str, str]:
    """Return the query of a URL with which asyncpg and libpq connect with verified TLS to a primary in this environment."""
    kept = ("sslnegotiation", "target_session_attrs")
    query = {name: value for name, value in required_query(environ).items() if name in kept}
    return {**query, "sslmode": "verify-full", "sslrootcert": quote(str(ca_file))}


def required_query(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the query of a URL with which asyncpg and libpq connect without TLS to a primary in this environment."""
    query = {}
    if environ.get("PGSSLMODE", "") not in MODES_WITHOUT_TLS or any(map(environ.get, TLS_VARIABLES)):
        query["sslmode"] = "disable"
    if environ.get("PGSSLROOTCERT") == "system":  # libpq accepts it with sslmode=verify-full only
        query["sslrootcert"] = ""
    if environ.get("PGSSLNEGOTIATION", "postgres") != "postgres":
        query["sslnegotiation"] = "postgres"
    if environ.get("PGTARGETSESSIONATTRS", "") not in PRIMARY_ATTRS:
        query["target_session_attrs"] = "any"
    return query
