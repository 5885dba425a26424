"""A web process and workers without HTTP, each a target of its own."""

from __future__ import annotations

import psutil
import pytest

WORKER = """
import json, os, pathlib, signal, sys, time
import redis

name = sys.argv[1]
client = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=1.0, retry=None)
print(f"{name}: begins as {os.getpid()}", flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
client.set(f"{name}:ready", os.getpid())
print(f"{name}: ready", flush=True)
while True:
    try:
        job = client.blpop([f"{name}:jobs"], timeout=0.2)
        if job is not None and job[1] == b"exit":
            sys.exit(3)
        if job is not None:
            client.rpush(f"{name}:done", job[1])
            print(f"{name}: did {job[1].decode()}", flush=True)
    except redis.RedisError as error:
        print(f"{name}: {type(error).__name__}", flush=True)
        time.sleep(0.05)
"""
UNTIL_REDIS_ANSWERS = """
while True:
    try:
        client.ping()
        break
    except redis.RedisError:
        time.sleep(0.02)
"""
WEB = """
import sys
import pytest
import redis
from pytest_resilience import Service, eventually, factories

@pytest.fixture(scope="session")
def resilience_service(resilience_stack):
    return Service([sys.executable, "shop.py"], ready="/readyz", within=30.0,
                   env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url})
"""
WORKERS = """
def describe(name, **settings):
    def described(stack):
        settings.setdefault("ready", f"{name}: ready")
        settings.setdefault("within", 30.0)
        return Service([sys.executable, "worker.py", name], port_variable=None, env={"REDIS_URL": stack.redis.url}, **settings)
    return described

def did(resilience, name, job):
    with redis.Redis.from_url(resilience.redis.url) as client:
        client.rpush(f"{name}:jobs", job)
        return eventually(lambda: job.encode() in client.lrange(f"{name}:done", 0, -1), within=20)
"""


@pytest.fixture
def system(shop: pytest.Pytester) -> pytest.Pytester:
    """A project with a web process, a worker and helpers for its tests."""
    shop.makepyfile(worker=WORKER)
    shop.makeconftest(WEB + WORKERS + '\nworker = factories.service("worker", describe("worker"))\n')
    return shop


def test_a_worker_is_a_target_beside_the_web_process(system: pytest.Pytester) -> None:
    system.makepyfile(
        """
        import psutil, pytest
        from conftest import did
        from pytest_resilience import SetupError, UnknownFault, eventually

        def test_it_runs_beside_the_service(resilience, worker):
            assert did(resilience, "worker", "first")
            assert resilience.service.get("/redis").status_code == 200
            assert resilience.worker is worker is resilience.services["worker"]
            assert list(resilience.services) == ["service", "worker"]
            assert "worker: ready" in worker.log and "shop" not in worker.log

        def test_it_runs_in_tests_that_do_not_name_it(resilience):
            assert did(resilience, "worker", "second")

        def test_it_is_struck_apart(resilience):
            web, old = resilience.service.process.pid, resilience.worker.process.pid
            with resilience.worker.kill() as strike:
                assert not psutil.pid_exists(old)
                assert resilience.service.get("/redis").status_code == 200
            assert (strike.label, strike.receipt.touched) == ("worker.kill", 1)
            assert did(resilience, "worker", "third")
            assert resilience.service.process.pid == web and resilience.worker.process.pid != old

        @pytest.mark.fault("worker.pause")
        def test_the_marker_names_it(resilience):
            assert resilience.services["worker"].process.status() == psutil.STATUS_STOPPED
            assert [strike.label for strike in resilience.strikes] == ["worker.pause"]

        def test_together(resilience, worker):
            with resilience.service.pause(), worker.terminate():
                pass
            assert did(resilience, "worker", "fourth")
            assert resilience.service.get("/redis").status_code == 200

        def test_wrong_names(resilience):
            with pytest.raises(SetupError, match="no service named 'wroker'; did you mean 'worker'"):
                resilience.services["wroker"]
            with pytest.raises(AttributeError, match="did you mean 'worker'"):
                resilience.wroker
            with pytest.raises(UnknownFault, match="worker.kill"):
                resilience.strike("worker.kil")
            with pytest.raises(SetupError, match="has no port"):
                resilience.worker.url
        """
    )
    system.runpytest_subprocess("--resilience-strict", "--resilience-leaks=error").assert_outcomes(passed=6)


def test_pytest_lists_a_worker_with_its_name(system: pytest.Pytester) -> None:
    result = system.runpytest_subprocess("--fixtures", "-v")
    result.stdout.fnmatch_lines(["worker -- *", "*The service 'worker', which runs for each test: a target with*"])


def test_a_schedule_strikes_a_worker(system: pytest.Pytester) -> None:
    system.makepyfile(
        """
        from hypothesis import given, settings
        from pytest_resilience import Episode, Schedule, ScheduleError, Step
        from pytest_resilience.schedule import end, operations
        from pytest_resilience.strategies import schedules
        from pytest_resilience.workloads import RedisRegisters
        from redis.asyncio import Redis
        import pytest

        WORK = RedisRegisters(Redis.from_url)

        def killing(name):
            return Schedule([Episode([Step(f"{name}.kill", at=operations(2), until=end())], operations=6)])

        def test_it(resilience):
            history = resilience.play(killing("worker"), WORK, clients=1)
            assert [fault.label for fault in history.faults] == ["worker.kill"]
            assert [strike.label for strike in resilience.strikes] == ["worker.kill"]

        def test_a_wrong_name(resilience):
            with pytest.raises(ScheduleError, match="no target named 'wroker'; did you mean 'worker'"):
                resilience.play(killing("wroker"), WORK)

        @settings(max_examples=2)
        @given(schedule=schedules("service:worker", faults=["pause", "kill"], episodes=1, steps=2, operations=4))
        def test_drawn(resilience, schedule):
            for each in resilience.play(schedule, WORK, clients=1).faults:
                assert each.label.startswith("worker.")
        """
    )
    system.runpytest_subprocess().assert_outcomes(passed=3)


def test_a_worker_that_waits_for_a_struck_server_counts_as_started_while_it_runs(system: pytest.Pytester) -> None:
    system.makepyfile(
        """
        from conftest import did

        def test_it(resilience):
            with resilience.redis.refuse():
                with resilience.worker.kill():
                    pass    # the worker can't write its line without Redis
                assert resilience.worker.process.is_running()
            assert did(resilience, "worker", "after the outage")
        """
    )
    (system.path / "worker.py").write_text(
        WORKER.replace(
            'client.set(f"{name}:ready", os.getpid())',
            UNTIL_REDIS_ANSWERS,
        )
    )
    system.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_service_runs_only_for_tests_that_can_request_it_and_ends_with_the_session(system: pytest.Pytester) -> None:
    extra = (
        "from conftest import describe\nfrom pytest_resilience import factories\n"
        'extra = factories.service("extra", describe("extra"))\n'
    )
    system.makepyfile(
        test_a=extra
        + """
def test_it_runs_in_its_module(resilience):
    assert list(resilience.services) == ["service", "worker", "extra"]
    with open("pids", "a") as pids:
        print(*(each.process.pid for each in resilience.services.values()), file=pids)
""",
        test_b="""
import psutil

class Lazy:     # as flask.request is outside of a request
    def __getattribute__(self, name):
        raise RuntimeError("too early")

lazy = Lazy()

def test_it_does_not_run_elsewhere(resilience):
    assert list(resilience.services) == ["service", "worker"]
    with open("pids") as pids:
        assert not psutil.pid_exists(int(pids.read().split()[2]))
    with open("pids", "a") as pids:
        print(*(each.process.pid for each in resilience.services.values()), file=pids)
""",
    )
    system.runpytest_subprocess().assert_outcomes(passed=2)
    pids = [int(pid) for pid in (system.path / "pids").read_text().split()]
    assert len(pids) == 5
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_two_services_with_one_name_are_an_error(system: pytest.Pytester) -> None:
    system.makepyfile(
        """
        from conftest import describe
        from pytest_resilience import factories

        again = factories.service("worker", describe("worker"))

        def test_it(resilience):
            pass
        """
    )
    result = system.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E  *SetupError: there are two services with the name 'worker'"])


def test_the_log_of_each_service_is_in_the_report_of_a_failure(system: pytest.Pytester) -> None:
    system.makepyfile(
        """
        from conftest import did

        def test_it(resilience):
            did(resilience, "worker", "job-7")
            resilience.service.get("/redis")
            assert False
        """
    )
    result = system.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*resilience: service log*", "shop: open", "*resilience: worker log*", "worker: did job-7"]
    )


def test_the_report_of_a_failure_names_a_service_that_has_ended(system: pytest.Pytester) -> None:
    system.makepyfile(
        """
        import redis

        def test_by_itself(resilience):
            process = resilience.worker.process
            with redis.Redis.from_url(resilience.redis.url) as client:
                client.rpush("worker:jobs", "exit")
            process.wait(30)
            assert False

        def test_by_a_fault(resilience):
            resilience.worker.kill()
            assert False
        """
    )
    result = system.runpytest_subprocess()
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    result.stdout.fnmatch_lines(["*resilience: worker log*", "(the service 'worker' has ended with exit code 3)"])
    assert text.count("has ended with") == 1


def test_a_dict_of_services_from_one_fixture(shop: pytest.Pytester) -> None:
    shop.makepyfile(worker=WORKER)
    shop.makeconftest(
        WEB.partition("@pytest")[0]
        + WORKERS
        + """
@pytest.fixture(scope="session")
def resilience_service(resilience_stack):
    env = {"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url}
    return {
        "web": Service([sys.executable, "shop.py"], ready="/readyz", within=30.0, env=env),
        "mailer": describe("mailer")(resilience_stack),
        "reports": describe("reports", after=("mailer",))(resilience_stack),
    }
"""
    )
    shop.makepyfile(
        """
        import pytest
        from conftest import did

        @pytest.mark.fault("mailer.kill")
        def test_it(resilience):
            assert list(resilience.services) == ["web", "mailer", "reports"]
            assert resilience.service is resilience.web and resilience.service.get("/redis").text == "1"
            assert did(resilience, "reports", "x")

        def test_the_name_service_is_the_first(resilience):
            with resilience.strike("service.pause") as strike:
                assert strike.label == "web.pause"
            assert did(resilience, "mailer", "y")
        """
    )
    shop.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=2)


def test_services_start_in_the_order_of_after_and_otherwise_side_by_side(project: pytest.Pytester) -> None:
    project.makepyfile(
        waiting="""
        import pathlib, sys, time
        name, *others = sys.argv[1:]
        with open("order", "a") as order:
            order.write(f"{name} ")
        while others and not all(pathlib.Path(f"begun-{each}").exists() for each in others):
            time.sleep(0.01)
        pathlib.Path(f"begun-{name}").touch()
        print("ready", flush=True)
        time.sleep(60)
        """,
        test_it="""
        import pathlib, pytest, sys
        from pytest_resilience import Service, factories

        def describe(name, *others, after=()):
            command = [sys.executable, "waiting.py", name, *others]
            return factories.service(name, lambda stack: Service(command, port_variable=None, ready="ready", within=30.0, after=after))

        last = describe("last", after=("left", "right"))
        left = describe("left", "right")     # each waits for a file of the other, which is there only if both run at once
        right = describe("right", "left")

        def test_it(resilience):
            for each in resilience.services.values():
                assert each.process.is_running()
            assert pathlib.Path("order").read_text().split()[2] == "last"
        """,
    )
    # A service touches its file before it is ready, so that neither can wait for the readiness of the other.
    text = (project.path / "waiting.py").read_text()
    touch = 'pathlib.Path(f"begun-{name}").touch()\n'
    (project.path / "waiting.py").write_text(text.replace(touch, "").replace("while others", touch + "while others"))
    project.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("services", "message"),
    [
        (
            '{"play": Service(["x"])}',
            "'play' can't be the name of a service, because `resilience.play` is something else",
        ),
        ('{"history": Service(["x"])}', "'history' can't be the name of a service, because*"),
        ('{"redis": Service(["x"])}', "'redis' can't be the name of a service, because*"),
        ('{"Web": Service(["x"])}', "'Web' can't be the name of a service: lower case letters*"),
        (
            '{"web": ["x"]}',
            "the fixture resilience_service, for 'web', must return a pytest_resilience.Service, got a list",
        ),
        (
            '{"web": Service(["x"], after=("wrker",)), "worker": Service(["x"])}',
            "Service(after=('wrker',)) of 'web': no service 'wrker'; did you mean 'worker'?; there are: web, worker",
        ),
        (
            '{"a": Service(["x"], after=("b",)), "b": Service(["x"], after=("a",))}',
            "services start after each other in a circle: *",
        ),
    ],
)
def test_a_wrong_description_is_an_error_at_once(project: pytest.Pytester, services: str, message: str) -> None:
    project.makepyfile(
        f"""
        import pytest
        from pytest_resilience import Service

        @pytest.fixture(scope="session")
        def resilience_service():
            return {services}

        def test_it(resilience):
            pass
        """
    )
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    escaped = message.replace("[", "[[]").replace("?", "[?]")
    result.stdout.fnmatch_lines([f"E  *SetupError: {escaped}"])
    result.stdout.no_fnmatch_line("*pytest_resilience/*")
