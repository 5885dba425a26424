"""Name resolution that does not block the loop. The system's resolver blocks, so it runs in a thread."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

from .address import AddressError, lookup_host
from .event_loop import IN, EventLoop

LookupResult = list[tuple[int, str]] | AddressError


class NameNotResolved(Exception):
    """A request needs the address of a name that was not looked up yet.

    Attributes:
        host: the name.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        super().__init__(host)


class Resolver:
    """A resolver that delivers its results on the loop. Concurrent requests for one name share one look-up."""

    def __init__(self, loop: EventLoop, lookup_host: Callable[[str], list[tuple[int, str]]] = lookup_host) -> None:
        self._loop = loop
        self._lookup_host = lookup_host
        self._waiting: dict[str, list[Callable[[LookupResult], None]]] = {}
        self._results: list[tuple[str, LookupResult]] = []  # a list's append and pop are atomic
        self._pipe: tuple[int, ...] = ()  # the ends for reading and for writing, while look-ups may deliver results
        self._pipe_lock = _thread.allocate_lock()  # held while a thread writes to the pipe, and by close()

    def resolve(self, host: str, then: Callable[[LookupResult], None]) -> None:
        """Call `then` on the loop, with the addresses of `host` or the error."""
        if host in self._waiting:
            self._waiting[host].append(then)
            return
        if not self._pipe:
            reader, _ = self._pipe = os.pipe()
            os.set_blocking(reader, False)
            self._loop.handlers[reader] = lambda _events: self._deliver(reader)
            self._loop.watch(reader, IN, 0)
        self._waiting[host] = [then]
        try:
            _thread.start_new_thread(self._resolve_in_thread, (host,))
        except RuntimeError:  # there are no more threads, and the callback must run all the same
            del self._waiting[host]
            then(AddressError(f"lookup {host}: cannot start a thread"))

    def close(self) -> None:
        """Close the pipe. The results of look-ups that still run are dropped."""
        with self._pipe_lock:
            pipe, self._pipe = self._pipe, ()
        for fd in pipe:
            os.close(fd)

    def _resolve_in_thread(self, host: str) -> None:
        found: LookupResult
        try:
            found = self._lookup_host(host)
        except AddressError as error:
            found = error
        except Exception as error:  # noqa: BLE001  # the callbacks must get any error
            found = AddressError(f"lookup {host}: {type(error).__name__}: {error}")
        with self._pipe_lock:
            if self._pipe:  # after close(), the descriptor may belong to another file
                self._results.append((host, found))
                os.write(self._pipe[1], b".")

    def _deliver(self, reader: int) -> None:
        try:
            os.read(reader, 4096)
        except BlockingIOError:
            return
        while self._results:
            host, found = self._results.pop(0)
            for then in self._waiting.pop(host):
                then(found)
