"""Calls before and after an event loop is closed.

Only the event loop refers to a connection that a test has not closed. `asyncio.run`, `asyncio.Runner`, pytest-asyncio, anyio and
IsolatedAsyncioTestCase close the loop, and the collector then closes the socket, so the end of the test is too late.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from ..clock import Clock

AfterClose: TypeAlias = "Callable[[], None]"
BeforeClose: TypeAlias = "Callable[[asyncio.AbstractEventLoop], AfterClose]"

_listeners: list[tuple[int, BeforeClose]] = []  # with the process id of the listener


@contextmanager
def on_close(before_close: BeforeClose) -> Iterator[None]:
    """Call `before_close` with each event loop that is about to be closed within the block.

    It returns a function, which is called after the loop has been closed.
    """
    listener = os.getpid(), before_close
    if not _listeners:
        _install()
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
        if not _listeners:
            _uninstall()


_originals: list[tuple[type[Any], Any]] = []


def _install() -> None:
    kinds: list[type[Any]] = [asyncio.selector_events.BaseSelectorEventLoop]
    if uvloop := sys.modules.get("uvloop"):
        kinds.append(uvloop.Loop)
    for kind in kinds:
        _originals.append((kind, kind.__dict__.get("close")))
        kind.close = _reporting_close(kind.close)


def _uninstall() -> None:
    while _originals:
        kind, original = _originals.pop()
        if original is None:
            del kind.close
        else:
            kind.close = original


def _reporting_close(close: Callable[[Any], None]) -> Callable[[Any], None]:
    def reporting_close(self: asyncio.AbstractEventLoop) -> None:
        if self.is_running() or self.is_closed():
            return close(self)
        pid = os.getpid()  # a forked process has none of the threads that answer the listener's queries
        after_close = [before_close(self) for owner, before_close in list(_listeners) if owner == pid]
        try:
            return close(self)
        finally:
            for each in after_close:
                each()

    return reporting_close


def open_connections(loop: asyncio.AbstractEventLoop) -> set[int] | None:
    """Return the descriptors of a loop's open connections, or None where the loop does not list them (uvloop)."""
    transports = getattr(loop, "_transports", None)
    if transports is None:
        return None
    return {number for number, transport in list(transports.items()) if not _is_ending(transport)}


def _is_ending(transport: Any) -> bool:
    """True if the loop closes a connection in its next turns, because the client has closed it or the peer has reset it."""
    if transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None or sock.type != socket.SOCK_STREAM or not transport.is_reading():
        return False
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def idle(loops: Iterable[asyncio.AbstractEventLoop]) -> list[asyncio.AbstractEventLoop]:
    """Return the loops that nothing runs now and that this thread could run."""
    return [] if is_running() else [loop for loop in loops if not (loop.is_running() or loop.is_closed())]


def run_idle(loops: Iterable[asyncio.AbstractEventLoop], seconds: float, clock: Clock) -> None:
    """Let time pass. Loops that nothing runs now run meanwhile, one after the other."""
    found = idle(loops)
    for loop in found:
        loop.run_until_complete(asyncio.sleep(seconds / len(found)))
    if not found:
        clock.sleep(seconds)


def internal_descriptors() -> set[int] | None:
    """Return the descriptors that the running loop of this thread needs for itself, or that it is about to close.

    The result is empty without a running loop, and None where the loop does not list them (uvloop, trio).
    """
    loop = running_loop()
    if loop is None:
        return None if _in_trio() else set()
    if getattr(loop, "_transports", None) is None:
        return None
    parts = (getattr(loop, name, None) for name in ("_selector", "_ssock", "_csock"))
    own = {part.fileno() for part in parts if part is not None}
    transports: Any = loop._transports  # type: ignore[attr-defined]  # present, as checked above
    return own | {number for number, transport in list(transports.items()) if _is_ending(transport)}


def is_running() -> bool:
    """True if an event loop runs in this thread, so that a wait would block all of its tasks."""
    return running_loop() is not None or _in_trio()


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def current_task() -> asyncio.Task[Any] | None:
    """Return the task that calls this function, if there is one."""
    return asyncio.current_task() if running_loop() is not None else None
