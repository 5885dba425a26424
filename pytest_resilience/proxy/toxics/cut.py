"""cut: end one direction, and leave the other one alone. Toxiproxy has no such toxic."""

from __future__ import annotations

from .toxic import END, Deadline, Toxic, ToxicContext


class Cut(Toxic):
    """End this direction at once. Its destination gets an end of stream, and what its source sends is dropped."""

    __slots__ = ()

    touches_all = True

    def on_start(self, now: float, context: ToxicContext) -> Deadline | None:
        return (now, END)
