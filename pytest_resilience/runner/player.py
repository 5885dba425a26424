"""One play of a schedule."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from ..clock import SYSTEM, Clock
from ..errors import PromiseBroken, SetupError
from ..history import Client, describe_error
from ..operation import Operation, Phase, Verdict
from ..schedule import Episode, Schedule
from ..workloads.workload import Workload
from .clients import END_WITHIN, Clients, OperationStuck, TaskClients, ThreadClients, is_asynchronous
from .event_loop import loop_in_thread
from .gate import Gate
from .liveness import Baseline, Liveness
from .probes import ReadyProbe, record_upstream
from .striker import Striker
from .system import System
from .triggers import horizon

POLL_INTERVAL = 0.004  # seconds between two readings of receipts, counters and the clock
WORK_LIMIT = 5.0  # seconds of an episode's work, after which everything heals
SECONDS_PER_OPERATION = 0.05  # added to that limit for each operation
MAX_SPREAD = 4.0  # seconds over which the operations of an episode are spread at most


class Player:
    """A play of a schedule.

    Args:
        system: the system that it strikes.
        schedule: the schedule.
        workload: the operations.
        clients: performs them.
        count: the number of clients.
        recovery: seconds for the system to return to its baseline after each episode.
        baseline: the baseline of an earlier play; None to measure it.
        clock: the clock of the history.

    Attributes:
        baseline: the baseline, after the play.
    """

    def __init__(
        self,
        system: System,
        schedule: Schedule,
        workload: Workload,
        clients: Clients,
        *,
        count: int,
        recovery: float,
        baseline: Baseline | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._system = system
        self._history = system.history
        self._schedule = schedule
        self._workload = workload
        self._clients = clients
        self._recovery = recovery
        self.baseline = baseline
        self._clock = clock
        self._gate: Gate | None = None
        self._stopped = threading.Event()
        self._members = [self._history.client() for _ in range(count)]
        self._recorders: list[Client] = list(self._members)

    def stop(self) -> None:
        """End the play early, from another thread. Everything heals."""
        self._stopped.set()
        if self._gate is not None:
            self._gate.close()

    def play(self) -> None:
        """Play the schedule.

        Raises:
            HealFailed: a fault could not be healed.
            PromiseBroken: an operation has not ended within 30 s although everything has healed.
            SetupError: an operation has not ended within 30 s although nothing has struck.
            Exception: an operation has raised it instead of recording its outcome.
        """
        self._begin_phase("baseline", 1)
        with self._workload_begun(), ReadyProbe(self._system):
            try:
                self._play()
            except OperationStuck:
                self._report_stuck()

    def _play(self) -> None:
        """Measure the baseline, then play the episodes, each with its recovery."""
        liveness = Liveness(self._system, self._workload, self._clients, self._clock, count=len(self._members))
        self._recorders.append(liveness.client)
        self.baseline = liveness.measure_baseline(self.baseline)
        for number, episode in enumerate(self._schedule.episodes, 1):
            if self._stopped.is_set():
                return
            self._play_episode(number, episode)
            self._begin_phase("recovery", number)
            liveness.recover(self.baseline, self._recovery)

    def _report_stuck(self) -> NoReturn:
        """Record the operations that have not ended, cancel them, and raise the error."""
        stuck = [operation for each in self._recorders if (operation := _give_up(each)) is not None]
        with suppress(OperationStuck):  # an operation that blocks the event loop
            self._clients.abandon()
        names = ", ".join(f"{each.f} of client {each.process}" for each in stuck) or "the workload"
        if not self._history.faults:
            raise SetupError(f"{names} has not ended within {END_WITHIN:g} s, before anything struck; see `Workload`")
        why = f"{names} has not ended within {END_WITHIN:g} s after everything has healed; a timeout is missing"
        raise PromiseBroken([Verdict("operations_end", "violated", why, tuple(stuck))], self._history)

    @contextmanager
    def _workload_begun(self) -> Iterator[None]:
        try:
            self._clients.begin(self._system.resilience)
            yield
        except BaseException as error:
            try:
                self._clients.end()
            except Exception as second:  # noqa: BLE001  # the first error matters more
                error.add_note(f"and then, at the end of the workload: {describe_error(second)}")
            raise
        self._clients.end()

    def _begin_phase(self, phase: Phase, episode: int, *struck: str) -> None:
        self._history.begin_phase(phase, episode)
        record_upstream(self._system, struck)

    def _play_episode(self, number: int, episode: Episode) -> None:
        self._begin_phase("run", number)
        striker = Striker(self._system, episode, self._clients.cancel, self._clock)
        spread = horizon(episode, MAX_SPREAD)
        self._gate = gate = Gate(striker, episode.operations, spread)
        if number > 1:
            for member in self._members:
                member.renew()  # a value of a workload has the number of its process and that of an operation in its episode
        try:
            self._clients.start(gate, self._members)
            self._watch(striker, limit=WORK_LIMIT + spread + SECONDS_PER_OPERATION * episode.operations)
        finally:
            gate.close()
            try:
                self._begin_phase("heal", number, *(each.step.target for each in striker.active))
                striker.finish()
            finally:
                self._clients.join()
        self._clients.raise_failure()

    def _watch(self, striker: Striker, limit: float) -> None:
        """Strike and heal what is due between operations, until the work is done or its time is over."""
        while not self._clients.wait(POLL_INTERVAL) and striker.seconds < limit and not self._stopped.is_set():
            striker.poll()
        while striker.is_waiting_for_time and striker.seconds < limit and not self._stopped.wait(POLL_INTERVAL):
            striker.poll()


def _give_up(client: Client) -> Operation | None:
    """End the operation that a client has begun and not ended. Return the operation."""
    invocation = client.invocation
    return None if invocation is None else invocation.info("never ended")


def play(
    system: System,
    schedule: Schedule,
    workload: Workload,
    *,
    clients: int,
    recovery: float,
    baseline: Baseline | None,
) -> Baseline | None:
    """Play a schedule and return the baseline. An asynchronous workload gets an event loop in a thread of its own."""

    def run(performers: Clients) -> Baseline | None:
        player = Player(system, schedule, workload, performers, count=clients, recovery=recovery, baseline=baseline)
        player.play()
        return player.baseline

    if not is_asynchronous(workload):
        return run(ThreadClients(workload))
    with loop_in_thread() as loop:
        return run(TaskClients(workload, loop))


async def play_in_loop(
    system: System,
    schedule: Schedule,
    workload: Workload,
    *,
    clients: int,
    recovery: float,
    baseline: Baseline | None,
) -> Baseline | None:
    """Play a schedule whose workload runs in the event loop of the caller, and return the baseline."""
    loop = asyncio.get_running_loop()
    player = Player(
        system, schedule, workload, TaskClients(workload, loop), count=clients, recovery=recovery, baseline=baseline
    )
    over = asyncio.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            player.play()
        except BaseException as error:  # noqa: BLE001  # raised below, in the thread of the loop
            failures.append(error)
        loop.call_soon_threadsafe(over.set)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), name="resilience-player", daemon=True)
    thread.start()
    cancelled: asyncio.CancelledError | None = None
    while not over.is_set():
        try:
            await over.wait()
        except asyncio.CancelledError as error:  # the faults have to heal before the test goes on
            cancelled = error
            player.stop()
    thread.join()
    if cancelled is not None:
        raise cancelled
    if failures:
        raise failures[0]
    return player.baseline
