"""Wait for a fact, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

Answer = TypeVar("Answer")


def until(question: Callable[[], Answer], within: float = 5.0) -> Answer:
    """Ask until the answer is true in Python's sense, and return it.

    Args:
        question: asked every 5 ms.
        within: seconds; the test fails after them, and shows the last answer.
    """
    give_up = time.monotonic() + within
    while True:
        answer = question()
        if answer:
            return answer
        if time.monotonic() > give_up:
            raise AssertionError(f"not true within {within:g} s: {question}; last answer: {answer!r}")
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Whether a process has ended. Its parent may not have noticed yet: a zombie has ended too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
