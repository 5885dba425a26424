"""noop: pass everything."""

from __future__ import annotations

from .toxic import Toxic


class Noop(Toxic):
    """Do nothing, as Toxiproxy's toxic of that name."""

    __slots__ = ()
