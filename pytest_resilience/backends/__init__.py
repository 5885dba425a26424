"""Where Postgres, Redis and the proxy come from: the kinds of backend, and the choice among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BackendUnavailable

if TYPE_CHECKING:
    from .backend import Backend

LATER = "comes with a later release; use embedded, or auto, which takes it"


def chosen(name: str) -> tuple[str, str]:
    """The kind of backend that a name stands for here, and why, in a few words.

    Raises:
        BackendUnavailable: that kind is not there yet.
    """
    if name in ("docker", "external"):
        raise BackendUnavailable(f"the {name} backend {LATER}")
    return "embedded", "asked for" if name == "embedded" else "auto: the docker backend comes with a later release"


def describe(name: str) -> str:
    """One phrase for pytest's header: the backend, why this one, and the versions of its servers."""
    from .binaries import find_postgres, find_redis
    from .versions import version_of

    kind, why = chosen(name)
    try:
        postgres, redis = find_postgres().path / "postgres", find_redis().path
    except BackendUnavailable as missing:
        return f"{kind} ({why}), but {missing}"
    redis_name = "Valkey" if "valkey" in redis.name else "Redis"
    return f"{kind} ({why}), Postgres {version_of(postgres)}, {redis_name} {version_of(redis)}"


def make(name: str) -> Backend:
    """A backend of the kind that `name` stands for, not yet started."""
    from .embedded import EmbeddedBackend

    kind, why = chosen(name)
    assert kind == "embedded"
    return EmbeddedBackend(why=why)
