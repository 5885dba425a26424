"""malformed: answer with bytes that are no message. Toxiproxy has no such toxic."""

from __future__ import annotations

from collections.abc import Iterable

from .toxic import BACK, SAME, Scheduled, Toxic, ToxicContext

NO_MESSAGE = b"E\xff\xff\xff\xff"
"""An ErrorResponse of Postgres with the length -1. No reply of Redis begins with E.

The type is a valid one, because asyncpg 0.32 loops for ever at a message of the type 0 and ignores other unknown types.
"""


class Malformed(Toxic):
    """Put bytes that are no message before the answer to the next request of each connection.

    It belongs on the upstream direction. A client that waits for an answer has read the one before, so the bytes stand where a
    message should begin. The request goes on to the server.

    The state is True once the connection has got them.
    """

    __slots__ = ()

    def new_state(self) -> bool:
        return False

    def on_data(self, chunk: bytes, arrived: float, now: float, context: ToxicContext) -> Iterable[Scheduled]:
        if context.state:
            return ((now, chunk, SAME),)
        context.state = True
        context.touch(now, 0)
        return (now, NO_MESSAGE, BACK), (now, chunk, SAME)
