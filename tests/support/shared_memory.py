"""System V shared memory of Postgres servers, which outlives the processes that made it."""

from __future__ import annotations

from pathlib import Path

TABLE = Path("/proc/sysvipc/shm")


def _rows() -> list[list[str]]:
    return [line.split() for line in TABLE.read_text().splitlines()[1:]] if TABLE.exists() else []


def segments_of(pids: list[int]) -> list[str]:
    """Segments that these processes made."""
    return [row[1] for row in _rows() if int(row[4]) in pids]


def unused_segments() -> set[str]:
    """Segments of a Postgres to which nobody is attached. Those of servers that others run come and go, but in use."""
    return {row[1] for row in _rows() if row[6] == "0" and row[3] == "56"}
