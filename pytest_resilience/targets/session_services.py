"""The services of a session, and which of their processes serve the next test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..backends.backend import Backend
from ..clock import SYSTEM
from .service import RunningService
from .service_ports import ServicePorts
from .service_spec import Service
from .starting import start_order, start_together


class SessionServices:
    """The services of a session.

    Args:
        backend: the backend whose supervisor starts them.

    Attributes:
        was_used: True if the last test has used a service.
        was_struck: True if the last test has struck a fault.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[tuple[str, int], RunningService] = {}  # by name and identity of the description
        self._ports: dict[int, tuple[Service, ServicePorts]] = {}  # by identity of the description
        self._introduced: list[RunningService] = []  # those whose tables belong to the baseline
        self.was_used = False
        self.was_struck = False

    @property
    def every(self) -> list[RunningService]:
        """All services of this session, running or not."""
        return list(self._known.values())

    def refuse_broken(self, specs: Iterable[Service]) -> None:
        """Fail at once if the start of a service has failed before, also if an equal object describes it now.

        Raises:
            ServerNotReady, CannotStart, SetupError: as for the earlier start.
        """
        for spec in specs:
            for running in self.every:
                if running.spec == spec:
                    running.raise_start_error()

    def select(
        self, specs: Mapping[str, Service], *, clean: Callable[[], None], take_baseline: Callable[[], None]
    ) -> dict[str, RunningService]:
        """Return the services of the next test, and stop all processes that must not serve it.

        The setup and the first start of a service belong to the baseline, because they make tables.

        Args:
            specs: the descriptions by name.
            clean: called before the setup and first start of services that are new in the session.
            take_baseline: called after these.

        Raises:
            ServerNotReady, CannotStart, SetupError: a new service could not be started.
        """
        names = start_order(specs)
        selected = {name: self._running(name, specs[name]) for name in names}
        new = [running for running in selected.values() if running not in self._introduced]
        if new:
            self._stop(self.every)
            clean()
            for running in new:
                running.prepare()
            start_together(selected, SYSTEM)
            self._stop(new)
            self._introduced.extend(new)
            take_baseline()
        self._stop(each for each in self.every if each not in selected.values() or self._must_restart(each))
        self.was_used = self.was_struck = False
        return {name: selected[name] for name in specs}

    def _running(self, name: str, spec: Service) -> RunningService:
        key = name, id(spec)
        if key not in self._known:
            self._known[key] = RunningService(spec, self._backend, name=name, ports=self.ports_of(spec))
        return self._known[key]

    def ports_of(self, spec: Service) -> ServicePorts:
        """Return the ports of a service, also before its first start."""
        if id(spec) not in self._ports:
            self._ports[id(spec)] = spec, ServicePorts(spec)
        return self._ports[id(spec)][1]

    def _must_restart(self, running: RunningService) -> bool:
        """True if the next test must not get the process of the last one."""
        policy = running.spec.restarts
        if policy == "never":
            return False
        # What reaches a service without HTTP, such as a job in a queue, is not visible here.
        may_be_used = policy == "always" and (self.was_used or not running.answers_http)
        return self.was_struck or may_be_used

    @staticmethod
    def _stop(services: Iterable[RunningService]) -> None:
        for running in services:
            running.stop()
