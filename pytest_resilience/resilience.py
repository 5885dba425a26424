"""One test's experiment: the targets it strikes, and the settling of accounts when its body has ended."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HealFailed, NoService, ResilienceError, SetupError, UnknownFault
from .faults import FAULTS
from .faults.fault import Strike
from .history import History
from .leaks.check import LeakCheck
from .leaks.compare import Leak, check_names
from .leaks.event_loops import is_running
from .stack import Stack
from .targets.foreign_process import ForeignProcess
from .targets.server import PostgresTarget, RedisTarget
from .targets.service import RunningService, ServiceTarget
from .targets.target import StrikeRegistry
from .wording import did_you_mean, no_attribute

if TYPE_CHECKING:
    import asyncio

    from .admin.postgres import Init

NO_SERVICE = """\
resilience.service: no resilience_service fixture says how your service starts. Write one, in conftest.py:

    import sys
    import pytest
    from pytest_resilience import Service

    @pytest.fixture(scope="session")
    def resilience_service(resilience_stack):
        return Service([sys.executable, "-m", "shop"], port_variable="PORT", ready="/readyz", within=10.0,
                       env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url})
"""


class Resilience:
    """What the `resilience` fixture hands out.

    Attributes:
        postgres, redis: the servers behind their proxies, with a method for each fault.
        service: the service under test, when a `resilience_service` fixture says how to start it.
        strikes: what struck in this test, in order.
    """

    postgres: PostgresTarget
    redis: RedisTarget

    def __init__(self, stack: Stack, running: RunningService | None) -> None:
        self._stack = stack
        self._registry = StrikeRegistry()
        self._running = running
        self._service = ServiceTarget(self._registry, running) if running is not None else None
        self.postgres, self.redis = stack.create_targets(self._registry)
        self.history = History()
        self._finished = False
        self._leak_check: LeakCheck | None = None
        self._new_leak_check: Callable[[Sequence[str]], LeakCheck] | None = None
        self._event_loop_watch = ExitStack()

    @property
    def service(self) -> ServiceTarget:
        """The service under test.

        Raises:
            NoService: nobody said how to start it; shows the lines to write.
        """
        if self._service is None:
            raise NoService(NO_SERVICE)
        self._stack.mark_dirty()
        return self._service

    def add_postgres(self, name: str, init: Init | None = None) -> PostgresTarget:
        """One more Postgres, started when it is first asked for; what it strikes is healed with all else. See `factories.postgres`."""
        return self._stack.add_postgres(name, init, registry=self._registry)

    def add_redis(self, name: str) -> RedisTarget:
        """One more Redis; see `add_postgres`."""
        return self._stack.add_redis(name, registry=self._registry)

    def process(self, pid: int) -> ForeignProcess:
        """Another process of yours, by its id: with kill, pause, terminate, and the faults of scarcity.

        Raises:
            SetupError: there is no such process, or the test itself hangs on it.
        """
        return ForeignProcess(self._registry, pid, self._stack.backend_for_processes)

    @property
    def strikes(self) -> list[Strike]:
        """What struck in this test, in order, healed or not."""
        return list(self._registry.strikes)

    def strike(self, name: object = None, *arguments: object, **settings: object) -> Strike:
        """Strike by name, as the marker does: `strike("redis.refuse")`, `strike("postgres.latency", seconds=0.2)`.

        Raises:
            UnknownFault: no such target or fault.
            SetupError: the settings don't fit it.
        """
        __tracebackhide__ = True  # a wrong marker is told by its message, not by our code
        if not isinstance(name, str):
            raise SetupError(
                f'fault(name, **settings) needs the name of a fault, such as fault("redis.refuse"); got {name!r}'
            )
        target_name, _, fault_name = name.partition(".")
        kinds = self._stack.server_kinds | {"service": "service"}
        known = [f"{each}.{fault}" for fault, f in FAULTS.items() for each, kind in kinds.items() if kind in f.targets]
        if name not in known:
            raise UnknownFault(name, known)
        own = target_name in ("postgres", "redis", "service")
        target: object = getattr(self, target_name) if own else self._stack.extra_target(target_name, self._registry)
        takes = inspect.signature(FAULTS[fault_name])
        try:
            takes.bind(*arguments, **settings)  # names what is wrong without our class before it
            fault = FAULTS[fault_name](*arguments, **settings)
        except TypeError as error:
            named = [str(each.replace(annotation=each.empty)) for each in takes.parameters.values()]
            near = [did_you_mean(each, takes.parameters) for each in settings if each not in takes.parameters]
            raise SetupError(
                f"fault({name!r}): {error}{''.join(near)}; it takes {', '.join(named) or 'no settings'}"
            ) from None
        except SetupError as error:
            said = ", ".join(
                [repr(name), *map(repr, arguments), *(f"{key}={value!r}" for key, value in settings.items())]
            )
            raise SetupError(f"{error}; in fault({said})") from None
        return fault.strike(target)

    if not TYPE_CHECKING:  # type checkers see wrong names by themselves

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            raise no_attribute(self, name)

    def start_leak_check(
        self, root: Path, loops: Iterable[asyncio.AbstractEventLoop], allowed: Sequence[str] = ()
    ) -> LeakCheck:
        """Take down what is there as the test's body begins; asked again at its end, it says what has stayed.

        Args:
            root: what paths are shown from.
            loops: event loops that outlive the test.
            allowed: patterns of what may stay.
        """
        self._new_leak_check = lambda more: LeakCheck(
            self._stack, self._all_strikes, root=root, loops=loops, allowed=[*allowed, *more]
        )
        self._leak_check = self._new_leak_check(())
        return self._leak_check

    def _all_strikes(self) -> list[Strike]:
        return [*self._stack.strikes, *self.strikes]

    def watch_event_loops(self) -> None:
        """Look also at each event loop that is closed, until `stop_listening`."""
        assert self._leak_check is not None, "check comes before listen"
        self._event_loop_watch.enter_context(self._leak_check.watching_event_loops())

    def stop_watching_event_loops(self) -> None:
        """Look at no more event loops that are closed."""
        self._event_loop_watch.close()

    def leaks(self) -> list[Leak]:
        """Return what the test would leave behind if it ended now: what has come since its body began, fixtures included.

        In a sync test, this waits up to half a second for what is about to end. In a running event loop it doesn't: nothing would end
        there meanwhile. What the marker `leaks` allows is left out.

        Raises:
            SetupError: nothing was taken down when the body began, since --resilience-leaks=off, or it has not begun yet.
        """
        __tracebackhide__ = True
        return _leaks_found_by(self._started_leak_check())

    @contextmanager
    def no_growth(self, *allowed: str) -> Iterator[None]:
        """Demand that nothing stays that comes within the block: connections, locks, subscriptions, files, threads, tasks, processes.

        Numbers are compared by name, as at the end of a test. What the service under test has is its own. The other kinds and the names
        are those of the marker `leaks`.

        Args:
            allowed: patterns of what may stay, such as "thread:pool-*".

        Raises:
            AssertionError: at the end of the block; names what has grown.
            SetupError: a pattern is not one; or see `leaks`.
        """
        __tracebackhide__ = True
        check_names(allowed, 'no_growth takes names such as "thread:pool-*"')
        self._started_leak_check()
        assert self._new_leak_check is not None, "it comes with the check"
        check = self._new_leak_check(allowed)
        with check.watching_event_loops():
            yield
        if grown := _leaks_found_by(check):
            raise AssertionError("grown since the block began:\n" + "\n".join(f"  {leak}" for leak in grown))

    def _started_leak_check(self) -> LeakCheck:
        __tracebackhide__ = True
        if self._leak_check is None:
            raise SetupError(
                "nothing was looked at when the test's body began, so there is nothing to compare with: "
                "either --resilience-leaks=off, or this was asked before the body began (in a fixture)"
            )
        return self._leak_check

    def finish(self) -> None:
        """Heal everything and look whether the stack still stands; once.

        Raises:
            HealFailed: a fault could not be taken back.
            BackendDied: a server ended although nobody struck it.
        """
        if self._finished:
            return
        self._finished = True
        if self._registry.strikes:
            self._stack.mark_dirty()
        try:
            self._registry.heal()
        except HealFailed as failed:
            try:
                self._stack.finish_test()
            except ResilienceError as second:
                failed.add_note(f"and then: {second}")  # a server that died is why the heal failed, most of the time
            raise
        self._stack.finish_test()

    @property
    def vacuous(self) -> list[Strike]:
        """Strikes that are over and touched nothing."""
        return [strike for strike in self._registry.strikes if strike.vacuous]

    def logs(self) -> dict[str, str]:
        """What the service and each server wrote, as far as this test is concerned."""
        service = {"service": self._service.log} if self._service is not None else {}
        return service | self._stack.logs()


def _leaks_found_by(check: LeakCheck) -> list[Leak]:
    return check.leaks_now() if is_running() else check.leaks()
