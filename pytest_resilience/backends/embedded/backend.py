"""The embedded backend runs Postgres, Redis and the proxy as processes on loopback. It needs neither Docker nor privileges."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import wait
from typing import Literal

from ...clock import SYSTEM, Clock
from ...redaction import new_password
from ...supervisor import release_shared_memory
from ..backend import Address
from ..managed_server import HOST
from ..session.background import in_background
from ..session.certificates import Certificates, create_certificates
from ..session.ports import free_port
from ..session.proxy_process import ProxyProcess
from ..session.server_process import ProcessContext
from ..session.session_dir import private_umask, remove_stale, unusable_directory
from ..session.supervised import SupervisedBackend
from .binaries import Installation, find_postgres, find_redis
from .postgres import PostgresProcess
from .postgres_password import VerifierLocation, set_password
from .redis import RedisProcess
from .run_as import chown_tree, postgres_account
from .template_builder import TemplateBuilder
from .template_file import DataDirTemplate, TemplateCorrupt


class EmbeddedBackend(SupervisedBackend):
    """Real servers without Docker, started in a tenth of a second.

    The parts start in parallel: proxy and Redis during the first part of the copy of the data directory, Postgres during the rest.

    Args:
        reason: why this backend was selected, one phrase for pytest's header.
        environ: has the variables that name binaries and the cache.
        clock: the clock to wait with.
        tls: True if clients reach the servers by TLS. The proxies have it, the servers do not.
    """

    name = "embedded"

    def __init__(
        self,
        *,
        reason: str = "asked for",
        environ: Mapping[str, str] = os.environ,
        clock: Clock = SYSTEM,
        tls: bool = False,
    ) -> None:
        super().__init__()
        self.reason = reason
        self._environ = environ
        self._clock = clock
        self._proxy: ProxyProcess | None = None
        self._tls = tls
        self._certificates: Certificates | None = None

    def start(self) -> None:
        binaries = find_postgres(self._environ), find_redis(self._environ)
        try:
            self._open()
            self._context = ProcessContext(self._supervisor, self.directory, self._clock)
            with private_umask():
                if self._tls:
                    self._certificates = create_certificates(self.directory / "tls")
                    self.ca_file = self._certificates.ca
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

    def _launch_redis_and_proxy(self, installation: Installation) -> tuple[RedisProcess, ProxyProcess]:
        proxy = ProxyProcess(self._context, tls_files=self._certificates.key.parent if self._certificates else None)
        proxy.launch()  # first, because it takes longest
        return self._launch_redis(installation, "redis"), proxy

    def _launch_redis(self, installation: Installation, name: str) -> RedisProcess:
        (self.directory / name).mkdir(mode=0o700)
        redis = RedisProcess(self._context, name, installation, ca_file=self.ca_file)
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

    def _launch_postgres(self, installation: Installation, name: str = "postgres") -> PostgresProcess:
        account = functools.cache(lambda: postgres_account(self._supervisor, installation.path, self.directory))
        builder = TemplateBuilder(self._supervisor, installation, account=account, directory=self.directory)
        try:
            return self._launch_from_template(builder, builder.open(), name)
        except TemplateCorrupt:
            shutil.rmtree(self.directory / name, ignore_errors=True)
            builder.discard()
            return self._launch_from_template(builder, builder.open(), name)

    def _launch_from_template(self, builder: TemplateBuilder, template: DataDirTemplate, name: str) -> PostgresProcess:
        data = self.directory / name
        with template:
            template.copy_essential(data)
            password = new_password()
            set_password(data, VerifierLocation(template.metadata["file"], template.metadata["verifier"]), password)
            user, programs = (
                builder.account()
            )  # the first question to the supervisor, which has been starting until now
            chown_tree(data, user)
            server = PostgresProcess(
                self._context,
                name,
                programs / "postgres",
                version=builder.version,
                password=password,
                user=user,
                ca_file=self.ca_file,
            )
            pid_file = data / "postmaster.pid"
            self._supervisor.release_shared_memory(pid_file)
            server.launch()
            try:
                template.copy_remaining(data)
                chown_tree(data, user)
            except BaseException:
                server.kill()
                release_shared_memory(str(pid_file))  # now, because the directory may be created again
                raise
        return server

    def proxy_addresses(self, name: str) -> tuple[str, str]:
        return f"{HOST}:{free_port()}", str(self.servers[name].upstream_address)

    def proxy_tls(self, name: str) -> Mapping[str, Mapping[str, object]] | None:
        if self._certificates is None:
            return None
        alpn = ["postgresql"] if self.servers[name].kind == "postgres" else []
        cert, key = str(self._certificates.cert), str(self._certificates.key)
        return {"client": {"cert": cert, "key": key, **({"alpn": alpn} if alpn else {})}}

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
