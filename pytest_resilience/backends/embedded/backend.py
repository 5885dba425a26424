"""The embedded backend: Postgres, Redis and proxy as processes of ours on loopback. No Docker, no rights needed."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import Literal

from ...clock import SYSTEM, Clock
from ...redaction import new_password
from ...supervisor import release_shared_memory
from ..backend import Address
from ..managed_server import HOST
from ..session.background import in_background
from ..session.ports import free_port
from ..session.session_dir import private_umask, remove_stale, unusable_directory
from ..session.supervised import SupervisedBackend
from .binaries import Installation, find_postgres, find_redis
from .postgres import PostgresProcess
from .postgres_password import VerifierLocation, set_password
from .proxy import ProxyProcess
from .redis import RedisProcess
from .run_as import chown_tree, postgres_account
from .template_builder import TemplateBuilder
from .template_file import DataDirTemplate, TemplateCorrupt


class EmbeddedBackend(SupervisedBackend):
    """Real servers without Docker, up in a tenth of a second.

    Everything starts side by side: proxy and Redis while the data directory is copied, the rest of the copy while Postgres starts.

    Args:
        reason: one phrase for the header.
        environ: where to look for binaries and the cache.
        clock: what to wait with.
    """

    name = "embedded"

    def __init__(
        self, *, reason: str = "asked for", environ: Mapping[str, str] = os.environ, clock: Clock = SYSTEM
    ) -> None:
        super().__init__()
        self.reason = reason
        self._environ = environ
        self._clock = clock
        self._proxy: ProxyProcess | None = None

    def start(self) -> None:
        binaries = find_postgres(self._environ), find_redis(self._environ)
        try:
            self._open()
            with private_umask():
                self._start(*binaries)
        except OSError as problem:
            self.close()
            raise unusable_directory(self.directory, problem) from None
        except BaseException:
            self.close()
            raise

    def _start(self, postgres: Installation, redis: Installation) -> None:
        others = in_background(lambda: self._launch_redis_and_proxy(redis))
        try:
            postgres_server = self._launch_postgres(postgres)
        except BaseException:
            wait([others])
            raise
        redis_server, self._proxy = others.result()
        remove_stale()
        for program in postgres_server, redis_server, self._proxy:
            program.wait_until_ready()
        self.servers = {"postgres": postgres_server, "redis": redis_server}
        self.api = self._proxy.address

    def _launch_redis_and_proxy(self, found: Installation) -> tuple[RedisProcess, ProxyProcess]:
        proxy = ProxyProcess(self._supervisor, log=self.directory / "proxy.log", clock=self._clock)
        proxy.launch()  # first: it takes longest
        return self._launch_redis(found, "redis"), proxy

    def _launch_redis(self, found: Installation, name: str) -> RedisProcess:
        place = self.directory / name
        place.mkdir(mode=0o700)
        log = self.directory / f"{name}.log"
        redis = RedisProcess(self._supervisor, found, place, name=name, log=log, clock=self._clock)
        redis.launch()
        return redis

    def add_server(self, kind: Literal["postgres", "redis"], name: str) -> None:
        server: PostgresProcess | RedisProcess
        with private_umask():
            if kind == "postgres":
                server = self._launch_postgres(find_postgres(self._environ), name)
            else:
                server = self._launch_redis(find_redis(self._environ), name)
        server.wait_until_ready()
        self.servers[name] = server

    def _launch_postgres(self, found: Installation, name: str = "postgres") -> PostgresProcess:
        account = functools.cache(lambda: postgres_account(self._supervisor, found.path, self.directory))
        builder = TemplateBuilder(self._supervisor, found, account=account, scratch=self.directory)
        data = self.directory / name
        try:
            return self._launch_from_template(builder, builder.open(), data)
        except TemplateCorrupt:
            shutil.rmtree(data, ignore_errors=True)
            builder.discard()
            return self._launch_from_template(builder, builder.open(), data)

    def _launch_from_template(self, builder: TemplateBuilder, template: DataDirTemplate, data: Path) -> PostgresProcess:
        with template:
            template.copy_essential(data)
            password = new_password()
            set_password(data, VerifierLocation(template.metadata["file"], template.metadata["verifier"]), password)
            user, programs = builder.account()  # not earlier: the supervisor has been starting all the while
            chown_tree(data, user)
            server = PostgresProcess(
                self._supervisor,
                programs / "postgres",
                data,
                name=data.name,
                log=self.directory / f"{data.name}.log",
                version=builder.version,
                password=password,
                user=user,
                clock=self._clock,
            )
            pid_file = data / "postmaster.pid"
            self._supervisor.release_shared_memory(pid_file)
            server.launch()
            try:
                template.copy_remaining(data)
                chown_tree(data, user)
            except BaseException:
                server.kill()
                release_shared_memory(str(pid_file))  # now: the directory may be made anew
                raise
        return server

    def proxy_addresses(self, name: str) -> tuple[str, str]:
        return f"{HOST}:{free_port()}", str(self.servers[name].upstream_address)

    def client_address(self, listen: str) -> Address:
        return Address.parse(listen)

    def versions(self) -> str:
        return f"Postgres {self.servers['postgres'].version}, Redis {self.servers['redis'].version}"

    def restart_dead(self) -> None:
        for server in self.servers.values():
            server.start()
        if self._proxy is not None:
            self._proxy.start()
            self.api = self._proxy.address

    def check(self) -> None:
        for server in self.servers.values():
            server.check()
        if self._proxy is not None:
            self._proxy.check()
