"""The baseline before the first strike, and the liveness phase at the end of each episode, which compares with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..checkers.answers import is_answer
from ..checkers.steady_state import allowed_growth, steady_state
from ..clock import Clock
from ..errors import SetupError
from ..history import NOTHING, Client, History, struck
from ..operation import Operation
from ..workloads.workload import Workload
from .clients import Clients
from .machine_load import slowdown
from .system import System

BASELINE_ROUNDS = 20  # operations of each kind in the baseline
CONSECUTIVE = 2  # good rounds in a row that count as recovered; one may be luck
ROUND_INTERVAL = 0.02  # seconds between a bad round and the next
SLOWER_RATIO = 3.0  # an operation may take this many times the p95 of the baseline
SLOWER_BY = 0.05  # or this many seconds more, whichever is longer: a busy machine is no fault
SLOWER_THAN_ANY = float("inf")
READY_TIMEOUT = 0.5  # seconds for one answer of the readiness path

Baseline = Mapping[str, Mapping[str, Any]]


class ProbingClient(Client):
    """A client that keeps the operations that have ended.

    Attributes:
        ended: these operations.
    """

    def __init__(self, history: History, number: int) -> None:
        super().__init__(history, number)
        self.ended: list[Operation] = []

    def end(self, operation: Operation) -> None:
        super().end(operation)
        self.ended.append(operation)


class _Progress:
    """The way of a system back to its baseline.

    Args:
        kinds: the kinds of operation that have to succeed.

    Attributes:
        why: the difference of the last round from the baseline; "" for none.
        slowdown: how many times longer than alone a process took on this machine, at most.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self._missing = set(kinds)
        self._good = 0
        self.why = ""
        self.slowdown = 1.0

    def add(self, operations: Sequence[Operation], why: str) -> None:
        """Add a round and its difference from the baseline."""
        self._missing -= {each.f for each in operations if each.type == "ok"}
        self._good = 0 if why else self._good + 1
        self.why = why

    @property
    def recovered(self) -> bool:
        """True after two rounds in a row without a difference, and a success of each kind."""
        return self._good >= CONSECUTIVE and not self._missing

    @property
    def reason(self) -> str:
        """The reason why the system has not recovered, or "" if it has."""
        if self.recovered:
            return ""
        return self.why or f"no {' and no '.join(sorted(self._missing)) or 'second'} operation has succeeded"


class Liveness:
    """One client that performs each kind of operation in turn, while no other client works.

    Args:
        system: the system.
        workload: the workload.
        clients: performs its operations.
        clock: the clock of the history.
        count: the number of clients that work while faults strike.
        slowdown: returns how many times longer than alone a process takes on this machine now.

    Attributes:
        client: the client.
    """

    def __init__(
        self,
        system: System,
        workload: Workload,
        clients: Clients,
        clock: Clock,
        *,
        count: int = 1,
        slowdown: Callable[[], float] = slowdown,
    ) -> None:
        self._system = system
        self._history = system.history
        self._kinds = workload.kinds
        self._clients = clients
        self._clock = clock
        self.client = ProbingClient(system.history, system.history.client().number)
        self._rounds = itertools.count()
        self._slowdown = slowdown
        self._more_open = allowed_growth(count)
        self._open_before: Mapping[str, int | None] = {}

    def measure_baseline(self, known: Baseline | None) -> Baseline:
        """Perform at least 20 operations of each kind, or one if the baseline is known. Record and return the baseline.

        Raises:
            SetupError: none has succeeded, although nothing has struck.
        """
        baseline = known
        if baseline is None:
            begun = self._clock.now()
            performed = [each for _ in range(BASELINE_ROUNDS) for each in self._perform_round()]
            failures = [f"{each.f} fails with {each.error}" for each in performed if each.type != "ok"]
            if performed and len(failures) == len(performed) and struck(begun, self._clock.now()) == NOTHING:
                raise SetupError(
                    f"no operation of the workload has succeeded, although nothing has struck: {', '.join(dict.fromkeys(failures))}"
                )
            baseline = {kind: steady_state([each for each in performed if each.f == kind]) for kind in self._kinds}
        else:
            self._perform_round()
        self._history.add_probe("baseline", baseline)
        self._open_before = self._open()
        return baseline

    def recover(self, baseline: Baseline, within: float) -> None:
        """Perform rounds of operations until the system is back at its baseline, or the time is over. Record the answer.

        Args:
            baseline: the steady state.
            within: seconds.
        """
        healed = max((each.healed_at or 0.0 for each in self._history.faults), default=0.0)
        deadline = self._clock.now() + within
        progress = _Progress(self._kinds)
        while True:
            operations = self._perform_round()
            progress.add(operations, self._difference(operations, baseline, progress))
            if progress.recovered or self._clock.now() >= deadline:
                break
            if progress.why:
                self._clock.sleep(ROUND_INTERVAL)
        answer = {
            "recovered": progress.recovered,
            "after": round(self._history.now() - healed, 6),
            "why": progress.reason,
            "slowdown": round(progress.slowdown, 2),
            "open": self._open(),
        }
        self._history.add_probe("recovery", answer)
        if progress.recovered:
            self._clients.read_all(self.client)

    def _difference(self, operations: Sequence[Operation], baseline: Baseline, progress: _Progress) -> str:
        """Return the first difference of a round from the baseline that a busy machine does not explain, or "" if there is none."""
        why = _not_back(operations, baseline)
        if why and not _not_back(
            operations, baseline, SLOWER_THAN_ANY
        ):  # only too slow, which a busy machine may cause
            progress.slowdown = max(progress.slowdown, self._slowdown())
            why = _not_back(operations, baseline, progress.slowdown)
        return why or self._not_ready() or self._grown_pool()

    def _open(self) -> dict[str, int | None]:
        return {name: self._system.open_connections(name) for name in self._system.targets}

    def _grown_pool(self) -> str:
        """Return the first server with many more connections than in the baseline, or "" if there is none."""
        for name, now in self._open().items():
            before = self._open_before.get(name)
            if now is not None and before is not None and now > before + self._more_open:
                return f"{now} connections to {name} are open, and {before} were"
        return ""

    def _perform_round(self) -> list[Operation]:
        """Perform one operation of each kind."""
        n = next(self._rounds)
        self.client.ended.clear()
        for kind in self._kinds:
            self._clients.perform(self.client, kind, n)
        return list(self.client.ended)

    def _not_ready(self) -> str:
        if not self._system.has_service:
            return ""
        answer = self._system.ready(READY_TIMEOUT)
        if answer.status is not None and answer.status < 400:
            return ""
        return f"the readiness path answers {answer.status or answer.error}"


def _not_back(operations: Sequence[Operation], baseline: Baseline, busy: float = 1.0) -> str:
    """Return the first difference of a round from the baseline, or "" if there is none.

    Args:
        operations: those of the round.
        baseline: the steady state.
        busy: how many times longer everything takes because the machine is busy.
    """
    for each in operations:
        steady = baseline.get(each.f, {})
        took, p95, sources = each.end - each.time, steady.get("p95"), steady.get("sources")
        if not is_answer(each) and not steady.get("error_rate"):
            return f"{each.f} fails with {each.error}"
        if p95 is not None and took > busy * max(SLOWER_RATIO * p95, p95 + SLOWER_BY):
            return f"{each.f} takes {took:.3f} s, and its p95 was {p95:.3f} s"
        if each.source is not None and sources and each.source not in sources:
            return f"{each.f} is answered by {each.source}, and was by {' or '.join(sources)}"
    return ""
