"""A watch over an event loop that a blocking call of a client may stop for ever, while the network is held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

INTERVAL = 0.05  # seconds between two calls into the loop
SLICE = 0.01  # seconds between two looks at whether the watch is over


class LoopWatch:
    """Calls a function from a thread if the running event loop stands still. A context manager.

    Args:
        within: the seconds for which it may stand still.
        on_blocked: the function, which ends what the loop waits for.

    Attributes:
        blocked: True once the function has been called.
    """

    def __init__(self, within: float, on_blocked: Callable[[], None]) -> None:
        self.blocked = False
        self._within = within
        self._on_blocked = on_blocked
        self._loop = asyncio.get_running_loop()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="resilience-loop-watch", daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            turned = threading.Event()
            self._loop.call_soon_threadsafe(turned.set)
            waited = 0.0
            while not turned.wait(SLICE) and not self._over.is_set():  # at the end, the loop waits for this thread
                waited += SLICE
                if waited >= self._within:
                    self.blocked = True
                    self._on_blocked()
                    return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
