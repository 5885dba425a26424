"""URLs of a Postgres without TLS.

A URL without `sslmode` is the one that all clients take: SQLAlchemy's asyncpg and pg8000 dialects and Tortoise hand each word of a query
to the driver as a keyword, and asyncpg knows no keyword `sslmode`. But asyncpg and libpq (psycopg) read what a URL does not say from the
environment, and would ask this server for TLS. So a query is added where the environment would break those, and only there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote

# With one of these set, a client that is given no `sslmode` may ask for TLS, or fail while it gets ready to.
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
GOES_WITHOUT_TLS = ("", "disable", "allow", "prefer")
HAS_SUCH_A_SESSION = (
    "",
    "any",
    "read-write",
    "primary",
    "prefer-standby",
)  # what PGTARGETSESSIONATTRS may ask of a primary


def postgres_url(user: str, password: str, address: object, database: str) -> str:
    """Return the URL of a Postgres without TLS.

    Args:
        user: who connects.
        password: of that user.
        address: "host:port".
        database: the one to connect to.
    """
    query = "&".join(f"{name}={value}" for name, value in needed(os.environ).items())
    return f"postgresql://{user}:{quote(password, safe='')}@{address}/{database}" + (f"?{query}" if query else "")


def needed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a URL must say in this environment, so that asyncpg and libpq connect without TLS to a primary."""
    query = {}
    if environ.get("PGSSLMODE", "") not in GOES_WITHOUT_TLS or any(map(environ.get, TLS_VARIABLES)):
        query["sslmode"] = "disable"
    if environ.get("PGSSLROOTCERT") == "system":  # which libpq takes with sslmode=verify-full only
        query["sslrootcert"] = ""
    if environ.get("PGSSLNEGOTIATION", "postgres") != "postgres":
        query["sslnegotiation"] = "postgres"
    if environ.get("PGTARGETSESSIONATTRS", "") not in HAS_SUCH_A_SESSION:
        query["target_session_attrs"] = "any"
    return query
