"""The directories for templates."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from pytest_resilience.backends.embedded import cache_dir as caches


def test_xdg_cache_home_names_the_cache(tmp_path):
    assert caches.cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "pytest-resilience"
    assert stat.S_IMODE((tmp_path / "pytest-resilience").stat().st_mode) == 0o700


@pytest.mark.parametrize(("system", "place"), [("linux", ".cache"), ("darwin", "Library/Caches")])
def test_the_cache_is_in_the_users_home(tmp_path, monkeypatch, system, place):
    monkeypatch.setattr(sys, "platform", system)
    assert caches.cache_directory({"HOME": str(tmp_path)}) == tmp_path / place / "pytest-resilience"


@pytest.mark.parametrize(
    "environ", [{}, {"HOME": "/proc/nowhere"}, {"XDG_CACHE_HOME": "/dev/null"}, {"XDG_CACHE_HOME": "relative"}]
)
def test_without_a_home_the_cache_is_among_temporary_files(tmp_path, monkeypatch, environ):
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    assert caches.cache_directory(environ) == tmp_path / f"pytest-resilience-cache-{os.geteuid()}"


def test_a_cache_that_other_users_may_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: "/proc/nowhere")
    (tmp_path / "pytest-resilience").mkdir(mode=0o700)
    (tmp_path / "pytest-resilience").chmod(0o777)
    assert caches.cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) is None
    (tmp_path / "pytest-resilience").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pytest-resilience").symlink_to(tmp_path / "elsewhere")
    assert caches.cache_directory({"XDG_CACHE_HOME": str(tmp_path)}) is None


def test_a_cache_whose_parent_any_user_can_replace_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: "/proc/nowhere")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    environ = {"XDG_CACHE_HOME": str(tmp_path / "open" / "mine")}
    assert caches.cache_directory(environ) is None
    (tmp_path / "open").chmod(0o1777)
    assert caches.cache_directory(environ) == tmp_path / "open" / "mine" / "pytest-resilience"


def test_a_file_in_place_of_the_cache_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "pytest-resilience").write_text("")
    found = caches.cache_directory({"XDG_CACHE_HOME": str(tmp_path)})
    assert found == tmp_path / "temporary" / f"pytest-resilience-cache-{os.geteuid()}"


def test_there_is_no_cache_without_a_home_and_a_directory_for_temporary_files(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(caches.tempfile, "gettempdir", none)
    assert caches.cache_directory({}) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change an owner")
def test_a_cache_of_another_user_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "gettempdir", lambda: str(tmp_path))
    place = tmp_path / f"pytest-resilience-cache-{os.geteuid()}"
    place.mkdir(mode=0o700)
    os.chown(place, 65534, 65534)
    assert caches.cache_directory({}) is None
