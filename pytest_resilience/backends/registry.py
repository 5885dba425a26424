"""The kinds of backend, the choice among them, and the table of what each can do here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..errors import BackendUnavailable, ResilienceError
from .settings import Settings

if TYPE_CHECKING:
    from .backend import Backend

PULL = "docker pull them, or take --resilience-backend=docker, which does"

BackendFactory = Callable[[Settings], "Backend"]


# Plain classes, in this file and those that it imports: pytest's header asks it in every run, used or not, and a named tuple, a
# protocol or a dataclass takes half a millisecond to make.


class BackendKind:
    """One kind of backend."""

    def unavailable_reason(self, settings: Settings) -> str | None:
        """Why it can't be had here, in a phrase; None when it can. Asked in every run: it may take milliseconds, no more."""
        return None

    def unavailable_reason_when_named(self, settings: Settings) -> str | None:
        """Return why it can't be had where it is asked for by name; None when it can. It may then fetch what is missing."""
        return self.unavailable_reason(settings)

    def describe(self, settings: Settings) -> str:
        """What it would run, in a phrase."""
        raise NotImplementedError

    def create(self, settings: Settings, reason: str) -> Backend:
        """One of it, not yet started."""
        raise NotImplementedError

    def unsupported(self) -> Mapping[str, str]:
        """The faults that it can't inject, such as "postgres.kill", each with the reason."""
        return {}


class SelectedBackend:
    """The backend of a run.

    Args:
        name: which kind.
        reason: one phrase for the header.
        settings: what it is told.
        kind: makes it.
    """

    def __init__(self, name: str, reason: str, settings: Settings, kind: BackendKind) -> None:
        self.name = name
        self.reason = reason
        self.settings = settings
        self.kind = kind

    def describe(self) -> str:
        """One phrase for pytest's header: the backend, why this one, and what it runs."""
        try:
            return f"{self.name} ({self.reason}), {self.kind.describe(self.settings)}"
        except BackendUnavailable as missing:
            return f"{self.name} ({self.reason}), but {missing}"

    def create(self) -> Backend:
        """The backend, not yet started."""
        return self.kind.create(self.settings, self.reason)


class Embedded(BackendKind):
    """Processes of ours."""

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

        return EmbeddedBackend(reason=reason)


class Docker(BackendKind):
    """Containers."""

    def unavailable_reason(self, settings: Settings) -> str | None:
        from .docker.engine import EngineUnavailable, find_engine

        try:
            missing = find_engine().missing_images(
                [settings.postgres_image, settings.redis_image, settings.toxiproxy_image]
            )
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
        return f"{settings.postgres_image}, {settings.redis_image}, {settings.toxiproxy_image}"

    def create(self, settings: Settings, reason: str) -> Backend:
        from .docker.backend import DockerBackend

        return DockerBackend(settings, reason=reason, pull=reason == NAMED)

    def unsupported(self) -> Mapping[str, str]:
        from ..proxy_client.client import TOXIPROXY_UNSUPPORTED

        return TOXIPROXY_UNSUPPORTED


class External(BackendKind):
    """A Toxiproxy and servers that somebody else runs."""

    def unavailable_reason(self, settings: Settings) -> str | None:
        wanted = {
            "--resilience-toxiproxy=URL": settings.toxiproxy,
            "--resilience-postgres-upstream": settings.postgres_upstream,
            "--resilience-redis-upstream": settings.redis_upstream,
        }
        missing = [option for option, value in wanted.items() if not value]
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

        endpoints = read_endpoints(settings)
        return f"Toxiproxy at {endpoints.api}, Postgres at {endpoints.postgres.address}, Redis at {endpoints.redis.address}"

    def create(self, settings: Settings, reason: str) -> Backend:
        from .external.backend import ExternalBackend

        return ExternalBackend(settings, reason=reason)

    def unsupported(self) -> Mapping[str, str]:
        from ..proxy_client.client import TOXIPROXY_UNSUPPORTED
        from .external.backend import UNSUPPORTED

        return UNSUPPORTED | TOXIPROXY_UNSUPPORTED


class PluginBackend(BackendKind):
    """What a hook has handed in.

    Args:
        name: what it goes by.
        factory: makes it.
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


NAMED = "asked for"


def backend_kinds(plugin_backends: Mapping[str, BackendFactory]) -> dict[str, BackendKind]:
    """All kinds by their names.

    Args:
        plugin_backends: those of third parties.
    """
    ours: dict[str, BackendKind] = {"embedded": Embedded(), "docker": Docker(), "external": External()}
    return ours | {name: PluginBackend(name, factory) for name, factory in plugin_backends.items()}


def unavailable_reason(name: str, settings: Settings, plugin_backends: Mapping[str, BackendFactory]) -> str | None:
    """Return why the backend of that name can't be had here; None when it can."""
    return backend_kinds(plugin_backends)[name].unavailable_reason_when_named(settings)


def select_backend(name: str, settings: Settings, plugin_backends: Mapping[str, BackendFactory]) -> SelectedBackend:
    """What a name stands for here; "auto" is docker where it can be had, else embedded.

    Raises:
        BackendUnavailable: it was named, and some of what it must be told is missing or wrong.
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
    """What is usable here and why not, and which faults each can inject, as lines."""
    from ..faults import FAULTS

    known = backend_kinds(plugin_backends)
    width = max(map(len, known)) + 2
    lines = [f"{'backend':{width}}usable here"]
    for name, kind in known.items():
        reason = kind.unavailable_reason(settings)
        lines.append(f"{name:{width}}" + (f"no: {reason}" if reason else f"yes: {kind.describe(settings)}"))
    faults = [f"{target}.{fault}" for fault, kind_of in FAULTS.items() for target in kind_of.targets]
    first = max(map(len, faults)) + 2
    lines += ["", f"{'fault':{first}}" + "".join(f"{name:{width}}" for name in known)]
    notes: list[str] = []
    for fault in faults:
        cells = []
        for name, kind in known.items():
            reason = kind.unsupported().get(fault)
            note = f"{name}: {reason}"
            if reason and note not in notes:
                notes.append(note)
            cells.append(f"no ({notes.index(note) + 1})" if reason else "yes")
        lines.append(f"{fault:{first}}" + "".join(f"{cell:{width}}" for cell in cells))
    lines += ["", *(f"({number}) {note}" for number, note in enumerate(notes, 1))]
    return [line.rstrip() for line in lines]
