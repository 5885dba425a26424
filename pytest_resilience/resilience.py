"""The value of the `resilience` fixture, with the targets, the strikes and the check for leaks of one test."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from .clock import SYSTEM
from .errors import HealFailed, NoService, ResilienceError, SetupError, UnknownFault
from .faults import FAULTS
from .faults.fault import Fault, Strike
from .history import History, recording
from .history_file import HistoryFile
from .leaks.check import TIMEOUT, LeakCheck
from .leaks.compare import Leak, check_names
from .leaks.event_loops import is_running
from .operation import FaultMark, SkipMark
from .processes import ManagedProcess
from .stack import Stack
from .targets.foreign_process import ForeignProcess
from .targets.http_stub import HttpStub
from .targets.server import PostgresTarget, RedisTarget
from .targets.service import RunningService, ServiceTarget
from .targets.service_spec import Service
from .targets.target import NetworkFaults, StrikeRegistry
from .targets.tcp import TcpTarget
from .unused import expect_use, must_be_awaited
from .wording import did_you_mean, no_attribute

if TYPE_CHECKING:
    import asyncio

    from .admin.schema_init import Init
    from .in_process.app import Asgi, AsgiApp, ClientGone, Wsgi, WsgiApp
    from .in_process.experiment import Experiment
    from .in_process.jobs import Jobs
    from .in_process.silence import Silence
    from .in_process.steady import Steady
    from .in_process.when import When
    from .in_process.workers import Workers
    from .runner.liveness import Baseline
    from .runner.system import System
    from .schedule import Schedule
    from .systems.mysql.target import MysqlTarget
    from .systems.rabbitmq.target import RabbitmqTarget
    from .workloads.workload import Workload

NO_SERVICE = """\
resilience.service: no resilience_service fixture describes how your service starts. Write one in conftest.py:

    import sys
    import pytest
    from pytest_resilience import Service

    @pytest.fixture(scope="session")
    def resilience_service(resilience_stack):
        return Service([sys.executable, "-m", "shop"], port_variable="PORT", ready="/readyz", within=10.0,
                       env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url})
"""


class StrikeCount(NamedTuple):
    """The strikes of one fault in a generated test.

    Args:
        struck: how many there were.
        hit: how many of them affected something.
        unknown: of how many the backend cannot count what they affected.
        drawn: how many of them a schedule has struck.
        schedules: how many schedules have struck it.
    """

    struck: int = 0
    hit: int = 0
    unknown: int = 0
    drawn: int = 0
    schedules: int = 0

    def plus(self, strikes: Sequence[Strike]) -> StrikeCount:
        """Return the counts with the strikes of one more example."""
        touched = [strike.receipt.touched for strike in strikes]
        drawn = sum(strike.is_drawn for strike in strikes)
        return StrikeCount(
            self.struck + len(strikes),
            self.hit + sum(map(bool, touched)),
            self.unknown + touched.count(None),
            self.drawn + drawn,
            self.schedules + bool(drawn),
        )


class Services(dict[str, ServiceTarget]):
    """The services of a test by name. A wrong name is an error that has the right ones."""

    def __missing__(self, name: str) -> ServiceTarget:
        if not self:
            raise NoService(NO_SERVICE)
        raise SetupError(f"no service named {name!r}{did_you_mean(name, self)}; there are: {', '.join(self)}")


class Prepared(NamedTuple):
    """A fault and the target that it will strike."""

    fault: Fault
    target: Any


class Resilience:
    """The value of the `resilience` fixture.

    Attributes:
        postgres, redis: the servers behind their proxies, with a method for each fault.
        service: the service under test, if a `resilience_service` fixture describes it.
        services: all services by name. A service "worker" is also the attribute `worker`.
        strikes: the strikes of this test, in order.
        history: the history of this test; that of the last play after a second `play`.
        tally: for each fault without its settings, the number of its strikes in the examples of a generated test.
        default_clients: the number of clients of a play that names none.
        profile: the profile of generated tests; None for "ci" where the variable CI is set, and for "dev" elsewhere.
        properties: properties for the report of this test, by name and text.
        systems: functions that return the systems of the factories, such as MySQL, by name. Each is also an attribute.
    """

    default_clients = 3
    profile: str | None = None
    systems: Mapping[str, Callable[[Resilience], object]] = {}  # never modified

    postgres: PostgresTarget
    redis: RedisTarget

    def __init__(
        self,
        stack: Stack,
        running: RunningService | Mapping[str, RunningService] | None,
        history_file: HistoryFile | None = None,
    ) -> None:
        self._stack = stack
        self._registry = StrikeRegistry(stack.registry)
        single = {running.name: running} if isinstance(running, RunningService) else {}
        self._running = dict(running) if isinstance(running, Mapping) else single
        self._services = Services({name: ServiceTarget(self._registry, each) for name, each in self._running.items()})
        self.postgres, self.redis = stack.create_targets(self._registry)
        self._history_file = history_file
        self.history = self._begin_history()
        self.tally: dict[str, StrikeCount] = {}
        self.properties: list[tuple[str, str]] = []
        self._finished = False
        self._has_played = False
        self._earlier_marks: list[SkipMark | FaultMark] = []
        self._recording = ExitStack()
        self._baselines: dict[object, Baseline] = {}
        self._experiments: list[Experiment] = []
        self._moments = ExitStack()
        self._leak_check: LeakCheck | None = None
        self._new_leak_check: Callable[[Sequence[str]], LeakCheck] | None = None
        self._event_loop_watch = ExitStack()
        self._spawned = ExitStack()
        self._spawned_processes: list[ManagedProcess] = []

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._stack.seed

    def _begin_history(self) -> History:
        """Return a new history, which replaces the last one in the file: of a generated test, it holds the last example."""
        if self._history_file is not None:
            self._history_file.begin()
        return History(start=SYSTEM.now(), file=self._history_file)

    def write_history(self, history: History) -> str | None:
        """Write a history to the file of the test, in place of that of the last example.

        Args:
            history: the history, such as that of the play that a report shows.

        Returns:
            The file, relative to the rootdir. None without a file, which a history without operations does not have.
        """
        if self._history_file is None:
            return None
        self._history_file.begin(history.records)
        self._history_file.close()
        return self.history_file

    @property
    def history_file(self) -> str | None:
        """The file of the history, relative to the rootdir, or None if there is none."""
        file = self._history_file
        return file.name if file is not None and file.written else None

    @property
    def service(self) -> ServiceTarget:
        """The service under test. Of several, the one with the name "service", or else the first.

        Raises:
            NoService: no fixture describes it; the message has the lines to write.
        """
        name = self._service_name
        if name is None:
            raise NoService(NO_SERVICE)
        return self.services[name]

    @property
    def _service_name(self) -> str | None:
        return "service" if "service" in self._services else next(iter(self._services), None)

    @property
    def services(self) -> Mapping[str, ServiceTarget]:
        """All services by name, in the order of their descriptions."""
        if self._services:
            self._stack.mark_used()
        return self._services

    def add_postgres(self, name: str, init: Init | None = None) -> PostgresTarget:
        """Return another Postgres. The first call with a name starts it. See `factories.postgres`."""
        return self._stack.add_postgres(name, init, registry=self._registry)

    def add_redis(self, name: str) -> RedisTarget:
        """Return another Redis. The first call with a name starts it."""
        return self._stack.add_redis(name, registry=self._registry)

    def add_tcp(self, name: str, upstream: str | Service) -> TcpTarget:
        """Return a TCP system behind a proxy. See `factories.tcp`."""
        if isinstance(upstream, Service):
            self._stack.mark_used()  # requests through the proxy are not seen
        return self._stack.add_tcp(name, upstream, registry=self._registry)

    def add_http_stub(self, name: str) -> HttpStub:
        """Return an HTTP server that the test scripts, behind a proxy. See `factories.http_stub`."""
        return self._stack.add_http_stub(name, registry=self._registry)

    def add_mysql(self, name: str, init: Init | None = None, *, image: str | None = None) -> MysqlTarget:
        """Return a MySQL behind its own proxy. See `factories.mysql`."""
        return self._stack.add_mysql(name, init, image=image, registry=self._registry)

    def add_mariadb(self, name: str, init: Init | None = None, *, image: str | None = None) -> MysqlTarget:
        """Return a MariaDB behind its own proxy. See `factories.mariadb`."""
        return self._stack.add_mariadb(name, init, image=image, registry=self._registry)

    def add_rabbitmq(self, name: str, *, image: str | None = None) -> RabbitmqTarget:
        """Return a RabbitMQ behind its own proxy. See `factories.rabbitmq`."""
        return self._stack.add_rabbitmq(name, image=image, registry=self._registry)

    def process(self, pid: int) -> ForeignProcess:
        """Return a process of yours as a target with kill, pause, terminate and the faults of resources.

        Raises:
            SetupError: there is no such process, or it is an ancestor of this one.
        """
        return ForeignProcess(self._registry, pid, self._stack.backend_for_processes)

    def spawn(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | os.PathLike[str] | None = None,
        preload: Sequence[str] = (),
    ) -> ManagedProcess:
        """Start a process beside the service, such as another instance of the service. It is killed at the end of the test.

        Args:
            name: the name in messages, such as "second instance".
            command: program and arguments.
            env: its whole environment.
            cwd: its working directory; None for that of the test run.
            preload: modules of a Python program that a fork server imports once, as for `Service`.

        Raises:
            CannotStart: the program can't be executed, or a module can't be preloaded.
        """
        backend = self._stack.backend_for_processes
        child = backend.spawn(name, command, env=env, cwd=Path(cwd) if cwd else None, preload=preload)
        self._spawned.callback(child.kill)
        self._spawned_processes.append(child)
        return child

    @overload
    def app(self, app: Asgi, *, client_gone: ClientGone = ...) -> AsgiApp: ...
    @overload
    def app(self, app: Wsgi) -> WsgiApp: ...
    def app(self, app: Any, *, client_gone: ClientGone = "cancel") -> Any:
        """Return an ASGI or WSGI app that runs in the test process, with an httpx client.

        The client of an ASGI app goes away when its request is cancelled, such as by `cancel_everywhere`.

        Args:
            app: the app. Its `async with` block runs the startup and the shutdown of an ASGI app.
            client_gone: the effect on an ASGI app. "cancel" cancels it, as Django and some middlewares do. With "disconnect" it
                receives `http.disconnect` and works on, as under uvicorn.

        Raises:
            SetupError: it is neither an ASGI nor a WSGI app.
        """
        __tracebackhide__ = True
        from .in_process.app import AsgiApp, WsgiApp, is_asgi

        return AsgiApp(app, client_gone=client_gone) if is_asgi(app) else WsgiApp(app)

    def steady(
        self, question: Callable[[], object], *, within: float = 5.0, workers_may_be_replaced: bool = False
    ) -> Steady:
        """Ask a question before, during and after each fault, and expect a true answer each time.

        It is asked now, after each strike while the fault lasts, and after the heal. It is also asked after a silence before which
        no fault has struck. In a sync test, the experiment ends with its `with` block or with the test. In an async test, use
        `async with`.

        Args:
            question: a callable without arguments, sync or (in an async test) async.
            within: seconds after the heal until the answer must be true again.
            workers_may_be_replaced: True for a pool that replaces its worker processes by design. A process that a service or the test
                has started is no death then if its parent has as many children as before within these seconds.

        Raises:
            NotSteady: an answer was false, or a task, thread, child process, service or process of a service has died meanwhile,
                other than by a fault. The message has all answers and what had struck. The first answer raises at once, the others
                at the end.
            SetupError: an argument is invalid.
        """
        __tracebackhide__ = True
        from .in_process.steady import Steady

        workers = self._workers(may_be_replaced=workers_may_be_replaced)
        steady = Steady(self._registry, question, within, workers)
        self._experiments.append(steady)
        return steady

    def jobs(
        self,
        *,
        enqueue: Callable[..., object],
        ran: Callable[..., object],
        count: int = 3,
        within: float = 10.0,
        workers_may_be_replaced: bool = False,
    ) -> Jobs:
        """Expect that jobs run before, during and after each fault, and after it as fast as before.

        Jobs are enqueued now, one after each strike, and after the heal. A job that could be enqueued must run. In a sync test,
        the experiment ends with its `with` block or with the test. In an async test, use `async with`.

        Args:
            enqueue: enqueues a job. It takes the name of the job, or takes nothing and returns what identifies the job.
            ran: takes a job and returns True once it has run, or takes nothing and returns all jobs that have run.
            count: the number of jobs whose time is taken before the fault, and in a row after it.
            within: seconds for a job before the fault; and seconds after the heal until all have run, and run as fast as before.
            workers_may_be_replaced: True for a pool that replaces its worker processes by design, as for `steady`.

        Raises:
            NotSteady: a job has not run, jobs take more than three times as long as before and 0.1 s, or something has died
                meanwhile, as for `steady`. The message has the jobs.
            SetupError: an argument is invalid.
        """
        __tracebackhide__ = True
        from .in_process.jobs import Jobs

        workers = self._workers(may_be_replaced=workers_may_be_replaced)
        jobs = Jobs(self._registry, enqueue, ran, count=count, within=within, workers=workers)
        self._experiments.append(jobs)
        return jobs

    def silence(self, seconds: float) -> Silence:
        """Let time pass without doing anything, as for the timeouts of idle connections. In an async test, await the result.

        The receipt counts the connections through the proxies on which no byte passed, so a client with a heartbeat, or without
        an open connection, is VACUOUS.

        Args:
            seconds: the duration, above 0.

        Raises:
            SetupError: `seconds` is invalid.
            CannotInject: the proxy is a real Toxiproxy, which does not count the bytes of each connection.
        """
        __tracebackhide__ = True
        from .in_process.silence import Silence

        proxies = {name: target.proxy_handle for name, target in self._stack.proxied_targets.items()}
        return Silence(proxies, seconds, lambda strike: self._registry.add("silence", strike), self._registry.notify)

    def _workers(self, *, may_be_replaced: bool) -> Workers:
        from .in_process.workers import Workers

        return Workers(self._running.values(), self._spawned_processes, may_be_replaced=may_be_replaced)

    @property
    def strikes(self) -> list[Strike]:
        """The strikes of this test in order, healed or not."""
        return list(self._registry.strikes)

    def strike(self, name: object = None, *arguments: object, **settings: object) -> Strike:
        """Strike a fault by its name, as the marker does, such as `strike("postgres.latency", seconds=0.2)`.

        Raises:
            UnknownFault: there is no such target or fault.
            SetupError: the settings don't fit the fault.
        """
        __tracebackhide__ = True  # the message explains a wrong marker
        prepared = self._prepare(name, *arguments, **settings)
        return prepared.fault.strike(prepared.target)

    def _prepare(self, name: object, *arguments: object, **settings: object) -> Prepared:
        """Return the fault of a name and settings, and its target."""
        __tracebackhide__ = True
        if not isinstance(name, str):
            raise SetupError(
                f'fault(name, **settings) needs the name of a fault, such as fault("redis.refuse"); got {name!r}'
            )
        target_name, _, fault_name = name.partition(".")
        self._start_system(target_name)
        kinds = self._stack.server_kinds | self._service_kinds | {"service": "service"}
        known = [f"{each}.{fault}" for fault, f in FAULTS.items() for each, kind in kinds.items() if kind in f.targets]
        if name not in known:
            raise UnknownFault(name, known)
        return Prepared(_make_fault(name, fault_name, arguments, settings), self._target_named(target_name))

    def when(
        self,
        target: str | NetworkFaults | Callable[[], object],
        *,
        idle: int | None = None,
        waits: str | None = None,
        closed: int | None = None,
        answer: int | None = None,
        within: float = 5.0,
    ) -> When:
        """Return a moment that cannot be timed from outside, to wait for it or to strike at it.

        `when(...).wait()` waits in a sync test and `await when(...)` in an async one. `when(...).strike("redis.reset")` strikes
        while the test goes on.

        Args:
            target: a server or its name, or a function that returns True at the moment.
            idle: a number of connections of clients are open, have been answered, and wait for nothing.
            waits: a client waits in this command of Redis, such as "BLMOVE", or in a statement of Postgres that contains this text.
            closed: a number of connections have been closed from now on.
            answer: the proxy holds this answer, counted from now on, and all that follows, until the strike or `release()`. A
                message of a client, however many commands it has, gets one answer.
            within: the maximum seconds to wait.

        Raises:
            SetupError: the arguments describe no moment.
            CannotInject: the proxy is a real Toxiproxy, and the moment needs what it does not count.
        """
        __tracebackhide__ = True
        from .in_process.when import When, make_moment

        if isinstance(target, str):
            self._start_system(target)
        server = (
            self._target_named(target) if isinstance(target, str) and target in self._stack.server_kinds else target
        )
        moment = make_moment(server, {"idle": idle, "waits": waits, "closed": closed, "answer": answer})
        self._moments.callback(moment.pass_on)
        return When(moment, within, self._prepare)

    if not TYPE_CHECKING:  # a type checker would no longer report wrong names

        def __getattr__(self, name: str) -> Any:
            __tracebackhide__ = True
            if name in self.__dict__.get("_services", ()):
                return self.services[name]
            if name in self.systems:
                return self.systems[name](self)
            raise no_attribute(self, name, (*self.__dict__.get("_services", ()), *self.systems))

    def start_leak_check(
        self,
        root: Path,
        loops: Iterable[asyncio.AbstractEventLoop],
        allowed: Sequence[str] = (),
        patience: float | None = None,
    ) -> LeakCheck:
        """Take the snapshot with which the end of the test is compared, and return the check.

        Args:
            root: the directory from which paths are shown.
            loops: event loops that outlive the test.
            allowed: patterns of resources that may stay.
            patience: seconds for a resource that is about to be released; None for half a second.
        """
        self._new_leak_check = lambda also_allowed: LeakCheck(
            self._stack,
            self._all_strikes,
            root=root,
            loops=loops,
            allowed=[*allowed, *also_allowed],
            patience=TIMEOUT if patience is None else patience,
        )
        self._leak_check = self._new_leak_check(())
        self._registry.begin_leak_search = self._begin_leak_search
        return self._leak_check

    def _begin_leak_search(self) -> Callable[[], list[str]]:
        """Take a snapshot of the resources. Return the search for new ones."""
        assert self._new_leak_check is not None, "set by start_leak_check"
        check = self._new_leak_check(())
        return lambda: [str(leak) for leak in check.look()]

    def _all_strikes(self) -> list[Strike]:
        return [*self._stack.strikes, *self.strikes]

    def watch_event_loops(self) -> None:
        """Report the open connections of each event loop that is closed, until `stop_watching_event_loops`."""
        assert self._leak_check is not None, "start_leak_check comes first"
        self._event_loop_watch.enter_context(self._leak_check.watching_event_loops())

    def stop_watching_event_loops(self) -> None:
        """Ignore event loops that are closed from now on."""
        self._event_loop_watch.close()

    def leaks(self) -> list[Leak]:
        """Return the resources that the test would leak if it ended now, those of its fixtures included.

        A sync test waits up to half a second for resources that are about to be released. A running event loop does not wait,
        because that would block its tasks. Resources that the marker `leaks` allows are left out.

        Raises:
            SetupError: there is no snapshot, under --resilience-leaks=off or before the body has begun.
        """
        __tracebackhide__ = True
        return _leaks_found_by(self._started_leak_check())

    def no_growth(self, *allowed: str) -> AbstractContextManager[None]:
        """Assert that no resource that is new in the block stays after it.

        Resources are connections, locks, subscriptions, files, threads, tasks and processes. They are compared by count and
        name, as at the end of a test. Those of the service under test are left out.

        Args:
            allowed: patterns of resources that may stay, with the names of the marker `leaks`, such as "thread:pool-*".

        Raises:
            AssertionError: resources have stayed; the message has their names.
            SetupError: a pattern is malformed, or there is no snapshot; see `leaks`.
        """
        __tracebackhide__ = True
        check_names(allowed, 'no_growth takes names such as "thread:pool-*"')
        self._started_leak_check()
        is_entered = False

        @contextmanager
        def block() -> Iterator[None]:
            nonlocal is_entered
            is_entered = True
            yield from self._watch_growth(allowed)

        problem = "has no block, so it has compared nothing: write `with resilience.no_growth():`"
        expect_use("no_growth(...)", problem, lambda: is_entered)
        return block()

    def _watch_growth(self, allowed: Sequence[str]) -> Iterator[None]:
        __tracebackhide__ = True
        assert self._new_leak_check is not None, "both are set by start_leak_check"
        check = self._new_leak_check(allowed)
        with check.watching_event_loops():
            yield
        if grown := _leaks_found_by(check):
            raise AssertionError("new since the block began:\n" + "\n".join(f"  {leak}" for leak in grown))

    def _started_leak_check(self) -> LeakCheck:
        __tracebackhide__ = True
        if self._leak_check is None:
            raise SetupError(
                "there is no snapshot from the begin of the test's body to compare with: "
                "either --resilience-leaks=off is set, or the body has not begun yet (in a fixture)"
            )
        return self._leak_check

    def play(
        self, schedule: Schedule, workload: Workload, clients: int | None = None, *, recovery: float = 5.0
    ) -> History:
        """Play a schedule while clients work, and return the history of it.

        A second play in a test begins from a clean state again, with a fresh service and a history of its own. In an async test
        the call blocks, and an asynchronous workload runs in another event loop; see `play_async`.

        Args:
            schedule: the faults.
            workload: the operations of the clients.
            clients: how many work at once; None for the profile's number, 3 without one.
            recovery: seconds for the system to return to its baseline after each episode.

        Raises:
            ScheduleError: a step names a target that this test does not have.
            NoService: a step strikes the service, or the workload uses it, and no fixture describes it.
            SetupError: an argument is invalid.
            HealFailed: a fault could not be healed.
        """
        __tracebackhide__ = True
        from .runner.player import play

        system = self._begin_play(schedule, workload, clients, recovery)
        known = self._baselines.get(_identity(workload))
        count = clients or self.default_clients
        measured = play(system, schedule, workload, clients=count, recovery=recovery, baseline=known)
        self._remember_baseline(workload, measured)
        return self.history

    @must_be_awaited
    async def play_async(
        self, schedule: Schedule, workload: Workload, clients: int | None = None, *, recovery: float = 5.0
    ) -> History:
        """Play a schedule with an asynchronous workload that runs in the event loop of the test. See `play`."""
        from .runner.clients import is_asynchronous
        from .runner.player import play_in_loop

        if not is_asynchronous(workload):
            raise SetupError(
                f"play_async takes a workload with `async def perform`, and that of {type(workload).__name__} is not; use play"
            )
        system = self._begin_play(schedule, workload, clients, recovery)
        known = self._baselines.get(_identity(workload))
        count = clients or self.default_clients
        measured = await play_in_loop(system, schedule, workload, clients=count, recovery=recovery, baseline=known)
        self._remember_baseline(workload, measured)
        return self.history

    def _begin_play(self, schedule: Schedule, workload: Workload, clients: object, recovery: object) -> System:
        """Check the arguments of a play, and bring a system that has been played on back to its clean state."""
        __tracebackhide__ = True
        from .runner.arguments import check_arguments
        from .runner.stack_system import StackSystem, check_targets

        check_arguments(schedule, workload, clients, recovery)
        if not self._services and any(step.target == "service" for step in schedule.steps):
            raise NoService(NO_SERVICE)
        for step in schedule.steps:
            self._start_system(step.target)
        check_targets(schedule, self._stack.server_kinds | self._service_kinds)
        if self._has_played:
            self._heal_and_check()
            self._earlier_marks = self._marks_of_plays()
            self._begin_clean()
        self._has_played = True
        self._stack.mark_used()
        running = self._running[self._service_name] if self._service_name is not None else None
        return StackSystem(self, stack=self._stack, running=running, history=self.history, target=self._target_named)

    @property
    def _service_kinds(self) -> dict[str, str]:
        """The kind "service" by the name of each service, and by the name "service", if there is one."""
        return dict.fromkeys((*self._services, "service"), "service") if self._services else {}

    def _start_system(self, name: str) -> None:
        """Start the system that a factory describes under this name, if there is one and this is its first use."""
        if name in self.systems:
            self.systems[name](self)

    def _target_named(self, name: str) -> Any:
        if name in self._services:
            return self.services[name]
        built_in = name in ("postgres", "redis", "service")
        return getattr(self, name) if built_in else self._stack.extra_target(name, self._registry)

    def _remember_baseline(self, workload: Workload, baseline: Baseline | None) -> None:
        if baseline is not None:
            self._baselines[_identity(workload)] = baseline

    @property
    def unsupported(self) -> Mapping[str, str]:
        """The faults that the backend cannot inject, such as "postgres.kill", with reasons."""
        unsupported: Mapping[str, str] = self._stack.unsupported
        return unsupported

    def begin_example(self) -> None:
        """Begin an example of a generated test: with clean servers, a fresh service, an empty history and no strikes.

        Raises:
            ServerNotReady: the service did not become ready.
        """
        self._begin_clean()
        self._registry.strikes.clear()
        self._earlier_marks.clear()

    def _begin_clean(self) -> None:
        self._stack.prepare_services({name: running.spec for name, running in self._running.items()})
        self._has_played = False
        self._recording.close()
        self.history.close()
        self.history = self._begin_history()
        self._recording.enter_context(recording(self.history))

    def end_example(self) -> None:
        """End an example: heal all strikes, check the backend, and add the strikes to `tally`.

        Raises:
            HealFailed: a fault could not be healed.
            BackendDied: a server has ended without a strike.
        """
        try:
            self._heal_and_check()
        finally:
            by_fault: dict[str, list[Strike]] = {}
            for strike in self._registry.strikes:
                by_fault.setdefault(strike.label.partition("(")[0], []).append(strike)
            for fault, strikes in by_fault.items():
                self.tally[fault] = self.tally.get(fault, StrikeCount()).plus(strikes)
            self._registry.strikes.clear()

    def finish(self) -> None:
        """Heal all strikes and check the backend. Further calls do nothing.

        Raises:
            HealFailed: a fault could not be healed.
            BackendDied: a server has ended without a strike.
            NotSteady: `steady` or `jobs` without a `with` block has not held.
        """
        __tracebackhide__ = True
        if self._finished:
            return
        self._finished = True
        self._recording.close()
        with ExitStack() as last:
            for experiment in self._experiments:
                last.callback(experiment.abandon)
            with self._moments:  # after the heal, which ends the threads that use them
                self._heal_and_check()
            for experiment in self._experiments:
                experiment.end()

    def _heal_and_check(self) -> None:
        self._spawned.close()
        if self._registry.strikes:
            self._stack.mark_struck()
        try:
            self._registry.heal()
        except HealFailed as failed:
            try:
                self._stack.finish_test()
            except ResilienceError as second:
                failed.add_note(f"and then: {second}")  # a dead server is the usual reason for a failed heal
            raise
        self._stack.finish_test()

    @property
    def vacuous(self) -> list[Strike]:
        """The healed strikes that affected nothing."""
        return [strike for strike in self._registry.strikes if strike.vacuous]

    @property
    def never_struck(self) -> list[tuple[str, str]]:
        """The steps of the plays that did not strike, with reasons, if nothing has struck in the test."""
        if self._registry.strikes or any(isinstance(mark, FaultMark) for mark in self._marks_of_plays()):
            return []
        return self.not_struck

    @property
    def not_struck(self) -> list[tuple[str, str]]:
        """The steps of the plays that did not strike, with reasons. Those of several plays that are equal are in the list once."""
        skips = [mark for mark in self._marks_of_plays() if isinstance(mark, SkipMark) and mark.action == "strike"]
        return list(dict.fromkeys((skip.label, f"did not strike: {skip.reason}") for skip in skips))

    def _marks_of_plays(self) -> list[SkipMark | FaultMark]:
        """Return the marks of all plays of the test that concern strikes."""
        return [*self._earlier_marks, *(mark for mark in self.history.marks if isinstance(mark, SkipMark | FaultMark))]

    @property
    def finished(self) -> bool:
        """True if the body of the test has ended, and its strikes with it."""
        return self._finished

    def logs(self) -> dict[str, str]:
        """Return the logs of each service and of each server since the test began."""
        return self.service_logs() | self._stack.logs()

    def service_logs(self) -> dict[str, str]:
        """Return the logs of each service since the test began."""
        return {name: target.log for name, target in self._services.items()}

    def service_deaths(self) -> dict[str, str]:
        """Return a sentence for each service whose process has ended by itself, by the name of the service."""
        return {name: death for name, running in self._running.items() if (death := running.death()) is not None}


def _identity(workload: Workload) -> object:
    """Return what is equal for workloads that share a baseline, such as those that the examples of a generated test create."""
    return type(workload), tuple(workload.kinds), getattr(workload, "name", "")


def _make_fault(name: str, fault_name: str, arguments: tuple[object, ...], settings: dict[str, object]) -> Fault:
    """Return the fault of a marker.

    Raises:
        SetupError: the settings don't fit the fault; the message has the marker and the settings that it takes.
    """
    __tracebackhide__ = True
    signature = inspect.signature(FAULTS[fault_name])
    try:
        signature.bind(*arguments, **settings)  # its error has no name of a class
        return FAULTS[fault_name](*arguments, **settings)
    except TypeError as error:
        parameters = [str(each.replace(annotation=each.empty)) for each in signature.parameters.values()]
        unknown = [each for each in settings if each not in signature.parameters]
        problems = [f"there is no setting {each!r}{did_you_mean(each, signature.parameters)}" for each in unknown]
        raise SetupError(
            f"fault({name!r}): {'; '.join(problems) or error}; it takes {', '.join(parameters) or 'no settings'}"
        ) from None
    except SetupError as error:
        given = [repr(name), *map(repr, arguments), *(f"{key}={value!r}" for key, value in settings.items())]
        raise SetupError(f"{error}; in fault({', '.join(given)})") from None


def _leaks_found_by(check: LeakCheck) -> list[Leak]:
    return check.leaks_now() if is_running() else check.leaks()
