"""cut: end one direction, and leave the other one alone. An addition of ours."""

from __future__ import annotations

from .toxic import END, Scheduled, Toxic, ToxicState


class Cut(Toxic):
    """End this direction at once: its destination gets an end of stream, and what its source sends is dropped."""

    __slots__ = ()

    touches_all = True

    def on_start(self, now: float, memory: ToxicState) -> Scheduled | None:
        return (now, END)
