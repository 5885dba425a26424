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
LAST_STANDARD_STREAM = 2  # stdin, stdout and stderr are always open, and pytest redirects them


class Descriptor(NamedTuple):
    """An open file or socket.

    Args:
        number: the descriptor.
        target: the link in /proc: a path, "socket:[INODE]", "pipe:[INODE]".
        local: the address of a socket.
        remote: the address of its peer; None without a peer.
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

    @property
    def port(self) -> int | None:
        """The port of a socket's peer, or None."""
        return self.remote[1] if self.remote and not self.is_unix else None


def open_descriptors() -> list[Descriptor]:
    """Return the open descriptors. Off Linux, the system does not list them."""
    try:
        numbers = [int(name) for name in os.listdir(DESCRIPTORS)]  # noqa: PTH208  # twice in every test: pathlib takes longer
    except OSError:
        return []
    found = []
    for number in numbers:
        try:
            target = os.readlink(f"{DESCRIPTORS}/{number}") if number > LAST_STANDARD_STREAM else ""  # noqa: PTH115  # as above
        except OSError:  # the descriptor with which the list was read
            continue
        if target:
            ends = _socket_addresses(number) if target.startswith("socket:") else (None, None)
            found.append(Descriptor(number, target, *ends))
    return found


def _socket_addresses(number: int) -> tuple[Any, Any]:
    """Return the local and remote address of a socket, read from a duplicate of its descriptor."""
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
    """Return the resource of a descriptor. Its name is HOST:PORT of a socket's peer, a path, or a word such as "pipe"."""
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
    """Return the line that opened a descriptor, if tracemalloc has traced it, else ""."""
    if not tracemalloc.is_tracing():
        return ""
    kinds = socket.socket, io.FileIO
    for candidate in gc.get_objects():
        try:
            if isinstance(candidate, kinds) and candidate.fileno() == descriptor.number:
                trace = tracemalloc.get_object_traceback(candidate)
                break
        except (ValueError, ReferenceError):  # closed, or deleted
            continue
    else:
        return ""
    place = user_line(trace, root)
    return f"opened at {place}" if place else ""


def python_internal_descriptors() -> set[int]:
    """Return the descriptors that multiprocessing opens once for the whole process and keeps."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    forkserver = sys.modules.get("multiprocessing.forkserver")
    numbers = [getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)]
    numbers.append(getattr(getattr(forkserver, "_forkserver", None), "_forkserver_alive_fd", None))
    return {number for number in numbers if isinstance(number, int)}
