"""Moments that cannot be timed from outside: an idle connection, a waiting command, a closed connection, the nth answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Protocol, Self

from ..clock import wait_until, wait_until_async
from ..errors import CannotInject, NeverHappened, SetupError
from ..faults.armed import Armed, Event
from ..faults.fault import Fault, Strike
from ..faults.held_stream import HeldStream, open_connections
from ..targets.server import PostgresTarget, RedisTarget
from ..targets.target import NetworkFaults
from ..unused import expect_use
from ..wording import counted

POLL_INTERVAL = 0.002  # seconds between two looks
IDLE_SESSIONS = """
select count(*) from pg_stat_activity
where backend_type = 'client backend' and state = 'idle' and client_port = any(string_to_array($1, ',')::int[])
"""
WAITING_SESSIONS = """
select count(*) from pg_stat_activity
where backend_type = 'client backend' and state = 'active' and pid <> pg_backend_pid() and wait_event is not null
    and strpos(lower(query), lower($1)) > 0
"""


class Moment(ABC):
    """A moment of one target that has come or not."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the moment as the end of a sentence that begins with "when"."""

    @abstractmethod
    def has_come(self) -> bool:
        """Look whether the moment has come."""

    def pass_on(self) -> None:
        """Let go on what stands still because the moment has come. Most moments stop nothing."""
        return


class Idle(Moment):
    """A number of connections of clients that wait for nothing."""

    def __init__(self, target: PostgresTarget | RedisTarget, number: int) -> None:
        self._target = target
        self._number = number

    def __str__(self) -> str:
        return (
            f"{counted(self._number, 'connections')} of {self._target.name} {'is' if self._number == 1 else 'are'} idle"
        )

    def has_come(self) -> bool:
        handle = self._target.proxy_handle
        answered = [
            each
            for each in open_connections(handle, "when(idle=)")
            if each.down and not each.held_up and not each.held_down
        ]
        if len(answered) < self._number:
            return False
        if isinstance(self._target, RedisTarget):
            waiting = sum("b" in client["flags"] for client in self._target.admin.client.clients())
            return len(answered) - waiting >= self._number
        ports = ",".join(map(str, handle.by_upstream_port() or {}))
        return int(self._target.admin.fetch(IDLE_SESSIONS, ports)[0][0]) >= self._number


class Waits(Moment):
    """A client that waits in a command of Redis, such as BLMOVE, or in a statement of Postgres that contains a text."""

    def __init__(self, target: PostgresTarget | RedisTarget, command: str) -> None:
        self._target = target
        self._command = command

    def __str__(self) -> str:
        return f"{self._command} waits in {self._target.name}"

    def has_come(self) -> bool:
        if isinstance(self._target, RedisTarget):
            clients = self._target.admin.client.clients()
            return any("b" in each["flags"] and each["cmd"] == self._command.lower() for each in clients)
        return bool(self._target.admin.fetch(WAITING_SESSIONS, self._command)[0][0])


class Closed(Moment):
    """A number of connections through the proxy that have been closed since the moment was made."""

    def __init__(self, target: NetworkFaults, number: int) -> None:
        self._target = target
        self._number = number
        self._before = self._closed()

    def __str__(self) -> str:
        return f"{counted(self._number, 'connections')} of {self._target.name} {'has' if self._number == 1 else 'have'} closed"

    def _closed(self) -> int:
        counters = self._target.proxy_handle.counters()
        if counters.live is None:
            raise CannotInject("when(closed=): the real Toxiproxy does not count its open connections")
        return counters.accepted.connections - counters.live

    def has_come(self) -> bool:
        return self._closed() - self._before >= self._number


class NthAnswer(Moment):
    """The nth answer since the moment was made. It is held until `pass_on`, and so is all that follows."""

    def __init__(self, target: NetworkFaults, number: int) -> None:
        self._target = target
        self._number = number
        self._has_come = False
        self._held = HeldStream(target.proxy_handle, upward=False, label=f"{target.name}.when")

    def __str__(self) -> str:
        return f"answer {self._number} of {self._target.name} is held"

    def has_come(self) -> bool:
        while not self._has_come and (traffic := self._held.traffic()).held:
            self._has_come = self._held.number_of(traffic) >= self._number
            if not self._has_come:
                self._held.let_through()
        return self._has_come

    def pass_on(self) -> None:
        self._held.release()


class Question(Moment):
    """A question of the test's own."""

    def __init__(self, question: Callable[[], object]) -> None:
        self._question = question

    def __str__(self) -> str:
        return getattr(self._question, "__name__", "the question").replace("<lambda>", "the question") + " is true"

    def has_come(self) -> bool:
        return bool(self._question())


class Prepared(Protocol):
    """A fault and the target that it will strike."""

    @property
    def fault(self) -> Fault: ...
    @property
    def target(self) -> Any: ...


class When:
    """A moment that a test waits for, or at which a fault strikes.

    Args:
        moment: the moment.
        within: the maximum seconds for `wait`.
        prepare: returns the fault and the target of a name and settings.
    """

    def __init__(self, moment: Moment, within: float, prepare: Callable[..., Prepared]) -> None:
        if not within > 0:
            raise SetupError(f"when(): within is in seconds above 0, got {within!r}")
        self.moment = moment
        self._within = within
        self._prepare = prepare
        self._is_used = False
        problem = "was not used, so nothing has waited for the moment: write `.wait()`, `await` in an async test, or `.strike(...)`"
        expect_use("when(...)", problem, lambda: self._is_used, may_be_kept=True)

    def wait(self) -> Self:
        """Wait for the moment, in a sync test.

        Raises:
            NeverHappened: it has not come in time.
        """
        self._is_used = True
        return self._checked(wait_until(self.moment.has_come, within=self._within, every=POLL_INTERVAL))

    def __await__(self) -> Generator[Any, None, Self]:
        self._is_used = True
        return self._wait().__await__()

    async def _wait(self) -> Self:
        async def has_come() -> bool:
            return self.moment.has_come()

        return self._checked(await wait_until_async(has_come, within=self._within, every=POLL_INTERVAL))

    def _checked(self, has_come: bool) -> Self:
        if not has_come:
            self.moment.pass_on()
            raise NeverHappened(f"it did not come within {self._within:g} s that {self.moment}")
        return self

    def release(self) -> None:
        """Let a held answer go on. Other moments hold nothing."""
        self._is_used = True
        self.moment.pass_on()

    def __enter__(self) -> Self:
        self._is_used = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def strike(self, fault: str, *arguments: object, **settings: object) -> Strike:
        """Strike a fault at the moment, from a thread, while the test goes on. A held answer goes on after the strike.

        Args:
            fault: the name of a fault, such as "redis.reset".
            *arguments: settings of the fault by position.
            **settings: settings of the fault by name.

        Returns:
            The strike. It affected nothing, so the test is VACUOUS, if the moment does not come before its heal.
        """
        __tracebackhide__ = True
        self._is_used = True
        prepared = self._prepare(fault, *arguments, **settings)
        if reason := prepared.target.unsupported(prepared.fault.name):
            raise CannotInject(reason)
        moment, target = self.moment, prepared.target
        event = Event(moment.has_come, moment.pass_on, lambda: "the moment did not come", POLL_INTERVAL)
        label = f"{prepared.fault.label(target)} when {moment}"
        return Armed(prepared.fault, prepared.fault, target, event, label).strike


MOMENTS: dict[str, Callable[[Any, Any], Moment]] = {"idle": Idle, "waits": Waits, "closed": Closed, "answer": NthAnswer}


def make_moment(target: object, conditions: dict[str, Any]) -> Moment:
    """Return the moment that the arguments of `resilience.when` describe.

    Raises:
        SetupError: they describe none.
    """
    given = {name: value for name, value in conditions.items() if value is not None}
    if callable(target) and not given:
        return Question(target)
    if len(given) != 1:
        raise SetupError(
            f"when() takes one of {', '.join(f'{name}=' for name in MOMENTS)}, got {', '.join(given) or 'none'}"
        )
    ((name, value),) = given.items()
    if not isinstance(target, NetworkFaults):
        raise SetupError(f'when() takes a server, such as "redis", or a function; got {target!r}')
    if name in ("idle", "waits") and not isinstance(target, PostgresTarget | RedisTarget):
        raise SetupError(f"when(): {name}= needs Postgres or Redis, and {target.name} is neither")
    if name == "waits":
        if not isinstance(value, str) or not value:
            raise SetupError(f"when(): waits= is a command or part of a statement, got {value!r}")
    elif not isinstance(value, int) or value < 1:
        raise SetupError(f"when(): {name}= is a number from 1 on, got {value!r}")
    return MOMENTS[name](target, value)
