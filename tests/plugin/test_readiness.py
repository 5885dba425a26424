"""A service is ready by a path, URL, TCP port, log line or function, and its setup belongs to the baseline."""

from __future__ import annotations

import pytest

SERVER = '''
"""A server: python server.py PORT [PORT of metrics]; with PORT 0 it logs the port that it has chosen."""
import http.server, os, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path in ("/", "/ready", "/slow") else 404)
        self.end_headers()
        if self.path == "/slow":
            threading.Event().wait(30)
    def log_message(self, *arguments):
        pass

servers = [http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler) for port in sys.argv[1:]]
for each in servers:
    each.daemon_threads = True
for each in servers[1:]:
    threading.Thread(target=each.serve_forever, daemon=True).start()
print("listening on", *(each.server_port for each in servers), flush=True)
servers[0].serve_forever()
'''
CONFTEST = """
import pathlib, re, socket, sys
import pytest
from pytest_resilience import Service

def connects(start):
    try:
        socket.create_connection((start.host, start.ports["http"]), 0.1).close()
    except OSError:
        return False
    return "listening" in start.log and start.url.endswith(f":{start.port}") and start.pid > 0

SERVER = [sys.executable, "server.py"]
"""
READY = {  # arguments of the service that is ready
    "url_of_another_port": """[*SERVER, "{port}", "{metrics}"], ports=("http", "metrics"), ready="http://127.0.0.1:{metrics}/ready" """,
    "tcp": """[*SERVER, "{port}"], port_variable=None, ready="{port}" """,
    "tcp_url": """[*SERVER, "{port}"], port_variable=None, ready="tcp://127.0.0.1:{port}" """,
    "in_env": """["sh", "-c", "exec $PYTHON server.py $LISTEN"], port_variable=None, ready="/ready",
        env={"LISTEN": "{port}", "PYTHON": sys.executable}""",
    "text": """[*SERVER, "{port}"], ready="listening on {port}" """,
    "pattern": """[*SERVER, "{port}"], ready=re.compile(r"listening on \\d+")""",
    "function": """[*SERVER, "{port}"], ready=connects""",
    "own_port": """[*SERVER, "0"], port_variable=None, port_pattern=r"listening on (\\d+)", ready="/ready" """,
    "own_port_by_ready": """[*SERVER, "{port}"], ready=re.compile(r"listening on (?P<port>\\d+)")""",
    "own_ports": """[*SERVER, "{port}", "{metrics}"], ports=("http", "metrics"), ready="http://127.0.0.1:{metrics}/ready",
        port_pattern=r"listening on (?P<http>\\d+) (?P<metrics>\\d+)" """,
}
TEST = """
from conftest import *

@pytest.fixture(scope="session")
def resilience_service():
    return Service({arguments})

def test_it(resilience):
    service = resilience.service
    client = service.client
    assert client.get("/").status_code == 200
    assert service.port == service.ports["http"] and service.url == f"http://127.0.0.1:{service.port}"
    service.restart()
    assert service.get("/").status_code == 200, "also after a restart"
    assert client.get("/").status_code == 200, "the client follows a service that chooses another port"
"""


@pytest.fixture
def server(project: pytest.Pytester) -> pytest.Pytester:
    """A project with a server that takes its port as an argument."""
    project.makepyfile(server=SERVER)
    project.makeconftest(CONFTEST)
    return project


def test_a_service_is_ready_by_a_url_a_port_a_log_line_or_a_function(server: pytest.Pytester) -> None:
    server.makepyfile(**{f"test_{name}": TEST.replace("{arguments}", arguments) for name, arguments in READY.items()})
    server.runpytest_subprocess().assert_outcomes(passed=len(READY))


NOT_READY = {  # arguments of the service that is not ready, and its error
    "tcp": (
        """["sleep", "60"], ready="{port}", within=0.3""",
        [
            "the service did not accept a connection within 0.3 s; it is still running",
            "TCP port *: ConnectionRefusedError",
        ],
    ),
    "elsewhere": (
        """[*SERVER, "0"], port_variable=None, ready="http://127.0.0.1:{port}/", within=5.0""",
        [
            "*it listens on 127.0.0.1:*, not on *, the port 'http'; {port} in the command or in a value of env is its number"
        ],
    ),
    "text": (
        """["echo", "hello; echo"], ready="goodbye" """,
        ["the service ended with exit code 0 after *, before it was ready", "* hello; echo"],
    ),
    "text_running": (
        """["sh", "-c", "echo hello; sleep 60"], ready="goodbye", within=2.0""",
        [
            "the service did not log the line that makes it ready within 2 s; it is still running",
            "*its log has no line with 'goodbye'; a path begins with '/'",
            "* hello",
        ],
    ),
    "function": (
        """["sleep", "60"], ready=lambda: 1 / 0, within=0.3""",
        [
            "the service did not become ready within 0.3 s*",
            "*the function <lambda> of Service(ready=...) raised ZeroDivisionError: *",
        ],
    ),
    "own_port": (
        """["sleep", "60"], port_pattern=r"port (\\d+)", within=0.3""",
        ["the service did not log its port within 0.3 s*", "*no line of its log matches 'port (\\\\d+)'"],
    ),
    "runs": (
        """["sh", "-c", "echo no module; exit 1"], ready=None""",
        ["the service ended with exit code 1 after *", "*no module"],
    ),
    "command": (
        """["true"], ready=None""",
        ["the service ended with exit code 0 after *", "*a command that ends belongs into Service(setup=...)"],
    ),
    "setup": (
        """["sleep", "60"], ready=None, setup=[["true"], ["sh", "-c", "echo no such table; exit 3"]]""",
        [
            "a setup command of the service ended with exit code 3",
            "*command: sh -c echo no such table; exit 3",
            "* no such table",
        ],
    ),
    "setup_slow": (
        """["sleep", "60"], ready=None, setup=["sleep", "60"], setup_within=0.3""",
        ["a setup command of the service did not end within 0.3 s", "*command: sleep 60", "*(it wrote nothing)"],
    ),
    "setup_not_there": (
        """["sleep", "60"], ready=None, setup=["no-such-migration"]""",
        ["a setup command of the service could not be started: 'no-such-migration' is not on PATH*"],
    ),
}
NOT_READY_TEST = """
from conftest import *

@pytest.fixture(scope="session")
def resilience_service():
    return Service({arguments})

def test_first(resilience): pass
def test_second(resilience): pass
"""


def test_a_service_on_an_ipv6_address_is_requested_there(server: pytest.Pytester) -> None:
    server.makepyfile(
        """
        from conftest import *

        @pytest.fixture(scope="session")
        def resilience_service():
            return Service([sys.executable, "-m", "http.server", "--bind", "::1", "{port}"], host="::1")

        def test_it(resilience):
            service = resilience.service
            assert service.url == f"http://[::1]:{service.port}"
            assert service.get("/").status_code == 200
        """
    )
    server.runpytest_inprocess("-q", "-n0").assert_outcomes(passed=1)


def test_a_service_that_is_not_ready_is_described_once_and_then_fails_at_once(server: pytest.Pytester) -> None:
    modules = {
        f"test_{name}": NOT_READY_TEST.replace("{arguments}", arguments) for name, (arguments, _) in NOT_READY.items()
    }
    server.makepyfile(**modules)
    result = server.runpytest_subprocess(*(f"{name}.py" for name in modules))
    result.assert_outcomes(errors=2 * len(NOT_READY))
    sections = result.stdout.str().partition("short test summary")[0].split("ERROR at setup of test_first")[1:]
    for section, (_, (first_line, *others)) in zip(sections, NOT_READY.values(), strict=True):
        first, second = section.split("ERROR at setup of test_second")
        pytest.LineMatcher(first.splitlines()).fnmatch_lines([f"E *{first_line}", *(f"E *{each}" for each in others)])
        (again,) = [line for line in second.splitlines() if line.startswith("E ")]
        assert ": not started again, because an earlier start failed: " in again


def test_setup_runs_once_before_the_first_start_and_each_test_begins_with_its_schema(server: pytest.Pytester) -> None:
    server.makepyfile(
        migrate="""
        import asyncio, asyncpg, os, sys

        async def main():
            connection = await asyncpg.connect(os.environ["DATABASE_URL"])
            await connection.execute(sys.argv[1])
            await connection.close()

        asyncio.run(main())
        print("migrated", flush=True)
        """,
        test_it="""
        from conftest import *
        import asyncio, asyncpg

        MIGRATE = [sys.executable, "migrate.py"]

        @pytest.fixture(scope="session")
        def resilience_service(resilience_stack):
            env = {"DATABASE_URL": resilience_stack.postgres.url}
            insert = [*MIGRATE, "insert into plans values ('{port}')"]
            setup = [[*MIGRATE, "create table plans (name text)"], insert]
            return Service([*SERVER, "{port}"], ready="/", setup=setup, env=env)

        async def execute(url, query):
            connection = await asyncpg.connect(url)
            try:
                return await connection.fetch(query)
            finally:
                await connection.close()

        @pytest.mark.parametrize("turn", [1, 2, 3])
        def test_it(resilience, turn):
            rows = asyncio.run(execute(resilience.postgres.url, "select name from plans"))
            assert [row["name"] for row in rows] == [str(resilience.service.port)]
            asyncio.run(execute(resilience.postgres.url, "drop table plans"))
        """,
    )
    server.runpytest_subprocess().assert_outcomes(passed=3)


def test_each_service_says_when_a_test_gets_a_fresh_process(server: pytest.Pytester) -> None:
    server.makepyfile(
        test_it="""
        from conftest import *

        @pytest.fixture(scope="session")
        def resilience_service():
            return {
                "web": Service([*SERVER, "{port}"], ready="/"),
                "worker": Service(["sleep", "60"], port_variable=None, ready=None),
                "struck": Service([*SERVER, "{port}"], ready="/", restart="struck"),
                "never": Service([*SERVER, "{port}"], ready="/", restart="never"),
            }

        pids = {}

        def fresh(resilience):
            now = {name: running.child.pid for name, running in resilience._running.items()}
            changed = {name for name in now if pids.get(name, now[name]) != now[name]}
            pids.update(now)
            return changed

        def test_1_nothing(resilience):
            assert fresh(resilience) == set()

        def test_2_a_worker_may_always_have_been_used(resilience):
            assert fresh(resilience) == {"worker"}
            resilience.web.get("/")

        def test_3_a_used_service_is_fresh(resilience):
            assert fresh(resilience) == {"web", "worker"}
            resilience.redis.restart()

        def test_4_after_a_strike_all_but_those_that_never_restart_are_fresh(resilience):
            assert fresh(resilience) == {"web", "worker", "struck"}
            resilience.never.kill()

        def test_5_a_process_that_a_strike_has_ended_is_a_new_one(resilience):
            assert fresh(resilience) == {"web", "worker", "struck", "never"}
        """
    )
    server.runpytest_subprocess().assert_outcomes(passed=5)


def test_the_time_out_of_the_client_can_be_set(server: pytest.Pytester) -> None:
    server.makepyfile(
        test_it="""
        from conftest import *
        import httpx

        @pytest.fixture(scope="session")
        def resilience_service():
            return Service([*SERVER, "{port}"], ready="/", timeout=0.3)

        def test_it(resilience):
            assert resilience.service.client.timeout.read == 0.3
            with pytest.raises(httpx.ReadTimeout) as failure:
                resilience.service.get("/slow")
            assert "the client's default time-out is 0.3 s" in failure.value.__notes__[0]
            assert "Service(timeout=...)" in failure.value.__notes__[0]
        """
    )
    server.runpytest_subprocess().assert_outcomes(passed=1)
