"""The settings that each fault has in a drawn schedule, from mild to severe.

The ranges fit a schedule that takes a few seconds. A severity is an integer from 0 to 99, and 0 is the mildest damage: a short delay, a
high rate, much that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

SEVERITIES = 100

Settings: TypeAlias = Callable[[int], Mapping[str, Any]]


def _none(_: int) -> Mapping[str, Any]:
    return {}


def _among(*choices: Mapping[str, Any]) -> Settings:
    """Return a function that takes one of these settings, each for an equal part of the severities."""
    return lambda severity: choices[severity * len(choices) // SEVERITIES]


def _one(name: str, *values: Any) -> Settings:
    return _among(*({name: value} for value in values))


def _hundredths(*names: str, least: int = 1) -> Settings:
    """Return a function that sets durations to the severity in hundredths of a second, and to `least` hundredths at least."""
    return lambda severity: dict.fromkeys(names, max(severity + 1, least) / 100)


# From mild to severe, because a schedule shrinks towards the faults at the beginning.
DRAWN: dict[str, Settings] = {
    "latency": _hundredths("seconds"),
    "slow_queries": _hundredths("seconds"),
    "slow_accept": _hundredths("seconds"),
    "slow_close": _hundredths("seconds"),
    "slicer": _one("average_bytes", 1024, 256, 64, 16, 4, 1),
    "bandwidth": _one("bytes_per_s", 1_000_000, 100_000, 30_000, 10_000, 3000, 1000),
    "starve_cpu": _one("share", 0.5, 0.25, 0.1, 0.05),
    "reset": _none,
    "refuse": _none,
    "limit_data": _one("bytes", 1000, 300, 100, 30, 10, 1, 0),
    "protocol_violation": _none,
    "flap": _hundredths("down", "up", least=5),
    "half_open": _none,
    "blackhole": _among({}, {"direction": "down"}, {"direction": "up"}),
    "hold_locks": _none,
    "read_only": _none,
    "take_connections": _one("left", 20, 10, 5, 3, 0),
    "starve": _one("connections", 20, 10, 5, 3, 0),
    "readonly": _among({}, {"stale": False}),
    "oom": _none,
    "memory_alarm": _none,
    "disk_alarm": _none,
    "max_clients": _one("left", 3, 2, 1, 0),
    "client_kill_output_buffer": _one("bytes", 100_000, 10_000, 1),
    "busy_script": _none,
    "loading": _none,
    "loading_replies": _one("commands", 1, 2, 3, 5, 10),
    "serialization_failure": _one("nth", 1, 2, 3, 4),
    "deadlock": _one("nth", 1, 2, 3, 4),
    "commit_in_doubt": _one("nth", 1, 2, 3, 4),
    "pause": _none,
    "exhaust_descriptors": _one("left", 8, 4, 2, 1, 0),
    "memory_pressure": _one("headroom_mb", 64, 32, 16, 8, 4),
    "restart": _none,
    "terminate": _none,
    "kill": _none,
    "cancel": _none,
}

# By kind of target, where one target has more settings than another one.
DRAWN_ON = {"redis.restart": _among({}, {"data": "kept"}, {"data": "lost"})}

# Faults that heal, and the reasons why no schedule has them unless a strategy of steps is given.
NOT_DRAWN = {
    "on": "it needs a verb and an act",
    "after": "a trigger such as at=statement('commit', 2) has its place in a schedule",
    "queue_full": "it needs the name of a queue",
    "memory_limit": "its heal does not start a process that the kernel has killed, so the service may stay dead",
}

# Drawn only where they are named, because they strike single statements, which not every client sends.
ON_REQUEST = frozenset({"loading_replies", "serialization_failure", "deadlock", "commit_in_doubt"})

LINUX_ONLY = frozenset({"starve_cpu", "exhaust_descriptors", "memory_pressure"})
