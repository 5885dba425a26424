"""The plugin works with broken client libraries under test, and without them."""

from __future__ import annotations

import pytest

ABSENT = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("redis", "asyncpg"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuses())
"""
STUBS = """
import sys, types
for name in "redis", "asyncpg":
    sys.modules[name] = types.ModuleType(name)
"""
PATCHED = """
import asyncpg, pytest, redis

def broken(*_, **__):
    raise RuntimeError("the library under test is broken")

@pytest.fixture(autouse=True, scope="session")
def library():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg, "connect", broken)
        patch.setattr(asyncpg.connection, "connect", broken)
        for name in "fetch", "fetchval", "fetchrow", "execute", "close":
            patch.setattr(asyncpg.Connection, name, broken)
        for name in "execute_command", "from_url", "pipeline":
            patch.setattr(redis.Redis, name, broken)
        patch.setattr(redis.Connection, "connect", broken)
        yield
"""
HANGS = PATCHED.replace('raise RuntimeError("the library under test is broken")', "import time; time.sleep(600)")
TESTS = """
import pytest
from pytest_resilience import SetupError

@pytest.fixture(scope="session")
def resilience_schema():
    return "create table orders (id serial primary key)"

@pytest.mark.parametrize("turn", [1, 2])
def test_faults_strike_and_heal(resilience, turn):
    resilience.postgres.hold_locks("orders").heal()
    resilience.postgres.slow_queries(0.05, "orders").heal()
    resilience.postgres.take_connections(left=1).heal()
    resilience.postgres.read_only().heal()
    resilience.redis.oom().heal()
    resilience.redis.max_clients().heal()
    resilience.redis.busy_script().heal()
    resilience.postgres.terminate_backends()
    resilience.postgres.crash()
    resilience.redis.flush()
    resilience.redis.restart(data="kept")
    with pytest.raises(SetupError, match="this database has: orders"):
        resilience.postgres.hold_locks("customers")
"""


@pytest.mark.parametrize("conftest", [ABSENT, STUBS, PATCHED, HANGS], ids=["absent", "stubs", "patched", "hang"])
def test_clean_state_faults_and_leak_checks_need_no_client_library(pytester: pytest.Pytester, conftest: str) -> None:
    pytester.makeconftest(conftest)
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("--resilience-backend=embedded", "--resilience-leaks=error")
    result.stdout.fnmatch_lines(["*2 vacuous*"])
    result.stdout.no_fnmatch_line("*LEAK*")
