"""The supervisor's client and its child processes, all of them real."""

import gc
import os
import signal
import sys
import threading
import warnings
from pathlib import Path

import psutil
import pytest

from pytest_resilience import processes
from pytest_resilience.errors import BackendDied, ProcessEnded, ResilienceError, ServerNotReady
from pytest_resilience.processes import CannotStart, SupervisorClient
from pytest_resilience.redaction import Private, redacted_command
from tests.support.clocks import FakeClock
from tests.support.waiting import gone, until

ENV = {"PATH": os.environ["PATH"]}
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: subreaper")
# Forks children as fast as it can. Each forks one more, and none of them ends.
FORKER = """
import os, time
print("ready", flush=True)
for _ in range(100):
    if os.fork() == 0:
        os.fork()
        time.sleep(600)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def supervisor():
    with SupervisorClient() as started:
        yield started


@pytest.fixture
def spawn(supervisor, tmp_path):
    children = []

    def start(*argv, **options):
        child = supervisor.spawn("child", argv, env=ENV, log=tmp_path / "child.log", **options)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()


@pytest.fixture
def forker(spawn):
    child = spawn(sys.executable, "-c", FORKER)
    until(lambda: len(child.processes()) > 12)
    return child


def states(pids):
    return {psutil.Process(pid).status() for pid in pids}


def test_the_exit_code_of_a_child_can_be_read_after_its_end(spawn):
    child = spawn("sh", "-c", "exit 7")
    assert child.wait(5) == 7
    assert not child.running
    assert child.exit_code() == 7


def test_the_process_of_a_child_is_an_error_after_its_end_unless_it_was_read_before(spawn):
    child = spawn("sh", "-c", "echo done; exit 7")
    assert child.wait(5) == 7
    with pytest.raises(ProcessEnded) as raised:
        _ = child.process
    error = raised.value
    assert (error.pid, error.exit_code, error.log) == (child.pid, 7, "done\n")
    assert 0 <= error.ago <= child.ended_ago()
    running = spawn("sleep", "600")
    process = running.process
    assert process.pid == running.pid
    assert running.ended_ago() is None
    running.kill()
    assert running.process is process


def test_the_exit_code_of_a_killed_child_is_the_signal(spawn):
    child = spawn("sleep", "600")
    assert child.exit_code() is None
    assert child.signal(signal.SIGKILL)
    assert child.wait(5) == -signal.SIGKILL
    assert not child.signal(signal.SIGTERM), "there is no process to signal any more"


def test_output_goes_to_the_log(spawn):
    child = spawn("sh", "-c", "echo out; echo err >&2; read line || echo end of input")
    child.wait(5)
    assert child.log_text() == "out\nerr\nend of input\n"
    assert child.log_text(since=4) == "err\nend of input\n"
    assert child.log_size() == len(child.log_text())


def test_a_missing_log_reads_as_empty(spawn):
    child = spawn("true")
    child.wait(5)
    child.log.unlink()
    assert (child.log_text(), child.log_size()) == ("", 0)


def test_a_child_has_exactly_the_environment_directory_and_input_it_was_given(supervisor, tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "input").write_text("hello")
    child = supervisor.spawn(
        "child",
        ["sh", "-c", 'pwd; echo "$NAME"; cat; env | grep -c HOME'],
        env={**ENV, "NAME": "größe"},
        log=tmp_path / "log",
        cwd=tmp_path / "place",
        stdin=tmp_path / "input",
    )
    child.wait(5)
    assert child.log_text() == f"{tmp_path / 'place'}\ngröße\nhello0\n"


def test_a_child_ignores_and_blocks_no_signal(spawn):
    """Python ignores SIGPIPE, and the supervisor handles more signals. A child must not inherit that."""
    child = spawn("sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status || echo no /proc")
    child.wait(5)
    values = {int(line.split()[1], 16) for line in child.log_text().splitlines() if line.startswith("Sig")}
    # Except 32 and 33, which glibc reserves for threads: Python 3.13 under xdist ignores one of them, and children inherit that.
    assert {value & ~(0b11 << 31) for value in values} <= {0}


def test_a_child_inherits_no_descriptors(spawn):
    child = spawn("sh", "-c", "ls /proc/self/fd /dev/fd 2>/dev/null | sort -u")
    child.wait(5)
    assert {int(word) for word in child.log_text().split() if word.isdigit()} <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["/no/such/program"], "could not be started: there is no file '/no/such/program'"),
        (["no-such-program"], "could not be started: 'no-such-program' is not on PATH"),
        (["/etc/passwd"], "could not be started: '/etc/passwd' is not executable"),
        (["/etc"], "could not be started: '/etc' is a directory"),
    ],
)
def test_the_error_of_a_program_that_cannot_be_executed_has_the_reason(spawn, argv, reason):
    with pytest.raises(CannotStart, match=reason):
        spawn(*argv, "postgresql://ann:secret@127.0.0.1/shop")


def test_the_error_of_a_script_that_cannot_run_has_the_reason(supervisor, tmp_path):
    def refused(text, name="run"):
        file = tmp_path / name
        file.write_bytes(text)
        file.chmod(0o755)
        with pytest.raises(CannotStart) as raised:
            supervisor.spawn("child", [f"./{name}"], env=ENV, log=tmp_path / "log", cwd=tmp_path)
        return raised.value.reason

    assert refused(b"#!/no/such/python -I\n") == (
        "the first line of './run' names an interpreter that is not there: '#!/no/such/python -I'"
    )
    assert refused(b"\x00\x01\x02") == "'./run' is neither a program for this machine nor a script that begins with #!"
    with pytest.raises(CannotStart, match="its working directory '/no/such' does not exist"):
        supervisor.spawn("child", ["sh"], env=ENV, log=tmp_path / "log", cwd=Path("/no/such"))
    with pytest.raises(CannotStart, match="is no directory"):
        supervisor.spawn("child", ["sh"], env=ENV, log=tmp_path / "log", cwd=tmp_path / "run")


def test_passwords_in_a_command_are_redacted():
    assert redacted_command(["psql", "postgresql://ann:s3:c/r@t@host/shop", "redis://:pw@h", "http://h:80/a"]) == [
        "psql",
        "postgresql://ann:***@host/shop",
        "redis://:***@h",
        "http://h:80/a",
    ]


def test_no_error_or_repr_shows_the_environment(supervisor, tmp_path):
    with pytest.raises(CannotStart) as raised:
        supervisor.spawn("child", ["/no/such", "amqp://a:secret@h"], env={"TOKEN": "secret"}, log=tmp_path / "log")
    child = supervisor.spawn(
        "child",
        ["sh", "-c", "exec sleep 600", "amqp://a:secret@h"],
        env={"TOKEN": "secret", **ENV},
        log=tmp_path / "log",
    )
    assert "secret" not in f"{raised.value} {child!r} {child.not_ready(1.0)}"
    child.kill()


def test_not_ready_has_the_timeout_the_exit_code_and_the_log_since_the_start(spawn):
    child = spawn("sh", "-c", "echo early; echo late; exit 3")
    child.wait(5)
    error = child.not_ready(2.5, since=len("early\n"))
    assert isinstance(error, ServerNotReady)
    assert (error.within, error.exit_code, error.log) == (2.5, 3, "late\n")


def test_kill_ends_the_whole_process_tree(forker):
    tree = forker.processes()
    forker.kill()
    assert all(gone(pid) for pid in tree)
    assert forker.processes() == []
    assert forker.exit_code() == -signal.SIGKILL


@linux
def test_kill_ends_processes_whose_parent_has_exited(spawn):
    child = spawn("sh", "-c", "setsid sleep 600 & sleep 600 & echo ready; exit 0")
    assert child.wait(5) == 0
    orphans = until(lambda: len(child.processes()) == 2 and child.processes())
    child.kill()
    assert all(gone(pid) for pid in orphans)


@linux
def test_kill_ends_a_daemon_while_the_child_that_started_it_runs(spawn):
    child = spawn("sh", "-c", "(setsid sleep 600 & echo $!); exec sleep 600")
    other = spawn("sh", "-c", "exec sleep 600")
    daemon = int(until(child.log_text))
    until(lambda: daemon in child.processes())
    child.kill()
    assert gone(daemon)
    assert other.running


def test_pause_stops_every_process_of_a_growing_tree(forker):
    forker.pause()
    tree = forker.processes()
    assert states(tree) == {psutil.STATUS_STOPPED}
    assert forker.processes() == tree, "no process was forked after the pause"
    assert forker.running
    forker.resume()
    assert psutil.STATUS_STOPPED not in states(forker.processes())


def test_a_paused_tree_can_be_killed(forker):
    forker.pause()
    forker.kill()
    assert not forker.running


def test_terminate_waits_for_a_child_that_handles_sigterm(spawn):
    child = spawn("sh", "-c", "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.01; done")
    until(child.log_text)
    assert child.terminate(within=5) == 4
    assert "bye" in child.log_text()


def test_terminate_kills_a_child_that_ignores_sigterm(spawn):
    child = spawn("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    until(child.log_text)
    clock = FakeClock(0.0)
    assert child.terminate(within=30, clock=clock) == -signal.SIGKILL
    assert 30 <= clock.now() < 31


def test_wait_returns_none_after_its_timeout(spawn):
    child, clock = spawn("sleep", "600"), FakeClock(0.0)
    assert child.wait(3, clock=clock) is None
    assert 3 <= clock.now() < 3.1


def test_methods_of_an_ended_child_do_nothing(spawn):
    child = spawn("true")
    child.wait(5)
    child.pause()
    child.resume()
    child.kill()
    assert child.terminate(within=1) == 0


def test_a_child_has_its_psutil_process(spawn):
    child = spawn("sleep", "600")
    assert child.process.pid == child.pid
    assert until(lambda: child.process.name() == "sleep")


def test_a_process_that_does_not_stop_or_die_is_named_in_the_error(spawn, supervisor, monkeypatch):
    """Only a process stuck in the kernel ignores these signals, so the response is a fake."""
    child = spawn("sleep", "600")
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "request", lambda *_: [17])
        with pytest.raises(ResilienceError, match="process 17 did not stop"):
            child.pause()
        with pytest.raises(ResilienceError, match="still running after SIGKILL: process 17"):
            child.kill()


def test_close_kills_a_supervisor_that_does_not_end(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "SHUTDOWN_TIMEOUT", 0.05)
    supervisor = SupervisorClient()
    supervisor.start()
    child = supervisor.spawn("sleep", ["sleep", "600"], env=ENV, log=tmp_path / "log")
    os.kill(supervisor.pid, signal.SIGSTOP)
    supervisor.close()
    assert gone(supervisor.pid)
    if sys.platform == "linux":
        until(lambda: gone(child.pid), 2)


def test_close_ends_everything_and_can_be_called_twice(tmp_path):
    supervisor = SupervisorClient()
    supervisor.start()
    supervisor.start()
    (tmp_path / "data").mkdir()
    supervisor.delete_at_exit(tmp_path / "data")
    (tmp_path / "other").mkdir()
    child = supervisor.spawn("sleep", ["sleep", "600"], env=ENV, log=tmp_path / "log")
    pid = supervisor.pid
    supervisor.close()
    assert gone(child.pid)
    assert gone(pid)
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "other").exists()
    supervisor.close()
    with pytest.raises(BackendDied, match="has been closed"):
        child.running  # noqa: B018  # the property sends a request


def test_close_without_start_does_nothing():
    SupervisorClient().close()


def test_many_threads_may_send_requests_at_once(supervisor, spawn):
    children = [spawn("sh", "-c", f"exit {number}") for number in range(8)]
    codes = {}

    def request(number):
        codes[number] = [children[number].wait(10) for _ in range(50)]

    threads = [threading.Thread(target=request, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number: [number] * 50 for number in range(8)}


def test_servers_outlive_the_thread_that_started_them(supervisor, spawn):
    """PR_SET_PDEATHSIG is sent when the starting thread ends. That thread is the supervisor's, not the session's."""
    children = []
    thread = threading.Thread(target=lambda: children.append(spawn("sleep", "600")))
    thread.start()
    thread.join()
    assert children[0].wait(0.05) is None


def test_a_response_lost_to_ctrl_c_is_not_taken_for_the_next(supervisor, monkeypatch):
    def interrupted(_channel):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(processes, "_receive", interrupted)
        supervisor.request("user_namespaces")
    assert supervisor.request("ping") == supervisor.pid


def test_a_fork_can_neither_use_nor_end_the_supervisor(supervisor, tmp_path):
    (tmp_path / "owned").mkdir()
    supervisor.delete_at_exit(tmp_path / "owned")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest may have threads
        pid = os.fork()
    if pid == 0:
        try:
            supervisor.close()
            supervisor.request("ping")
        except ResilienceError as error:
            os._exit(0 if "fork" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "owned").exists()
    assert supervisor.request("ping") == supervisor.pid


def test_the_error_of_a_supervisor_that_failed_has_its_output(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_RUN", "raise SystemExit('cannot load')")
    owned = tmp_path / "owned"
    owned.mkdir()
    supervisor = SupervisorClient()
    supervisor.start(owning=[owned])
    with pytest.raises(BackendDied, match="cannot load"):
        supervisor.request("ping")
    supervisor.close()
    assert not owned.exists()


def test_the_supervisor_imports_no_slow_modules():
    """Every session waits for its imports."""
    source = Path(sys.modules["pytest_resilience.processes"].__file__).with_name("supervisor.py").read_text()
    assert "from __future__ import annotations" in source
    for slow in ("json", "typing", "subprocess", "pathlib", "socket", "shutil"):
        assert f"\nimport {slow}" not in source


@linux
def test_a_request_to_a_stopped_supervisor_is_an_error_and_not_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOPPED_CHECK_INTERVAL", 0.05)
    with SupervisorClient() as supervisor:
        child = supervisor.spawn("child", ["sleep", "600"], env=ENV, log=tmp_path / "log")
        supervisor.delete_at_exit(tmp_path / "owned")
        (tmp_path / "owned").mkdir()
        os.kill(supervisor.pid, signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(BackendDied, match=rf"is stopped.*kill -CONT {supervisor.pid}"):
                child.pause()
        os.kill(supervisor.pid, signal.SIGCONT)
        until(lambda: responds(child))
        assert child.running
        os.kill(supervisor.pid, signal.SIGSTOP)
    assert gone(child.pid)
    assert not (tmp_path / "owned").exists(), "a stopped supervisor cleans up too"


def responds(child):
    try:
        return child.processes()
    except BackendDied:
        return False


class NothingArrives:
    def register(self, *_):
        pass

    def poll(self, _):
        return []


def test_a_response_after_the_timeout_is_an_error(supervisor, monkeypatch):
    monkeypatch.setattr(processes, "RESPONSE_TIMEOUT", 0.0)
    monkeypatch.setattr(processes.select, "poll", NothingArrives)
    with pytest.raises(BackendDied, match="has not responded within 0 s"):
        supervisor.user_namespaces()
    monkeypatch.undo()
    assert isinstance(supervisor.user_namespaces(), bool)


def test_a_failed_start_of_the_supervisor_leaves_no_descriptors(monkeypatch):
    before = set(Path("/proc/self/fd").iterdir()) if Path("/proc/self/fd").exists() else set()

    def no_processes(*_arguments, **_settings):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(processes.subprocess, "Popen", no_processes)
    supervisor = processes.SupervisorClient()
    with pytest.raises(BlockingIOError):
        supervisor.start()
    supervisor.close()
    gc.collect()
    if before:
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_no_frame_of_a_start_that_fails_shows_the_environment(tmp_path):
    """`pytest --showlocals` prints the local variables of these frames."""
    supervisor = processes.SupervisorClient()  # it is not running
    with pytest.raises(BackendDied) as failed:
        supervisor.spawn("service", ["true"], env=Private(PAYMENTS_KEY="planted-for-this-test"), log=tmp_path / "log")
    frames = [entry.frame for entry in failed.traceback if Path(entry.path) == Path(processes.__file__)]
    values = [repr(value) for frame in frames for value in frame.f_locals.values()]
    assert "<1 value, not shown>" in values
    assert [each for each in values if "planted" in each] == []
