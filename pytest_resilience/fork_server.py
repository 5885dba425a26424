"""The fork server: a process that has imported modules, and forks itself for each start of a Python program.

A fork needs no time for these imports. The supervisor starts this file with the interpreter of the program, which may have no
pytest-resilience installed, so this file imports only the standard library and supervisor.py. `multiprocessing` has a fork server too,
but runs only functions in it, not programs.

Rules:
- The first message to the supervisor is `None` after the imports, or the reason for which no program can be forked: an error of an
  import, a thread that a module has started, or a connection that it has opened. A fork has neither the threads nor a connection of
  its own.
- Each request describes a program. The response is the process id, or the reason for which the program was not started.
- A program is the child of the supervisor and not of this process: an intermediate process forks it and exits.
- A program gets its own environment. A module that has read a variable during its import has the value of this process, so a program
  with another value is refused.

supervisor.py has the format of the messages.
"""

# ruff: noqa: PTH100, PTH109, PTH113, PTH120, PTH123, PTH115, PTH208  # pathlib takes longer to load than all the rest

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time

TYPE_CHECKING = False  # typing would be one more module that a program has not imported
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .supervisor import MARK, PR_SET_PDEATHSIG, ChannelClosed, begin_session, libc, receive, send
else:  # this file is imported without its package
    from supervisor import MARK, PR_SET_PDEATHSIG, ChannelClosed, begin_session, libc, receive, send

SIGKILL = 9
REPARENTED_WITHIN = 5.0  # seconds until the program is a child of the supervisor; it takes less than a millisecond
ENVIRONMENT_START, ENVIRONMENT_END = 47, 48  # fields of /proc/PID/stat behind the name of the program
COERCED = ("LC_CTYPE",)  # added by an interpreter that starts in the locale C (PEP 538)
PROTOCOLS = ("tcp", "tcp6", "udp", "udp6", "unix")


class Channel:
    """The pipes of the requests and of the responses."""

    def __init__(self, requests: int, responses: int) -> None:
        self._requests = requests
        self._responses = responses
        os.set_inheritable(requests, False)
        os.set_inheritable(responses, False)

    def close(self) -> None:
        """Close both pipes."""
        os.close(self._requests)
        os.close(self._responses)

    def receive(self) -> Any:
        """Return the next message, or None at the end of the channel."""
        try:
            return receive(self._requests)
        except ChannelClosed:
            return None

    def send(self, message: Any) -> None:
        """Write one message."""
        send(self._responses, message)


class ReadVariables(dict):  # type: ignore[type-arg]
    """The dictionary of `os.environ` while modules are imported. It records the variables that are read.

    Attributes:
        readers: the module that has read a variable first, by the variable's name; None stands for all variables.
        module: the module that is being imported.
    """

    def __init__(self, data: dict[bytes, bytes]) -> None:
        super().__init__(data)
        self.readers: dict[str | None, str] = {}
        self.module = ""

    def __getitem__(self, key: bytes) -> bytes:
        self._record(os.fsdecode(key))
        value: bytes = super().__getitem__(key)
        return value

    def __contains__(self, key: object) -> bool:
        self._record(os.fsdecode(key) if isinstance(key, bytes) else str(key))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[bytes]:
        self._record(None)
        return super().__iter__()

    def _record(self, name: str | None) -> None:
        self.readers.setdefault(name, self.module)


class Imports:
    """The import of the modules, and what it leaves behind.

    Args:
        modules: the names of the modules.
    """

    def __init__(self, modules: list[str]) -> None:
        self._modules = modules
        self._environment = dict(os.environ)
        self._readers: dict[str | None, str] = {}
        self._set: dict[str, str] = {}
        self._deleted: set[str] = set()

    def run(self) -> str | None:
        """Import the modules. Return the reason for which no program can be forked after that, or None."""
        import importlib

        data = os.environ._data  # type: ignore[attr-defined]  # its methods are the only way to see what a module reads
        recording = ReadVariables(data)
        os.environ._data = recording  # type: ignore[attr-defined]
        gc.disable()  # imported modules live on, so collections would only take time
        try:
            for name in self._modules:
                recording.module = name
                importlib.import_module(name)
                if left := self._left_by(name):
                    return left
        except BaseException as error:  # noqa: BLE001  # SystemExit too must be reported
            import traceback

            traceback.print_exc()
            return f"{recording.module!r} can't be imported: {type(error).__name__}: {error}"
        finally:
            self._readers = recording.readers.copy()
            self._take_changes(data, dict(dict.items(recording)))
            os.environ._data = data  # type: ignore[attr-defined]
            gc.enable()
            gc.collect()
            gc.freeze()  # otherwise the first collection of each program would visit and so copy all of these objects
        return None

    def _take_changes(self, data: dict[bytes, bytes], after: dict[bytes, bytes]) -> None:
        """Take the changes of the environment over into the original dictionary, which `os.environb` shares."""
        data.clear()
        data.update(after)
        new = {os.fsdecode(name): os.fsdecode(value) for name, value in after.items()}
        self._deleted = self._environment.keys() - new.keys()
        self._set = {name: value for name, value in new.items() if self._environment.get(name) != value}

    @staticmethod
    def _left_by(module: str) -> str | None:
        if names := thread_names():
            return f"{module!r} has started the thread{'s' if len(names) > 1 else ''} {', '.join(names)}, which a fork does not have"
        if names := connections():
            return f"{module!r} has opened {', '.join(names)}, which all forks would share"
        return None

    def change(self, environment: dict[str, str]) -> dict[str, str]:
        """Return the environment of a program with the changes that the modules have made."""
        kept = {name: value for name, value in environment.items() if name not in self._deleted}
        coerced = {name: self._environment[name] for name in COERCED if name in self._environment}
        return {**coerced, **kept, **self._set}

    def outdated(self, environment: dict[str, str]) -> str | None:
        """Return the reason for which a program with this environment can't use the imported modules, or None."""
        names = {*environment, *self._environment} if None in self._readers else self._readers
        differ = [name for name in names if name and environment.get(name) != self._environment.get(name)]
        wrong = sorted(name for name in differ if name not in (MARK, "PYTEST_CURRENT_TEST"))
        if not wrong:
            return None
        module = self._readers.get(wrong[0]) or self._readers[None]
        return (
            f"{module!r} reads {', '.join(wrong)} from the environment while it is imported, and the service has other values "
            "there than the test run"
        )


def thread_names() -> list[str]:
    """Return the names of all threads but the main thread, also of threads that are not Python's."""
    threading: Any = sys.modules.get("threading")
    known = {each.native_id: each.name for each in threading.enumerate()} if threading else {}
    ids = [int(name) for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
    return [repr(known[each] if each in known else _native_name(each)) for each in sorted(ids)]


def _native_name(thread: int) -> str:
    try:
        with open(f"/proc/self/task/{thread}/comm") as name:
            return name.read().strip()
    except OSError:  # the thread has just ended
        return str(thread)


def connections() -> list[str]:
    """Describe the open sockets."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # the descriptor of the listing
            continue
        if link.startswith("socket:"):
            found.append(_describe_socket(link[8:-1]))
    return found


def _describe_socket(inode: str) -> str:
    for protocol in PROTOCOLS:
        with open(f"/proc/self/net/{protocol}") as lines:
            rows = [line.split() for line in lines]
        for row in rows:
            if protocol == "unix" and inode in row:
                return f"a Unix socket ({row[7]})" if len(row) > 7 else "a Unix socket"
            if protocol != "unix" and row[9] == inode:
                return f"a {protocol} socket of port {int(row[1].rpartition(':')[2], 16)}{_peer(row[2])}"
    return "a socket"


def _peer(address: str) -> str:
    port = int(address.rpartition(":")[2], 16)
    return f" connected to port {port}" if port else ""


def serve(channel: Channel, imports: Imports) -> dict[str, Any] | None:
    """Fork a program for each request until the channel ends.

    Returns:
        In a fork, the request that the process is to run. In the fork server, None.
    """
    while True:
        request = channel.receive()
        if request is None:
            return None
        problem = imports.outdated(request["env"])
        if problem is not None:
            channel.send((None, problem))
            continue
        read_end, write_end = os.pipe()
        intermediate = os.fork()
        if intermediate == 0:
            os.close(read_end)
            if _fork_program(write_end, request["supervisor"]):
                channel.close()
                return {**request, "env": imports.change(request["env"])}
        os.close(write_end)
        with open(read_end, "rb") as pipe:
            pid = pipe.read()
        os.waitpid(intermediate, 0)  # the program is a child of the supervisor after that
        channel.send((int(pid), None) if pid.isdigit() else (None, pid.decode() or "the intermediate process failed"))


def _fork_program(write_end: int, supervisor: int) -> bool:
    """Fork the program, in the intermediate process, which exits. Return True in the program."""
    intermediate = os.getpid()
    try:
        pid = os.fork()
    except OSError as problem:
        os.write(write_end, f"no process can be forked: {problem}".encode())
        os._exit(1)
    if pid != 0:
        os.write(write_end, str(pid).encode())
        os._exit(0)
    os.close(write_end)
    until = time.monotonic() + REPARENTED_WITHIN
    while os.getppid() == intermediate and time.monotonic() < until:
        time.sleep(0.0002)
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(127)
    return True


def become(request: dict[str, Any]) -> None:
    """Give this process the session, the standard streams, the directory and the environment of a program."""
    for descriptor in begin_session(request["log"], None):
        os.close(descriptor)
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    _overwrite_mark(request["env"][MARK])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()


def _overwrite_mark(mark: str) -> None:
    """Write the mark into the environment that /proc shows. A fork has that of the fork server, and its descendants too."""
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    start, end = int(fields[ENVIRONMENT_START]) - 1, int(fields[ENVIRONMENT_END])  # the byte before is 0
    before, name, after = ctypes.string_at(start, end - start).partition(b"\0" + MARK.encode() + b"=")
    new = mark.encode()
    if name and after.partition(b"\0")[0] != new and len(after.partition(b"\0")[0]) == len(new):
        ctypes.memmove(start + len(before) + len(name), new, len(new))


def run(kind: str, program: str, request: dict[str, Any]) -> None:
    """Run a program as the interpreter does: a module ("m"), code ("c") or a script ("")."""
    import runpy

    sys.orig_argv[:] = request["command"]
    sys.argv[:] = request["argv"]
    main = sys.modules["__main__"]
    for name in [name for name in vars(main) if not name.startswith("__")]:
        delattr(main, name)
    if kind == "m":
        runpy._run_module_as_main(program)  # type: ignore[attr-defined]  # the function that `python -m` calls
    elif kind == "c":
        exec(compile(program, "<string>", "exec"), vars(main))  # noqa: S102  # as `python -c` does
    elif os.path.isfile(program):
        _run_script(os.path.abspath(program), vars(main))
    else:
        runpy.run_path(program, run_name="__main__")  # a directory or a zip file with a __main__.py


def _run_script(path: str, namespace: dict[str, Any]) -> None:
    from importlib.machinery import SourceFileLoader

    loader = SourceFileLoader("__main__", path)
    namespace.update(__file__=path, __loader__=loader, __cached__=None)
    exec(loader.source_to_code(loader.get_data(path), path), namespace)  # noqa: S102  # as `python script.py` does


def set_import_path(kind: str, program: str) -> None:
    """Make the first entry of `sys.path` that of the program."""
    if getattr(sys.flags, "safe_path", False) or sys.flags.isolated:
        return
    sys.path[0] = {"m": os.getcwd(), "c": ""}.get(kind, os.path.dirname(os.path.realpath(program)))


def main(kind: str, program: str, *modules_and_pipes: str) -> None:
    """Import modules and fork a program for each request.

    Args:
        kind: "m" for a module, "c" for code, "" for a script.
        program: the module, the code or the script.
        modules_and_pipes: the modules to import, then the inherited descriptors of the requests and of the responses.
    """
    *modules, requests, responses = modules_and_pipes
    channel = Channel(int(requests), int(responses))
    set_import_path(kind, program)
    imports = Imports(modules)
    channel.send(imports.run())
    request = serve(channel, imports)
    if request is None:
        return
    become(request)
    for name in ("fork_server", "supervisor"):
        sys.modules.pop(name, None)
    run(kind, program, request)
