"""The wait for a service that starts, and its commands before the first start."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

from ..backends.session.ports import taken_or
from ..clock import Clock
from ..errors import ServerNotReady, SetupError, ending
from ..redaction import scrubbed
from ..wording import did_you_mean
from .readiness import Readiness, ServiceStart, readiness_of

if TYPE_CHECKING:
    from ..processes import ManagedProcess
    from .service import RunningService
    from .service_spec import Service

INTERVAL = 0.005  # seconds between two checks of a service that starts
LOG_LINES = 40  # of a command that failed, in its error


class LoggedPorts:
    """The service has logged the ports that it has chosen.

    Args:
        start: the start of the service.
        pattern: the pattern with a group for each port, or with one group for the first port.
        ports: the ports by name, which are set.
    """

    missing = "log its port"

    def __init__(self, start: ServiceStart, pattern: re.Pattern[str], ports: MutableMapping[str, int]) -> None:
        self._start = start
        self._pattern = pattern
        self._ports = ports

    def is_ready(self) -> bool:
        complete = self._start.log.rpartition("\n")[0]  # the last line may end inside a number
        for found in self._pattern.finditer(complete):
            named = {name: number for name, number in found.groupdict().items() if name in self._groups}
            numbers = {self._groups[name]: number for name, number in named.items()} or {self._first: found[1]}
            self._ports.update({name: int(number) for name, number in numbers.items() if number})
        return all(self._ports.values())

    @property
    def _first(self) -> str:
        return next(iter(self._ports))

    @property
    def _groups(self) -> dict[str, str]:
        """The names of ports by the names of groups. "port" is another name of the first port."""
        return {"port": self._first} | {name: name for name in self._ports}

    def responds(self) -> bool:
        return False

    def describe(self) -> list[str]:
        return [f"no line of its log matches {self._pattern.pattern!r}"]


@dataclass
class Startup:
    """The wait for one start.

    Args:
        name: the name of the service in messages.
        start: the start.
        child: its process.
        ports: its ports by name, which are set if the service logs them.
        clock: the clock for waiting.
    """

    name: str
    start: ServiceStart
    child: ManagedProcess
    ports: MutableMapping[str, int]
    clock: Clock

    def until_ready(self, *, response_after: float | None, is_first: bool) -> Generator[None]:
        """Yield between checks, and end when the service is ready. A service that does not become ready is killed.

        Args:
            response_after: seconds after which a response of any kind is enough. None for never.
            is_first: True if no process of the service has been ready before.

        Raises:
            ServerNotReady: the process exited or did not become ready in time.
            PortTaken: the process exited because another process has bound the port.
        """
        self._begun = self.clock.now()
        pattern = self.start.spec.logged_ports
        try:
            if pattern is not None:
                self.ports.update(dict.fromkeys(self.ports, 0))
                yield from self._until(LoggedPorts(self.start, pattern, self.ports), None)
            yield from self._until(readiness_of(self.start, self.clock, is_first=is_first), response_after)
        except BaseException:  # also when the wait is abandoned
            self.child.kill()
            raise

    def _until(self, condition: Readiness, response_after: float | None) -> Generator[None]:
        while True:
            if self.child.exit_code() is not None:
                raise self._ended()
            after = self._after
            is_ready = condition.is_ready() or (
                response_after is not None and after >= response_after and condition.responds()
            )
            if is_ready and self.child.running:
                return
            if after >= self.start.spec.within and self.child.running:
                raise self._error(condition.describe(), missing=condition.missing)
            yield

    @property
    def _after(self) -> float:
        return self.clock.now() - self._begun

    def _ended(self) -> Exception:
        is_command = self.child.exit_code() == 0 and self.start.spec.ready is None
        error = self._error(["a command that ends belongs into Service(setup=...)"] if is_command else [])
        return taken_or(error, self.start.log)

    def _error(self, seen: Sequence[str], missing: str = "answer") -> ServerNotReady:
        spec = self.start.spec
        return ServerNotReady(
            self.name,
            command=spec.redacted(map(self.start.filled, spec.command)),
            within=spec.within,
            log=self.start.log,
            exit_code=self.child.exit_code(),
            after=self._after,
            seen=seen,
            missing=missing,
        )


def run_setup(name: str, spec: Service, spawn: Callable[[int, Sequence[str]], ManagedProcess]) -> None:
    """Run the commands of `Service(setup=...)` one after the other.

    Args:
        name: the name of the service in messages.
        spec: its description.
        spawn: starts a command, given its number and its words.

    Raises:
        SetupError: a command failed, or did not end in time.
        CannotStart: the program of a command can't be executed.
    """
    for number, words in enumerate(spec.setup_commands):
        child = spawn(number, words)
        code = child.wait(spec.setup_within)
        child.kill()  # with the processes that the command has left
        if code != 0:
            raise SetupError(_setup_message(name, spec, child, code))


def _setup_message(name: str, spec: Service, child: ManagedProcess, code: int | None) -> str:
    how = f"ended with {ending(code)}" if code is not None else f"did not end within {spec.setup_within:g} s"
    tail = scrubbed(child.log_text()).rstrip().splitlines()[-LOG_LINES:] or ["(it wrote nothing)"]
    lines = [
        f"a setup command of {name} {how}",
        f"  command: {' '.join(spec.redacted(child.argv))}",
        "  its log, last lines:",
        *(f"    {line}" for line in tail),
    ]
    return "\n".join(lines)


def start_order(specs: Mapping[str, Service]) -> list[str]:
    """Return the names of services, each after those of its `after`.

    Raises:
        SetupError: a name is unknown, or services wait for each other.
    """
    for name, spec in specs.items():
        if unknown := [each for each in spec.after if each not in specs]:
            hint = did_you_mean(unknown[0], specs)
            raise SetupError(
                f"Service(after={spec.after!r}) of {name!r}: no service {unknown[0]!r}{hint}; there are: {', '.join(specs)}"
            )
    try:
        return list(_sorter(specs).static_order())
    except CycleError as error:
        raise SetupError(f"services start after each other in a circle: {' > '.join(error.args[1])}") from None


def _sorter(specs: Mapping[str, Service]) -> TopologicalSorter[str]:
    return TopologicalSorter({name: spec.after for name, spec in specs.items()})


def start_together(services: Mapping[str, RunningService], clock: Clock) -> None:
    """Start services side by side, each after those of its `after`, and return when all are ready.

    Args:
        services: the services by name.
        clock: the clock for waiting.

    Raises:
        ServerNotReady, CannotStart: a service did not become ready. The others that have not become ready yet are killed.
    """
    order = _sorter({name: running.spec for name, running in services.items()})
    order.prepare()
    starts: dict[str, Generator[None]] = {}
    try:
        while order.is_active():
            starts |= {name: services[name].beginning() for name in order.get_ready()}
            ready = [name for name, each in starts.items() if next(each, "ready") == "ready"]
            for name in ready:
                del starts[name]
                order.done(name)
            if not ready:
                clock.sleep(INTERVAL)
    finally:
        for each in starts.values():
            each.close()
