"""Nothing outlives the session, however it ends: no process, no port, no directory; and what dies in a test fails that test alone."""

from __future__ import annotations

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

TELL = """
import json, os, psutil, pytest, signal, sys
from urllib.parse import urlsplit

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs us under nohup has it ignored

def tell(resilience, stack):
    '''Write down what is there now: every descendant, every port, the directory.'''
    me = psutil.Process()
    urls = [resilience.postgres.url, resilience.postgres.direct_url, resilience.redis.url, resilience.redis.direct_url]
    ports = [urlsplit(url).port for url in urls] + [urlsplit(resilience.service.url).port]
    supervisor = me.children()[0]
    told = {"pid": os.getpid(), "processes": [p.pid for p in me.children(recursive=True)], "ports": ports,
            "directory": str(stack._backend.directory)}
    with open("told.tmp", "w") as file:
        json.dump(told, file)
    os.rename("told.tmp", "told.json")
"""


def gone(told: dict[str, object]) -> bool:
    """Whether nothing of it is left."""
    processes = [pid for pid in told["processes"] if _lives(pid)]  # type: ignore[attr-defined]
    ports = [port for port in told["ports"] if _answers(port)]  # type: ignore[attr-defined]
    return not processes and not ports and not Path(str(told["directory"])).exists()


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(
            1
        )  # a blocking connect() that is refused leaves a trace that receipts elsewhere can't attribute
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_until_told(project: pytest.Pytester, body: str) -> tuple[subprocess.Popen[bytes], dict[str, object]]:
    """Run a test that tells what is there and then does `body`; returns pytest's process and what was told."""
    import json

    project.makepyfile(
        test_it=TELL
        + textwrap.dedent("def test_it(resilience, resilience_stack):\n")
        + textwrap.indent(textwrap.dedent(body), "    ")
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    told = project.path / "told.json"
    until(lambda: told.exists() or process.poll() is not None, within=30)
    if not told.exists():
        assert process.stdout is not None
        raise AssertionError(process.stdout.read().decode())
    return process, json.loads(told.read_text())


HANG = "tell(resilience, resilience_stack)\nsignal.pause()\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
def test_nothing_is_left_within_2_s_of_a_signal_to_pytest(shop: pytest.Pytester, number: signal.Signals) -> None:
    process, told = run_until_told(shop, HANG)
    with process:
        try:
            assert not gone(told)
            os.kill(process.pid, number)
            until(lambda: gone(told), within=2 if number != signal.SIGINT else 10)
        finally:
            process.kill()  # or we would wait for ever for one that did not hear


def test_nothing_is_left_of_a_run_killed_while_faults_strike(shop: pytest.Pytester) -> None:
    """Stopped processes hear no signal but SIGKILL; an exhausted server takes no orders."""
    body = "resilience.redis.pause()\nresilience.service.pause()\nresilience.postgres.starve(connections=2)\n" + HANG
    process, told = run_until_told(shop, body)
    with process:
        process.kill()
        until(lambda: gone(told), within=2)


@pytest.mark.parametrize(
    "body", ["tell(resilience, resilience_stack)\n", "tell(resilience, resilience_stack)\nassert False\n"]
)
def test_nothing_is_left_of_a_run_that_ends_by_itself(shop: pytest.Pytester, body: str) -> None:
    process, told = run_until_told(shop, body)
    with process:
        process.communicate(timeout=30)
        assert gone(told), "it is all gone before pytest has ended"


def test_nothing_is_left_of_a_session_whose_supervisor_is_killed(shop: pytest.Pytester) -> None:
    """Its servers die with it, and the service can't be stopped any more; the directory is removed all the same."""
    body = "tell(resilience, resilience_stack)\nos.kill(resilience_stack._backend._supervisor.pid, signal.SIGKILL)\n"
    process, told = run_until_told(shop, body)
    with process:
        process.communicate(timeout=30)
        assert gone(told)


def test_nothing_is_left_when_a_session_fixture_fails(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        test_it=TELL
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
                with contextlib.suppress(ProcessLookupError):  # backends follow their postmaster by themselves
                    os.kill(pid, signal.SIGKILL)
            eventually(lambda: not server.process_control.processes(), within=5)

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
    told = "BackendDied: proxy ended with signal SIGKILL although no test struck it; its log, last lines:"
    result.stdout.fnmatch_lines([f"E *HealFailed: redis.latency(seconds=0.01) *{told}"])
    result.stdout.fnmatch_lines(["*_ test_a_strike_finds_the_proxy_dead _*", f"E *{told}"])


def test_no_control_group_is_left_of_a_run_that_was_killed(project: pytest.Pytester) -> None:
    def groups() -> list[Path]:
        own = f"pytest-resilience-{process.pid}-*"
        return [path for root in ("memory", ".") for path in Path("/sys/fs/cgroup", root).rglob(own)]

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
