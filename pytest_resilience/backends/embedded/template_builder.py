"""The builder of templates, by initdb, with the settings of the plugin and the database for tests."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ...errors import BackendUnavailable
from ...processes import ManagedProcess, SupervisorClient
from ..server_settings import DATABASE, POSTGRES_SETTINGS
from ..session.child_environ import SERVER_ENVIRON
from ..session.session_dir import unusable_directory
from . import cache_dir as caches
from . import postgres_password
from . import template_file as template
from .binaries import Installation
from .program_version import VersionUnknown
from .run_as import PostgresAccount, chown_tree
from .template_file import DataDirTemplate, TemplateCorrupt

BUILDER_VERSION = 4  # to be increased when the output changes by something other than the settings
INITDB_WITHIN = 120.0  # seconds; it takes 0.5
SETTINGS_FROM_16 = {"scram_iterations": "1"}  # for roles that tests make; see postgres_password
INITDB_SETTINGS = {"wal_recycle": "off"}  # every session would copy the recycled segments
SETTINGS_FROM_18 = {"io_method": "sync"}  # the default has three worker processes for reading ahead
# From 18 on, checksums are the default. The password is written into a page before the start, which a checksum would not allow.
NO_CHECKSUMS = ("--no-data-checksums",)


class TemplateBuilder:
    """The builder of the template for one installation of Postgres.

    Args:
        supervisor: starts initdb.
        installation: has `postgres` and `initdb`.
        account: returns the user that Postgres runs as. The first call takes a while, so it is made only when a program has to run.
        directory: the directory of the session.

    Attributes:
        account: the function that was given.
        version: the version of Postgres, such as "18.6".
        path: the file of the template.
    """

    def __init__(
        self,
        supervisor: SupervisorClient,
        installation: Installation,
        *,
        account: Callable[[], PostgresAccount],
        directory: Path,
    ) -> None:
        self.account = account
        try:
            self.version = installation.known_version()
        except VersionUnknown as problem:
            raise BackendUnavailable(
                f"{installation.program} ({installation.source}) does not run here, or not now: {problem}"
            ) from None
        major = int(self.version.split(".")[0])
        self._initdb_options = NO_CHECKSUMS if major >= 18 else ()
        self._initdb_settings = INITDB_SETTINGS if major >= 16 else {}  # older versions have no option for settings
        self._settings = (
            POSTGRES_SETTINGS | (SETTINGS_FROM_16 if major >= 16 else {}) | (SETTINGS_FROM_18 if major >= 18 else {})
        )
        self._supervisor = supervisor
        self._directory = directory
        self._work = directory / "template"
        size = installation.program.stat().st_size
        inputs = (
            BUILDER_VERSION,
            self._settings,
            self._initdb_settings,
            self._initdb_options,
            self.version,
            installation.source,
            size,
            os.uname().machine,
        )
        key = hashlib.sha256(repr(inputs).encode()).hexdigest()
        self._name = f"postgres-{self.version}-{key[:12]}.template"
        self.path = self._directory / self._name

    def open(self) -> DataDirTemplate:
        """Return the template. Build it if it is missing or damaged. Skip a cache directory that is full or can't be used.

        Raises:
            BackendUnavailable: initdb failed, or no directory can hold the template. The message has initdb's output or the directories.
        """
        problems = []
        try:
            # The iterator creates each cache directory when it is reached.
            for cache in itertools.chain(caches.cache_directories(), (self._directory,)):
                self.path = cache / self._name
                try:
                    return self._open()
                except OSError as problem:
                    problems.append(f"{self.path}: {type(problem).__name__}: {problem.strerror}")
        finally:
            shutil.rmtree(self._work, ignore_errors=True)
        raise BackendUnavailable(f"Postgres' data directory can't be kept anywhere: {'; '.join(problems)}")

    def _open(self) -> DataDirTemplate:
        try:
            return self._open_existing()
        except (FileNotFoundError, TemplateCorrupt):
            pass
        with template.exclusive_lock(self.path.with_suffix(".lock")):
            try:
                return self._open_existing()  # another process has built it during the wait for the lock
            except (FileNotFoundError, TemplateCorrupt):
                self._create()
        return DataDirTemplate(self.path)

    def discard(self) -> None:
        """Delete the damaged template."""
        with contextlib.suppress(OSError):  # if it stays, the next session finds the damage again
            self.path.unlink()

    def _open_existing(self) -> DataDirTemplate:
        opened = DataDirTemplate(self.path)
        os.utime(self.path)  # `remove_unused` deletes templates that no session opens
        return opened

    def _create(self) -> None:
        data = self._data_directory()
        # The database for tests is the newest one.
        essential = max(int(path.name) for path in (data / "base").iterdir() if path.name.isdigit())
        try:
            verifier = postgres_password.find_verifier(data)
        except TemplateCorrupt as problem:
            raise BackendUnavailable(
                f"initdb {self.version} created a data directory of an unexpected kind: {problem}"
            ) from None
        template.write(
            data,
            self.path,
            {"version": self.version, **verifier._asdict()},
            lambda name: not name.startswith("base/") or name.startswith(f"base/{essential}/"),
        )
        template.remove_unused(self.path.parent, now=self.path.stat().st_mtime)

    def _data_directory(self) -> Path:
        """Return a data directory. It is built once, even if several cache directories can't be used."""
        data = self._work / "data"
        if self._work.exists():
            return data
        try:
            self._work.mkdir(mode=0o700)
            chown_tree(self._work, self.account().user)
            self._initdb(data)
            self._configure(data / "postgresql.conf")
            self._create_database(data)
        except OSError as problem:  # in the directory of the session, so another cache directory would not help
            raise unusable_directory(self._directory, problem) from None
        return data

    def _initdb(self, data: Path) -> None:
        password_file = self._directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(
            os.urandom(18).hex()
        )  # never used, because each session writes the verifier of a new password
        chown_tree(password_file, self.account().user)
        command = [str(self.account().programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "scram-sha-256"]
        command += ["--pwfile", str(password_file), "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        command += ["--wal-segsize=1", *self._initdb_options]
        command += [word for name, value in self._initdb_settings.items() for word in ("-c", f"{name}={value}")]
        try:
            self._run("initdb", command)
        finally:
            password_file.unlink()

    def _configure(self, file: Path) -> None:
        with file.open("a") as lines:
            lines.write("\n# pytest-resilience\n")
            lines.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def _create_database(self, data: Path) -> None:
        statement = self._directory / "create.sql"
        statement.touch(mode=0o600)
        statement.write_text(f"CREATE DATABASE {DATABASE}\n")
        command = [
            str(self.account().programs / "postgres"),
            "--single",
            "-c",
            "wal_recycle=off",
            "-D",
            str(data),
            "template1",
        ]
        self._run("postgres --single", command, stdin=statement)

    def _run(self, name: str, command: list[str], *, stdin: Path | None = None) -> None:
        log = self._directory / "template.log"
        child: ManagedProcess = self._supervisor.spawn(
            name,
            command,
            env=SERVER_ENVIRON,
            log=log,
            cwd=self._directory,
            user=self.account().user,
            stdin=stdin,
        )
        if child.wait(INITDB_WITHIN) != 0:
            child.kill()
            raise BackendUnavailable(
                f"{name} failed with exit code {child.exit_code()}; its output:\n{child.log_text()[-4000:]}"
            )
