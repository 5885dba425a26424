"""The supervisor: a small process, parent of every server, that takes all of them along when the session ends, however it ends.

`processes.SupervisorClient` runs its `main` in `python -I -S`, in a session of its own, so that Ctrl-C reaches neither it nor its
children. It imports nothing of this package, and of the standard library only what loads in a millisecond.

Rules:
- It does what the channel asks, one request after the other, and reaps every child at once.
- When the channel ends, when the process that started it is gone (also if a fork of that process still holds the channel), or on
  SIGTERM, SIGINT and SIGHUP, it kills all its descendants, runs the commands that it was given for the end (what is not a process of
  ours, such as a container, is removed by one), deletes the directories that it owns, and exits.
- On Linux it is a subreaper: whoever loses its parent below becomes its child, so nobody gets away by forking twice. And children die
  with it (PR_SET_PDEATHSIG), so that its own SIGKILL is covered too. Its only thread starts them: that signal is sent when the starting
  thread ends, a trap for anyone who starts servers from a pool of threads.
- It signals its own descendants only, between two reaps: a process id that it uses can't have been given to somebody else.

Messages are marshal dumps behind four bytes of length (json would double the start time; both ends are the same interpreter).
"""

# ruff: noqa: PTH110, PTH123, PTH208  # pathlib takes longer to load than all the rest

from __future__ import annotations

import ctypes
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False  # typing, contextlib and enum would double what there is to load
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from typing import Any
else:
    import _signal as signal  # what the public module is made of, less its enums

LINUX = sys.platform == "linux"
LISTS_CHILDREN = LINUX and os.path.exists("/proc/thread-self/children")  # most kernels are built to
MARK = "PYTEST_RESILIENCE_CHILD"  # in each child's environment; its value names the supervisor and the child's number
PATIENCE = 1.5  # seconds for processes to stop or to go after their signal; only one stuck in the kernel needs more than a few ms
COMMAND_WITHIN = 20.0  # seconds that a command of the end may take
PARENT_CHECK = 0.5  # seconds between two looks at the parent where the kernel can't wake us
NOBODY = 65534
OWNER = (
    "owner"  # the file that says whose a directory is; deleted last, so that an interrupted deletion can be taken up
)

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
CLONE_NEWUSER = 0x10000000
IPC_RMID = 0
libc = ctypes.CDLL(None, use_errno=True)

Table = dict[int, tuple[int, str]]  # pid: (parent's pid, state)


def process_table(root: int) -> Table:
    """This process and at least all that descend from it, as the kernel shows them now."""
    if not LINUX:
        return _table_from_ps()
    return _table_from_children(root) if LISTS_CHILDREN else _table_from_proc()


def _table_from_children(root: int) -> Table:
    """By walking down the tree: on a busy machine ten times faster than looking at everybody."""
    table: Table = {}
    found = [(root, 0)]
    for pid, parent in found:  # grows while we walk it
        try:
            table[pid] = parent, _stat(pid)[0]
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as children:
                    found.extend((int(child), pid) for child in children.read().split())
        except OSError:  # it has just gone, or one of its threads
            continue
    return table


def _table_from_proc() -> Table:
    table: Table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, parent = _stat(int(name))
            except OSError:  # it has just gone
                continue
            table[int(name)] = int(parent), state
    return table


def _stat(pid: int) -> tuple[str, str]:
    """State and parent."""
    with open(f"/proc/{pid}/stat", "rb") as stat:
        state, parent = stat.read().rpartition(b")")[2].split()[:2]
    return state.decode(), parent.decode()


def _table_from_ps() -> Table:
    with os.popen("/bin/ps -axo pid=,ppid=,state=") as lines:
        rows = [line.split() for line in lines]
    return {int(pid): (int(parent), state[0]) for pid, parent, state in rows}


def below(roots: Iterable[int], table: Table) -> list[int]:
    """The roots and all that descend from them, parents first."""
    offspring: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        offspring.setdefault(parent, []).append(pid)
    found = [pid for pid in roots if pid in table]
    for pid in found:  # grows while we walk it
        found.extend(offspring.get(pid, ()))
    return found


def send_signal(pid: int, number: int) -> None:
    """Signal a process that may have gone meanwhile, or that runs a program which outranks us."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def remove_tree(path: str) -> None:
    """Delete a directory in which somebody may still be writing."""
    for _ in range(50):
        _remove_once(path)
        if not os.path.lexists(path):
            return
        time.sleep(0.01)


def _remove_once(name: str, parent: int | None = None) -> None:
    """Delete what can be deleted. By descriptors: another user may own a part of it, and make a directory a link meanwhile."""
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
    """Remove the System V segment of a Postgres that was killed before it could do so; its lock file names the segment.

    A segment that anybody still uses stays, and so does one that only has the same number, of which there may be one after a reboot.
    """
    try:
        with open(pid_file) as lines:
            key, segment = map(int, lines.read().splitlines()[6].split())
    except (OSError, ValueError, IndexError):
        return
    if not LINUX or _falls_idle(key, segment):
        libc.shmctl(segment, IPC_RMID, None)


def _falls_idle(key: int, segment: int) -> bool:
    """Whether the segment is there and nobody is attached to it; the kernel detaches a dead process a little after its death."""
    for _ in range(100):
        users = _users(key, segment)
        if not users:
            return users == 0
        time.sleep(0.005)
    return False


def _users(key: int, segment: int) -> int | None:
    """How many processes are attached to the segment of this key and number; None when there is none."""
    with open("/proc/sysvipc/shm") as lines:
        rows = [line.split()[:7] for line in lines.read().splitlines()[1:]]
    return next((int(row[6]) for row in rows if [int(row[0]), int(row[1])] == [key, segment]), None)


def enter_user_namespace(uid: int, gid: int) -> None:
    """Become `uid` in a namespace of our own: programs that refuse root run, and files stay root's."""
    real_uid, real_gid = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER) is not allowed here")
    for name, text in ("setgroups", "deny"), ("uid_map", f"{uid} {real_uid} 1"), ("gid_map", f"{gid} {real_gid} 1"):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def become(uid: int, gid: int) -> None:
    """Become another user for good."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _works(attempt: Callable[[], None]) -> bool:
    """True if an attempt succeeds in a child of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


class Supervisor:
    """What the requests do; each public method is one."""

    def __init__(self, owned: Iterable[str]) -> None:
        self.pid = os.getpid()
        self._last = 0
        self._running: dict[int, int] = {}  # our spawned and unreaped children: pid -> number
        self._codes: dict[int, int] = {}  # number -> exit code
        self._adopted: dict[int, int] = {}  # orphans of a child that ended: pid -> that child's number
        self._owned = list(owned)
        self._pid_files: list[str] = []
        self._commands: list[dict[str, Any]] = []
        self._umask = os.umask(0o077)  # logs are ours; what we start has the umask that we were started with
        if LINUX:
            libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    # requests

    def ping(self) -> int:
        return self.pid

    def spawn(self, request: dict[str, Any]) -> tuple[int, int]:
        """Start a process: its number here, and its pid. An error means that it did not start."""
        self._last += 1
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self._become(request, f"{self.pid}.{self._last}")
            except BaseException as problem:  # noqa: BLE001  # whatever it is: this is the child, it must not return into the loop
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

    def user_namespaces(self) -> bool:
        """Whether this machine lets us into a user namespace (Docker's default profile does not)."""
        if not LINUX:
            return False
        return _works(lambda: enter_user_namespace(NOBODY, NOBODY))

    def can_become(self, uid: int, gid: int) -> bool:
        """True if a child may become that user: root in a user namespace, or without its capabilities, may not."""
        return _works(lambda: become(uid, gid))

    def exit_code(self, number: int) -> int | None:
        self.reap()
        return self._codes.get(number)

    def signal(self, number: int, signal_number: int) -> bool:
        """Signal this one process; False when it has ended."""
        self.reap()
        found = [pid for pid, known in self._running.items() if known == number]
        for pid in found:
            send_signal(pid, signal_number)
        return bool(found)

    def tree(self, number: int) -> list[int]:
        """The processes of one child that are there now, zombies aside, parents first."""
        table = process_table(self.pid)
        return [pid for pid in self._tree(number, table) if table[pid][1] not in "ZX"]

    def pause(self, number: int) -> list[int]:
        """Stop the whole tree, parents first, until every process shows it; those that do not in time are returned."""
        _, unstopped = self._freeze(number)
        return unstopped

    def resume(self, number: int) -> None:
        for pid in reversed(self._tree(number, process_table(self.pid))):
            send_signal(pid, signal.SIGCONT)

    def kill(self, number: int) -> list[int]:
        """SIGKILL to the whole tree, at a moment when nobody in it can fork; those still there afterwards are returned."""
        tree, _ = self._freeze(number)
        for pid in tree:
            send_signal(pid, signal.SIGKILL)
        return self._wait_for(tree)

    def own(self, path: str) -> None:
        self._owned.append(path)

    def disown(self, path: str) -> None:
        self._owned = [owned for owned in self._owned if owned != path]

    def release_shared_memory(self, pid_file: str) -> None:
        self._pid_files.append(pid_file)

    def at_end(self, request: dict[str, Any]) -> None:
        """Run a command, given as for `spawn`, when everybody has been killed."""
        self._commands.append(request)

    # the end

    def end(self) -> None:
        """Kill everybody, run the commands of the end, then delete what we own."""
        until = time.monotonic() + PATIENCE
        while self.reap() and time.monotonic() < until:
            for pid in below([self.pid], process_table(self.pid))[1:]:
                send_signal(pid, signal.SIGKILL)
            self._nap()
        self._run_commands()
        for pid_file in self._pid_files:
            release_shared_memory(pid_file)
        for path in self._owned:
            remove_tree(path)

    def _run_commands(self) -> None:
        """Side by side, and not for ever: what they remove is not of this machine's kernel."""
        started: list[int] = []
        for request in self._commands:
            try:
                started.append(self.spawn(request)[1])
            except OSError as problem:  # the others may do better
                os.write(2, f"the end's command failed: {problem}\n".encode())
        for pid in self._wait_for(started, COMMAND_WITHIN):
            send_signal(pid, signal.SIGKILL)

    # inside

    def reap(self) -> bool:
        """Take note of all who ended; False when no child is left."""
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
                self._adopt(number)

    def _adopt(self, number: int) -> None:
        """Children of ours whom we did not start were, until now, below the one that just ended (or it was marked so)."""
        if LINUX:
            for pid in self._strangers(process_table(self.pid)):
                self._adopted[pid] = self._marked(pid) or number

    def _strangers(self, table: Table) -> list[int]:
        return [
            pid
            for pid, (parent, _) in table.items()
            if parent == self.pid and pid not in self._running and pid not in self._adopted
        ]

    def _marked(self, pid: int) -> int | None:
        """The child that this process descends from, by its environment (Postgres writes its title there: None)."""
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                lines = environ.read().split(b"\0")
        except OSError:
            return None
        for line in lines:
            name, _, value = line.decode(errors="replace").partition("=")
            supervisor, _, number = value.partition(".")
            if name == MARK and supervisor == str(self.pid) and number.isdecimal():
                return int(number)
        return None

    def _tree(self, number: int, table: Table) -> list[int]:
        roots = [pid for known in (self._running, self._adopted) for pid, owner in known.items() if owner == number]
        if LINUX:
            roots += [pid for pid in self._strangers(table) if self._marked(pid) == number]
        return below(roots, table)

    def _freeze(self, number: int) -> tuple[list[int], list[int]]:
        """SIGSTOP the tree until it has stopped growing: all its processes, and those of them that still run.

        A table lists the processes and reads their states one after the other, so one that shows all of them stopped may lack a child that
        was born in between. The next one can't.
        """
        asked: set[int] = set()
        quiet = 0
        until = time.monotonic() + PATIENCE
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
                self._nap()

    def _wait_for(self, pids: list[int], patience: float = PATIENCE) -> list[int]:
        """Reap until these are gone; returns those that are not."""
        until = time.monotonic() + patience
        while True:
            self.reap()
            pids = [pid for pid in pids if _exists(pid)]
            if not pids or time.monotonic() > until:
                return pids
            self._nap()

    def _nap(self) -> None:
        time.sleep(0.001)

    def _become(self, request: dict[str, Any], mark: str) -> None:
        """In the forked child: turn into the program that was asked for."""
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        stdin = os.open(request["stdin"] or os.devnull, os.O_RDONLY)
        for source, target in (stdin, 0), (log, 1), (log, 2):
            os.dup2(source, target)
        os.umask(self._umask)
        if request["cwd"]:
            os.chdir(request["cwd"])
        mode, uid, gid = request["user"]
        if mode == "userns":
            enter_user_namespace(uid, gid)
        elif mode == "setuid":
            become(uid, gid)
        if LINUX:  # after the uid change, which clears it
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != self.pid:
                os._exit(127)
        signal.set_wakeup_fd(-1)
        for number in (*CAUGHT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        argv = request["argv"]
        os.execvpe(argv[0], argv, {**request["env"], MARK: mark})


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
    """The other end of the channel is gone."""


def receive(channel: int) -> Any:
    """The next message.

    Raises:
        Ended: there will be none.
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
    data = marshal.dumps(message)
    data = len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(channel, data) :]


def answer(supervisor: Supervisor, channel: int) -> None:
    """Do one request."""
    number, name, arguments = receive(channel)
    try:
        method: Callable[..., Any] = getattr(supervisor, name)
        reply = (number, True, method(*arguments))
    except OSError as problem:
        reply = (number, False, str(problem))
    except Exception as problem:  # noqa: BLE001  # a request that we can't do must not end everything
        reply = (number, False, f"{name}: {type(problem).__name__}: {problem}")
    send(channel, reply)


def watch(supervisor: Supervisor, channel: int, parent: int) -> None:
    """Serve the channel until it, the parent or a signal says that it is over."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end)
    for number in CAUGHT:
        signal.signal(number, lambda *_: None)
    events = select.poll()
    for descriptor in (channel, read_end, *_death_of(parent)):
        events.register(descriptor, select.POLLIN)
    while os.getppid() == parent:
        ready = [descriptor for descriptor, _ in events.poll(PARENT_CHECK * 1000)]
        if read_end in ready and set(os.read(read_end, 4096)) - {signal.SIGCHLD}:
            return
        supervisor.reap()
        if channel in ready:
            answer(supervisor, channel)


def _death_of(pid: int) -> list[int]:
    """A descriptor that becomes readable when the process is gone, all its threads included, where the kernel has one."""
    try:
        return [os.pidfd_open(pid)]
    except (AttributeError, OSError):
        return []


def main(channel: str, parent: str, *owned: str) -> None:
    """Serve until it is over, then clean up.

    Args:
        channel: number of the inherited descriptor that requests come from.
        parent: process id of who started us.
        owned: directories to delete at the end.
    """
    os.set_inheritable(int(channel), False)
    supervisor = Supervisor(owned)
    try:
        watch(supervisor, int(channel), int(parent))
    except (ChannelClosed, OSError):
        pass
    finally:
        supervisor.end()
