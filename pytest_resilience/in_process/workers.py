"""Tasks, threads and child processes that end while an experiment lasts."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psutil

from ..wording import described


class Workers:
    """The tasks, threads and child processes that existed when the experiment began."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads: list[threading.Thread] = []
        self._processes: dict[psutil.Process, str] = {}
        self._errors: dict[threading.Thread, BaseException] = {}
        self._hook: Any = None

    def begin(self, in_loop: bool) -> None:
        """Begin to watch them.

        Args:
            in_loop: True if an event loop runs in this thread.
        """
        self._tasks = asyncio.all_tasks() if in_loop else set()
        self._threads = threading.enumerate()
        for each in psutil.Process().children():
            try:
                self._processes[each] = each.name()
            except psutil.Error:
                continue
        self._hook = threading.excepthook
        threading.excepthook = self._record

    def _record(self, arguments: Any) -> None:
        if arguments.thread is not None and arguments.exc_value is not None:
            self._errors[arguments.thread] = arguments.exc_value
        self._hook(arguments)

    def end(self) -> None:
        """Stop watching."""
        if threading.excepthook == self._record:
            threading.excepthook = self._hook

    def dead(self) -> list[str]:
        """Return a sentence for each that has died: tasks and threads by an exception, processes in any way."""
        return [*self._dead_tasks(), *self._dead_threads(), *self._dead_processes()]

    def _dead_tasks(self) -> list[str]:
        done = [task for task in self._tasks if task.done() and not task.cancelled()]
        failed = [(task.get_name(), task.exception()) for task in done]
        return sorted(f"the task {name} has died: {described(error)}" for name, error in failed if error is not None)

    def _dead_threads(self) -> list[str]:
        return [
            f"the thread {each.name} has died: {described(error)}"
            for each, error in self._errors.items()
            if each in self._threads
        ]

    def _dead_processes(self) -> list[str]:
        gone = [(each.pid, name) for each, name in self._processes.items() if not _runs(each)]
        return [f"the process {pid} ({name}) has ended" for pid, name in gone]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
