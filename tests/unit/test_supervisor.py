"""The supervisor process: what it takes along, and when."""

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

# A session that starts a few processes, says which, and then does what its standard input says: nothing, until it is killed.
SESSION = """
import json, os, subprocess, sys, time
from pathlib import Path
from pytest_resilience.processes import SupervisorClient
scratch, how = Path(sys.argv[1]), sys.argv[2]
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
if how == "fork":
    fork = os.fork()
    if fork == 0: time.sleep(600); os._exit(0)
else: fork = None
pids = [child.pid for child in children] + family.processes()[1:] + [int(daemon.log_text())]
print(json.dumps({"supervisor": supervisor.pid, "pids": pids, "leaders": [child.pid for child in children], "fork": fork}), flush=True)
if how == "end": sys.exit()
if how == "crash": os._exit(3)
time.sleep(600)
"""


@contextmanager
def session(scratch, how="wait"):
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, str(scratch), how],
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
    """A process that has nothing to do with a supervisor."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def nothing_is_left(facts, scratch, within=2.0):
    until(lambda: all(gone(pid) for pid in [facts["supervisor"], *facts["pids"]]), within)
    assert not (scratch / "data").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_session_that_a_signal_ends_leaves_nothing(tmp_path, number):
    with session(tmp_path) as (process, facts):
        assert not any(gone(pid) for pid in facts["pids"])
        process.send_signal(number)
        process.wait(5)
        nothing_is_left(facts, tmp_path)


@pytest.mark.parametrize("how", ["end", "crash"])
def test_a_session_that_ends_without_closing_leaves_nothing(tmp_path, how):
    with session(tmp_path, how) as (process, facts):
        process.wait(5)
        nothing_is_left(facts, tmp_path)


def test_a_fork_that_lives_on_with_the_channel_keeps_nothing_alive(tmp_path):
    with session(tmp_path, "fork") as (process, facts):
        process.kill()
        nothing_is_left(facts, tmp_path)
        assert not gone(facts["fork"]), "it is not ours to end"


def test_ctrl_c_does_not_reach_the_supervisor_or_its_children(tmp_path):
    with session(tmp_path) as (process, facts):
        assert os.getsid(process.pid) == process.pid
        sessions = {os.getsid(pid) for pid in [facts["supervisor"], *facts["pids"]]}
        assert process.pid not in sessions
        assert {facts["supervisor"], *facts["leaders"]} <= sessions, "each child has its own"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_supervisor_that_is_asked_to_end_takes_all_along(tmp_path, number):
    with session(tmp_path) as (_process, facts):
        os.kill(facts["supervisor"], number)
        nothing_is_left(facts, tmp_path)


@linux
def test_a_supervisor_that_is_killed_takes_its_children_along(tmp_path):
    with SupervisorClient() as kept:
        directory = tmp_path / "data"
        directory.mkdir()
        kept.delete_at_exit(directory)
        children = [kept.spawn("sleep", ["sleep", "600"], env=ENV, log=tmp_path / "log") for _ in range(3)]
        children[1].pause()
        os.kill(kept.pid, signal.SIGKILL)
        until(lambda: all(gone(child.pid) for child in children), 2)
        with pytest.raises(BackendDied, match=rf"the supervisor \(process {kept.pid}, exit code .*\) is gone"):
            children[0].exit_code()
    assert not directory.exists(), "close() deletes what the supervisor could not"


def test_nobody_outside_is_touched(tmp_path):
    with started("sleep", "600") as bystander:
        with SupervisorClient() as kept:
            kept.spawn("sleep", ["sleep", "600"], env=ENV, log=tmp_path / "log")
        assert bystander.poll() is None


def test_children_are_reaped_at_once(tmp_path):
    with SupervisorClient() as kept:
        child = kept.spawn("true", ["true"], env=ENV, log=tmp_path / "log")
        until(lambda: not Path(f"/proc/{child.pid}").exists() if sys.platform == "linux" else child.exit_code() == 0)


def test_a_request_it_does_not_know_ends_nothing(tmp_path):
    with SupervisorClient() as kept:
        with pytest.raises(Exception, match="no_such_request"):
            kept.request("no_such_request")
        assert kept.request("ping") == kept.pid


# its functions


def test_below_lists_parents_first():
    table = {1: (0, "S"), 2: (1, "S"), 3: (2, "S"), 4: (1, "S"), 5: (3, "R"), 9: (8, "S")}
    assert supervisor.descendants([2, 77], table) == [2, 3, 5]
    assert supervisor.descendants([1], table) == [1, 2, 4, 3, 5]


@pytest.mark.parametrize("read", ["children", "proc", "ps"])
def test_the_process_table_knows_who_descends_from_whom(read, monkeypatch):
    monkeypatch.setattr(supervisor, "LISTS_CHILDREN", read == "children")
    monkeypatch.setattr(supervisor, "LINUX", read != "ps")
    if read != "ps" and sys.platform != "linux":
        pytest.skip("needs Linux: /proc")
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
def played(monkeypatch):
    """The supervisor's inside, with tables of processes and signals played: child 1 is process 20."""
    inside = supervisor.Supervisor.__new__(supervisor.Supervisor)
    inside.pid, inside._running, inside._adopted, inside._codes = 10, {20: 1}, {}, {}
    inside.sent = []
    monkeypatch.setattr(inside, "reap", lambda: True)
    monkeypatch.setattr(inside, "_wait_for", lambda _pids: [])
    monkeypatch.setattr(supervisor, "send_signal", lambda pid, number: inside.sent.append((pid, number)))

    def plays(*tables):
        tables = list(tables)
        monkeypatch.setattr(supervisor, "process_table", lambda _root: tables.pop(0) if len(tables) > 1 else tables[0])

    inside.plays = plays
    return inside


BIRTH = [
    {10: (1, "S"), 20: (10, "R")},  # asked to stop while it forks
    {10: (1, "S"), 20: (10, "T")},  # the table was begun before the child was there
    {10: (1, "S"), 20: (10, "T"), 30: (20, "R")},
    {10: (1, "S"), 20: (10, "T"), 30: (20, "T")},
]


def test_a_pause_is_not_over_while_somebody_is_being_born(played):
    played.plays(*BIRTH)
    assert played.pause(1) == []
    assert played.sent == [(20, signal.SIGSTOP), (30, signal.SIGSTOP)]


def test_a_kill_waits_until_nobody_can_fork(played):
    played.plays(*BIRTH)
    assert played.kill(1) == []
    assert played.sent[:2] == [(20, signal.SIGSTOP), (30, signal.SIGSTOP)]
    assert played.sent[2:] == [(20, signal.SIGKILL), (30, signal.SIGKILL)]


def test_a_process_that_does_not_stop_is_named_in_time(played, monkeypatch):
    monkeypatch.setattr(supervisor, "KILL_TIMEOUT", 0.01)
    played.plays({10: (1, "S"), 20: (10, "T"), 30: (20, "D")})
    assert played.pause(1) == [30]


def test_remove_tree_follows_no_links(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    doomed = tmp_path / "doomed"
    (doomed / "deep").mkdir(parents=True)
    (doomed / "deep" / "link").symlink_to(kept)
    (doomed / supervisor.OWNER).write_text("")
    supervisor.remove_tree(str(doomed))
    assert not doomed.exists()
    assert (kept / "file").exists()


def test_remove_tree_follows_no_link_that_takes_the_place_of_a_directory(tmp_path, monkeypatch):
    """Another user may own the directory, and exchange it between the look and the deletion."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("")
    doomed = tmp_path / "doomed"
    (doomed / "deep").mkdir(parents=True)
    really_open = os.open

    def exchanged_meanwhile(name, flags, *, dir_fd=None):
        if name == "deep" and not (doomed / "deep").is_symlink():
            (doomed / "deep").rmdir()
            (doomed / "deep").symlink_to(kept)
        return really_open(name, flags, dir_fd=dir_fd)

    monkeypatch.setattr(supervisor.os, "open", exchanged_meanwhile)
    supervisor.remove_tree(str(doomed))
    assert (kept / "file").exists()
    assert not doomed.exists()


def test_remove_tree_tries_again_while_somebody_writes(tmp_path, monkeypatch):
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    remove, asked = os.rmdir, []

    def written_meanwhile(path, *, dir_fd):
        asked.append(path)
        if len(asked) < 3:
            raise OSError("directory not empty")
        remove(path, dir_fd=dir_fd)

    monkeypatch.setattr(supervisor.os, "rmdir", written_meanwhile)
    supervisor.remove_tree(str(doomed))
    assert not doomed.exists()


def test_the_owner_file_is_deleted_last(tmp_path, monkeypatch):
    for name in ("a", supervisor.OWNER, "z"):
        (tmp_path / name).write_text("")
    order = []

    def noting(path, *, dir_fd):
        assert dir_fd > 2
        order.append(path)

    monkeypatch.setattr(supervisor.os, "unlink", noting)
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
def test_a_segment_goes_when_its_last_user_has(tmp_path, monkeypatch, users, removed):
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
def test_a_segment_of_the_same_number_and_another_key_stays(tmp_path):
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
