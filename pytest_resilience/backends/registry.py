"""The kinds of backend, the selection of one, and the table of their capabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ..errors import BackendUnavailable, ResilienceError
from .settings import Settings

if TYPE_CHECKING:
    from .backend import Backend

PULL = "docker pull them, or take --resilience-backend=docker, which does"
NAMED = "asked for"  # the reason of a backend that was selected by name

SYSTEMS = ("mysql", "rabbitmq")  # kinds of targets that only the docker backend can start
NO_SYSTEMS = "it can't start such a server; factories.tcp takes one that you run"

BackendFactory = Callable[[Settings], "Backend"]


# This file and its imports have plain classes, because pytest's header runs them in every run. A named tuple, a protocol or a dataclass
# takes half a millisecond to create.


class BackendKind:
    """One kind of backend."""

    def unavailable_reason(self, settings: Settings) -> str | None:
        """Return why this machine can't run the backend, in a phrase, or None if it can.

        Every run of pytest calls it, so it takes milliseconds at most.
        """
        return None

    def unavailable_reason_when_named(self, settings: Settings) -> str | None:
        """Return why this machine can't run the backend that the user named, or None if it can. Missing images can still be pulled."""
        return self.unavailable_reason(settings)

    def describe(self, settings: Settings) -> str:
        """Return the servers that the backend would run, in a phrase."""
        raise NotImplementedError

    def create(self, settings: Settings, reason: str) -> Backend:
        """Return a new backend, not yet started."""
        raise NotImplementedError

    def unsupported(self, settings: Settings) -> Mapping[str, str]:
        """Return the faults that the backend can't inject, such as "postgres.kill", with reasons.

        A backend that has started supports at least the other faults. An external one may support more, if its Toxiproxy is the proxy of
        this package.
        """
        return {}


class SelectedBackend:
    """The backend of a run.

    Args:
        name: the name of its kind.
        reason: why it was selected, one phrase for pytest's header.
        settings: the settings of the run.
        kind: the kind that creates it.
    """

    def __init__(self, name: str, reason: str, settings: Settings, kind: BackendKind) -> None:
        self.name = name
        self.reason = reason
        self.settings = settings
        self.kind = kind

    def describe(self) -> str:
        """Return the backend, the reason for it and its servers, one phrase for pytest's header."""
        try:
            return f"{self.name} ({self.reason}), {self.kind.describe(self.settings)}"
        except BackendUnavailable as missing:
            return f"{self.name} ({self.reason}), but {missing}"

    def create(self) -> Backend:
        """Return the backend, not yet started."""
        return self.kind.create(self.settings, self.reason)


class Embedded(BackendKind):
    """Processes on loopback."""

    def unavailable_reason(self, settings: Settings) -> str | None:
        from .embedded.binaries import find_postgres, find_redis

        try:
            find_postgres(), find_redis()
        except BackendUnavailable as missing:
            return str(missing)
        return None

    def describe(self, settings: Settings) -> str:
        from .embedded.binaries import find_postgres, find_redis

        redis = find_redis()
        redis_name = "Valkey" if "valkey" in redis.program.name else "Redis"
        return f"Postgres {find_postgres().version()}, {redis_name} {redis.version()}"

    def create(self, settings: Settings, reason: str) -> Backend:
        from .embedded.backend import EmbeddedBackend

        return EmbeddedBackend(reason=reason, tls=settings.tls)

    def unsupported(self, settings: Settings) -> Mapping[str, str]:
        return unsupported_systems()


class Docker(BackendKind):
    """Containers."""

    def unavailable_reason(self, settings: Settings) -> str | None:
        from .docker.engine import EngineUnavailable, find_engine

        try:
            missing = find_engine().missing_images(settings.images)
        except EngineUnavailable as problem:
            return str(problem)
        return f"Docker has no {', '.join(missing)}: {PULL}" if missing else None

    def unavailable_reason_when_named(self, settings: Settings) -> str | None:
        from .docker.engine import EngineUnavailable, find_engine

        try:
            find_engine()
        except EngineUnavailable as problem:
            return f"no Docker engine: {problem}"
        return None

    def describe(self, settings: Settings) -> str:
        proxy = "the proxy of this package" if settings.proxy == "ours" else settings.toxiproxy_image
        return f"{settings.postgres_image}, {settings.redis_image}, {proxy}"

    def create(self, settings: Settings, reason: str) -> Backend:
        from .docker.backend import DockerBackend

        return DockerBackend(settings, reason=reason, pull=reason == NAMED)

    def unsupported(self, settings: Settings) -> Mapping[str, str]:
        from .docker.backend import forwards_ports, unsupported_faults
        from .docker.engine import EngineUnavailable, find_engine

        if settings.proxy == "ours":
            return {}
        try:
            return unsupported_faults(forwarded=forwards_ports(find_engine()))
        except EngineUnavailable:
            return unsupported_faults(forwarded=False)


def unsupported_systems() -> dict[str, str]:
    """Return all faults of systems that only the docker backend can start, with the reason."""
    from ..faults import FAULTS

    labels = (f"{kind}.{name}" for name, fault in FAULTS.items() for kind in fault.targets if kind in SYSTEMS)
    return dict.fromkeys(labels, NO_SYSTEMS)


class External(BackendKind):
    """A Toxiproxy and servers that the user runs."""

    def unavailable_reason(self, settings: Settings) -> str | None:
        required = {
            "--resilience-toxiproxy=URL": settings.toxiproxy,
            "--resilience-postgres-upstream": settings.postgres_upstream,
            "--resilience-redis-upstream": settings.redis_upstream,
        }
        missing = [option for option, value in required.items() if not value]
        if missing:
            return f"needs {', '.join(missing)}"
        from .external.endpoints import read_endpoints

        try:
            read_endpoints(settings)
        except ResilienceError as wrong:
            return str(wrong)
        return None

    def describe(self, settings: Settings) -> str:
        from .external.endpoints import read_endpoints

        named = read_endpoints(settings)
        return f"Toxiproxy at {named.api}, Postgres at {named.postgres.address}, Redis at {named.redis.address}"

    def create(self, settings: Settings, reason: str) -> Backend:
        from .external.backend import ExternalBackend

        return ExternalBackend(settings, reason=reason)

    def unsupported(self, settings: Settings) -> Mapping[str, str]:
        from ..proxy_client.client import TOXIPROXY_UNSUPPORTED, TOXIPROXY_UNSUPPORTED_FOR_TCP
        from .external.backend import UNSUPPORTED

        lacking = TOXIPROXY_UNSUPPORTED | TOXIPROXY_UNSUPPORTED_FOR_TCP
        proxied = {fault: f"{reason}; the proxy of this package can" for fault, reason in lacking.items()}
        return UNSUPPORTED | proxied | unsupported_systems()


class PluginBackend(BackendKind):
    """A backend that a plugin has registered by the hook.

    Args:
        name: the name of the backend.
        factory: creates it.
    """

    def __init__(self, name: str, factory: BackendFactory) -> None:
        self._name = name
        self._factory = factory

    def describe(self, settings: Settings) -> str:
        return "a plugin's"

    def create(self, settings: Settings, reason: str) -> Backend:
        backend = self._factory(settings)
        backend.reason = reason
        return backend


def backend_kinds(plugin_backends: Mapping[str, BackendFactory]) -> dict[str, BackendKind]:
    """Return all kinds of backend by name.

    Args:
        plugin_backends: the backends of plugins, by name.
    """
    built_in: dict[str, BackendKind] = {"embedded": Embedded(), "docker": Docker(), "external": External()}
    return built_in | {name: PluginBackend(name, factory) for name, factory in plugin_backends.items()}


def unavailable_reason(name: str, settings: Settings, plugin_backends: Mapping[str, BackendFactory]) -> str | None:
    """Return why this machine can't run the backend that the user named, or None if it can."""
    return backend_kinds(plugin_backends)[name].unavailable_reason_when_named(settings)


def select_backend(name: str, settings: Settings, plugin_backends: Mapping[str, BackendFactory]) -> SelectedBackend:
    """Return the backend of a name. "auto" is docker if this machine can run it, else embedded.

    Raises:
        BackendUnavailable: the name is "external", and a required option is missing or wrong.
    """
    known = backend_kinds(plugin_backends)
    if name != "auto":
        if name == "external" and (reason := known[name].unavailable_reason(settings)):
            raise BackendUnavailable(reason)
        return SelectedBackend(name, NAMED, settings, known[name])
    reason = known["docker"].unavailable_reason(settings)
    if reason is None:
        return SelectedBackend("docker", "auto: an engine answers and has the images", settings, known["docker"])
    return SelectedBackend("embedded", f"auto: no docker, {reason}", settings, known["embedded"])


def capability_table(settings: Settings, plugin_backends: Mapping[str, BackendFactory]) -> list[str]:
    """Return the backends that are usable here and the faults that each can inject, as the lines of --resilience-backends."""
    from ..faults import FAULTS

    known = backend_kinds(plugin_backends)
    names = [f"{target}.{fault}" for fault, kind_of in FAULTS.items() for target in kind_of.targets]
    unsupported = {name: kind.unsupported(settings) for name, kind in known.items()}
    notes = _notes(names, unsupported)
    width = max(map(len, known)) + 2
    return [
        *_aligned([("backend", "usable here"), *_availability(known, settings)], [width]),
        "",
        *_aligned([("fault", *known), *_support(names, unsupported, notes)], [max(map(len, names)) + 2, width]),
        "",
        *(f"({number}) {note}" for number, note in enumerate(notes, 1)),
    ]


def _availability(known: Mapping[str, BackendKind], settings: Settings) -> Iterable[tuple[str, ...]]:
    """Return a row for each backend, with its servers or the reason why it is not usable here."""
    for name, kind in known.items():
        reason = kind.unavailable_reason(settings)
        yield name, f"no: {reason}" if reason else f"yes: {kind.describe(settings)}"


def _notes(faults: Iterable[str], unsupported: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the reasons of all unsupported faults, each once, with the name of the backend."""
    reasons = (
        f"{name}: {reasons[fault]}" for fault in faults for name, reasons in unsupported.items() if fault in reasons
    )
    return list(dict.fromkeys(reasons))


def _support(
    faults: Iterable[str], unsupported: Mapping[str, Mapping[str, str]], notes: list[str]
) -> Iterable[tuple[str, ...]]:
    """Return a row for each fault, with "yes" or the number of a note for each backend."""
    for fault in faults:
        cells = (
            f"no ({notes.index(f'{name}: {reasons[fault]}') + 1})" if fault in reasons else "yes"
            for name, reasons in unsupported.items()
        )
        yield fault, *cells


def _aligned(rows: Iterable[tuple[str, ...]], widths: list[int]) -> Iterable[str]:
    """Return rows as lines. The last of `widths` is also that of all further columns."""
    for row in rows:
        padded = (f"{cell:{widths[min(number, len(widths) - 1)]}}" for number, cell in enumerate(row))
        yield "".join(padded).rstrip()
