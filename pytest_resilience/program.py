"""Programs: a schedule, and the operations that clients perform while it is played. Plain data, which replays."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from .errors import SetupError
from .history import Client, History, check_key
from .schedule import MAX_EPISODES, Episode, Schedule, Step, Trigger, end, operations
from .workloads.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .resilience import Resilience


MAX_SHOWN_CHARS = 100  # of an argument in a message


class ScriptedWorkload(Workload, Protocol):
    """A workload whose operations have a key and a value of the program's."""

    def execute(self, client: Client, kind: str, key: str | None, value: Any) -> Awaitable[None] | None:
        """Perform and record one operation, as `Workload.perform` does.

        Args:
            client: the client that records the operation.
            kind: the kind of the operation.
            key: the key that the program names, or None.
            value: the value that the program names, or None.
        """


@dataclass(frozen=True)
class Operate:
    """An operation of a program.

    Args:
        kind: the kind of the operation.
        key: its key, a text; None for the workload's.
        value: its value; None for the workload's.

    Raises:
        SetupError: the key names no object.
    """

    kind: str
    key: str | None = None
    value: Any = None

    def __post_init__(self) -> None:
        check_key(self.key, f"operation {self.kind!r}")

    def __repr__(self) -> str:
        further = [f", {name}={value!r}" for name in ("key", "value") if (value := getattr(self, name)) is not None]
        return f"Operate({self.kind!r}{''.join(further)})"


@dataclass(frozen=True)
class Program:
    """A schedule with the operations of each episode. Its `repr` is valid Python.

    Args:
        schedule: the faults.
        operations: the operations of each episode, in the order in which they begin.
    """

    schedule: Schedule
    operations: tuple[tuple[Operate, ...], ...]

    def __init__(self, schedule: Schedule, operations: Iterable[Iterable[Operate]]) -> None:
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "operations", tuple(tuple(each) for each in operations))
        counts = [episode.operations for episode in self.schedule.episodes]
        if counts != [len(each) for each in self.operations]:
            raise SetupError(f"the episodes of the schedule have {counts} operations, and the program has others")

    def play(
        self, resilience: Resilience, workload: Workload, clients: int | None = None, *, recovery: float = 5.0
    ) -> History:
        """Play the program. The arguments and the errors are those of `Resilience.play`.

        Raises:
            SetupError: also if the workload has not all kinds of the operations.
        """
        __tracebackhide__ = True
        check_resilience("Program.play", resilience)
        script = script_of(workload)
        for operation in itertools.chain(*self.operations):
            check_kind(workload, operation.kind)
        script.program = self
        return resilience.play(self.schedule, script, clients, recovery=recovery)


class ProgramBuilder:
    """A program that grows at its end."""

    def __init__(self) -> None:
        self._episodes: list[tuple[list[Operate], list[Step]]] = [([], [])]

    @property
    def operations(self) -> Sequence[Operate]:
        """The operations of the present episode."""
        return self._episodes[-1][0]

    @property
    def steps(self) -> Sequence[Step]:
        """The steps of the present episode."""
        return self._episodes[-1][1]

    @property
    def episodes(self) -> int:
        """The number of episodes, with the present one."""
        return len(self._episodes)

    def operate(self, operation: Operate) -> None:
        """Append an operation."""
        self._episodes[-1][0].append(operation)

    def strike(self, fault: str, settings: Mapping[str, Any], until: Trigger | None) -> int:
        """Append a strike before the next operation. Return its number in the episode."""
        performed, steps = self._episodes[-1]
        steps.append(Step(fault, settings, at=operations(len(performed)), until=until or end()))
        return len(steps) - 1

    def heal(self, episode: int, number: int) -> None:
        """Append the heal of a strike. Without effect if its episode has ended."""
        if episode != self.episodes:
            return
        performed, steps = self._episodes[-1]
        step = steps[number]
        steps[number] = replace(step, until=operations(len(performed) - int(step.at.value or 0)))

    def end_episode(self) -> None:
        """End the present episode. An episode without operations goes on.

        Raises:
            SetupError: a program has no more episodes.
        """
        if not self.operations:
            return
        if self.episodes >= MAX_EPISODES:
            raise SetupError(f"a program has at most {MAX_EPISODES} episodes; see ResilienceMachine.can_end_episode")
        self._episodes.append(([], []))

    def build(self) -> Program | None:
        """Return the program, or None if it has no operation. Strikes after the last operation of an episode are left out."""
        kept = [(performed, steps) for performed, steps in self._episodes if performed]
        if not kept:
            return None
        episodes = [Episode(_met(steps, len(performed)), len(performed)) for performed, steps in kept]
        return Program(Schedule(episodes), tuple(tuple(performed) for performed, _ in kept))


def _met(steps: Iterable[Step], count: int) -> list[Step]:
    return [step for step in steps if step.at.value is not None and step.at.value < count]


class Script:
    """A workload that performs the operations of a program while faults strike, and those of the user's workload otherwise.

    Args:
        workload: the user's workload.

    Attributes:
        workload: the user's workload.
        program: the program that is played next.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._history: History | None = None
        self.program: Program | None = None
        self.kinds = workload.kinds

    def begin(self, resilience: Any) -> Awaitable[None] | None:
        self._history = resilience.history
        return self.workload.begin(resilience)

    def kind(self, n: int) -> str:
        operation = self._operation(n)
        return operation.kind if operation is not None else self.workload.kind(n)

    def perform(self, client: Client, kind: str, n: int) -> Awaitable[None] | None:
        operation = self._operation(n)
        if operation is None or (operation.key is None and operation.value is None):
            return self.workload.perform(client, kind, n)
        execute = getattr(self.workload, "execute", None)
        if execute is None:
            raise SetupError(
                f"{operation!r} has a key or a value, and {type(self.workload).__name__} has no method execute(client, kind, key, value)"
            )
        performed: Awaitable[None] | None = execute(client, kind, operation.key, operation.value)
        return performed

    def read_all(self, client: Client) -> Awaitable[None] | None:
        return self.workload.read_all(client)

    def end(self) -> Awaitable[None] | None:
        return self.workload.end()

    def _operation(self, n: int) -> Operate | None:
        """Return operation `n` of the present episode, or None outside of the phase in which faults strike."""
        if self._history is None or self.program is None or self._history.phase != "run":
            return None
        performed = self.program.operations[(self._history.episode or 1) - 1]
        return performed[n] if n < len(performed) else None


class AsyncScript(Script):
    """A script whose workload is asynchronous."""

    async def perform(self, client: Client, kind: str, n: int) -> None:
        performed = super().perform(client, kind, n)
        assert performed is not None
        await performed


def check_resilience(function: str, resilience: object) -> None:
    """Check that an argument is the value of the fixture `resilience`.

    Raises:
        SetupError: it is not; the message has the arguments of the function.
    """
    if not (hasattr(resilience, "play") and hasattr(resilience, "begin_example")):
        raise SetupError(
            f"{function}(resilience, workload) takes the fixture `resilience` first; got {repr(resilience)[:MAX_SHOWN_CHARS]}"
        )


def check_kind(workload: Workload, kind: str) -> None:
    """Check that a workload has a kind of operations.

    Raises:
        SetupError: it does not.
    """
    if kind not in workload.kinds:
        raise SetupError(f"the workload has no operation {kind!r}; it has: {', '.join(workload.kinds)}")


def script_of(workload: Workload) -> Script:
    """Return the script of a workload.

    Raises:
        SetupError: this is no workload.
    """
    import inspect

    from .runner.arguments import check_workload

    check_workload(workload)
    return AsyncScript(workload) if inspect.iscoroutinefunction(workload.perform) else Script(workload)
