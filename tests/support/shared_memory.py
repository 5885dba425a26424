"""System V shared memory of Postgres servers, which outlives the processes that created it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

TABLE = Path("/proc/sysvipc/shm")


class SharedMemory:
    """The shared memory segments created after this object. Always empty on systems without /proc/sysvipc."""

    def __init__(self) -> None:
        self._before = set(self._creators())

    def created_by(self, pids: Iterable[int]) -> list[int]:
        """Return the new segments of these processes that still exist."""
        creators = self._creators()
        return [segment for segment in creators.keys() - self._before if creators[segment] in set(pids)]

    @staticmethod
    def _creators() -> dict[int, int]:
        rows = [line.split() for line in TABLE.read_text().splitlines()[1:]] if TABLE.exists() else []
        return {int(row[1]): int(row[4]) for row in rows}
