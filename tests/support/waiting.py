"""Wait for a condition, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

Result = TypeVar("Result")


def until(condition: Callable[[], Result], within: float = 5.0) -> Result:
    """Call a condition until its result is truthy, and return that result.

    Args:
        condition: called every 5 ms.
        within: seconds, after which the test fails and shows the last result.
    """
    deadline = time.monotonic() + within
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {within:g} s: {condition}; last result: {result!r}")
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """True if a process has ended. A zombie, which its parent has not reaped yet, has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
