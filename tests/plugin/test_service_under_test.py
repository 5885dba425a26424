"""The service under test is a process of its own: started, asked, struck, and its troubles told."""

from __future__ import annotations

import pytest


def test_process_faults_strike_the_service_and_heal(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        import httpx, pytest, sys
        from pytest_resilience import eventually

        def test_kill(resilience):
            service, port = resilience.service, resilience.service.url
            pid = service.process.pid
            with service.kill() as strike:
                with pytest.raises(httpx.ConnectError) as failure:
                    service.get("/memory")
                assert "ended with exit code -9" in failure.value.__notes__[0]
            assert service.url == port and service.process.pid != pid
            assert service.get("/memory").status_code == 200
            assert strike.receipt.touched == 1 and strike.receipt.unit == "processes"

        def test_terminate(resilience):
            with resilience.service.terminate():
                with pytest.raises(httpx.ConnectError):
                    resilience.service.get("/memory")
            assert resilience.service.get("/memory").status_code == 200

        def test_pause(resilience):
            with resilience.service.pause():
                with pytest.raises(httpx.TimeoutException):
                    resilience.service.get("/memory", timeout=0.3)
            assert resilience.service.get("/memory").status_code == 200

        def test_restart(resilience):
            pid = resilience.service.process.pid
            resilience.service.restart()
            assert resilience.service.process.pid != pid
            assert resilience.service.get("/memory").status_code == 200

        @pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA of another process is Linux'")
        def test_memory_pressure(resilience):
            import psutil
            before = resilience.service.process.rlimit(psutil.RLIMIT_DATA)
            with resilience.service.memory_pressure(headroom_mb=10) as strike:
                limit = resilience.service.process.rlimit(psutil.RLIMIT_DATA)[0]
                assert 0 < limit < 1000 * 2**20
            assert resilience.service.process.rlimit(psutil.RLIMIT_DATA) == before
            assert strike.receipt.touched in (0, None), "no allocation was refused"

        def test_requests_of_all_kinds(resilience):
            assert resilience.service.client.base_url == resilience.service.url
            for method in ("post", "put", "delete"):
                assert getattr(resilience.service, method)("/x").status_code == 501
        """
    )
    outcomes = shop.runpytest_subprocess().parseoutcomes()
    assert outcomes.pop("passed") + outcomes.pop("vacuous", 0) == 6
    assert not outcomes


def test_a_service_that_ends_at_once_shows_command_and_log(shop: pytest.Pytester) -> None:
    shop.makepyfile(shop="import sys; sys.exit('shop: no such shop')", test_it="def test_it(resilience): pass")
    result = shop.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *ServerNotReady: the service did not answer within 10 s; it ended with exit code 1",
            "E *command: *shop.py",
            "E *shop: no such shop",
        ]
    )
    assert result.duration < 8, "it does not wait for what has ended"


def test_a_service_that_never_gets_ready_shows_how_long_it_had_and_its_log(shop: pytest.Pytester) -> None:
    shop.makeconftest((shop.path / "conftest.py").read_text().replace("within=10.0", "within=0.5"))
    shop.makepyfile(
        shop="import time; print('shop: thinking', flush=True); time.sleep(60)", test_it="def test_it(resilience): pass"
    )
    result = shop.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "E *the service did not answer within 0.5 s; it is still running",
            "E *shop: thinking",
            "E *GET /readyz on port * ConnectionRefusedError*",
        ]
    )


def test_without_a_service_fixture_the_error_shows_the_lines_to_write(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(resilience): resilience.service")
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *NoService: *", "E *def resilience_service(resilience_stack):", "E *return Service(*"]
    )


def test_an_environment_is_not_shown(shop: pytest.Pytester) -> None:
    shop.makeconftest((shop.path / "conftest.py").read_text().replace("env={", "env={'SECRET': 'hunter2', "))
    shop.makepyfile(shop="import sys; sys.exit('no')", test_it="def test_it(resilience_service, resilience): pass")
    result = shop.runpytest_subprocess("-vv", "--setup-show", "--showlocals")
    result.assert_outcomes(errors=1)
    result.stdout.no_fnmatch_line("*hunter2*")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ('Service("python -m shop")', "is a list such as"),
        ("Service([])", "is a list such as"),
        ('Service(["x"], ready="readyz")', "is a path such as"),
        ('Service(["x"], within=0)', "seconds above 0"),
        ('Service(["x"], env={"PORT": 1})', "takes strings; these are not: PORT"),
    ],
)
def test_a_wrong_description_is_told_at_once(call: str, told: str) -> None:
    from pytest_resilience import Service, SetupError

    with pytest.raises(SetupError, match=told):
        eval(call, {"Service": Service})  # the table above


def test_a_module_with_another_service_does_not_meet_the_first_ones(shop: pytest.Pytester) -> None:
    theirs = """
        import psutil, pytest
        from pytest_resilience import Service

        def test_theirs(resilience):
            assert resilience.service.get("/memory").status_code == 200
            with open("pid", "w") as file:
                file.write(str(resilience.service.process.pid))
        """
    ours = """
        import psutil, pytest, sys
        from pytest_resilience import Service

        @pytest.fixture(scope="session")
        def resilience_service(resilience_stack):
            return Service([sys.executable, "shop.py"], ready="/",
                           env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url})

        def test_ours(resilience):
            assert resilience.service.get("/memory").status_code == 200
            with open("pid") as file:
                assert not psutil.pid_exists(int(file.read())), "the first module's service still works on our servers"
        """
    shop.makepyfile(test_1=theirs, test_2=ours)
    shop.runpytest_subprocess().assert_outcomes(passed=2)


def test_the_service_runs_short_of_descriptors_and_processor_time(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        """
        import os, httpx, psutil, pytest, sys, time
        from pytest_resilience import SetupError, eventually
        pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux'")

        def test_descriptors(resilience):
            before = resilience.service.process.rlimit(psutil.RLIMIT_NOFILE)
            assert resilience.service.get("/orders").status_code == 200
            with resilience.service.exhaust_descriptors():
                reply = resilience.service.get("/orders")  # by a connection that is open; it opens one of its own
                assert (reply.status_code, reply.text) == (503, "OSError")
            assert resilience.service.process.rlimit(psutil.RLIMIT_NOFILE) == before
            assert resilience.service.get("/orders").status_code == 200

        def test_processor(resilience):
            process = resilience.service.process
            before = process.cpu_affinity()
            with resilience.service.starve_cpu(share=0.1) as strike:
                assert len(process.cpu_affinity()) == 1
                rivals = [p for p in psutil.process_iter(["cmdline"]) if "sched_setaffinity" in " ".join(p.info["cmdline"] or ())]
                assert len(rivals) == 9
                eventually(lambda: all(r.cpu_affinity() == process.cpu_affinity() for r in rivals), within=10)
                assert resilience.service.get("/memory").status_code == 200
            assert process.cpu_affinity() == before
            assert not any(r.is_running() for r in rivals)
            assert strike.receipt.touched in (0, 1)

        def test_settings(resilience):
            with pytest.raises(SetupError, match="0.02 to 0.5"):
                resilience.service.starve_cpu(share=2)
            with pytest.raises(SetupError, match="at least 0 descriptors"):
                resilience.service.exhaust_descriptors(-1)
        """
    )
    outcomes = shop.runpytest_subprocess().parseoutcomes()
    assert outcomes.pop("passed") + outcomes.pop("vacuous", 0) == 3
    assert not outcomes


def test_a_process_that_the_user_names(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os, psutil, pytest, subprocess, sys
        from pytest_resilience import SetupError, eventually

        @pytest.fixture
        def child():
            with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
                yield child
                child.kill()

        def test_pause_then_kill(resilience, child):
            process = resilience.process(child.pid)
            with process.pause() as strike:
                eventually(lambda: process.process.status() == psutil.STATUS_STOPPED, within=2)
            eventually(lambda: process.process.status() != psutil.STATUS_STOPPED, within=2)
            process.kill()
            assert child.wait(2) == -9
            assert [s.label for s in resilience.strikes] == ["process.pause", "process.kill"]
            assert strike.receipt.touched == 1
            with pytest.raises(SetupError, match="not running"):
                process.pause()

        def test_terminate(resilience, child):
            resilience.process(child.pid).terminate()
            assert child.wait(2) == -15

        @pytest.mark.parametrize("pid", [1, os.getpid(), os.getppid(), 2**22 + 1, True, "7"])
        def test_not_these(resilience, pid):
            with pytest.raises(SetupError, match="no such process|hangs on"):
                resilience.process(pid)
        """
    )
    project.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=8)


def test_the_kernel_kills_who_takes_more_than_the_limit_and_no_group_is_left(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pathlib, pytest, subprocess, sys
        from pytest_resilience import SetupError

        HUNGRY = "for line in iter(input, 'end'): held = bytearray(int(line)); print(len(held), flush=True)"

        @pytest.fixture
        def child():
            with subprocess.Popen([sys.executable, "-c", HUNGRY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
                yield child
                child.kill()

        def take(child, size):
            child.stdin.write(f"{size}\\n")
            child.stdin.flush()
            return child.stdout.readline()

        def groups():
            return [p for root in ("memory", ".") for p in pathlib.Path("/sys/fs/cgroup", root).rglob("pytest-resilience-*")]

        def test_killed(resilience, child):
            assert take(child, 100_000) == "100000\\n"
            with resilience.process(child.pid).memory_limit(8) as strike:
                assert groups()
                assert take(child, 1_000_000) == "1000000\\n"
                assert take(child, 100_000_000) == ""
                assert child.wait(5) == -9
            assert strike.receipt.touched == 1
            assert not groups()

        def test_healed(resilience, child):
            with resilience.process(child.pid).memory_limit(8) as strike:
                assert take(child, 1_000_000) == "1000000\\n"
            assert strike.receipt.touched == 0, "it took an eighth"
            assert take(child, 100_000_000) == "100000000\\n"
            assert not groups()

        def test_settings(resilience, child):
            with pytest.raises(SetupError, match="at least 1 MiB"):
                resilience.process(child.pid).memory_limit(0)
        """
    )
    result = project.runpytest_subprocess()
    outcomes = result.parseoutcomes()
    if outcomes.get("skipped"):
        pytest.skip(next(line for line in result.outlines if "memory_limit" in line))
    assert outcomes == {"passed": 2, "vacuous": 1}
