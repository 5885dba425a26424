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
    return "embedded", "asked for" if name == "embedded" else "auto"


def make(name: str) -> Backend:
    """A backend of the kind that `name` stands for, not yet started."""
    from .embedded import EmbeddedBackend

    kind, why = chosen(name)
    assert kind == "embedded"
    return EmbeddedBackend(why=why)
