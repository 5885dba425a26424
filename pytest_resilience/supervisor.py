"""The supervisor: the parent process of every server, which removes all of them when the session ends.

`processes.SupervisorClient` runs `main` with `python -I -S` in a session of its own, so that Ctrl-C reaches neither the supervisor
nor its children. This file imports nothing of the package, and only those parts of the standard library that load in a millisecond.

Rules:
- The supervisor handles requests from the channel one after the other, and reaps every child at once.
- It shuts down when the channel ends, when the process that started it is gone (even if a fork of that process still holds the
  channel), or on SIGTERM, SIGINT and SIGHUP. It then kills all its descendants, runs the exit commands (one removes containers, for
  example), deletes the directories that were registered, and exits.
- On Linux it is a child subreaper: orphaned descendants (double forks) are reparented to it and get killed too. Its children die with
  it (PR_SET_PDEATHSIG), so a SIGKILL of the supervisor is covered. The kernel sends that signal when the starting *thread* ends, so
  the supervisor starts its children from its only thread.
- It signals only its own descendants, and only between two reaps, so a process id can't have been reused by another process.

Messages are marshal dumps after four bytes of length. The json module would double the start time.
"""

# ruff: noqa: PTH110, PTH123, PTH208  # pathlib takes longer to load than all the rest

from __future__ import annotations

import ctypes
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False  # typing, contextlib and enum would double the load time
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any
else:
    import _signal as signal  # the public module adds enums to this one

LINUX = sys.platform == "linux"
LISTS_CHILDREN = LINUX and os.path.exists("/proc/thread-self/children")  # most kernels are built with it
MARK = "PYTEST_RESILIENCE_CHILD"  # in each child's environment; its value names the supervisor and the child's number
KILL_TIMEOUT = (
    1.5  # seconds for processes to stop or exit after a signal; only one stuck in the kernel needs more than a few ms
)
FORK_TIMEOUT = 10.0  # seconds for a fork server to fork a program, which takes 5 ms
EXIT_COMMAND_TIMEOUT = 20.0  # seconds that an exit command may take
PARENT_CHECK_INTERVAL = 0.5  # seconds between two checks of the parent where the kernel has no pidfd
NOBODY = 65534
OWNER = "owner"  # the file that names the owner of a directory; deleted last, so that an interrupted deletion can be resumed

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWUSER = 0x10000000
IPC_RMID = 0
libc = ctypes.CDLL(None, use_errno=True)

Table = dict[int, tuple[int, str]]  # pid: (parent's pid, state)


def process_table(root: int) -> Table:
    """Return a table of this process and at least all its descendants, as of now."""
    if not LINUX:
        return _table_from_ps()
    return _table_from_children(root) if LISTS_CHILDREN else _table_from_proc()


def _table_from_children(root: int) -> Table:
    """Walk down the tree. On a busy machine this is ten times faster than reading all of /proc."""
    table: Table = {}
    found = [(root, 0)]
    for pid, parent in found:  # grows during the loop
        try:
            table[pid] = parent, _stat(pid)[0]
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as children:
                    found.extend((int(child), pid) for child in children.read().split())
        except OSError:  # the process or one of its threads has just exited
            continue
    return table


def _table_from_proc() -> Table:
    table: Table = {}
    for pid in _all_pids():
        try:
            state, parent = _stat(pid)
        except OSError:  # the process has just exited
            continue
        table[pid] = int(parent), state
    return table


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> tuple[str, str]:
    """Return the state of a process and its parent's id."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        state, parent = stat.read().rpartition(b")")[2].split()[:2]
    return state.decode(), parent.decode()


def _table_from_ps() -> Table:
    with os.popen("/bin/ps -axo pid=,ppid=,state=") as lines:
        rows = [line.split() for line in lines]
    return {int(pid): (int(parent), state[0]) for pid, parent, state in rows}


def descendants(roots: Iterable[int], table: Table) -> list[int]:
    """Return the roots and all their descendants, parents first."""
    offspring: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        offspring.setdefault(parent, []).append(pid)
    found = [pid for pid in roots if pid in table]
    for pid in found:  # grows during the loop
        found.extend(offspring.get(pid, ()))
    return found


def send_signal(pid: int, number: int) -> None:
    """Signal a process, unless it has exited or runs with more privileges than this process."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def read_mark(pid: int) -> tuple[int, int] | None:
    """Return the supervisor and the child from which a process descends, by its environment.

    None for another process, and for Postgres, which overwrites its environment.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            lines = environ.read().split(b"\0")
    except OSError:
        return None
    for line in lines:
        name, _, value = line.decode(errors="replace").partition("=")
        supervisor, _, number = value.partition(".")
        if name == MARK and supervisor.isdecimal() and number.isdecimal():
            return int(supervisor), int(number)
    return None


def kill_orphans(supervisor: int) -> None:
    """Kill the descendants that a supervisor has left which is gone. Its children have died with it, and theirs have not."""
    until = time.monotonic() + KILL_TIMEOUT
    while LINUX and time.monotonic() < until:
        orphans = [pid for pid in _all_pids() if (read_mark(pid) or (0, 0))[0] == supervisor]
        if not orphans:
            return
        for pid in orphans:
            send_signal(pid, signal.SIGKILL)
        time.sleep(0.01)


def remove_tree(path: str) -> None:
    """Delete a directory, also while another process still writes into it."""
    for _ in range(50):
        _remove_once(path)
        if not os.path.lexists(path):
            return
        time.sleep(0.01)


def _remove_once(name: str, parent: int | None = None) -> None:
    """Delete the entries of a directory that can be deleted, by descriptors.

    Another user may own a subdirectory and replace it with a symbolic link during the deletion; descriptors do not follow it.
    """
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError:
        return
    try:
        with os.scandir(directory) as entries:
            kinds = [(entry.name == OWNER, entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for _, entry_name, is_directory in sorted(kinds):
            if is_directory:
                _remove_once(entry_name, directory)
            else:
                os.unlink(entry_name, dir_fd=directory)
        os.rmdir(name, dir_fd=parent)
    except OSError:
        pass
    finally:
        os.close(directory)


def release_shared_memory(pid_file: str) -> None:
    """Remove the System V shared memory segment of a Postgres that was killed. Its lock file names the segment.

    A segment that a process still uses stays. So does a segment with the same number but another key, as after a reboot.
    """
    try:
        with open(pid_file) as lines:
            key, segment = map(int, lines.read().splitlines()[6].split())
    except (OSError, ValueError, IndexError):
        return
    if not LINUX or _wait_until_detached(key, segment):
        libc.shmctl(segment, IPC_RMID, None)


def _wait_until_detached(key: int, segment: int) -> bool:
    """Return True once no process is attached to the segment. The kernel detaches a dead process shortly after its death."""
    for _ in range(100):
        users = _attach_count(key, segment)
        if not users:
            return users == 0
        time.sleep(0.005)
    return False


def _attach_count(key: int, segment: int) -> int | None:
    """Return the number of processes attached to the segment of this key and number, or None without such a segment."""
    with open("/proc/sysvipc/shm") as lines:
        rows = [line.split()[:7] for line in lines.read().splitlines()[1:]]
    return next((int(row[6]) for row in rows if [int(row[0]), int(row[1])] == [key, segment]), None)


def enter_user_namespace(uid: int, gid: int) -> None:
    """Become `uid` in a new user namespace. Programs that refuse root run there, and files still belong to root."""
    real_uid, real_gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER) is not allowed here")
    for name, text in ("setgroups", "deny"), ("uid_map", f"{uid} {real_uid} 1"), ("gid_map", f"{gid} {real_gid} 1"):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def begin_session(log: str, stdin: str | None) -> tuple[int, int]:
    """Begin a session whose standard streams are files. Return the descriptors with which the files were opened."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    source = os.open(stdin or os.devnull, os.O_RDONLY)
    for opened, stream in (source, 0), (output, 1), (output, 2):
        os.dup2(opened, stream)
    return source, output


def become(uid: int, gid: int) -> None:
    """Change the user and group of this process permanently."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _works(attempt: Callable[[], None]) -> bool:
    """Return True if a function succeeds in a forked child."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


class Supervisor:
    """The state of the supervisor. Each public method is a request."""

    def __init__(self, owned: Iterable[str]) -> None:
        self.pid = os.getpid()
        self._last = 0
        self._running: dict[int, int] = {}  # spawned and not yet reaped: pid -> number
        self._codes: dict[int, int] = {}  # number -> exit code
        self._ends: dict[int, float] = {}  # number -> time of the end (time.monotonic)
        self._adopted: dict[int, int] = {}  # orphans of an exited child: pid -> that child's number
        self._owned = list(owned)
        self._pid_files: list[str] = []
        self._commands: list[dict[str, Any]] = []
        self._fork_servers: dict[int, tuple[int, int]] = {}  # number -> descriptors for reading and for writing
        self._fork_server_states: dict[
            int, str
        ] = {}  # number -> "" when it is ready, or the reason for which it can't be used
        self._umask = os.umask(0o077)  # for log files; children get the umask that this process was started with
        if LINUX:
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    # requests

    def ping(self) -> int:
        return self.pid

    def spawn(self, request: dict[str, Any]) -> tuple[int, int]:
        """Start a process. Return its number and its process id; raise OSError if it did not start."""
        self._last += 1
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._exec(request, self._mark(self._last))
            except BaseException as problem:  # noqa: BLE001  # the forked child must not return into the loop
                os.write(write_end, f"{type(problem).__name__}: {problem}".encode())
            finally:
                os._exit(127)
        os.close(write_end)
        self._running[pid] = self._last
        with open(read_end, "rb") as pipe:
            problem_text = pipe.read().decode()  # ends when the exec closes the other end
        if problem_text:
            self._wait_for([pid])
            raise OSError(problem_text)
        return self._last, pid

    def _mark(self, number: int) -> str:
        """Return the value of MARK for a child. All values have one length, so that a fork can overwrite that of its fork server."""
        return f"{self.pid}.{number:09d}"

    def start_fork_server(self, request: dict[str, Any]) -> tuple[int, int]:
        """Start fork_server.py, given as for `spawn`. The descriptors of its pipes are appended to its arguments."""
        child_reads, writes = os.pipe()
        reads, child_writes = os.pipe()
        pipes = [child_reads, child_writes]
        try:
            number, pid = self.spawn({**request, "argv": [*request["argv"], *map(str, pipes)], "inherited": pipes})
        except OSError:
            os.close(reads)
            os.close(writes)
            raise
        finally:
            for pipe in pipes:
                os.close(pipe)
        self._fork_servers[number] = reads, writes
        return number, pid

    def fork_server_state(self, number: int) -> tuple[bool, str]:
        """Return whether a fork server has finished its imports or has exited, and the reason why it can't be used."""
        if number not in self._fork_server_states and _readable(reads := self._fork_servers[number][0], 0.0):
            try:
                self._fork_server_states[number] = receive(reads) or ""
            except ChannelClosed:
                self._fork_server_states[number] = "the process has exited while it imported modules"
        return number in self._fork_server_states, self._fork_server_states.get(number, "")

    def fork_program(self, number: int, request: dict[str, Any]) -> tuple[int, int]:
        """Let a fork server, whose state is good, fork a program. Return its number and its process id.

        Raises:
            OSError: the fork server has exited, or it refuses to fork the program; the message has the reason.
        """
        reads, writes = self._fork_servers[number]
        self._last += 1
        mark = self._mark(self._last)
        request = {**request, "env": {**request["env"], MARK: mark}, "supervisor": self.pid, "umask": self._umask}
        try:
            send(writes, request)
            if not _readable(reads, FORK_TIMEOUT):
                raise OSError(f"the fork server has not responded within {FORK_TIMEOUT:g} s")
            pid, problem = receive(reads)
        except (ChannelClosed, BrokenPipeError):
            for pipe in self._fork_servers.pop(number):
                os.close(pipe)
            self._fork_server_states[number] = "the fork server has exited"
            raise OSError("the fork server has exited") from None
        if pid is None:
            raise OSError(problem)
        self._running[pid] = self._last
        return self._last, pid

    def user_namespaces(self) -> bool:
        """Return True if this process may create a user namespace (Docker's default profile forbids it)."""
        if not LINUX:
            return False
        return _works(lambda: enter_user_namespace(NOBODY, NOBODY))

    def can_become(self, uid: int, gid: int) -> bool:
        """Return True if a child may become that user. Root in a user namespace, or without capabilities, may not."""
        return _works(lambda: become(uid, gid))

    def exit_code(self, number: int) -> int | None:
        self.reap()
        return self._codes.get(number)

    def ended_at(self, number: int) -> float | None:
        """Return the time of a child's exit (time.monotonic), or None while the child runs."""
        self.reap()
        return self._ends.get(number)

    def signal(self, number: int, signal_number: int) -> bool:
        """Signal this one process. Return False if it has exited."""
        self.reap()
        found = [pid for pid, known in self._running.items() if known == number]
        for pid in found:
            send_signal(pid, signal_number)
        return bool(found)

    def tree(self, number: int) -> list[int]:
        """Return the processes of one child's tree, parents first, without zombies."""
        table = process_table(self.pid)
        return [pid for pid in self._tree(number, table) if table[pid][1] not in "ZX"]

    def pause(self, number: int) -> list[int]:
        """Stop the whole tree, parents first. Return the processes that did not stop in time."""
        _, unstopped = self._stop_tree(number)
        return unstopped

    def resume(self, number: int) -> None:
        for pid in reversed(self._tree(number, process_table(self.pid))):
            send_signal(pid, signal.SIGCONT)

    def kill(self, number: int) -> list[int]:
        """Send SIGKILL to the whole tree while it is stopped, so that none can fork. Return the processes that did not exit."""
        tree, _ = self._stop_tree(number)
        for pid in tree:
            send_signal(pid, signal.SIGKILL)
        return self._wait_for(tree)

    def delete_at_exit(self, path: str) -> None:
        self._owned.append(path)

    def share_lock(self, path: str) -> None:
        """Take the lock on a file as a second holder, until the exit of this process."""
        import fcntl

        self._lock = os.open(path, os.O_RDONLY)  # closed by the exit; children do not inherit it
        fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def release_shared_memory(self, pid_file: str) -> None:
        self._pid_files.append(pid_file)

    def run_at_exit(self, request: dict[str, Any]) -> None:
        """Run a command, given as for `spawn`, after all processes have been killed."""
        self._commands.append(request)

    # shutdown

    def end(self) -> None:
        """Kill all descendants, run the exit commands, then delete the registered directories."""
        until = time.monotonic() + KILL_TIMEOUT
        while self.reap() and time.monotonic() < until:
            for pid in descendants([self.pid], process_table(self.pid))[1:]:
                send_signal(pid, signal.SIGKILL)
            self._sleep()
        self._run_commands()
        for pid_file in self._pid_files:
            release_shared_memory(pid_file)
        for path in self._owned:
            remove_tree(path)

    def _run_commands(self) -> None:
        """Run the exit commands at the same time, and kill those that exceed their time."""
        started: list[int] = []
        for request in self._commands:
            try:
                started.append(self.spawn(request)[1])
            except OSError as problem:  # the other commands may still succeed
                os.write(2, f"an exit command failed: {problem}\n".encode())
        for pid in self._wait_for(started, EXIT_COMMAND_TIMEOUT):
            send_signal(pid, signal.SIGKILL)

    # internals

    def reap(self) -> bool:
        """Record the children that have exited. Return False if no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._adopted.pop(pid, None)
            number = self._running.pop(pid, None)
            if number is not None:
                self._codes[number] = os.waitstatus_to_exitcode(status)
                self._ends[number] = time.monotonic()
                self._adopt(number)

    def _adopt(self, number: int) -> None:
        """Adopt orphans. A child that was not spawned here descends from `number`, or its environment names another child."""
        if LINUX:
            for pid in self._unknown_children(process_table(self.pid)):
                self._adopted[pid] = self._child_from_environ(pid) or number

    def _unknown_children(self, table: Table) -> list[int]:
        return [
            pid
            for pid, (parent, _) in table.items()
            if parent == self.pid and pid not in self._running and pid not in self._adopted
        ]

    def _child_from_environ(self, pid: int) -> int | None:
        """Return the child from which a process descends, by its environment."""
        supervisor, number = read_mark(pid) or (0, 0)
        return number if supervisor == self.pid else None

    def _tree(self, number: int, table: Table) -> list[int]:
        roots = [pid for known in (self._running, self._adopted) for pid, owner in known.items() if owner == number]
        if LINUX:
            roots += [pid for pid in self._unknown_children(table) if self._child_from_environ(pid) == number]
        return descendants(roots, table)

    def _stop_tree(self, number: int) -> tuple[list[int], list[int]]:
        """Send SIGSTOP until the tree has stopped growing. Return all its processes, and those that still run.

        A table reads the states of the processes one after the other, so a table in which all are stopped may lack a child that was
        forked during the reading. The next table cannot, so two quiet tables in a row are required.
        """
        asked: set[int] = set()
        quiet = 0
        until = time.monotonic() + KILL_TIMEOUT
        while True:
            self.reap()
            table = process_table(self.pid)
            tree = self._tree(number, table)
            new = [pid for pid in tree if pid not in asked]
            for pid in new:
                send_signal(pid, signal.SIGSTOP)
            asked.update(new)
            running = [pid for pid in tree if table[pid][1] not in "TtZX"]
            quiet = 0 if new or running else quiet + 1
            if quiet == 2 or time.monotonic() > until:
                return tree, running
            if running and not new:
                self._sleep()

    def _wait_for(self, pids: list[int], timeout: float = KILL_TIMEOUT) -> list[int]:
        """Reap until these processes have exited. Return those that have not."""
        until = time.monotonic() + timeout
        while True:
            self.reap()
            pids = [pid for pid in pids if _exists(pid)]
            if not pids or time.monotonic() > until:
                return pids
            self._sleep()

    def _sleep(self) -> None:
        time.sleep(0.001)

    def _exec(self, request: dict[str, Any], mark: str) -> None:
        """Execute the requested program in the forked child."""
        begin_session(request["log"], request["stdin"])
        os.umask(self._umask)
        if request["cwd"]:
            os.chdir(request["cwd"])
        mode, uid, gid = request["user"]
        if mode == "userns":
            enter_user_namespace(uid, gid)
        elif mode == "setuid":
            become(uid, gid)
        if LINUX:  # after the change of uid, which clears this setting
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != self.pid:
                os._exit(127)
        signal.set_wakeup_fd(-1)
        for number in (
            *CAUGHT,
            signal.SIGQUIT,
            signal.SIGPIPE,
            signal.SIGXFSZ,
        ):  # a shell ignores SIGQUIT for background jobs
            signal.signal(number, signal.SIG_DFL)
        for descriptor in request.get("inherited", ()):
            os.set_inheritable(descriptor, True)
        argv = request["argv"]
        os.execvpe(argv[0], argv, {**request["env"], MARK: mark})


def _readable(descriptor: int, within: float) -> bool:
    """Return True if a descriptor can be read, or its other end is closed, within some seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * within))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class ChannelClosed(Exception):
    """The other end of the channel has been closed."""


def receive(channel: int) -> Any:
    """Return the next message.

    Raises:
        ChannelClosed: there will be no more.
    """
    return marshal.loads(_read(channel, int.from_bytes(_read(channel, 4), "big")))


def _read(channel: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = os.read(channel, size - len(data))
        if not chunk:
            raise ChannelClosed
        data += chunk
    return data


def send(channel: int, message: Any) -> None:
    """Write one message."""
    data = marshal.dumps(message, 4)  # a fork server may be another interpreter, and all of them read this version
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(channel, data) :]


def handle_request(supervisor: Supervisor, channel: int) -> None:
    """Handle one request."""
    number, name, arguments = receive(channel)
    try:
        method: Callable[..., Any] = getattr(supervisor, name)
        reply = (number, True, method(*arguments))
    except OSError as problem:
        reply = (number, False, str(problem))
    except Exception as problem:  # noqa: BLE001  # a request that fails must not end the supervisor
        reply = (number, False, f"{name}: {type(problem).__name__}: {problem}")
    send(channel, reply)


def serve(supervisor: Supervisor, channel: int, parent: int) -> None:
    """Serve the channel until it is closed, the parent exits, or a signal arrives."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in CAUGHT:
        signal.signal(number, lambda *_: None)
    events = select.poll()
    for descriptor in (channel, read_end, *_pidfd(parent)):
        events.register(descriptor, select.POLLIN)
    while os.getppid() == parent:
        ready = [descriptor for descriptor, _ in events.poll(PARENT_CHECK_INTERVAL * 1000)]
        if read_end in ready and set(os.read(read_end, 4096)) - {signal.SIGCHLD}:
            return
        supervisor.reap()
        if channel in ready:
            handle_request(supervisor, channel)


def _pidfd(pid: int) -> list[int]:
    """Return a descriptor that becomes readable when the process exits with all its threads, where the kernel has pidfds."""
    try:
        return [os.pidfd_open(pid)]
    except (AttributeError, OSError):
        return []


def main(channel: str, parent: str, *owned: str) -> None:
    """Serve requests until the session ends, then clean up.

    Args:
        channel: the number of the inherited descriptor from which requests come.
        parent: the process id of the process that started this one.
        owned: directories to delete at the end.
    """
    os.set_inheritable(int(channel), False)
    supervisor = Supervisor(owned)
    try:
        serve(supervisor, int(channel), int(parent))
    except (ChannelClosed, OSError):
        pass
    finally:
        supervisor.end()
