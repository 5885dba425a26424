"""How a template's Postgres is made: initdb, our settings, our database."""

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

BUILDER_VERSION = 4  # count it up when what comes out changes, the settings aside
INITDB_WITHIN = 120.0  # seconds; it takes 0.5
SETTINGS_FROM_16 = {"scram_iterations": "1"}  # for roles that tests make; see postgres_password
INITDB_SETTINGS = {"wal_recycle": "off"}  # each segment that it keeps for later would be copied by every session
SETTINGS_FROM_18 = {"io_method": "sync"}  # without the three processes of its own that reading ahead would have
NO_CHECKSUMS = (
    "--no-data-checksums",
)  # from 18 on; they are the default there, and a page is changed before the start


class TemplateBuilder:
    """Makes and opens the template for one set of binaries.

    Args:
        supervisor: who starts initdb.
        found: the directory with `postgres` and `initdb`.
        account: tells as whom Postgres runs. Asked only when there is something to run: the answer takes a while.
        scratch: a directory of this session to work in.

    Attributes:
        account: as given.
        version: such as "18.6".
        path: the template's file.
    """

    def __init__(
        self,
        supervisor: SupervisorClient,
        found: Installation,
        *,
        account: Callable[[], PostgresAccount],
        scratch: Path,
    ) -> None:
        self.account = account
        try:
            self.version = found.known_version()
        except VersionUnknown as problem:
            raise BackendUnavailable(
                f"{found.program} ({found.source}) does not run here, or not now: {problem}"
            ) from None
        major = int(self.version.split(".")[0])
        self._initdb_options = NO_CHECKSUMS if major >= 18 else ()
        self._initdb_settings = INITDB_SETTINGS if major >= 16 else {}  # older ones take none
        self._settings = (
            POSTGRES_SETTINGS | (SETTINGS_FROM_16 if major >= 16 else {}) | (SETTINGS_FROM_18 if major >= 18 else {})
        )
        self._supervisor = supervisor
        self._session_directory = scratch
        self._work = scratch / "template"
        size = found.program.stat().st_size
        inputs = (
            BUILDER_VERSION,
            self._settings,
            self._initdb_settings,
            self._initdb_options,
            self.version,
            found.source,
            size,
            os.uname().machine,
        )
        key = hashlib.sha256(repr(inputs).encode()).hexdigest()
        self._name = f"postgres-{self.version}-{key[:12]}.template"
        self.path = self._session_directory / self._name

    def open(self) -> DataDirTemplate:
        """Return the template; made first if there is none, or none that is whole. A cache that is full or broken is passed over.

        Raises:
            BackendUnavailable: initdb does not work here, with what it said; or the template can't be kept anywhere, with the places.
        """
        problems = []
        try:
            # Lazily: a place in the cache is made when it is reached.
            for place in itertools.chain(caches.cache_directories(), (self._session_directory,)):
                self.path = place / self._name
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
                return self._open_existing()  # another process made it while we waited for our turn
            except (FileNotFoundError, TemplateCorrupt):
                self._create()
        return DataDirTemplate(self.path)

    def discard(self) -> None:
        """Remove the template, which turned out to be damaged."""
        with contextlib.suppress(OSError):  # one that stays is found to be damaged again
            self.path.unlink()

    def _open_existing(self) -> DataDirTemplate:
        found = DataDirTemplate(self.path)
        os.utime(self.path)  # the unused ones are removed after a while
        return found

    def _create(self) -> None:
        data = self._data_directory()
        ours = max(int(path.name) for path in (data / "base").iterdir() if path.name.isdigit())
        try:
            verifier = postgres_password.find_verifier(data)
        except TemplateCorrupt as problem:
            raise BackendUnavailable(
                f"initdb {self.version} makes no data directory of the kind that is needed: {problem}"
            ) from None
        template.write(
            data,
            self.path,
            {"version": self.version, **verifier._asdict()},
            lambda name: not name.startswith("base/") or name.startswith(f"base/{ours}/"),
        )
        template.remove_unused(self.path.parent, now=self.path.stat().st_mtime)

    def _data_directory(self) -> Path:
        """Return a data directory; made once, however many places the template is refused by."""
        data = self._work / "data"
        if self._work.exists():
            return data
        try:
            self._work.mkdir(mode=0o700)
            chown_tree(self._work, self.account().user)
            self._initdb(data)
            self._configure(data / "postgresql.conf")
            self._create_database(data)
        except OSError as problem:  # no other place would help
            raise unusable_directory(self._session_directory, problem) from None
        return data

    def _initdb(self, data: Path) -> None:
        password_file = self._session_directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(os.urandom(18).hex())  # thrown away: each session writes the verifier of its own
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
        statement = self._session_directory / "create.sql"
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
        log = self._session_directory / "template.log"
        child: ManagedProcess = self._supervisor.spawn(
            name,
            command,
            env=SERVER_ENVIRON,
            log=log,
            cwd=self._session_directory,
            user=self.account().user,
            stdin=stdin,
        )
        if child.wait(INITDB_WITHIN) != 0:
            child.kill()
            raise BackendUnavailable(
                f"{name} failed with exit code {child.exit_code()}; it said:\n{child.log_text()[-4000:]}"
            )
