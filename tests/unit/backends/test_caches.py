"""Where on this machine things are kept for the next start."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from pytest_resilience.backends import caches


def test_the_cache_is_where_the_user_says(tmp_path):
    assert caches.cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "pytest-resilience"
    assert stat.S_IMODE((tmp_path / "pytest-resilience").stat().st_mode) == 0o700


@pytest.mark.parametrize(("system", "place"), [("linux", ".cache"), ("darwin", "Library/Caches")])
def test_the_cache_is_in_the_users_home(tmp_path, monkeypatch, system, place):
    monkeypatch.setattr(sys, "platform", system)
    assert caches.cache_directory({"HOME": str(tmp_path)}) == tmp_path / place / "pytest-resilience"


@pytest.mark.parametrize("environ", [{}, {"HOME": "/proc/nowhere"}, {"XDG_CACHE_HOME": "/dev/null"}])
def test_without_a_home_the_cache_is_among_temporary_files(tmp_path, monkeypatch, environ):
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    assert caches.cache_directory(environ) == tmp_path / f"pytest-resilience-cache-{os.geteuid()}"


def test_a_cache_that_others_may_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: "/proc/nowhere")
    (tmp_path / "pytest-resilience").mkdir(mode=0o700)
    (tmp_path / "pytest-resilience").chmod(0o777)
    assert caches.cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) is None
    (tmp_path / "pytest-resilience").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pytest-resilience").symlink_to(tmp_path / "elsewhere")
    assert caches.cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) is None
