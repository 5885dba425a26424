"""The versions of programs: only answers are remembered."""

from __future__ import annotations

import json
import subprocess

import pytest

from pytest_resilience.backends.session import versions
from pytest_resilience.backends.session.versions import NoVersion, guarded, known_version, remembered_in, version_of


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pytest-resilience" / versions.FILE


@pytest.fixture
def program(tmp_path):
    """Makes a program, always of the same size and age."""

    def make(script):
        path = tmp_path / "postgres"
        path.write_text(f"#!/bin/sh\n{script}\n".ljust(300))
        path.chmod(0o755)
        versions.os.utime(path, (1_700_000_000, 1_700_000_000))
        return path

    return make


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("postgres (PostgreSQL) 18.6", "18.6"),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", "7.0.15"),
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64", "9.1.2"),
    ],
)
def test_an_answer_is_asked_for_once(cache, program, says, version):
    assert version_of(program(f"echo '{says}'")) == version
    assert list(json.loads(cache.read_text()).values()) == [version]
    assert version_of(program("exit 1")) == version
    assert cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "problem",
    [BlockingIOError(11, "Resource temporarily unavailable"), subprocess.TimeoutExpired("x", 5), MemoryError()],
)
def test_a_program_that_could_not_be_asked_is_asked_again(cache, program, monkeypatch, problem):
    path = program("echo 'postgres (PostgreSQL) 18.6'")

    def fails(*_arguments, **_settings):
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(versions.subprocess, "run", fails)
        assert version_of(path) == "?"
        with pytest.raises(NoVersion, match=type(problem).__name__):
            known_version(path)
    assert not cache.exists()
    assert version_of(path) == "18.6"


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo out of memory >&2; exit 127", "exit code 127 .*out of memory"),
        ("echo no number", "no number"),
        ("", "nothing"),
        ("kill -9 $$", "-9"),
    ],
)
def test_what_a_program_says_in_place_of_its_version_is_told_and_not_remembered(cache, program, script, told):
    with pytest.raises(NoVersion, match=told):
        known_version(program(script))
    assert not cache.exists()
    assert version_of(program("echo v=1.2")) == "1.2"


def test_a_program_that_is_not_there_has_no_version(cache, tmp_path):
    assert version_of(tmp_path / "none") == "?"


@pytest.mark.parametrize("content", ["", "[]", '{"a": ', "\x00", '{"KEY": "?"}', '{"KEY": 18}'])
def test_a_cache_with_anything_else_in_it_is_no_answer(cache, program, content):
    """ "?" was remembered by earlier releases."""
    path = program("echo v=18.6")
    cache.parent.mkdir(parents=True, mode=0o700)
    cache.write_text(content.replace("KEY", f"{path}:{path.stat().st_size}:{path.stat().st_mtime_ns}"))
    assert version_of(path) == "18.6"


def test_programs_that_are_gone_are_forgotten(cache, program, tmp_path):
    cache.parent.mkdir(parents=True, mode=0o700)
    cache.write_text(json.dumps({f"{tmp_path}/gone:1:2": "1.0"}))
    version_of(program("echo v=18.6"))
    assert [name.split(":")[0] for name in json.loads(cache.read_text())] == [str(tmp_path / "postgres")]


def test_without_a_cache_it_works_and_says_so(monkeypatch, program):
    monkeypatch.setattr(versions, "cache_directory", lambda _environ: None)
    assert version_of(program("echo v=18.6")) == "18.6"
    assert remembered_in() == "nothing is remembered"


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(cache, program):
    cache.mkdir(parents=True, mode=0o700)
    cache.parent.chmod(0o700)
    assert version_of(program("echo v=18.6")) == "18.6"
    assert list(cache.parent.iterdir()) == [cache]
    assert str(cache) in remembered_in()


def test_the_users_environment_changes_no_answer(cache, program, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert version_of(program('echo "v=1.${LD_LIBRARY_PATH:-5}"')) == "1.5"


@pytest.mark.parametrize(("version", "safe"), [("9.1.2", True), ("7.0.0", True), ("6.2.14", False), ("?", True)])
def test_from_7_on_redis_guards_its_files(version, safe):
    assert guarded(version) is safe
