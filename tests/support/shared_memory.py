"""System V shared memory of Postgres servers, which outlives the processes that made it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TABLE = Path("/proc/sysvipc/shm")


class SharedMemory:
    """The segments that appear from now on; none where the system does not show them."""

    def __init__(self) -> None:
        self._before = set(self._makers())

    def made_by(self, pids: Iterable[int]) -> list[int]:
        """New segments of these processes that are still there."""
        makers = self._makers()
        return [segment for segment in makers.keys() - self._before if makers[segment] in set(pids)]

    @staticmethod
    def _makers() -> dict[int, int]:
        rows = [line.split() for line in TABLE.read_text().splitlines()[1:]] if TABLE.exists() else []
        return {int(row[1]): int(row[4]) for row in rows}
