"""The probes of a play, which belong to no client."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterable
from types import TracebackType

from .system import System

READY_INTERVAL = 0.1  # seconds between two requests of the readiness path
READY_TIMEOUT = 0.5  # seconds for one answer


class ReadyProbe:
    """A thread that requests the readiness path every 0.1 s and records the answers, for the duration of a `with` block."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), name="resilience-ready", daemon=True
        )

    def __enter__(self) -> ReadyProbe:
        if self._system.has_service:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(READY_INTERVAL):
            answer = self._system.ready(READY_TIMEOUT)
            self._system.history.add_probe("ready", {"status": answer.status, "error": answer.error})


def record_upstream(system: System, struck: Iterable[str] = ()) -> None:
    """Record how many connections and commands each server has received so far, and how many connections are open.

    Args:
        system: the system.
        struck: the targets that faults strike now, from which no command count is read, because they may not answer.
    """
    unread = set(struck)
    system.history.add_probe(
        "upstream",
        {
            name: {
                "connections": system.connections(name),
                "commands": None if name in unread else system.commands(name),
                "open": system.open_connections(name),
            }
            for name in system.targets
        },
    )
