"""noop: pass everything through."""

from __future__ import annotations

from .toxic import Toxic


class Noop(Toxic):
    """Does nothing, as Toxiproxy's toxic of that name."""

    __slots__ = ()
