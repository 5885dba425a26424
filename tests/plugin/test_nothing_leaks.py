"""No process, port or directory outlives the session, however it ends. A server that dies in a test fails that test only."""

from __future__ import annotations

import glob
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import until

REPORT = """
import json, os, psutil, pytest, signal, sys
from urllib.parse import urlsplit

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it

def report(resilience, stack):
    '''Write all descendants, all ports and the directory to a file.'''
    me = psutil.Process()
    urls = [resilience.postgres.url, resilience.postgres.direct_url, resilience.redis.url, resilience.redis.direct_url]
    ports = [urlsplit(url).port for url in urls] + [urlsplit(resilience.service.url).port]
    supervisor = me.children()[0]
    report = {"pid": os.getpid(), "processes": [p.pid for p in me.children(recursive=True)], "ports": ports,
            "directory": str(stack._backend.directory)}
    with open("report.tmp", "w") as file:
        json.dump(report, file)
    os.rename("report.tmp", "report.json")
"""


def gone(report: dict[str, object]) -> bool:
    """True if no resource of the report is left."""
    processes = [pid for pid in report["processes"] if _lives(pid)]  # type: ignore[attr-defined]
    ports = [port for port in report["ports"] if _answers(port)]  # type: ignore[attr-defined]
    return not processes and not ports and not Path(str(report["directory"])).exists()


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)  # the refusal of a blocking connect() would be counted in receipts of other tests
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_until_reported(project: pytest.Pytester, body: str) -> tuple[subprocess.Popen[bytes], dict[str, object]]:
    """Run a test that writes the report and then executes `body`. Return pytest's process and the report."""
    import json

    project.makepyfile(
        test_it=REPORT
        + textwrap.dedent("def test_it(resilience, resilience_stack):\n")
        + textwrap.indent(textwrap.dedent(body), "    ")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    report = project.path / "report.json"
    until(lambda: report.exists() or process.poll() is not None, within=30)
    if not report.exists():
        assert process.stdout is not None
        raise AssertionError(process.stdout.read().decode())
    return process, json.loads(report.read_text())


HANG = "report(resilience, resilience_stack)\nsignal.pause()\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_nothing_is_left_within_2_s_of_a_signal_to_pytest(shop: pytest.Pytester, number: signal.Signals) -> None:
    process, report = run_until_reported(shop, HANG)
    with process:
        try:
            assert not gone(report)
            os.kill(process.pid, number)
            until(lambda: gone(report), within=2 if number != signal.SIGINT else 10)
        finally:
            process.kill()  # otherwise the test would wait for a process that ignored the signal


def test_nothing_is_left_of_a_run_killed_while_faults_strike(shop: pytest.Pytester) -> None:
    """Stopped processes react to SIGKILL only, and an exhausted server accepts no commands."""
    body = "resilience.redis.pause()\nresilience.service.pause()\nresilience.postgres.starve(connections=2)\n" + HANG
    process, report = run_until_reported(shop, body)
    with process:
        process.kill()
        until(lambda: gone(report), within=2)


@pytest.mark.parametrize(
    "body", ["report(resilience, resilience_stack)\n", "report(resilience, resilience_stack)\nassert False\n"]
)
def test_nothing_is_left_of_a_run_that_ends_without_a_signal(shop: pytest.Pytester, body: str) -> None:
    process, report = run_until_reported(shop, body)
    with process:
        process.communicate(timeout=30)
        assert gone(report), "all is gone before pytest has ended"


def test_nothing_is_left_of_a_session_whose_supervisor_is_killed(shop: pytest.Pytester) -> None:
    """The servers die with the supervisor, and the service can no longer be stopped. The directory is removed."""
    body = "report(resilience, resilience_stack)\nos.kill(resilience_stack._backend._supervisor.pid, signal.SIGKILL)\n"
    process, report = run_until_reported(shop, body)
    with process:
        process.communicate(timeout=30)
        assert gone(report)


def test_nothing_is_left_when_a_session_fixture_fails(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_it=REPORT
        + textwrap.dedent(
            """
            @pytest.fixture(scope="session", autouse=True)
            def broken(resilience_stack):
                with open("directory", "w") as file:
                    file.write(str(resilience_stack._backend.directory))
                raise RuntimeError("as planned")

            def test_it(): pass
            """
        )
    )
    shop.runpytest_subprocess().assert_outcomes(errors=1)
    assert not Path((shop.path / "directory").read_text()).exists()


def test_a_server_that_dies_fails_its_test_with_its_log_and_not_the_next(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_it="""
        import contextlib, os, psutil, signal, pytest
        from pytest_resilience import eventually

        def kill(resilience, server):
            for pid in server.process_control.processes():
                with contextlib.suppress(ProcessLookupError):  # backends end with their postmaster
                    os.kill(pid, signal.SIGKILL)
            eventually(lambda: not server.server.alive(), within=5)  # a zombie's other threads may still be exiting

        def test_postgres_dies(resilience):
            kill(resilience, resilience.postgres)

        def test_after_postgres(resilience):
            assert resilience.service.get("/orders").text == "1"

        def test_redis_dies(resilience):
            kill(resilience, resilience.redis)

        def test_after_redis(resilience):
            assert resilience.service.get("/redis").text == "1"

        def test_the_proxy_dies(resilience, resilience_stack):
            proxy = resilience_stack._backend._proxy
            os.kill(proxy.processes()[0], signal.SIGKILL)
            eventually(lambda: not proxy.alive(), within=5)

        def test_after_the_proxy(resilience):
            assert resilience.service.get("/redis").text == "1"
            with resilience.redis.refuse():
                assert resilience.service.get("/redis").status_code == 503

        def test_the_service_dies(resilience):
            os.kill(resilience.service.process.pid, signal.SIGKILL)

        def test_after_the_service(resilience):
            assert resilience.service.get("/redis").text == "1"

        def test_a_fault_outlives_its_target(resilience):
            '''The proxy dies while it is struck: the heal fails, and says so.'''
            resilience.redis.latency(seconds=0.01)
            os.kill(resilience.redis.proxy and resilience._stack._backend._proxy.processes()[0], signal.SIGKILL)

        def test_after_that(resilience):
            assert resilience.service.get("/redis").text == "1"

        def test_a_strike_finds_the_proxy_dead(resilience):
            os.kill(resilience._stack._backend._proxy.processes()[0], signal.SIGKILL)
            resilience.redis.refuse()

        def test_after_that_too(resilience):
            assert resilience.service.get("/redis").text == "1"
        """
    )
    result = shop.runpytest_subprocess("-v")
    result.stdout.fnmatch_lines(
        [
            "*::test_postgres_dies FAILED*",
            "*::test_after_postgres PASSED*",
            "*::test_redis_dies FAILED*",
            "*::test_after_redis PASSED*",
            "*::test_the_proxy_dies FAILED*",
            "*::test_after_the_proxy PASSED*",
            "*::test_after_the_service PASSED*",
            "*::test_a_fault_outlives_its_target FAILED*",
            "*::test_after_that PASSED*",
            "*::test_a_strike_finds_the_proxy_dead FAILED*",
            "*::test_after_that_too PASSED*",
        ]
    )
    result.stdout.fnmatch_lines(["E *BackendDied: postgres ended with signal SIGKILL although no test struck it*"])
    result.stdout.fnmatch_lines(["E *BackendDied: redis ended with signal SIGKILL although no test struck it*"])
    result.stdout.fnmatch_lines(["E *BackendDied: proxy ended with signal SIGKILL although no test struck it*"])
    report = "BackendDied: proxy ended with signal SIGKILL although no test struck it; its log, last lines:"
    result.stdout.fnmatch_lines([f"E *HealFailed: redis.latency(seconds=0.01) *{report}"])
    result.stdout.fnmatch_lines(["*_ test_a_strike_finds_the_proxy_dead _*", f"E *{report}"])


def test_no_control_group_is_left_of_a_run_that_was_killed(project: pytest.Pytester) -> None:
    def groups() -> list[str]:
        own = f"pytest-resilience-{process.pid}-*"
        places = [f"/sys/fs/cgroup/{root}/**/{own}" for root in ("memory", ".")]
        # Path.rglob fails if a group of another run ends meanwhile.
        return [path for place in places for path in glob.glob(place, recursive=True)]  # noqa: PTH207

    project.makepyfile(
        """
        import os, signal, subprocess, sys
        from pytest_resilience import CannotInject

        def test_it(resilience):
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
                try:
                    resilience.process(child.pid).memory_limit(8)
                except CannotInject as error:
                    open("why", "w").write(str(error))
                else:
                    open("struck", "w").close()
                    signal.pause()
        """
    )
    with subprocess.Popen([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]) as process:
        until(lambda: (project.path / "struck").exists() or process.poll() is not None, within=30)
        if (project.path / "why").exists():
            pytest.skip((project.path / "why").read_text())
        assert groups()
        process.kill()
        until(lambda: not groups(), within=2)
