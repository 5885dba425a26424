"""The readiness loop and its timer heap. No other file of the proxy polls or reads a clock.

The loop has one thread. A file descriptor has one handler, which is called with the events that are ready. Events are
level-triggered, so a handler does one thing and returns. Timers are exact to some ten microseconds, although epoll counts
milliseconds (see `_wait`).
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from errno import EAGAIN, EINPROGRESS, EINTR, ENOTCONN

# The masks of epoll, which poll() shares.
IN = 1
OUT = 4
ERR = 8
HUP = 16

WOULD_BLOCK = (EAGAIN, EINTR, ENOTCONN, EINPROGRESS)
"""Errors of a socket that has nothing to read or no room to write; macOS reports ENOTCONN while it connects."""

Handler = Callable[[int], None]

# Events taken at once. Python allocates room for them at each poll, for 1023 of them by default.
MAX_EVENTS = 64

# Timers called before descriptors get their turn again.
MAX_TIMERS_PER_TURN = 32

# Seconds of polling at the end of a sleep. A sleep alone overshoots by the time that a core takes to wake up.
BUSY_WAIT = 0.00012


def format_utc(form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    """Return the date and time in UTC, for logs and headers."""
    return time.strftime(form, time.gmtime())


def is_writable(fd: int) -> bool:
    """True if a line of up to 4096 bytes (PIPE_BUF) can be written to `fd` without blocking."""
    try:
        return bool(select.select((), (fd,), (), 0)[1])
    except (OSError, ValueError):
        return False


class Timer:
    """A call in the future, which `cancel` prevents."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class SelectorPoller:
    """The needed part of epoll's interface over the `selectors` module, which has kqueue on macOS and the BSDs."""

    def __init__(self) -> None:
        import selectors

        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        return -1

    def register(self, fd: int, mask: int) -> None:
        self._selector.register(fd, self._events(mask))

    def modify(self, fd: int, mask: int) -> None:
        self._selector.modify(fd, self._events(mask))

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    def poll(self, timeout: float, _batch: int) -> list[tuple[int, int]]:
        ready = self._selector.select(None if timeout < 0 else timeout)
        return [(key.fd, (IN if events & 1 else 0) | (OUT if events & 2 else 0)) for key, events in ready]

    def close(self) -> None:
        self._selector.close()

    @staticmethod
    def _events(mask: int) -> int:
        return (1 if mask & IN else 0) | (2 if mask & OUT else 0)


class EventLoop:
    """A loop that calls handlers when descriptors are ready, and timers when they are due.

    Args:
        broken: called with an exception that a handler or a timer raised. The loop continues.
        portable: use `selectors` even where there is epoll.
    """

    def __init__(self, *, on_error: Callable[[Exception], None], portable: bool = False) -> None:
        self._on_error = on_error
        self._epoll = None if portable or not hasattr(select, "epoll") else select.epoll()
        self._poller: select.epoll | SelectorPoller = SelectorPoller() if self._epoll is None else self._epoll
        self.handlers: dict[int, Handler] = {}
        self._masks: dict[int, int] = {}
        self._timers: list[Timer] = []
        self._running = False
        self.now: Callable[[], float] = time.monotonic

    def watch(self, fd: int, mask: int, before: int) -> None:
        """Change the events that are watched at `fd` from `before` to `mask`. 0 watches nothing, not even a hang-up."""
        if not before:
            self._poller.register(fd, mask)
        elif mask:
            self._poller.modify(fd, mask)
        else:
            self._poller.unregister(fd)

    def unregister(self, fd: int, mask: int) -> None:
        """Remove the handler of `fd`, which is about to be closed. `mask` is what was watched."""
        self.handlers.pop(fd, None)
        if self._epoll is None and mask:  # epoll removes a descriptor when it is closed
            self._poller.unregister(fd)

    def call_at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call `call` at `when`, a time of `now`."""
        timer = Timer(when, call)
        heapq.heappush(self._timers, timer)
        return timer

    def stop(self) -> None:
        """Make `run` return after the current round."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        self._running = True
        get = self.handlers.get
        poll = self._poller.poll
        timers = self._timers
        while self._running:
            try:
                while self._running:
                    for fd, events in self._wait() if timers else poll(-1, MAX_EVENTS):
                        handler = get(fd)
                        if handler is not None:
                            handler(events)
                    if timers:
                        self._run_due_timers()
            except Exception as error:  # noqa: BLE001  # a bug must not end all proxies
                self._on_error(error)

    def close(self) -> None:
        """Close the poller."""
        self._poller.close()

    def _run_due_timers(self) -> None:
        """Call the timers that are due, up to a number of them, so that descriptors get their turn."""
        timers = self._timers
        for _ in range(MAX_TIMERS_PER_TURN):
            if not timers or (timers[0].call is not None and timers[0].when > self.now()):
                return
            call = heapq.heappop(timers).call
            if call is not None:
                call()

    def _wait(self) -> list[tuple[int, int]]:
        """Return the events that are ready. Wait until the next timer at most.

        epoll counts milliseconds, rounded up, so it is used until 2 ms before the timer. select on epoll's own descriptor
        counts microseconds but wakes up late, so it is used until BUSY_WAIT before the timer. The rest is spent polling.
        """
        timers = self._timers
        while timers and timers[0].call is None:
            heapq.heappop(timers)
        if not timers:
            return self._poller.poll(-1, MAX_EVENTS)
        left = timers[0].when - self.now()
        if self._epoll is None:
            return self._poller.poll(min(max(0.0, left), 3600.0), MAX_EVENTS)
        if left > 0.003:
            return self._epoll.poll(
                min(left, 3600.0) - 0.002, MAX_EVENTS
            )  # a timer far away must not overflow the milliseconds
        if left > BUSY_WAIT:
            select.select((self._epoll,), (), (), left - BUSY_WAIT)
            return self._epoll.poll(0, MAX_EVENTS)
        return self._epoll.poll(0, MAX_EVENTS)
