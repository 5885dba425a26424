"""URLs of a Postgres without TLS, by the variables of the environment."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from pytest_resilience.backends import postgres_url as urls
from pytest_resilience.backends.postgres_url import postgres_url, required_query


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PGSSLMODE": "prefer", "PGSSLNEGOTIATION": "postgres", "PGTARGETSESSIONATTRS": "read-write"},
        {"PGSSLMODE": "", "PGSSLROOTCERT": ""},
        {"PGHOST": "elsewhere", "PGPORT": "1", "PGUSER": "joe", "PGDATABASE": "shop", "PGPASSWORD": "guess"},
    ],
)
def test_a_url_has_no_query_where_none_is_required_query(environ):
    assert required_query(environ) == {}


@pytest.mark.parametrize(
    ("environ", "query"),
    [
        ({"PGSSLMODE": "require"}, {"sslmode": "disable"}),
        ({"PGSSLMODE": "bogus"}, {"sslmode": "disable"}),
        ({"PGSSLCERT": "/home/joe/cert"}, {"sslmode": "disable"}),
        ({"PGREQUIRESSL": "1"}, {"sslmode": "disable"}),
        ({"PGSSLROOTCERT": "system"}, {"sslmode": "disable", "sslrootcert": ""}),
        ({"PGSSLNEGOTIATION": "direct"}, {"sslnegotiation": "postgres"}),
        ({"PGTARGETSESSIONATTRS": "standby"}, {"target_session_attrs": "any"}),
    ],
)
def test_a_url_overrides_the_environment(environ, query):
    assert required_query(environ) == query


def test_a_url_is_written_for_the_environment_at_the_time_of_the_call(monkeypatch):
    for name in (*urls.TLS_VARIABLES, "PGSSLMODE", "PGSSLNEGOTIATION", "PGTARGETSESSIONATTRS"):
        monkeypatch.delenv(name, raising=False)
    assert postgres_url("joe", "a/b", "host:1", "shop") == "postgresql://joe:a%2Fb@host:1/shop"
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "standby")
    url = postgres_url("joe", "a/b", "host:1", "shop")
    assert urlsplit(url).query == "sslmode=disable&target_session_attrs=any"
