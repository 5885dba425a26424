"""The receipt of a resource fault reports whether a process reached the limit, or that this is unknown."""

from __future__ import annotations

import sys

import pytest

from tests.support.trees import COMMANDS, CONFTEST, SERVE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux'")


@pytest.fixture(params=["prefork", "ticking"])
def service(request: pytest.FixtureRequest, project: pytest.Pytester) -> pytest.Pytester:
    """A project with a service that blocks while idle, or runs a timer."""
    project.makepyfile(serve=SERVE)
    project.makeconftest(CONFTEST.format(command=COMMANDS[request.param]))
    return project


@pytest.fixture
def ticking(project: pytest.Pytester) -> pytest.Pytester:
    """A project with a service without log output."""
    project.makepyfile(serve=SERVE)
    project.makeconftest(CONFTEST.format(command=COMMANDS["ticking"]))
    return project


def test_every_resource_fault_is_vacuous_without_a_request(service: pytest.Pytester) -> None:
    service.makepyfile(
        """
        import pytest, time
        from pytest_resilience import CannotInject, eventually

        @pytest.mark.parametrize("name, setting", [
            ("memory_pressure", 8), ("memory_pressure", 0), ("memory_limit", 8), ("exhaust_descriptors", 0), ("exhaust_descriptors", 3),
        ])
        def test_no_request(resilience, name, setting):
            def misses():
                try:
                    with getattr(resilience.service, name)(setting) as strike:
                        time.sleep(0.3)  # while a service that ticks does so
                except CannotInject:
                    assert name == "memory_limit"
                    pytest.skip("no control groups here")
                # The kernel may report the connection of the readiness check late.
                assert strike.receipt.touched in (0, None), strike.receipt
                return strike.receipt.touched == 0

            eventually(misses, within=20)
        """
    )
    outcomes = service.runpytest_subprocess("--resilience-strict").parseoutcomes()
    assert outcomes.pop("errors") == outcomes.pop("vacuous") == 5 - outcomes.pop("skipped", 0)
    assert not outcomes


def test_a_fault_far_from_its_limit_is_vacuous(service: pytest.Pytester) -> None:
    service.makepyfile(
        """
        import pytest
        from pytest_resilience import CannotInject
        from conftest import get

        @pytest.mark.parametrize("name, setting", [("memory_pressure", 4000), ("memory_limit", 4000), ("exhaust_descriptors", 500)])
        def test_far(resilience, name, setting):
            try:
                strike = getattr(resilience.service, name)(setting)
            except CannotInject:
                assert name == "memory_limit"
                pytest.skip("no control groups here")
            with strike:
                assert get(resilience, "/allocate/8", 4) and get(resilience, "/open/3", 4)
            assert strike.receipt.touched == 0, strike.receipt
        """
    )
    outcomes = service.runpytest_subprocess().parseoutcomes()
    assert outcomes.pop("vacuous") + outcomes.pop("skipped", 0) == 3
    assert not outcomes


def test_a_refusal_without_a_log_line_is_unknown_and_not_vacuous(ticking: pytest.Pytester) -> None:
    ticking.makepyfile(
        """
        from conftest import get

        def test_memory(resilience):
            with resilience.service.memory_pressure(headroom_mb=8) as strike:
                assert {status for status, _ in get(resilience, "/allocate/64").values()} == {503}
            assert strike.receipt.touched in (None, 1), "0 would be a lie"

        def test_descriptors(resilience):
            with resilience.service.exhaust_descriptors(left=3) as strike:
                assert {status for status, _ in get(resilience, "/open/8").values()} == {503}
            assert strike.receipt.touched in (None, 1), "0 would be a lie"
        """
    )
    ticking.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=2)


def test_a_process_at_its_limit_is_detected_without_a_log_line(ticking: pytest.Pytester) -> None:
    ticking.makepyfile(
        """
        import httpx, pytest, socket
        from pytest_resilience import eventually
        from conftest import get

        def test_memory(resilience):
            with resilience.service.memory_pressure(headroom_mb=32) as strike:
                assert {status for status, _ in get(resilience, "/hold/30").values()} == {200}
                assert strike.receipt.touched == 1
            assert 0 <= strike.receipt.first <= strike.receipt.last

        def has_no_client(process):
            connections = getattr(process, "net_connections", None) or process.connections  # renamed in psutil 6
            return all(each.status == "LISTEN" for each in connections())

        def test_descriptors(resilience):
            # A descriptor that the last client of the start still occupies would be free later.
            eventually(lambda: has_no_client(resilience.service.process), within=5)
            with resilience.service.exhaust_descriptors(left=4) as strike:
                assert {status for status, _ in get(resilience, "/keep/3").values()} == {200}
                with socket.create_connection(resilience.service.url.removeprefix("http://").split(":")):
                    eventually(lambda: strike.receipt.touched == 1, within=5)

        def test_a_connection_that_is_not_accepted(resilience):
            eventually(lambda: has_no_client(resilience.service.process), within=5)
            with resilience.service.exhaust_descriptors() as strike:
                with pytest.raises(httpx.TimeoutException):
                    resilience.service.get("/pid", timeout=0.5, headers={"Connection": "close"})
                eventually(lambda: strike.receipt.touched == 1, within=2)
        """
    )
    ticking.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=3)


def test_cpu_contention_affects_only_processes_that_need_the_cpu(service: pytest.Pytester) -> None:
    service.makepyfile(
        """
        from conftest import get

        def test_busy(resilience):
            with resilience.service.starve_cpu(share=0.1) as strike:
                get(resilience, "/spin/0.3")
            assert strike.receipt.touched >= 1
            assert strike.receipt.unit == "processes"

        def test_at_rest(resilience):
            with resilience.service.starve_cpu(share=0.5) as strike:
                pass
            assert strike.receipt.touched == 0
        """
    )
    assert service.runpytest_subprocess().parseoutcomes() == {"passed": 1, "vacuous": 1}


HUNGRY = """
import os, sys, time

for line in sys.stdin:
    what, number = line.split()
    try:
        if what == "take":
            held = bytearray(int(number) * 2**20)
        elif what == "open":
            held = [os.open("/dev/null", 0) for _ in range(int(number))]
        elif os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                print(os.getpid(), flush=True)
                time.sleep(600)
            os._exit(0)
        else:
            os.wait()
            continue
        print("taken", flush=True)
    except (MemoryError, OSError) as error:
        print(type(error).__name__, flush=True)
"""


def test_a_foreign_process_tree_is_struck_and_healed(project: pytest.Pytester) -> None:
    project.makepyfile(
        hungry=HUNGRY,
        test_it="""
        import psutil, pytest, subprocess, sys
        from pytest_resilience import eventually

        @pytest.fixture
        def shell():
            command = ["sh", "-c", '"$0" hungry.py; exit $?', sys.executable]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
                assert tell(shell, "take 1") == "taken"
                child, = psutil.Process(shell.pid).children()
                yield shell
                shell.kill()
                if child.is_running():
                    child.kill()

        def tell(shell, what):
            shell.stdin.write(what + "\\n")
            shell.stdin.flush()
            return shell.stdout.readline().strip()

        def test_memory(resilience, shell):
            with resilience.process(shell.pid).memory_pressure(8) as strike:
                assert tell(shell, "take 64") == "MemoryError"
            assert strike.receipt.touched is None, "it ran, and no log says what was refused"
            assert tell(shell, "take 64") == "taken"

        def test_descriptors_and_a_daemon_that_is_born_under_the_fault(resilience, shell):
            before = psutil.Process(shell.pid).rlimit(psutil.RLIMIT_NOFILE)
            with resilience.process(shell.pid).exhaust_descriptors(3):
                assert tell(shell, "open 4") == "OSError"
                daemon = psutil.Process(int(tell(shell, "detach 1")))
                assert daemon.rlimit(psutil.RLIMIT_NOFILE) != before
            assert daemon.rlimit(psutil.RLIMIT_NOFILE) == before
            daemon.kill()

        def test_pause_and_kill(resilience, shell):
            child, = psutil.Process(shell.pid).children()
            with resilience.process(shell.pid).pause() as strike:
                assert child.status() == psutil.STATUS_STOPPED
            assert strike.receipt.touched == 2
            assert tell(shell, "take 1") == "taken"
            resilience.process(shell.pid).kill()
            assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

        def test_terminate(resilience, shell):
            child, = psutil.Process(shell.pid).children()
            resilience.process(shell.pid).terminate()
            assert shell.wait(5) == -15
            assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        """,
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=4)
