"""The errors for a process that is needed after its end."""

from __future__ import annotations

import pytest

CONFTEST = """
import sys
from pytest_resilience import Service, factories

# One call of write(), because a test compares the whole log. An unbuffered print() makes two.
PROGRAM = "import os, signal; os.write(1, b'worker: ready\\\\n'); signal.pause()"

worker = factories.service(
    "worker", lambda stack: Service([sys.executable, "-c", PROGRAM], port_variable=None, ready="worker: ready", within=30.0)
)
"""
HELPERS = """
import os, subprocess, sys
import psutil, pytest
from pytest_resilience import ProcessEnded, SetupError, eventually

FAULTS = {
    "kill": (), "pause": (), "restart": (), "terminate": (), "memory_pressure": (8,), "memory_limit": (64,), "exhaust_descriptors": (),
    "starve_cpu": (),
}
REMEDY = "\\n  A service that a fault has ended runs again after the heal. "

def end(child):
    os.kill(child.pid, 15)
    eventually(lambda: not child.running, within=30)

"""


@pytest.mark.parametrize("known", [True, False], ids=["seen-before", "never-seen"])
def test_a_service_that_has_ended(project: pytest.Pytester, known: bool) -> None:
    project.makeconftest(CONFTEST)
    project.makepyfile(
        HELPERS
        + f"KNOWN = {known}"
        + r"""

@pytest.fixture(autouse=True)
def ended(resilience):
    child = resilience._running["worker"].child
    if KNOWN:
        assert resilience.worker.process.is_running()
    end(child)
    return child

@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(resilience, ended, fault):
    with pytest.raises(ProcessEnded) as raised:
        getattr(resilience.worker, fault)(*FAULTS[fault])
    first, rest = str(raised.value).split("\n", 1)
    assert f" cannot strike: the service 'worker' is not running: process {ended.pid} has ended with exit code -15 (SIGTERM), " in first
    assert first.startswith(f"worker.{fault}") and first.endswith(" s ago")
    assert rest.endswith("\n  its log, last lines:\n    worker: ready") and REMEDY.strip() in rest
    error = raised.value
    assert (error.pid, error.exit_code, error.log) == (ended.pid, -15, "worker: ready\n") and error.ago >= 0

def test_the_process(resilience, ended):
    if KNOWN:
        assert not resilience.worker.process.is_running()
        return
    with pytest.raises(ProcessEnded) as raised:
        resilience.worker.process
    assert str(raised.value).startswith(f"the service 'worker' is not running: process {ended.pid} has ended with exit code -15 (SIGTERM), ")

def test_the_fault_that_has_ended_it_is_named(resilience):
    resilience._running["worker"].start()
    with resilience.worker.kill():
        with pytest.raises(SetupError, match=r"worker\.memory_pressure\S* cannot strike while worker\.kill lasts: "):
            resilience.worker.memory_pressure(8)
        if not KNOWN:
            with pytest.raises(ProcessEnded, match=r"exit code -9 \(SIGKILL\)"):
                resilience.worker.process
    resilience.worker.pause().heal()
"""
    )
    project.runpytest_subprocess("--resilience-leaks=off").assert_outcomes(passed=10)


def test_other_processes_that_have_ended(project: pytest.Pytester) -> None:
    project.makepyfile(
        HELPERS
        + r"""
def test_of_spawn(resilience):
    child = resilience.spawn("sidecar", [sys.executable, "-c", "print('done'); exit(3)"], env={})
    eventually(lambda: not child.running, within=30)
    with pytest.raises(ProcessEnded) as raised:
        child.process
    assert str(raised.value).startswith(f"the process 'sidecar' is not running: process {child.pid} has ended with exit code 3, ")
    assert str(raised.value).endswith("\n  its log, last lines:\n    done") and "Use `.process` while the process runs." in str(raised.value)

@pytest.mark.parametrize("pid", [-1, 0, "x", True, 1.0])
def test_what_no_process_has_as_its_id(resilience, pid):
    with pytest.raises(SetupError, match="the id of a process is an integer of at least 1"):
        resilience.process(pid)

@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "restart"])
def test_one_named_by_its_id(resilience, fault):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = resilience.process(child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)    # a zombie
        for _ in "zombie", "gone":
            with pytest.raises(ProcessEnded) as raised:
                getattr(process, fault)(*FAULTS[fault])
            assert f" cannot strike: the process 'python" in str(raised.value) and f"process {child.pid} has ended\n" in str(raised.value)
            with pytest.raises(SetupError, match="there is no such process"):
                resilience.process(child.pid)
            child.wait()
"""
    )
    project.runpytest_subprocess("--resilience-leaks=off").assert_outcomes(passed=13)
