"""TCP connections of this machine that the peer has closed and the program here has not, from the kernel's tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from pathlib import Path

from .clock import wait_until

CLOSE_WAIT = "08"  # include/net/tcp_states.h of Linux
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")  # the format: Documentation/networking/proc_net_tcp.rst of Linux


def wait_until_closed(ports: Set[int], *, within: float = 0.5) -> None:
    """Wait until no connection to these local ports waits for the program here to close it.

    A server counts a connection until it has closed it, so a fault that counts connections would count those that are ending. A
    connection in another network namespace, such as a container's, is not seen, and other systems than Linux have no tables: the
    wait is over at once then.

    Args:
        ports: TCP ports on which programs of this machine listen.
        within: seconds to wait at most, because a program may keep a connection that its peer has closed.
    """
    wait_until(lambda: ports.isdisjoint(_closing_ports()), within=within, every=0.002)


def _closing_ports() -> Iterator[int]:
    """Yield the local port of each connection that waits for the program here to close it."""
    for table in TABLES:
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == CLOSE_WAIT:
                    yield int(local.rpartition(":")[2], 16)
