"""Tests and fixtures that restore sys.modules cause no crash and no second copy of the plugin's modules."""

from __future__ import annotations

import pytest

BEGIN = """
import gc, sys
import pytest

INNER = '''
import asyncio, asyncpg, redis

def test_inner(resilience):
    async def work():
        connection = await asyncpg.connect(resilience.postgres.url)
        try:
            return await connection.fetchval("select 1")
        finally:
            await connection.close()
    assert asyncio.run(work()) == 1
    with redis.Redis.from_url(resilience.redis.url) as client:
        assert client.ping()
'''

BARE = '''
import asyncpg, hiredis

def test_inner():
    assert asyncpg.Record and hiredis.Reader()
'''

def use_clients(resilience):
    import asyncio, asyncpg, redis
    async def work():
        connection = await asyncpg.connect(resilience.postgres.url)
        try:
            await connection.execute("create table if not exists waits ()")
            with pytest.raises(asyncpg.UndefinedTableError):
                await connection.fetch("select * from nowhere")
            return [tuple(row) for row in await connection.fetch("select 1, 'x'")]
        finally:
            await connection.close()
    async def lock(resilience):
        connection = await asyncpg.connect(resilience.postgres.direct_url)
        try:
            await connection.fetch("select * from waits", timeout=0.1)
        finally:
            await connection.close()
    assert asyncio.run(work()) == [(1, "x")]
    with redis.Redis.from_url(resilience.redis.url) as client:
        with pytest.raises(redis.ResponseError):
            client.execute_command("NONSENSE")
    with resilience.postgres.hold_locks("waits"):
        with pytest.raises(TimeoutError):
            asyncio.run(lock(resilience))
    gc.collect()

@pytest.fixture
def restored():
    saved, finders = dict(sys.modules), list(sys.meta_path)
    yield
    sys.modules.clear()
    sys.modules.update(saved)
    sys.meta_path[:] = finders
    gc.collect()

@pytest.fixture(scope="module")
def restored_by_a_module():
    saved, finders = dict(sys.modules), list(sys.meta_path)
    yield
    sys.modules.clear()
    sys.modules.update(saved)
    sys.meta_path[:] = finders

@pytest.fixture
def late(request):
    return request.getfixturevalue("resilience")
"""

ORDERS = {
    "pytester first": "def test_1(pytester, resilience): use_clients(resilience)\ndef test_2(resilience): use_clients(resilience)",
    "resilience first": "def test_1(resilience, pytester): use_clients(resilience)\ndef test_2(resilience): use_clients(resilience)",
    "the stack is made within": """
def test_1(pytester, request): use_clients(request.getfixturevalue("resilience"))
def test_2(pytester, resilience): use_clients(resilience)
def test_3(resilience): use_clients(resilience)
""",
    "another fixture restores": """
def test_1(restored, late): use_clients(late)
def test_2(late, restored): use_clients(late)
def test_3(resilience): use_clients(resilience)
""",
    "a module restores": "def test_1(restored_by_a_module, late): use_clients(late)\ndef test_2(late): use_clients(late)",
    "nothing but set-up within": "def test_1(pytester, resilience): pass\ndef test_2(resilience): pass",
    "the test restores": """
def test_1(resilience):
    saved = dict(sys.modules)
    use_clients(resilience)
    sys.modules.clear()
    sys.modules.update(saved)
    gc.collect()
    use_clients(resilience)
def test_2(resilience): use_clients(resilience)
""",
    "inner runs in this process": """
def test_1(pytester):
    for _ in range(2):
        pytester.makepyfile(INNER)
        pytester.runpytest_inprocess("-p", "pytest_resilience").assert_outcomes(passed=1)
def test_2(resilience): use_clients(resilience)
def test_3(pytester, resilience):
    for text in INNER, BARE, INNER:
        pytester.makepyfile(text)
        pytester.runpytest_inprocess("-p", "pytest_resilience").assert_outcomes(passed=1)
        use_clients(resilience)
""",
    "inner runs that do not use it": """
def test_1(pytester, request):
    for _ in range(2):
        pytester.makepyfile(BARE)
        pytester.runpytest_inprocess().assert_outcomes(passed=1)
    use_clients(request.getfixturevalue("resilience"))
def test_2(pytester, resilience):
    for _ in range(2):
        pytester.makepyfile(BARE)
        pytester.runpytest_inprocess("-p", "no:pytest_resilience").assert_outcomes(passed=1)
        use_clients(resilience)
""",
    "inner runs in processes of their own": """
def test_1(pytester, request):
    pytester.makepyfile(INNER)
    pytester.runpytest_subprocess("-p", "pytest_resilience").assert_outcomes(passed=1)
    use_clients(request.getfixturevalue("resilience"))
def test_2(resilience): use_clients(resilience)
""",
}


@pytest.mark.parametrize("order", ORDERS)
def test_restoring_sys_modules_crashes_nothing(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # pytest-asyncio would import much before the first test
    project.makeini("[pytest]\naddopts = -p pytest_resilience\n")
    project.makeconftest("pytest_plugins = 'pytester'\n")
    project.makepyfile(test_it=BEGIN + ORDERS[order])
    result = project.runpytest_subprocess("--resilience-leaks=error")
    result.assert_outcomes(passed=ORDERS[order].count("def test_"))
    assert result.ret == 0


def test_inner_runs_may_use_the_plugin_without_the_outer_run(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each inner run imports the plugin again, since the outer run does not use it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.makeini("[pytest]\n")
    project.makeconftest("pytest_plugins = 'pytester'\n")
    project.makepyfile(
        test_it=f"""{BEGIN}
def test_it(pytester):
    for _ in range(3):
        pytester.makepyfile(test_inner=INNER)
        pytester.runpytest_inprocess("-p", "pytest_resilience").assert_outcomes(passed=1)
        gc.collect()
"""
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_errors_and_history_have_one_copy(project: pytest.Pytester) -> None:
    """A second copy of the plugin's modules would skip no test, record in another history, and catch no error."""
    project.makeconftest("pytest_plugins = 'pytester'\n")
    project.makepyfile(
        test_it="""
        import sys

        COPIES = {}

        def copies():
            names = "asyncio", "asyncpg", "asyncpg.protocol.protocol", "redis", "hiredis", "pytest_resilience.errors", \
                "pytest_resilience.history", "pytest_resilience.stack", "httpx", "psutil"
            for name in names:
                __import__(name)
                COPIES.setdefault(name, set()).add(id(sys.modules[name]))

        def test_1(pytester, request):
            request.getfixturevalue("resilience").redis.latency(0.1).heal()
            copies()

        def test_2(pytester, resilience):
            copies()

        def test_3(resilience):
            copies()
            assert not [name for name, ids in COPIES.items() if len(ids) > 1]
        """
    )
    project.makeini("[pytest]\naddopts = -p pytest_resilience\n")
    result = project.runpytest_subprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["VACUOUS test_it.py::test_1: redis.latency(seconds=0.1) affected no bytes"])
