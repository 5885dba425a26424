"""TCP systems behind proxies: faults, receipts, markers, schedules, and the hosts that may be struck."""

from __future__ import annotations

import pytest

UPSTREAM = '''
"""A server that echoes lines, in a process of its own. It prints its port."""
import socketserver

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
'''
CONFTEST = """
import subprocess, sys
import pytest

@pytest.fixture(scope="session")
def upstream():
    with subprocess.Popen([sys.executable, "upstream.py"], stdout=subprocess.PIPE) as server:
        yield f"127.0.0.1:{int(server.stdout.readline())}"
        server.kill()

@pytest.fixture
def payments(resilience, upstream):
    return resilience.add_tcp("payments", upstream)
"""
ASK = """
import socket, time
import pytest
from pytest_resilience import CannotInject, Episode, Schedule, ScheduleError, SetupError, Step, UnknownFault, factories

def ask(target, text=b"hello\\n", timeout=2.0):
    with socket.create_connection((target.host, target.port), timeout=timeout) as connection:
        connection.sendall(text)
        return connection.recv(100)
"""


@pytest.fixture
def echo(project: pytest.Pytester) -> pytest.Pytester:
    """A project with a server that echoes, and a fixture for it."""
    project.makepyfile(upstream=UPSTREAM)
    project.makeconftest(CONFTEST)
    return project


def test_every_network_fault_strikes_and_heals_with_a_receipt(echo: pytest.Pytester) -> None:
    echo.makepyfile(
        ASK
        + """
FAULTS = {
    "refuse": (), "reset": (), "blackhole": (), "latency": (0.01,), "bandwidth": (100_000,), "slow_close": (0.01,),
    "slicer": (2,), "limit_data": (2,), "flap": (), "slow_accept": (0.01,), "half_open": (),
    "protocol_violation": (),
}

@pytest.mark.parametrize("name", FAULTS)
def test_fault(resilience, payments, name):
    with socket.create_connection((payments.host, payments.port), timeout=2) as before:
        before.sendall(b"1\\n")
        assert before.recv(10) == b"1\\n"
        with getattr(payments, name)(*FAULTS[name]) as strike:
            try:
                before.settimeout(0.1)
                before.sendall(b"2\\n")
                before.recv(10)
            except OSError:
                pass
            try:
                ask(payments, timeout=0.3)
            except OSError:
                pass
    assert strike.receipt.touched, strike
    assert strike.label.startswith(f"payments.{name}")
    assert ask(payments) == b"hello\\n"

def test_every_network_fault_is_here():
    from pytest_resilience.faults import FAULTS as ALL
    assert set(FAULTS) == {name for name, kind in ALL.items() if "tcp" in kind.targets}
"""
    )
    echo.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=13)


def test_marker_vacuous_and_the_heal_at_the_end(echo: pytest.Pytester) -> None:
    echo.makepyfile(
        ASK
        + """
@pytest.mark.fault("payments.latency", seconds=0.05)
def test_the_marker_sets_up_the_fixture_of_its_target():
    pass

@pytest.mark.fault("payments.refuse")
def test_marker(resilience, payments):
    with pytest.raises(ConnectionRefusedError):
        ask(payments)
    assert [each.label for each in resilience.strikes] == ["payments.refuse"]

def test_healed(payments):
    assert ask(payments) == b"hello\\n"

def test_stays_struck(resilience, payments):
    payments.proxy.add_toxic(type="timeout", attributes={"timeout": 0})
    payments.refuse()
    with pytest.raises(ConnectionRefusedError):
        ask(payments)

def test_nothing_is_left_of_it(payments):
    assert ask(payments) == b"hello\\n"

def test_no_such_fault(resilience, payments):
    with pytest.raises(UnknownFault, match="did you mean 'payments.refuse'"):
        resilience.strike("payments.refus")
    with pytest.raises(UnknownFault):
        resilience.strike("payments.kill")
"""
    )
    result = echo.runpytest_subprocess("-rA")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["*VACUOUS*test_the_marker_sets_up_the_fixture_of_its_target*"])


def test_addresses_of_the_proxy_and_of_the_upstream(echo: pytest.Pytester) -> None:
    echo.makepyfile(
        ASK
        + """
def test_url(resilience_stack, payments, upstream):
    assert payments.url == f"http://{payments.host}:{payments.port}"
    assert payments.upstream == upstream != f"{payments.host}:{payments.port}"
    again = resilience_stack.add_tcp("payments", upstream)
    assert (again.host, again.port) == (payments.host, payments.port)

def test_the_url_of_the_upstream_gives_the_form(resilience, upstream):
    target = resilience.add_tcp("other", f"amqp://user:se%40cret@{upstream}/vhost?x=1")
    assert target.url == f"amqp://user:se%40cret@{target.host}:{target.port}/vhost?x=1"
    assert "se%40cret" not in repr(target)
    assert ask(target) == b"hello\\n"

def test_another_upstream_replaces_the_first(resilience, upstream):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    target = resilience.add_tcp("moved", nobody)
    port = target.port
    try:
        assert ask(target) == b"", "the upstream refuses, so the proxy closes"
    except OSError:
        pass
    target = resilience.add_tcp("moved", upstream)
    assert target.port == port and ask(target) == b"hello\\n"

@pytest.mark.parametrize("name", ["postgres", "service", "client", "tcp", "No", "", "../up"])
def test_names(resilience_stack, upstream, name):
    with pytest.raises(SetupError, match="can't be the name"):
        resilience_stack.add_tcp(name, upstream)

def test_one_name_is_one_system(resilience_stack, payments):
    with pytest.raises(SetupError, match="can't be the name"):
        resilience_stack.add_redis("payments")
"""
    )
    echo.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=11)


HOSTS = (
    ASK
    + """
named = factories.tcp("named", upstream="http://192.0.2.1:9000/v1")

def test_named(named):
    assert named.upstream == "192.0.2.1:9000"
    assert named.url == f"http://{named.host}:{named.port}/v1"
"""
)


def test_a_host_beyond_loopback_is_an_error_that_names_the_option(project: pytest.Pytester) -> None:
    project.makepyfile(HOSTS)
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*SetupError: named: the upstream's host '192.0.2.1' is not loopback*resilience_hosts*"]
    )


@pytest.mark.parametrize("how", ["option", "ini", "environment", "fixture"])
def test_a_host_that_the_user_names_is_taken(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    project.makepyfile(HOSTS)
    arguments = ["--resilience-hosts=api.test, 192.0.2.1"] if how == "option" else []
    if how == "ini":
        with (project.path / "tox.ini").open("a") as ini:
            ini.write("\nresilience_hosts =\n    API.test\n    192.0.2.1\n")
    elif how == "environment":
        monkeypatch.setenv("PYTEST_RESILIENCE_HOSTS", "192.0.2.1")
    elif how == "fixture":
        project.makeconftest(
            "import pytest\n@pytest.fixture(scope='session')\ndef resilience_hosts():\n    return ['192.0.2.1']\n"
        )
    project.runpytest_subprocess(*arguments).assert_outcomes(passed=1)


@pytest.mark.parametrize("value", ["http://api.test", "api.test:9000", "*"])
def test_a_wrong_host_is_a_usage_error(project: pytest.Pytester, value: str) -> None:
    project.makepyfile(HOSTS)
    result = project.runpytest_subprocess(f"--resilience-hosts={value}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--resilience-hosts*{value}*"])


def test_a_tcp_system_is_a_target_of_schedules(echo: pytest.Pytester) -> None:
    pytest.importorskip("hypothesis")
    echo.makepyfile(
        ASK
        + """
from hypothesis import given, settings
from pytest_resilience.schedule import operations, touched
from pytest_resilience.strategies import schedules

STEP = Step("payments.refuse", at=operations(2), until=touched(1))

def test_a_step_names_it():
    assert Schedule.loads(Schedule([Episode([STEP], 4)]).dumps()).episodes[0].steps[0] == STEP

def test_strategies_draw_its_faults():
    drawn = set()

    @settings(database=None, max_examples=50, deadline=None)
    @given(schedule=schedules("tcp:payments"))
    def draw(schedule):
        drawn.update(step.target for step in schedule.steps)

    draw()
    assert drawn == {"payments"}

@pytest.mark.parametrize("target", ["tcp", "payments", "tcp:"])
def test_a_target_of_strategies_has_a_kind_and_a_name(target):
    with pytest.raises(SetupError, match="tcp:payments"):
        schedules(target)
"""
    )
    echo.runpytest_subprocess().assert_outcomes(passed=5)


USERS = '''
"""A service that greets, and asks another one for names if USERS_URL is set."""
import http.server, os, socketserver, urllib.error, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    visits = 0
    def do_GET(self):
        status, text = 200, "Ada"
        if self.path == "/visits":
            type(self).visits += 1
            text = str(self.visits)
        elif self.path == "/greet":
            try:
                with urllib.request.urlopen(os.environ["USERS_URL"] + "/name", timeout=0.5) as reply:
                    text = "hello " + reply.read().decode()
            except OSError as error:
                status, text = 503, type(error).__name__
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *arguments):
        pass

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
'''


def test_a_service_reaches_another_one_through_a_proxy(project: pytest.Pytester) -> None:
    project.makepyfile(users=USERS)
    project.makeconftest(
        """
        import sys
        import pytest
        from pytest_resilience import Service

        @pytest.fixture(scope="session")
        def users_service():
            return Service([sys.executable, "users.py"])

        @pytest.fixture(scope="session")
        def resilience_service(resilience_stack, users_service):
            between = resilience_stack.add_tcp("between", users_service)
            web = Service([sys.executable, "users.py"], env={"USERS_URL": between.url})
            return {"web": web, "users": users_service}
        """
    )
    project.makepyfile(
        """
        import pytest

        @pytest.mark.fault("between.refuse")
        def test_the_way_between(resilience):
            assert resilience.web.get("/greet").status_code == 503
            assert resilience.users.get("/name").status_code == 200, "the service itself is up"
            resilience.strikes[0].heal()
            assert resilience.web.get("/greet").text == "hello Ada"

        def test_the_service_itself(resilience):
            with resilience.users.kill():
                assert resilience.web.get("/greet").status_code == 503
            assert resilience.web.get("/greet").text == "hello Ada"

        def test_the_proxy_follows_the_port(resilience, resilience_stack, users_service):
            between = resilience.add_tcp("between", users_service)
            assert between.upstream == resilience.users.url.removeprefix("http://")
            ports = resilience_stack.service_ports(users_service)
            resilience.users.kill()
            ports.draw()
            resilience.strikes[-1].heal()
            assert between.upstream == f"127.0.0.1:{ports.first}"
            assert resilience.web.get("/greet").text == "hello Ada"
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=3)


def test_a_factory_starts_the_process_that_is_its_upstream(project: pytest.Pytester) -> None:
    project.makepyfile(users=USERS)
    project.makepyfile(
        """
        import sys, urllib.request
        import pytest
        from pytest_resilience import Service, SetupError, factories

        USERS = Service([sys.executable, "users.py"])
        users = factories.tcp("users", USERS)
        others = factories.tcp("others", lambda stack: Service([sys.executable, "users.py"], env={"SEED": str(stack.seed)}))
        known = factories.service("known", lambda stack: KNOWN)
        KNOWN = Service([sys.executable, "users.py"])
        to_known = factories.tcp("to_known", KNOWN)

        def read(target, path="/name"):
            with urllib.request.urlopen(target.url + path, timeout=2) as reply:
                return reply.read().decode()

        @pytest.mark.parametrize("turn", [1, 2])
        def test_a_fresh_process_for_each_test(users, turn):
            assert read(users, "/visits") == "1"

        def test_both_targets(resilience, users, others, to_known):
            assert [read(users), read(others), read(to_known)] == ["Ada"] * 3
            assert sorted(resilience.services) == ["known", "others_server", "users_server"]
            with users.refuse(), pytest.raises(OSError):
                read(users)
            with resilience.services["users_server"].kill(), pytest.raises(OSError):
                read(users)
            assert read(users) == "Ada"

        def test_a_service_without_a_port_is_an_error(resilience):
            with pytest.raises(SetupError, match="has no port"):
                resilience.add_tcp("nothing", Service([sys.executable, "-c", "input()"], port_variable=None, ready=None))
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=4)


def test_a_schedule_strikes_a_tcp_system_while_clients_work(echo: pytest.Pytester) -> None:
    echo.makepyfile(
        ASK
        + """
from pytest_resilience.schedule import operations

class Echoes:
    kinds = ("read",)

    def begin(self, resilience):
        self._target = resilience.add_tcp("payments", UPSTREAM[0])

    def kind(self, n):
        return "read"

    def perform(self, client, kind, n):
        operation = client.invoke(kind)
        try:
            operation.ok(value=ask(self._target).decode())
        except OSError as error:
            operation.fail(error=str(error))

    def read_all(self, client): ...

    def end(self): ...

UPSTREAM = []

def test_play(resilience, payments):
    UPSTREAM.append(payments.upstream)
    steps = [Step("payments.refuse", at=operations(2), until=operations(6)), Step("payments.latency", {"seconds": 0.01}, at=operations(8))]
    history = resilience.play(Schedule([Episode(steps, operations=12)]), Echoes(), clients=2)
    assert [each.label for each in resilience.strikes] == ["payments.refuse", "payments.latency(seconds=0.01)"]
    assert {each.type for each in history.operations} >= {"ok", "fail"}

def test_a_system_that_is_not_there_is_an_error_before_the_play(resilience, payments):
    with pytest.raises(ScheduleError, match="no target named 'paymens'; did you mean 'payments'"):
        resilience.play(Schedule([Episode([Step("paymens.refuse")])]), Echoes())
    with pytest.raises(ScheduleError, match="payments is a tcp, and kill strikes"):
        resilience.play(Schedule([Episode([Step("payments.kill")])]), Echoes())
"""
    )
    echo.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=2)
