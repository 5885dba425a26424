"""The file descriptors of this process (Linux)."""

from __future__ import annotations

import gc
import io
import os
import re
import socket
import sys
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

from .compare import Resource
from .source_locations import user_line

DESCRIPTORS = "/proc/self/fd"
LAST_STANDARD_STREAM = 2  # stdin, stdout and stderr are always there, and pytest changes what they are


class Descriptor(NamedTuple):
    """An open file or socket.

    Args:
        number: the descriptor.
        target: what /proc says that it is: a path, "socket:[INODE]", "pipe:[INODE]".
        local: a socket's own address.
        remote: the other end's; None where it has none.
    """

    number: int
    target: str
    local: Any = None
    remote: Any = None

    @property
    def is_socket(self) -> bool:
        return self.target.startswith("socket:")

    @property
    def is_unix(self) -> bool:
        return self.is_socket and not isinstance(self.local, tuple)


def open_descriptors() -> list[Descriptor]:
    """What is open now; empty where the system does not say (off Linux)."""
    try:
        numbers = [int(name) for name in os.listdir(DESCRIPTORS)]  # noqa: PTH208  # twice in every test: pathlib takes longer
    except OSError:
        return []
    found = []
    for number in numbers:
        try:
            target = os.readlink(f"{DESCRIPTORS}/{number}") if number > LAST_STANDARD_STREAM else ""  # noqa: PTH115  # the same
        except OSError:  # the one that read the list
            continue
        if target:
            ends = _socket_addresses(number) if target.startswith("socket:") else (None, None)
            found.append(Descriptor(number, target, *ends))
    return found


def _socket_addresses(number: int) -> tuple[Any, Any]:
    """A socket's local and remote address, asked through a copy, so that its owner's stays as it is."""
    try:
        copy = os.dup(number)
    except OSError:
        return None, None
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None, None
    with sock:
        try:
            return sock.getsockname(), sock.getpeername()
        except OSError:
            return sock.getsockname(), None


def descriptor_resource(descriptor: Descriptor) -> Resource:
    """A descriptor, by the name that a marker can give it: socket:HOST:PORT of the other end, fd:/path, fd:pipe."""
    if not descriptor.is_socket:
        name = re.sub(r"^anon_inode:\[?([^]]*)]?$|^(\w+):\[\d+]$", r"\1\2", descriptor.target)
        return Resource("fd", name, (descriptor.number, descriptor.target), descriptor)
    address = descriptor.remote or descriptor.local
    if descriptor.is_unix:
        path = os.fsdecode(address) if address else ""
        name = f"unix:{path}" if path else "unix"
    else:
        name = f"{address[0]}:{address[1]}"
    return Resource("socket", name, descriptor.target, descriptor)


def opened_at(descriptor: Descriptor, root: Path) -> str:
    """Where it was opened, if tracemalloc has seen it."""
    if not tracemalloc.is_tracing():
        return ""
    kinds = socket.socket, io.FileIO
    for candidate in gc.get_objects():
        try:
            if isinstance(candidate, kinds) and candidate.fileno() == descriptor.number:
                trace = tracemalloc.get_object_traceback(candidate)
                break
        except (ValueError, ReferenceError):  # it is closed, or gone
            continue
    else:
        return ""
    place = user_line(trace, root)
    return f"opened at {place}" if place else ""


def python_internal_descriptors() -> set[int]:
    """Descriptors that multiprocessing opens once for the whole process and keeps."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    forkserver = sys.modules.get("multiprocessing.forkserver")
    kept = [getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)]
    kept += [getattr(getattr(forkserver, "_forkserver", None), name, None) for name in ("_forkserver_alive_fd",)]
    return {number for number in kept if isinstance(number, int)}


# -- threads and tasks
