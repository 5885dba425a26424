"""Nothing outlives a session. Two seconds after any end, no process, port, directory or shared memory is left."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pytest_resilience.backends.embedded.backend import EmbeddedBackend
from pytest_resilience.backends.session.session_dir import remove_stale
from pytest_resilience.errors import BackendDied
from tests.support.shared_memory import SharedMemory
from tests.support.waiting import gone, until

ROOT = str(Path(__file__).parents[2])
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: PR_SET_PDEATHSIG, /proc/sysvipc")

# A session at work: clients write, a service has forked a daemon, and Redis is paused.
SESSION = """
import asyncio, json, os, sys, threading, time
import asyncpg
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
backend = EmbeddedBackend()
backend.start()
postgres, redis = backend.servers["postgres"], backend.servers["redis"]
daemon = backend.spawn("service", ["sh", "-c", "(setsid sleep 600 & echo $!); exec sleep 600"], env=dict(PATH=os.environ["PATH"]))
wrote = threading.Event()
async def write():
    connection = await asyncpg.connect(postgres.url(postgres.direct_address))
    await connection.execute("CREATE TABLE t (n int)")
    while True:
        await connection.execute("INSERT INTO t SELECT generate_series(1, 1000)")
        wrote.set()
if sys.argv[1] != "end":
    threading.Thread(target=lambda: asyncio.run(write()), daemon=True).start()
    wrote.wait()
redis.pause()
while not daemon.log_text(): time.sleep(0.005)
print(json.dumps({
    "supervisor": backend._supervisor.pid, "directory": str(backend.directory), "daemon": int(daemon.log_text()),
    "addresses": [list(address) for address in (postgres.direct_address, redis.direct_address, backend.api)],
}), flush=True)
if sys.argv[1] == "end": sys.exit()
if sys.argv[1] == "crash": os._exit(3)
time.sleep(600)
"""


class Session:
    """A session in another process, with the processes and addresses that it started."""

    def __init__(self, process, memory):
        self.process, self.memory = process, memory
        line = process.stdout.readline()
        assert line, process.stderr.read().decode()
        facts = json.loads(line)
        self.supervisor, self.daemon = facts["supervisor"], facts["daemon"]
        self.directory = Path(facts["directory"])
        self.addresses = [tuple(address) for address in facts["addresses"]]
        try:
            self.pids = [self.supervisor] + [
                child.pid for child in psutil.Process(self.supervisor).children(recursive=True)
            ]
        except psutil.NoSuchProcess:
            self.pids = [self.supervisor, self.daemon]

    def processes_are_gone(self):
        return all(gone(pid) for pid in self.pids)

    def nothing_is_left(self):
        until(self.processes_are_gone, within=2)
        assert not self.directory.exists()
        for address in self.addresses:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(address, timeout=1)
        assert self.memory.created_by(self.pids) == []


@contextmanager
def session(how="wait"):
    memory = SharedMemory()
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
        start_new_session=True,
    ) as process:
        try:
            yield Session(process, memory)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(number):
    with session() as struck:
        assert len(struck.pids) >= 9
        assert struck.memory.created_by(struck.pids) or sys.platform != "linux"
        struck.process.send_signal(number)
        struck.process.wait(5)
        struck.nothing_is_left()


def test_ctrl_c_reaches_the_session_alone():
    with session() as struck:
        os.killpg(struck.process.pid, signal.SIGINT)
        assert not gone(struck.supervisor)
        struck.process.wait(5)
        struck.nothing_is_left()


@pytest.mark.parametrize("how", ["end", "crash"])
def test_nothing_is_left_after_an_end_without_close(how):
    with session(how) as struck:
        struck.process.wait(5)
        struck.nothing_is_left()


@linux
def test_all_processes_die_with_a_killed_supervisor_and_close_deletes_the_rest():
    memory = SharedMemory()
    backend = EmbeddedBackend()
    with backend:
        postgres = backend.servers["postgres"]
        everything = psutil.Process(backend._supervisor.pid).children(recursive=True)
        backend.servers["redis"].pause()
        os.kill(backend._supervisor.pid, signal.SIGKILL)
        until(lambda: all(gone(process.pid) for process in everything), within=2)
        with pytest.raises(BackendDied, match=r"supervisor .* is gone"):
            backend.check()
        with pytest.raises(BackendDied, match=r"supervisor .* is gone"):
            postgres.kill()
        assert backend.directory.exists()
    assert not backend.directory.exists()
    assert memory.created_by(process.pid for process in everything) == []


@linux
def test_the_next_session_cleans_up_after_a_killed_session_and_supervisor():
    with session() as struck:
        os.kill(struck.supervisor, signal.SIGSTOP)  # so that it can't clean up
        struck.process.kill()
        struck.process.wait(5)
        os.kill(struck.supervisor, signal.SIGKILL)
        until(lambda: all(gone(pid) for pid in struck.pids if pid != struck.daemon), within=2)
        os.kill(struck.daemon, signal.SIGKILL)  # nothing links a daemon without a supervisor to its session
        assert struck.directory.exists()
        assert struck.directory in remove_stale()
        assert not struck.directory.exists()
        assert struck.memory.created_by(struck.pids) == []


# A session that kills itself at one point of its start.
KILLED = """
import os, signal, sys
from pathlib import Path
from pytest_resilience.backends.session import session_dir
from pytest_resilience.backends.embedded.backend import EmbeddedBackend
def end(*_): os.kill(os.getpid(), signal.SIGKILL)
create = session_dir.SessionDirectory.create
session_dir.default_root = lambda: Path(sys.argv[1])
if sys.argv[2] == "before its directory has its name": Path.rename = end
if sys.argv[2] == "when there is nothing but a directory": session_dir.SessionDirectory.create = lambda self: (create(self), end())
EmbeddedBackend().start()
"""


@pytest.mark.parametrize("point", ["before its directory has its name", "when there is nothing but a directory"])
def test_a_session_killed_during_its_start_leaves_no_directory(tmp_path, point):
    root = tmp_path / "root"
    root.mkdir()
    command = [sys.executable, "-c", KILLED, str(root), point]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": ROOT}).returncode == -signal.SIGKILL
    until(lambda: list(root.iterdir()) == [], within=2)
