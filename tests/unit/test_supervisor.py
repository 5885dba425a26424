"""The supervisor process ends everything that a session started, however the session ends."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_resilience import supervisor
from pytest_resilience.errors import BackendDied
from pytest_resilience.processes import SupervisorClient
from tests.support.waiting import gone, until

ROOT = str(Path(__file__).parents[2])
ENV = {"PATH": os.environ["PATH"]}
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: subreaper, pdeathsig, /proc")

# A session that starts a few processes and prints their ids. Then it ends as its second argument says, or waits to be killed.
SESSION = """
import json, os, subprocess, sys, time
from pathlib import Path
from pytest_resilience.processes import SupervisorClient
scratch, ending = Path(sys.argv[1]), sys.argv[2]
(scratch / "data").mkdir()
supervisor = SupervisorClient()
supervisor.start(owning=[scratch / "data"])
spawn = lambda name, *argv: supervisor.spawn(name, argv, env=dict(PATH=os.environ["PATH"]), log=scratch / (name + ".log"))
plain = spawn("plain", "sleep", "600")
stopped = spawn("stopped", "sleep", "600")
stopped.pause()
deaf = spawn("deaf", "sh", "-c", "trap '' TERM INT HUP; echo ready; while :; do sleep 0.02; done")
family = spawn("family", "sh", "-c", "sleep 600 & setsid sleep 600 & wait")
daemon = spawn("daemon", "sh", "-c", "(setsid sleep 600 & echo $!)")
writer = spawn("writer", "sh", "-c",
    "cd '" + str(scratch / "data") + "'; echo ready; i=0; while :; do i=$((i+1)); mkdir -p d$((i%7)); echo x > d$((i%7))/$i; done")
children = [plain, stopped, deaf, family, writer]
while not (all(child.log_text() for child in (deaf, daemon, writer)) and len(family.processes()) == 3): time.sleep(0.005)
if ending == "fork":
    fork = os.fork()
    if fork == 0: time.sleep(600); os._exit(0)
else: fork = None
pids = [child.pid for child in children] + family.processes()[1:] + [int(daemon.log_text())]
print(json.dumps({"supervisor": supervisor.pid, "pids": pids, "leaders": [child.pid for child in children], "fork": fork}), flush=True)
if ending == "end": sys.exit()
if ending == "crash": os._exit(3)
time.sleep(600)
"""


@contextmanager
def session(scratch, ending="wait"):
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, str(scratch), ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
        start_new_session=True,
    ) as process:
        facts = None
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read().decode()
            facts = json.loads(line)
            yield process, facts
        finally:
            process.kill()
            if facts and facts["fork"]:
                os.kill(facts["fork"], signal.SIGKILL)


@contextmanager
def started(*argv):
    """Run a process that no supervisor owns."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def nothing_is_left(facts, scratch, within=2.0):
    until(lambda: all(gone(pid) for pid in [facts["supervisor"], *facts["pids"]]), within)
    assert not (scratch / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_session_ended_by_a_signal_leaves_nothing(tmp_path, number):
    with session(tmp_path) as (process, facts):
        assert not any(gone(pid) for pid in facts["pids"])
        process.send_signal(number)
        process.wait(5)
        nothing_is_left(facts, tmp_path)


@pytest.mark.parametrize("ending", ["end", "crash"])
def test_a_session_that_ends_without_close_leaves_nothing(tmp_path, ending):
    with session(tmp_path, ending) as (process, facts):
        process.wait(5)
        nothing_is_left(facts, tmp_path)


def test_a_fork_that_inherits_the_channel_does_not_delay_the_cleanup(tmp_path):
    with session(tmp_path, "fork") as (process, facts):
        process.kill()
        nothing_is_left(facts, tmp_path)
        assert not gone(facts["fork"]), "the supervisor must not end a fork of the session"


def test_ctrl_c_does_not_reach_the_supervisor_or_its_children(tmp_path):
    with session(tmp_path) as (process, facts):
        assert os.getsid(process.pid) == process.pid
        sessions = {os.getsid(pid) for pid in [facts["supervisor"], *facts["pids"]]}
        assert process.pid not in sessions
        assert {facts["supervisor"], *facts["leaders"]} <= sessions, "each child has a session of its own"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_supervisor_ended_by_a_signal_ends_all_its_children(tmp_path, number):
    with session(tmp_path) as (_process, facts):
        os.kill(facts["supervisor"], number)
        nothing_is_left(facts, tmp_path)


@linux
def test_the_children_of_a_killed_supervisor_die(tmp_path):
    with SupervisorClient() as client:
        directory = tmp_path / "data"
        directory.mkdir()
        client.delete_at_exit(directory)
        children = [client.spawn("sleep", ["sleep", "600"], env=ENV, log=tmp_path / "log") for _ in range(3)]
        children[1].pause()
        os.kill(client.pid, signal.SIGKILL)
        until(lambda: all(gone(child.pid) for child in children), 2)
        with pytest.raises(BackendDied, match=rf"the supervisor \(process {client.pid}, exit code .*\) is gone"):
            children[0].exit_code()
    assert not directory.exists(), "close() deletes the directory in place of the supervisor"


@linux
def test_close_ends_what_the_children_of_a_killed_supervisor_have_started(tmp_path):
    with SupervisorClient() as client:
        shell = client.spawn("sh", ["sh", "-c", "setsid sleep 600 & echo $!; wait"], env=ENV, log=tmp_path / "log")
        until(lambda: shell.log_text().strip(), 5)
        grandchild = int(shell.log_text())
        until(lambda: supervisor.read_mark(grandchild) is not None, 5)  # the fork may not have executed yet
        os.kill(client.pid, signal.SIGKILL)
        until(lambda: gone(shell.pid), 2)
        assert not gone(grandchild), "the kernel ends only the children of the supervisor"
    until(lambda: gone(grandchild), 2)


def test_a_process_of_another_program_is_not_touched(tmp_path):
    with started("sleep", "600") as bystander:
        with SupervisorClient() as client:
            client.spawn("sleep", ["sleep", "600"], env=ENV, log=tmp_path / "log")
        assert bystander.poll() is None


def test_children_are_reaped_at_once(tmp_path):
    with SupervisorClient() as client:
        child = client.spawn("true", ["true"], env=ENV, log=tmp_path / "log")
        until(lambda: not Path(f"/proc/{child.pid}").exists() if sys.platform == "linux" else child.exit_code() == 0)


def test_an_unknown_request_is_an_error_and_ends_nothing(tmp_path):
    with SupervisorClient() as client:
        with pytest.raises(Exception, match="no_such_request"):
            client.request("no_such_request")
        assert client.request("ping") == client.pid


# Functions of the supervisor


def test_descendants_lists_parents_before_children():
    table = {1: (0, "S"), 2: (1, "S"), 3: (2, "S"), 4: (1, "S"), 5: (3, "R"), 9: (8, "S")}
    assert supervisor.descendants([2, 77], table) == [2, 3, 5]
    assert supervisor.descendants([1], table) == [1, 2, 4, 3, 5]


@pytest.mark.parametrize("read", ["children", "proc", "ps"])
def test_the_process_table_has_the_parent_and_state_of_each_process(read, monkeypatch):
    monkeypatch.setattr(supervisor, "LISTS_CHILDREN", read == "children")
    monkeypatch.setattr(supervisor, "LINUX", read != "ps")
    if read != "ps" and sys.platform != "linux":
        pytest.skip("needs Linux: /proc")
    if read == "ps" and not Path("/bin/ps").exists():
        pytest.skip("needs /bin/ps (Debian: apt install procps)")
    with started("sh", "-c", "sleep 600 & echo ready; wait") as child:
        child.stdout.readline()
        table = supervisor.process_table(os.getpid())
        assert table[child.pid][0] == os.getpid()
        (grandchild,) = supervisor.descendants([child.pid], table)[1:]
        assert table[grandchild][0] == child.pid
        os.kill(grandchild, signal.SIGSTOP)
        until(lambda: supervisor.process_table(os.getpid())[grandchild][1] == "T")
        os.kill(grandchild, signal.SIGKILL)


@pytest.fixture
def fake(monkeypatch):
    """A Supervisor whose process tables and signals are fakes. Its child 1 is process 20."""
    fake = supervisor.Supervisor.__new__(supervisor.Supervisor)
    fake.pid, fake._running, fake._adopted, fake._codes = 10, {20: 1}, {}, {}
    fake.sent = []
    monkeypatch.setattr(fake, "reap", lambda: True)
    monkeypatch.setattr(fake, "_wait_for", lambda _pids: [])
    monkeypatch.setattr(supervisor, "send_signal", lambda pid, number: fake.sent.append((pid, number)))

    def set_tables(*tables):
        tables = list(tables)
        monkeypatch.setattr(supervisor, "process_table", lambda _root: tables.pop(0) if len(tables) > 1 else tables[0])

    fake.set_tables = set_tables
    return fake


FORK_DURING_STOP = [
    {10: (1, "S"), 20: (10, "R")},  # SIGSTOP is sent while the process forks
    {10: (1, "S"), 20: (10, "T")},  # the table was read before the child existed
    {10: (1, "S"), 20: (10, "T"), 30: (20, "R")},
    {10: (1, "S"), 20: (10, "T"), 30: (20, "T")},
]


def test_a_pause_also_stops_a_child_forked_during_it(fake):
    fake.set_tables(*FORK_DURING_STOP)
    assert fake.pause(1) == []
    assert fake.sent == [(20, signal.SIGSTOP), (30, signal.SIGSTOP)]


def test_a_kill_stops_all_processes_before_it_kills_the_first(fake):
    fake.set_tables(*FORK_DURING_STOP)
    assert fake.kill(1) == []
    assert fake.sent[:2] == [(20, signal.SIGSTOP), (30, signal.SIGSTOP)]
    assert fake.sent[2:] == [(20, signal.SIGKILL), (30, signal.SIGKILL)]


def test_a_process_that_does_not_stop_is_returned_after_the_timeout(fake, monkeypatch):
    monkeypatch.setattr(supervisor, "KILL_TIMEOUT", 0.01)
    fake.set_tables({10: (1, "S"), 20: (10, "T"), 30: (20, "D")})
    assert fake.pause(1) == [30]


def test_remove_tree_follows_no_links(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    doomed = tmp_path / "doomed"
    (doomed / "deep").mkdir(parents=True)
    (doomed / "deep" / "link").symlink_to(outside)
    (doomed / supervisor.OWNER).write_text("")
    supervisor.remove_tree(str(doomed))
    assert not doomed.exists()
    assert (outside / "file").exists()


def test_remove_tree_follows_no_link_that_replaces_a_directory(tmp_path, monkeypatch):
    """Another user may own the directory, and replace it between the check and the deletion."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("")
    doomed = tmp_path / "doomed"
    (doomed / "deep").mkdir(parents=True)
    really_open = os.open

    def replace_then_open(name, flags, *, dir_fd=None):
        if name == "deep" and not (doomed / "deep").is_symlink():
            (doomed / "deep").rmdir()
            (doomed / "deep").symlink_to(outside)
        return really_open(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(supervisor.os, "open", replace_then_open)
    supervisor.remove_tree(str(doomed))
    assert (outside / "file").exists()
    assert not doomed.exists()


def test_remove_tree_tries_again_while_files_are_added(tmp_path, monkeypatch):
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    remove, calls = os.rmdir, []

    def fail_twice(path, *, dir_fd):
        calls.append(path)
        if len(calls) < 3:
            raise OSError("directory not empty")
        remove(path, dir_fd=dir_fd)

    monkeypatch.setattr(supervisor.os, "rmdir", fail_twice)
    supervisor.remove_tree(str(doomed))
    assert not doomed.exists()


def test_the_owner_file_is_deleted_last(tmp_path, monkeypatch):
    for name in ("a", supervisor.OWNER, "z"):
        (tmp_path / name).write_text("")
    order = []

    def record(path, *, dir_fd):
        assert dir_fd > 2
        order.append(path)

    monkeypatch.setattr(supervisor.os, "unlink", record)
    supervisor._remove_once(str(tmp_path))
    assert order[-1] == supervisor.OWNER


@pytest.mark.parametrize("text", ["", "1\n/data\n", "1\n/data\n0\n5432\n\n127.0.0.1\nno numbers\nready\n"])
def test_a_lock_file_without_a_segment_releases_nothing(tmp_path, monkeypatch, text):
    pid_file = tmp_path / "postmaster.pid"
    pid_file.write_text(text)
    monkeypatch.setattr(supervisor, "libc", None)
    supervisor.release_shared_memory(str(pid_file))


@linux
@pytest.mark.parametrize(("users", "removed"), [([2, 1, 0], True), ([1] * 200, False), ([None], False)])
def test_a_segment_is_removed_after_its_last_user_detached(tmp_path, monkeypatch, users, removed):
    """The kernel detaches a dead process a little after its death."""
    calls = []

    class Libc:
        def shmctl(self, *arguments):
            calls.append(arguments)

    monkeypatch.setattr(supervisor, "libc", Libc())
    monkeypatch.setattr(supervisor, "_attach_count", lambda _key, _segment: users.pop(0))
    monkeypatch.setattr(supervisor.time, "sleep", lambda _seconds: None)
    pid_file = tmp_path / "postmaster.pid"
    pid_file.write_text("1\n/data\n0\n5432\n\n127.0.0.1\n 7 8\nready\n")
    supervisor.release_shared_memory(str(pid_file))
    assert calls == ([(8, supervisor.IPC_RMID, None)] if removed else [])


@linux
def test_a_segment_with_an_equal_number_and_another_key_is_not_removed(tmp_path):
    made = supervisor.libc.shmget(0x7E57AB1E, 64, 0o1600)  # IPC_CREAT
    assert made >= 0
    try:
        pid_file = tmp_path / "postmaster.pid"
        pid_file.write_text(f"1\n/data\n0\n5432\n\n127.0.0.1\n {0x7E57AB1E + 1} {made}\nready\n")
        supervisor.release_shared_memory(str(pid_file))
        assert supervisor._attach_count(0x7E57AB1E, made) == 0
        pid_file.write_text(f"1\n/data\n0\n5432\n\n127.0.0.1\n {0x7E57AB1E} {made}\nready\n")
        supervisor.release_shared_memory(str(pid_file))
        assert supervisor._attach_count(0x7E57AB1E, made) is None
    finally:
        supervisor.libc.shmctl(made, supervisor.IPC_RMID, None)
