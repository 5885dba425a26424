"""Function calls in a background thread."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from pytest_resilience.backends.session.background import in_background


def test_the_future_has_the_result_or_the_error() -> None:
    def fails() -> None:
        raise OSError("no room")

    failed = in_background(fails)
    wait([failed])
    with pytest.raises(OSError, match="no room"):
        failed.result()
    assert in_background(lambda: 7).result() == 7


def test_the_thread_does_not_keep_the_interpreter_from_exiting() -> None:
    assert in_background(lambda: threading.current_thread().daemon).result()
