"""The base class of the built-in backends, with a supervisor and a directory for the session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import CannotInject
from ...processes import ManagedProcess, SupervisorClient
from ..backend import Backend, CgroupLimit
from .child_environ import python_environ
from .fork_servers import CAN_FORK, ForkServers
from .isolated_python import isolated_command
from .memory_cgroup import CgroupUnavailable, MemoryCgroup
from .session_dir import SessionDirectory, private_umask, unusable_directory


class SupervisedBackend(Backend):
    """A backend with a supervisor that ends and deletes everything when the session ends."""

    def __init__(self) -> None:
        self.servers = {}
        self._supervisor = SupervisorClient()
        self._session_directory: SessionDirectory | None = None
        self._fork_servers: ForkServers | None = None

    def _open(self) -> None:
        """Start the supervisor and create the directory, as the first step of `start`.

        Raises:
            BackendUnavailable: no directory can be created.
        """
        try:
            self._session_directory = SessionDirectory()
            self.directory = self._session_directory.path
            # The supervisor starts first, because it deletes the directory even if this process is killed.
            self._supervisor.start(owning=self._session_directory.paths)
            with private_umask():
                self._session_directory.create()
            self._supervisor.share_lock(self._session_directory.owner)
        except OSError as problem:
            raise unusable_directory(
                self._session_directory.path if self._session_directory else None, problem
            ) from None

    def _run_at_exit(self, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Let the supervisor run `main` of a module of this package when the session ends.

        Args:
            module: as for `isolated_command`.
            arguments: as for `isolated_command`.
            env: its environment, which may have secrets.
        """
        argv = isolated_command(module, *arguments)
        self._supervisor.run_at_exit(argv, env={**python_environ(), **(env or {})}, log=self.directory / "end.log")

    def close(self) -> None:
        self._supervisor.close()
        if self._session_directory is not None:
            self._session_directory.release()

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        preload: Sequence[str] = (),
    ) -> ManagedProcess:
        log = self.directory / f"{name}.log"
        if not preload or not CAN_FORK:
            return self._supervisor.spawn(name, argv, env=env, log=log, cwd=cwd)
        if self._fork_servers is None:
            self._fork_servers = ForkServers(self._supervisor, self.directory)
        return self._fork_servers.spawn(name, argv, preload, env=env, log=log, cwd=cwd or Path.cwd())

    def limit_memory(self, pid: int, limit_bytes: int) -> CgroupLimit:
        try:
            group = MemoryCgroup(pid, limit_bytes)
        except CgroupUnavailable as problem:
            raise CannotInject(f"memory_limit: {problem}") from None
        self._run_at_exit("backends.session.memory_cgroup", group.path)
        return group
