"""Variables for other servers and programs in the environment of the run affect neither the servers nor the plugin."""

from __future__ import annotations

import pytest

TEST = """
import asyncio
import asyncpg, pytest, redis

@pytest.fixture(scope="session")
def resilience_schema():
    return "create table orders (id serial primary key)"

async def execute(url, query):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()

@pytest.mark.parametrize("turn", [1, 2])
def test_it_works(resilience, turn):
    for url in resilience.postgres.url, resilience.postgres.direct_url:
        assert asyncio.run(execute(url, "select count(*) from orders")) == 0
    asyncio.run(execute(resilience.postgres.url, "insert into orders default values returning id"))
    redis.Redis.from_url(resilience.redis.url).set("key", "value")
    assert resilience.postgres.admin.fetch("select 1")[0][0] == 1

def test_the_server_has_its_own_settings(resilience):
    for setting in "TimeZone", "lc_messages", "lc_numeric", "DateStyle", "client_encoding":
        print(setting, asyncio.run(execute(resilience.postgres.direct_url, f"show {setting}")))
"""
TLS = {
    "PGSSLMODE": "verify-full",
    "PGSSLROOTCERT": "/nonexistent/root.crt",
    "PGSSLCERT": "/nonexistent/postgresql.crt",
    "PGSSLKEY": "/nonexistent/postgresql.key",
    "PGSSLCRL": "/nonexistent/root.crl",
    "PGSSLMINPROTOCOLVERSION": "TLSv1.3",
    "PGREQUIRESSL": "1",
}
ENVIRONMENTS = {
    "TLS": TLS,
    "a cut-off TLS": {"PGSSLCERT": "/nonexistent/postgresql.crt"},
    "the system's certificates": {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "system"},
    "direct TLS": {**TLS, "PGSSLNEGOTIATION": "direct"},
    "a standby": {"PGTARGETSESSIONATTRS": "standby"},
    "no such attribute": {"PGTARGETSESSIONATTRS": "bogus"},
    "another server": {
        "PGHOST": "192.0.2.1",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGUSER": "joe",
        "PGPASSWORD": "guess",
        "PGDATABASE": "shop",
        "PGSERVICE": "shop",
        "PGSERVICEFILE": "/nonexistent/service",
        "PGPASSFILE": "/nonexistent/pass",
        "PGDATA": "/nonexistent",
        "PGKRBSRVNAME": "shop",
        "PGCHANNELBINDING": "require",
        "PGGSSENCMODE": "require",
        "PGREQUIREAUTH": "gss",
        "REDIS_URL": "redis://192.0.2.1:1/1",
        "REDISCLI_AUTH": "guess",
    },
    "another place": {
        "LC_ALL": "xx_YY.bogus",
        "LANG": "tr_TR",
        "LANGUAGE": "tr",
        "TZ": "Mars/Olympus",
        "PGTZ": "Asia/Tokyo",
        "PGDATESTYLE": "german",
    },
    "another Python": {
        "PYTHONWARNINGS": "ignore",
        "PYTHONDEVMODE": "1",
        "PYTHONUTF8": "0",
        "PYTHONSTARTUP": "/nonexistent",
        "PYTHONIOENCODING": "ascii",
    },
    "other libraries": {"LD_LIBRARY_PATH": "/nonexistent"},
    "no home": {"HOME": "/nonexistent"},
}


@pytest.mark.parametrize("what", ENVIRONMENTS)
def test_the_environment_affects_neither_servers_nor_plugin(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    project.makepyfile(TEST)
    for name, value in ENVIRONMENTS[what].items():
        monkeypatch.setenv(name, value)
    result = project.runpytest_subprocess("--resilience-backend=embedded", "-rP", "-W", "ignore::DeprecationWarning")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["TimeZone UTC", "lc_messages C", "lc_numeric C", "DateStyle ISO, MDY", "client_encoding UTF8"]
    )


def test_files_in_the_home_directory_are_not_read(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with passwords, certificates or services would break the connections of the plugin."""
    home = project.mkdir("home")
    (home / ".postgresql").mkdir()
    for name in ("root.crt", "root.crl", "postgresql.crt", "postgresql.key"):
        (home / ".postgresql" / name).write_text("no certificate")
    for name in (".pgpass", ".pg_service.conf"):
        (home / name).write_text("broken")
    monkeypatch.setenv("HOME", str(home))
    project.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def resilience_schema():
            return "create table orders (id serial primary key)"

        def test_it(resilience):
            assert resilience.postgres.admin.fetch("select count(*) from orders")[0][0] == 0
        """
    )
    project.runpytest_subprocess("--resilience-backend=embedded").assert_outcomes(passed=1)


def test_a_broken_setting_for_kerberos_breaks_no_connection_of_the_plugin(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGGSSLIB", "bogus")
    project.makepyfile("def test_it(resilience): assert resilience.postgres.admin.fetch('select 1')[0][0] == 1")
    project.runpytest_subprocess("--resilience-backend=embedded").assert_outcomes(passed=1)
