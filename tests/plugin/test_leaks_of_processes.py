"""Processes that a test leaks are reported, daemons included. Other processes are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_resilience import supervisor
from pytest_resilience.leaks import child_processes
from tests.support.tracing import UNTRACED

TESTS = """
import multiprocessing, os, signal, subprocess, sys, time
import psutil, pytest

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
KEPT = []  # process ids

@pytest.fixture(scope="session", autouse=True)
def end():
    yield
    for pid in KEPT:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

def test_child(resilience):
    child = subprocess.Popen([*SLEEP, "redis://user:hunter2@localhost", "--password=hunter3", "--api-key", "hunter4"])
    KEPT.append(child.pid)

def test_grandchild(resilience):
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    KEPT.extend([int(shell.stdout.readline()), shell.pid])
    shell.stdout.close()

def test_daemon(resilience):
    '''Its parent has ended, and it has a session of its own.'''
    out = subprocess.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
    KEPT.append(int(out.stdout))
    while psutil.Process(KEPT[-1]).name() != "sleep":
        pass

def test_forked_daemon(resilience):
    '''A double fork without exec: the kernel shows it with the environment that this process had at its begin.'''
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        second = os.fork()
        if second == 0:
            os.close(reader)
            os.write(writer, b"up")
            while True:
                signal.pause()
        os.write(writer, b"%d " % second)
        os._exit(0)
    os.waitpid(first, 0)
    output = b""
    while not output.endswith(b"up") or b" " not in output:
        output += os.read(reader, 100)
        if output.startswith(b"up") and output.endswith(b" "):
            break
    KEPT.append(int(output.replace(b"up", b"")))
    os.close(reader)
    os.close(writer)

def work():
    time.sleep(600)

@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_multiprocessing(resilience, how):
    child = multiprocessing.get_context(how).Process(target=work, name=f"worker-{how}", daemon=True)
    child.start()
    KEPT.append(child.pid)

@pytest.mark.leaks("process:python*")
def test_clean_since_marked(resilience):
    KEPT.append(subprocess.Popen(SLEEP).pid)

def test_clean_since_it_ends(resilience):
    subprocess.run([sys.executable, "-c", ""], check=True)
    child = subprocess.Popen(SLEEP)
    child.kill()
    child.wait()
    subprocess.Popen([sys.executable, "-c", ""])  # ends soon

def test_clean_since_it_is_a_zombie(resilience):
    child = subprocess.Popen(SLEEP)
    child.kill()
    KEPT.append(child.pid)

@pytest.fixture(scope="module")
def server():
    '''Whose children come later.'''
    program = "import subprocess, sys; sys.stdin.readline(); p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    yield child
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()

def test_clean_since_it_belongs_to_the_server(server, resilience):
    server.stdin.write("go\\n")
    server.stdin.flush()
    KEPT.append(int(server.stdout.readline()))

def test_clean_since_it_belongs_to_the_plugin(resilience):
    resilience.redis.restart()
    resilience.add_redis("other")
"""


def test_leaked_processes_are_reported(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=TESTS)
    result = project.runpytest_subprocess("-W", "ignore", "--resilience-backend=embedded")
    outcomes = result.parseoutcomes()
    assert set(outcomes) <= {"passed", "vacuous"}, outcomes
    lines = [line.removeprefix("LEAK test_it.py::test_") for line in result.outlines if line.startswith("LEAK ")]
    expected = [
        f"child: process:{sys.executable.rpartition('/')[2]}*, pid *, command: {sys.executable} -c import time; time.sleep(600)*",
        "grandchild: process:sh, pid *, command: sh -c sleep 600 & echo $!; wait",
        "grandchild: process:sleep, pid *, command: sleep 600",
        "daemon: process:sleep, pid *, command: sleep 600, daemonised",
        "forked_daemon: process:*, pid *, command: *pytest*, a daemonised fork of this process",
        "multiprocessing[[]fork]: process:worker-fork, pid *",
        "multiprocessing[[]spawn]: process:worker-spawn, pid *",
        "multiprocessing[[]forkserver]: process:worker-forkserver, pid *",
    ]
    text = pytest.LineMatcher([line for line in lines if ": process:" in line])
    text.fnmatch_lines_random(expected)
    assert len(text.lines) == len(expected), text.lines
    assert "hunter" not in result.stdout.str()
    assert not [line for line in lines if line.startswith("clean")]


def test_a_child_of_the_service_is_no_leak(shop: pytest.Pytester) -> None:
    shop.makepyfile(
        shop=(shop.path / "shop.py")
        .read_text()
        .replace(
            'elif self.path == "/memory":',
            'elif self.path == "/spawn":\n'
            "                import subprocess\n"
            '                subprocess.run("setsid sleep 600 & sleep 600 &", shell=True)\n'
            '                self.answer(200, "")\n'
            '            elif self.path == "/memory":',
        ),
        test_it="""
        def test_it(resilience):
            assert resilience.service.get("/spawn").status_code == 200
        """,
    )
    result = shop.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("LEAK *")


def test_with_tracemalloc_the_line_that_started_a_process_is_shown(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import subprocess, tracemalloc

        def test_it(resilience):
            tracemalloc.start(20)
            child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            (leak,) = resilience.leaks()
            assert f"pid {child.pid}, command: sleep 60, started at test_with" in str(leak)
            child.kill()
            child.wait()
            assert resilience.leaks() == []
        """
    )
    project.runpytest_subprocess(*UNTRACED).assert_outcomes(passed=1)


def test_the_variable_is_that_of_the_supervisor() -> None:
    assert child_processes.CHILD_VARIABLE == supervisor.MARK


def test_a_command_is_shown_without_its_secrets(tmp_path: Path) -> None:
    command = "shop", "--password", "hunter2", "--api-key=hunter3", "redis://me:hunter4@localhost"
    assert child_processes.ChildProcess(7, command, "").describe(tmp_path) == (
        "pid 7, command: shop --password *** --api-key=*** redis://me:***@localhost"
    )
