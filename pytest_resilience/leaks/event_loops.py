"""The ends of event loops: what only a loop knew is gone with it, so it is looked at just before the loop is closed.

A connection that a test has not closed is kept by its event loop alone. `asyncio.run`, `asyncio.Runner`, pytest-asyncio, anyio and
IsolatedAsyncioTestCase close the loop, the collector then closes the socket, and a look at the end of the test finds nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

AfterClose: TypeAlias = "Callable[[], None]"
BeforeClose: TypeAlias = "Callable[[asyncio.AbstractEventLoop], AfterClose]"

_listeners: list[tuple[int, BeforeClose]] = []  # process id of the one that listens


@contextmanager
def on_close(closing: BeforeClose) -> Iterator[None]:
    """Call `closing` with each event loop that is about to be closed, and what that returns when it is closed."""
    listener = os.getpid(), closing
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
        pid = os.getpid()  # a process that was forked has no threads that would answer
        closed = [closing(self) for owner, closing in list(_listeners) if owner == pid]
        try:
            return close(self)
        finally:
            for each in closed:
                each()

    return reporting_close


def open_connections(loop: asyncio.AbstractEventLoop) -> set[int] | None:
    """Return the descriptors of a loop's connections that nobody has closed; None where the loop does not say (uvloop)."""
    transports = getattr(loop, "_transports", None)
    if transports is None:
        return None
    return {number for number, transport in list(transports.items()) if not transport.is_closing()}


def internal_descriptors() -> set[int] | None:
    """Return the descriptors that the running loop of this thread needs for itself, or that it is about to close.

    Empty without a running loop; None where the loop does not say (uvloop, trio).
    """
    loop = running_loop()
    if loop is None:
        return None if _in_trio() else set()
    if getattr(loop, "_transports", None) is None:
        return None
    parts = (getattr(loop, name, None) for name in ("_selector", "_ssock", "_csock"))
    own = {part.fileno() for part in parts if part is not None}
    transports: Any = loop._transports  # type: ignore[attr-defined]  # there, see above
    return own | {number for number, transport in list(transports.items()) if transport.is_closing()}


def is_running() -> bool:
    """True if an event loop runs in this thread, so that nothing there would end while it waits."""
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
    """Return the task that asks, if there is one."""
    return asyncio.current_task() if running_loop() is not None else None
