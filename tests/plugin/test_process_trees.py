"""A resource fault strikes every process of a service, including later ones, and its heal restores the limits."""

from __future__ import annotations

import sys

import pytest

from tests.support.trees import COMMANDS, CONFTEST, SERVE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux'")


@pytest.fixture(params=[name for name in COMMANDS if name != "ticking"])  # it logs no refusals
def service(request: pytest.FixtureRequest, project: pytest.Pytester) -> pytest.Pytester:
    """A project with a service that is a process tree, one of each kind."""
    project.makepyfile(serve=SERVE)
    project.makeconftest(CONFTEST.format(command=COMMANDS[request.param]))
    return project


@pytest.fixture
def prefork(project: pytest.Pytester) -> pytest.Pytester:
    """A project with a service that has two workers and replaces a worker that exits."""
    project.makepyfile(serve=SERVE)
    project.makeconftest(CONFTEST.format(command=COMMANDS["prefork"]))
    return project


def test_every_process_of_the_service_is_struck_and_healed(service: pytest.Pytester) -> None:
    service.makepyfile(
        """
        import httpx, psutil
        from conftest import get, tree

        def limits(resilience, which):
            return {process.rlimit(which) for process in tree(resilience)}

        def test_memory_pressure(resilience):
            before = limits(resilience, psutil.RLIMIT_DATA)
            with resilience.service.memory_pressure(headroom_mb=8) as strike:
                assert set(get(resilience, "/allocate/64", 6).values()) == {(503, "MemoryError")}
            assert strike.receipt.touched >= 1
            assert strike.receipt.unit == "processes"
            assert set(get(resilience, "/allocate/64", 6).values()) == {(200, "")}
            assert limits(resilience, psutil.RLIMIT_DATA) == before

        def test_descriptors(resilience):
            before = limits(resilience, psutil.RLIMIT_NOFILE)
            with resilience.service.exhaust_descriptors(left=4) as strike:
                assert set(get(resilience, "/open/8", 6).values()) == {(503, "OSError")}
            assert strike.receipt.touched >= 1
            assert set(get(resilience, "/open/8", 6).values()) == {(200, "")}
            assert limits(resilience, psutil.RLIMIT_NOFILE) == before

        def test_processor(resilience):
            before = {tuple(process.cpu_affinity()) for process in tree(resilience)}
            with resilience.service.starve_cpu(share=0.1) as strike:
                get(resilience, "/spin/0.3", 2)
                assert {len(process.cpu_affinity()) for process in tree(resilience)} == {1}
            assert strike.receipt.touched >= 1
            assert {tuple(process.cpu_affinity()) for process in tree(resilience)} == before

        def test_pause(resilience):
            there = [p.pid for p in tree(resilience)]
            with resilience.service.pause() as strike:
                assert {process.status() for process in tree(resilience)} == {psutil.STATUS_STOPPED}
            assert strike.receipt.touched == len(there)
            assert set(get(resilience, "/pid").values()) == {(200, "")}
        """
    )
    result = service.runpytest_subprocess("--resilience-strict")
    result.assert_outcomes(passed=4)


def test_the_kernel_kills_a_worker_when_the_tree_exceeds_its_limit(service: pytest.Pytester) -> None:
    service.makepyfile(
        """
        import glob, httpx, os, pathlib, pytest
        from pytest_resilience import eventually
        from conftest import get, tree

        def groups():
            own = f"pytest-resilience-{os.getpid()}-*"
            return [pathlib.Path(p) for root in ("memory", ".") for p in glob.glob(f"/sys/fs/cgroup/{root}/**/{own}", recursive=True)]

        def test_killed(resilience):
            with resilience.service.memory_limit(headroom_mb=32) as strike:
                assert groups()
                with pytest.raises(httpx.TransportError):
                    get(resilience, "/allocate/128")
            assert strike.receipt.touched == 1
            assert not groups()

        def test_healed(resilience):
            with resilience.service.memory_limit(headroom_mb=32) as strike:
                assert set(get(resilience, "/allocate/29.5").values()) == {(200, "")}
            assert set(get(resilience, "/allocate/128", 4).values()) == {(200, "")}
            assert strike.receipt.touched >= 1, "so much came near the limit"
        """
    )
    result = service.runpytest_subprocess("--resilience-strict")
    outcomes = result.parseoutcomes()
    if outcomes.get("skipped"):
        pytest.skip(next(line for line in result.outlines if "memory_limit" in line))
    assert outcomes == {"passed": 2}


def test_a_worker_that_starts_during_the_fault_is_struck_and_healed(prefork: pytest.Pytester) -> None:
    prefork.makepyfile(
        """
        import os, psutil, pytest, signal
        from pytest_resilience import eventually
        from conftest import get, tree

        def exchange_the_workers(resilience):
            old = [process for process in tree(resilience)[1:]]
            for process in old:
                process.send_signal(signal.SIGKILL)
            eventually(lambda: len(new(resilience, old)) == 2, within=5)
            return new(resilience, old)

        def new(resilience, old):
            return [process for process in tree(resilience)[1:] if process not in old]

        @pytest.mark.parametrize("which, strike, path", [
            (psutil.RLIMIT_DATA, lambda service: service.memory_pressure(headroom_mb=8), "/allocate/64"),
            (psutil.RLIMIT_NOFILE, lambda service: service.exhaust_descriptors(left=4), "/open/8"),
        ], ids=["memory", "descriptors"])
        def test_limits(resilience, which, strike, path):
            before = resilience.service.process.rlimit(which)
            with strike(resilience.service):
                born = exchange_the_workers(resilience)
                assert {status for status, _ in get(resilience, path, 6).values()} == {503}
            assert {process.rlimit(which) for process in born} == {before}
            assert {status for status, _ in get(resilience, path, 6).values()} == {200}

        def test_processor(resilience):
            before = resilience.service.process.cpu_affinity()
            with resilience.service.starve_cpu():
                born = exchange_the_workers(resilience)
                assert {len(process.cpu_affinity()) for process in born} == {1}
                get(resilience, "/spin/0.3")
            assert all(process.cpu_affinity() == before for process in born)
        """
    )
    prefork.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=3)


def test_overlapping_faults_restore_the_limits_from_before_both(prefork: pytest.Pytester) -> None:
    prefork.makepyfile(
        """
        import psutil, pytest
        from conftest import tree

        @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["oldest first", "latest first"])
        @pytest.mark.parametrize("which, strike", [
            (psutil.RLIMIT_DATA, lambda service: service.memory_pressure(headroom_mb=64)),
            (psutil.RLIMIT_NOFILE, lambda service: service.exhaust_descriptors()),
        ], ids=["memory", "descriptors"])
        def test_twice(resilience, which, strike, order):
            before = {process.rlimit(which) for process in tree(resilience)}
            strikes = [strike(resilience.service), strike(resilience.service)]
            strikes[order[0]].heal()
            assert not before & {process.rlimit(which) for process in tree(resilience)}, "one of them still strikes"
            strikes[order[1]].heal()
            assert {process.rlimit(which) for process in tree(resilience)} == before
        """
    )
    outcomes = prefork.runpytest_subprocess().parseoutcomes()
    assert not outcomes.keys() & {"failed", "errors", "skipped"}, "passed or vacuous: nothing has met a limit"


def test_a_fault_never_raises_a_limit(prefork: pytest.Pytester) -> None:
    prefork.makepyfile(
        """
        import psutil
        from conftest import tree

        def test_it(resilience):
            before = {process.rlimit(psutil.RLIMIT_NOFILE) for process in tree(resilience)}
            with resilience.service.exhaust_descriptors(left=2_000_000):
                assert {process.rlimit(psutil.RLIMIT_NOFILE) for process in tree(resilience)} == before
            assert {process.rlimit(psutil.RLIMIT_NOFILE) for process in tree(resilience)} == before
        """
    )
    result = prefork.runpytest_subprocess()
    result.stdout.fnmatch_lines(["VACUOUS *exhaust_descriptors(left=2000000) affected no processes"])


def test_a_restarted_service_is_not_struck(prefork: pytest.Pytester) -> None:
    prefork.makepyfile(
        """
        import psutil, pytest
        from conftest import get, tree

        @pytest.mark.parametrize("again", ["restart", "kill"])
        def test_it(resilience, again):
            before = {process.rlimit(psutil.RLIMIT_NOFILE) for process in tree(resilience)}
            strike = resilience.service.exhaust_descriptors(left=2)
            getattr(resilience.service, again)().heal()
            assert {process.rlimit(psutil.RLIMIT_NOFILE) for process in tree(resilience)} == before
            assert {status for status, _ in get(resilience, "/open/8", 4).values()} == {200}
            strike.heal()
            assert {process.rlimit(psutil.RLIMIT_NOFILE) for process in tree(resilience)} == before
            assert strike.receipt.touched is None, "what it did before it ended is not known"
        """
    )
    prefork.runpytest_subprocess("--resilience-strict").assert_outcomes(passed=2)
