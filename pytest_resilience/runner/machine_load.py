"""The delay that other processes of the machine cause."""

from __future__ import annotations

import hashlib

from ..clock import SYSTEM, thread_seconds

SAMPLES = 8
NAP = 0.001  # seconds
WORK = b"\0" * 500_000  # hashed in about a third of a millisecond


def slowdown() -> float:
    """Return how many times longer than on an idle machine a thread takes that sleeps and works in turn. At least 1.

    The measurement takes about 12 ms on an idle machine.
    """
    begun, worked = SYSTEM.now(), thread_seconds()
    for _ in range(SAMPLES):
        SYSTEM.sleep(NAP)
        hashlib.sha256(WORK).digest()
    alone = SAMPLES * NAP + thread_seconds() - worked
    return max(1.0, (SYSTEM.now() - begun) / alone)
