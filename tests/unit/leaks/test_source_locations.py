"""Files and lines of user code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_resilience.leaks import source_locations


def test_paths_are_relative_to_the_root() -> None:
    assert source_locations.relative_path("/a/b/c.py", Path("/a")) == "b/c.py"
    assert source_locations.relative_path("/ab/c.py", Path("/a")) == "/ab/c.py"
    assert source_locations.is_user_code(__file__)
    assert not source_locations.is_user_code(os.__file__)
    assert not source_locations.is_user_code(pytest.__file__)
    assert not source_locations.is_user_code("<frozen x>")
