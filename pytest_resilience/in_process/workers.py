"""Tasks, threads, processes and services that end while an experiment lasts."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import psutil

from ..processes import ManagedProcess
from ..targets.service import RunningService, death_notice
from ..wording import described
from .replaced_workers import Headcounts

OPTION = "workers_may_be_replaced=True"  # of `steady` and `jobs`


class Workers:
    """All that works in the background: tasks, threads and child processes of the test, and services with their processes.

    Args:
        services: the services of the test.
        spawned: the processes that `resilience.spawn` has started, to which the test may add.
        may_be_replaced: True if a process that a service or the test has started may end, and its parent starts another.
    """

    def __init__(
        self, services: Iterable[RunningService], spawned: Sequence[ManagedProcess], *, may_be_replaced: bool = False
    ) -> None:
        self.may_be_replaced = may_be_replaced
        self._headcounts = Headcounts(may_be_replaced=may_be_replaced)
        self._services = {
            service: ServiceWorkers(service, Headcounts(may_be_replaced=may_be_replaced)) for service in services
        }
        self._spawned = spawned
        self._running: list[ManagedProcess] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._threads: set[threading.Thread] = set()
        self._processes: dict[psutil.Process, str] = {}
        self._errors: dict[threading.Thread, BaseException] = {}
        self._task_errors: dict[asyncio.Task[Any], BaseException] = {}
        self._struck: set[object] = set()
        self._hook: Any = None

    def begin(self, *, in_loop: bool) -> None:
        """Begin to watch what works now.

        Args:
            in_loop: True if an event loop runs in this thread.
        """
        self._hook = threading.excepthook
        threading.excepthook = self._record
        self.add_new(in_loop=in_loop)

    def add_new(self, *, in_loop: bool) -> None:
        """Watch also what has begun to work since `begin`, such as the task of a client that connects at its first command."""
        self._tasks |= asyncio.all_tasks() if in_loop else set()
        self._threads |= set(threading.enumerate())
        self._running += [child for child in self._spawned if child.running and child not in self._running]
        children = _children()
        self._processes |= {each: _name(each) for each in children}
        self._headcounts.note(children.values())
        for watched in self._services.values():
            watched.begin()

    def _record(self, arguments: Any) -> None:
        if arguments.thread is not None and arguments.exc_value is not None:
            self._errors[arguments.thread] = arguments.exc_value
        self._hook(arguments)

    def exclude(self, struck: Iterable[object]) -> None:
        """Leave out processes that the test has struck by their ids, with their descendants."""
        self._struck.update(struck)

    def end(self) -> None:
        """Stop watching."""
        if threading.excepthook == self._record:
            threading.excepthook = self._hook

    def dead(self) -> list[str]:
        """Return a sentence for each that has died.

        Tasks and threads die by an exception that nothing has handled, processes in any way. A task whose exception has been read
        has passed it on, as the inner tasks of `asyncio.wait_for` do.
        """
        return [*self._dead_of_services(), *self.failed(), *self._dead_processes()]

    def lost(self) -> list[str]:
        """Return a sentence for each dead process of a service, and for each dead child of the test."""
        return [*self._dead_of_services(), *self._dead_processes()]

    def failed(self) -> list[str]:
        """Return a sentence for each dead task and thread, and for each dead process of `resilience.spawn`."""
        return [*self._dead_spawned(), *self._dead_tasks(), *self._dead_threads()]

    def _dead_of_services(self) -> list[str]:
        return [sentence for watched in self._services.values() for sentence in watched.dead(self._struck)]

    def _dead_spawned(self) -> list[str]:
        died = [child for child in self._running if child.died and not _has_pid(self._struck, child.pid)]
        return [death_notice(f"the process {child.name!r}", child) for child in died]

    def _dead_tasks(self) -> list[str]:
        for task in self._tasks - self._task_errors.keys():
            unread = task.done() and not task.cancelled() and getattr(task, "_log_traceback", True)
            if unread and (error := task.exception()) is not None:
                self._task_errors[task] = error
        names = {task.get_name(): error for task, error in self._task_errors.items()}
        return sorted(f"the task {name} has died: {described(error)}" for name, error in names.items())

    def _dead_threads(self) -> list[str]:
        return [
            f"the thread {each.name} has died: {described(error)}"
            for each, error in self._errors.items()
            if each in self._threads
        ]

    def _dead_processes(self) -> list[str]:
        ended = [each for each in self._processes if not _runs(each)]
        struck = [each for each in ended if each in self._struck]
        gone = self._headcounts.dead(dict.fromkeys(ended, os.getpid()), _children().values(), struck)
        return [f"the process {each.pid} ({self._processes[each]}) has ended" for each in gone]


class Descendant(NamedTuple):
    """A process that a service has started.

    Args:
        parent: the process id of its parent.
        name: the name of its program.
        command: its command line.
    """

    parent: int
    name: str
    command: tuple[str, ...]


class ServiceWorkers:
    """The process of a service, and those that it has started, such as the workers of gunicorn.

    Args:
        service: the service.
        headcounts: the numbers of processes, which are empty.
    """

    def __init__(self, service: RunningService, headcounts: Headcounts) -> None:
        self._service = service
        self._headcounts = headcounts
        self._deaths_before = len(service.deaths())
        self.begin()

    def begin(self) -> None:
        """Watch the processes that run now."""
        self._child = self._service.current
        self._tree = _descendants(self._child)
        self._headcounts.note(each.parent for each in self._tree.values())

    def dead(self, struck: set[object]) -> list[str]:
        """Return a sentence for each process that has died, other than by a fault.

        Args:
            struck: the processes that the test has struck by their ids.
        """
        if self._child is None or _has_pid(struck, self._child.pid):
            return []
        deaths = self._service.deaths()[self._deaths_before :]
        if deaths or self._service.current is not self._child:  # the whole tree has ended
            return deaths
        now = _descendants(self._child)
        new = [each for each in now if each not in self._tree]
        return [self._sentence(each, new, now) for each in self._gone(now, struck)]

    def _gone(self, now: dict[psutil.Process, Descendant], struck: set[object]) -> list[psutil.Process]:
        ended = {process: each.parent for process, each in self._tree.items() if process not in now}
        by_fault = [each for each in ended if self._is_below(each, struck)]
        return self._headcounts.dead(ended, [each.parent for each in now.values()], by_fault)

    def _is_below(self, process: psutil.Process, struck: set[object]) -> bool:
        """True if a process or one that it descends from has been struck."""
        above: psutil.Process | None = process
        while above is not None and above not in struck:
            parent = self._tree[above].parent
            above = next((each for each in self._tree if each.pid == parent), None)
        return above is not None

    def _sentence(self, gone: psutil.Process, new: list[psutil.Process], now: dict[psutil.Process, Descendant]) -> str:
        """Describe a process that has ended, and remove the one that has taken its place from `new`."""
        name = f"the process {gone.pid} ({self._tree[gone].name}) of {self._service.title} has ended"
        for each in new:
            if now[each].command == self._tree[gone].command:
                new.remove(each)
                return f"{name}, and the service has started {each.pid} in its place (allowed with {OPTION})"
        return name


def _descendants(child: ManagedProcess | None) -> dict[psutil.Process, Descendant]:
    """Return the processes that a process has started, and those that these have started."""
    found: dict[psutil.Process, Descendant] = {}
    for pid in child.processes()[1:] if child is not None else ():
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found[process] = Descendant(process.ppid(), process.name(), tuple(process.cmdline()))
        except psutil.Error:
            continue
    return found


def _children() -> dict[psutil.Process, int]:
    """Return the children of the test process that run, with the process id of their parent."""
    return {each: os.getpid() for each in psutil.Process().children() if _runs(each)}


def _has_pid(struck: set[object], pid: int) -> bool:
    return any(isinstance(each, psutil.Process) and each.pid == pid for each in struck)


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return "?"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
