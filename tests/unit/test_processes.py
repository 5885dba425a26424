"""Processes as their starter sees them, all of them real."""

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
from pytest_resilience.errors import BackendDied, ResilienceError, ServerNotReady
from pytest_resilience.processes import CannotStart, SupervisorClient
from pytest_resilience.redaction import Private, redacted_command
from tests.support.waiting import gone, until

ENV = {"PATH": os.environ["PATH"]}
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: subreaper")
# Forks children as fast as it can, each of which forks one more; all of them live for ever
BREEDER = """
import os, time
print("ready", flush=True)
for _ in range(100):
    if os.fork() == 0:
        os.fork()
        time.sleep(600)
time.sleep(600)
"""


class FrozenClock:
    """Time passes by sleeping only."""

    def __init__(self):
        self.seconds = 0.0

    def now(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds


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
def breeder(spawn):
    child = spawn(sys.executable, "-c", BREEDER)
    until(lambda: len(child.processes()) > 12)
    return child


def states(pids):
    return {psutil.Process(pid).status() for pid in pids}


def test_a_child_knows_its_end(spawn):
    child = spawn("sh", "-c", "exit 7")
    assert child.wait(5) == 7
    assert not child.running
    assert child.exit_code() == 7


def test_the_exit_code_of_a_killed_child_is_the_signal(spawn):
    child = spawn("sleep", "600")
    assert child.exit_code() is None
    assert child.signal(signal.SIGKILL)
    assert child.wait(5) == -signal.SIGKILL
    assert not child.signal(signal.SIGTERM), "there is nobody to signal any more"


def test_output_goes_to_the_log(spawn):
    child = spawn("sh", "-c", "echo out; echo err >&2; read line || echo end of input")
    child.wait(5)
    assert child.log_text() == "out\nerr\nend of input\n"
    assert child.log_text(since=4) == "err\nend of input\n"
    assert child.log_size() == len(child.log_text())


def test_a_log_that_is_not_there_is_empty(spawn):
    child = spawn("true")
    child.wait(5)
    child.log.unlink()
    assert (child.log_text(), child.log_size()) == ("", 0)


def test_a_child_has_the_environment_and_directory_that_it_was_given(supervisor, tmp_path):
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


def test_signals_are_as_a_shell_leaves_them(spawn):
    """Python ignores SIGPIPE, and the supervisor catches more; a child must not inherit that."""
    child = spawn("sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status || echo no /proc")
    child.wait(5)
    values = {int(line.split()[1], 16) for line in child.log_text().splitlines() if line.startswith("Sig")}
    # Less 32 and 33, which glibc keeps for its threads: a Python 3.13 under xdist hands on that it ignores one of them.
    assert {value & ~(0b11 << 31) for value in values} <= {0}


def test_descriptors_of_the_session_stay_here(spawn):
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
def test_what_can_not_be_executed_says_why(spawn, argv, reason):
    with pytest.raises(CannotStart, match=reason):
        spawn(*argv, "postgresql://ann:secret@127.0.0.1/shop")


def test_a_script_that_cannot_run_says_what_is_wrong_with_it(supervisor, tmp_path):
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


def test_passwords_are_not_shown():
    assert redacted_command(["psql", "postgresql://ann:s3:c/r@t@host/shop", "redis://:pw@h", "http://h:80/a"]) == [
        "psql",
        "postgresql://ann:***@host/shop",
        "redis://:***@h",
        "http://h:80/a",
    ]


def test_an_environment_is_never_shown(supervisor, tmp_path):
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


def test_not_ready_shows_command_time_and_this_starts_log(spawn):
    child = spawn("sh", "-c", "echo early; echo late; exit 3")
    child.wait(5)
    error = child.not_ready(2.5, since=len("early\n"))
    assert isinstance(error, ServerNotReady)
    assert (error.within, error.exit_code, error.log) == (2.5, 3, "late\n")


def test_kill_takes_the_whole_tree(breeder):
    tree = breeder.processes()
    breeder.kill()
    assert all(gone(pid) for pid in tree)
    assert breeder.processes() == []
    assert breeder.exit_code() == -signal.SIGKILL


@linux
def test_kill_takes_what_outlived_its_parent(spawn):
    child = spawn("sh", "-c", "setsid sleep 600 & sleep 600 & echo ready; exit 0")
    assert child.wait(5) == 0
    orphans = until(lambda: len(child.processes()) == 2 and child.processes())
    child.kill()
    assert all(gone(pid) for pid in orphans)


@linux
def test_kill_takes_a_daemon_along_while_its_child_still_runs(spawn):
    child = spawn("sh", "-c", "(setsid sleep 600 & echo $!); exec sleep 600")
    other = spawn("sh", "-c", "exec sleep 600")
    daemon = int(until(child.log_text))
    until(lambda: daemon in child.processes())
    child.kill()
    assert gone(daemon)
    assert other.running


def test_pause_stops_every_process_of_a_tree_that_grows(breeder):
    breeder.pause()
    tree = breeder.processes()
    assert states(tree) == {psutil.STATUS_STOPPED}
    assert breeder.processes() == tree, "nobody was born meanwhile"
    assert breeder.running
    breeder.resume()
    assert psutil.STATUS_STOPPED not in states(breeder.processes())


def test_a_paused_tree_can_be_killed(breeder):
    breeder.pause()
    breeder.kill()
    assert not breeder.running


def test_terminate_gives_it_time_to_end_by_itself(spawn):
    child = spawn("sh", "-c", "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.01; done")
    until(child.log_text)
    assert child.terminate(within=5) == 4
    assert "bye" in child.log_text()


def test_terminate_kills_what_does_not_end(spawn):
    child = spawn("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
    until(child.log_text)
    clock = FrozenClock()
    assert child.terminate(within=30, clock=clock) == -signal.SIGKILL
    assert 30 <= clock.now() < 31


def test_wait_gives_up_in_time(spawn):
    child, clock = spawn("sleep", "600"), FrozenClock()
    assert child.wait(3, clock=clock) is None
    assert 3 <= clock.now() < 3.1


def test_everything_about_an_ended_child_is_harmless(spawn):
    child = spawn("true")
    child.wait(5)
    child.pause()
    child.resume()
    child.kill()
    assert child.terminate(within=1) == 0


def test_psutil_sees_the_process(spawn):
    child = spawn("sleep", "600")
    assert child.process.pid == child.pid
    assert until(lambda: child.process.name() == "sleep")


def test_what_does_not_obey_is_named(spawn, supervisor, monkeypatch):
    """Only a process that is stuck in the kernel does that, so it has to be played."""
    child = spawn("sleep", "600")
    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "request", lambda *_: [17])
        with pytest.raises(ResilienceError, match="process 17 did not stop"):
            child.pause()
        with pytest.raises(ResilienceError, match="still running after SIGKILL: process 17"):
            child.kill()


def test_a_supervisor_that_does_not_end_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "SHUTDOWN_TIMEOUT", 0.05)
    supervisor = SupervisorClient()
    supervisor.start()
    child = supervisor.spawn("sleep", ["sleep", "600"], env=ENV, log=tmp_path / "log")
    os.kill(supervisor.pid, signal.SIGSTOP)
    supervisor.close()
    assert gone(supervisor.pid)
    if sys.platform == "linux":
        until(lambda: gone(child.pid), 2)


def test_close_ends_everything_and_may_be_called_again(tmp_path):
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
        child.running  # noqa: B018  # asking is the point


def test_a_supervisor_that_never_started_closes():
    SupervisorClient().close()


def test_many_threads_may_ask_at_once(supervisor, spawn):
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
    """PR_SET_PDEATHSIG is sent when the starting thread ends; the one that starts is the supervisor's, though."""
    children = []
    thread = threading.Thread(target=lambda: children.append(spawn("sleep", "600")))
    thread.start()
    thread.join()
    assert children[0].wait(0.05) is None


def test_an_answer_that_ctrl_c_lost_confuses_nobody(supervisor, monkeypatch):
    def interrupted(_channel):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(processes, "_receive", interrupted)
        supervisor.request("user_namespaces")
    assert supervisor.request("ping") == supervisor.pid


def test_a_fork_can_neither_command_nor_end_it(supervisor, tmp_path):
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


def test_a_supervisor_that_fails_says_how(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_RUN", "raise SystemExit('cannot load')")
    owned = tmp_path / "owned"
    owned.mkdir()
    supervisor = SupervisorClient()
    supervisor.start(owning=[owned])
    with pytest.raises(BackendDied, match="cannot load"):
        supervisor.request("ping")
    supervisor.close()
    assert not owned.exists()


def test_the_script_of_the_supervisor_imports_little():
    """What it imports is time that every session waits."""
    source = Path(sys.modules["pytest_resilience.processes"].__file__).with_name("supervisor.py").read_text()
    assert "from __future__ import annotations" in source
    for slow in ("json", "typing", "subprocess", "pathlib", "socket", "shutil"):
        assert f"\nimport {slow}" not in source


@linux
def test_a_stopped_supervisor_is_an_error_that_says_so_and_not_a_wait_for_ever(tmp_path, monkeypatch):
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
        until(lambda: answers(child))
        assert child.running
        os.kill(supervisor.pid, signal.SIGSTOP)
    assert gone(child.pid)
    assert not (tmp_path / "owned").exists(), "a stopped supervisor cleans up all the same"


def answers(child):
    try:
        return child.processes()
    except BackendDied:
        return False


def test_a_supervisor_that_does_not_answer_in_time_is_an_error(supervisor, monkeypatch):
    monkeypatch.setattr(processes, "RESPONSE_TIMEOUT", 0.0)
    monkeypatch.setattr(processes.select, "select", lambda *_: ([], [], []))
    with pytest.raises(BackendDied, match="has not responded within 0 s"):
        supervisor.user_namespaces()
    monkeypatch.undo()
    assert isinstance(supervisor.user_namespaces(), bool)


def test_a_supervisor_that_cannot_be_started_leaves_nothing_open(monkeypatch):
    """For want of processes, say."""
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
    """As `pytest --showlocals` would."""
    supervisor = processes.SupervisorClient()  # it is not running
    with pytest.raises(BackendDied) as failed:
        supervisor.spawn("service", ["true"], env=Private(PAYMENTS_KEY="planted-for-this-test"), log=tmp_path / "log")
    frames = [entry.frame for entry in failed.traceback if Path(entry.path) == Path(processes.__file__)]
    shown = [repr(value) for frame in frames for value in frame.f_locals.values()]
    assert "<1 value, not shown>" in shown
    assert [each for each in shown if "planted" in each] == []
