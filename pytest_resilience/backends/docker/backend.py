"""The docker backend runs Postgres, Redis and the real Toxiproxy in containers on a private network, by testcontainers.

With --resilience-proxy=ours, the proxy of this package takes the place of Toxiproxy. It is a process of this machine.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...clock import SYSTEM, Clock
from ...errors import BackendDied, BackendUnavailable, ServerNotReady, SetupError
from ...proxy_client.client import TOXIPROXY_UNSUPPORTED, ToxiproxyClient
from ...proxy_client.counters import ConnectionCounts, ProxiedClients
from ...redaction import new_password
from ..backend import Address
from ..managed_server import HOST
from ..session.background import in_background
from ..session.ports import free_port
from ..session.proxy_process import ProxyProcess
from ..session.server_process import ProcessContext
from ..session.session_dir import OWNER, is_locked, private_umask, remove_stale
from ..session.supervised import SupervisedBackend
from ..settings import Settings
from . import engine as engines
from .container import ContainerContext, docker_client_options, mark_pending
from .servers import ContainerServer, PostgresContainer, RedisContainer, SystemContainer
from .toxiproxy import FIRST_PROXY_PORT, PUBLISHED_PROXY_PORTS, ToxiproxyContainer

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.networks import Network

    from ..backend import SystemProgram
    from .container import Container

PULL_WITHIN = 300.0  # seconds for one image, only when the user names this backend
# Docker's port forwarder accepts every connection and closes it later, whatever the container does.
FORWARDED_REASON = (
    "clients reach it by a forwarded port here, which accepts where it should refuse, and closes where it should reset"
)
RYUK_VARIABLE = "TESTCONTAINERS_RYUK_DISABLED"


class DockerBackend(SupervisedBackend):
    """Real servers in containers.

    Clients reach Toxiproxy at its address on the private network if that network is on this machine (Docker on Linux), because a forwarded
    port can neither refuse nor reset. Otherwise clients use forwarded ports on 127.0.0.1.

    Args:
        settings: the images, and the kind of proxy.
        reason: why this backend was selected, one phrase for pytest's header.
        environ: has the variables that name the engine.
        pull: True if missing images may be pulled.
        clock: the clock to wait with.
    """

    name = "docker"

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        reason: str = "asked for",
        environ: Mapping[str, str] = os.environ,
        pull: bool = True,
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__()
        self.reason = reason
        self._settings = settings or Settings()
        self._environ = environ
        self._pull = pull
        self._clock = clock
        self._docker: DockerClient | None = None
        self._network: Network | None = None
        self._proxy: ToxiproxyContainer | None = None
        self._tcp_proxy: ProxyProcess | None = None
        self._containers: list[Container] = []
        self._network_reachable = False
        self._proxy_numbers = itertools.count()
        self._context: ContainerContext | None = None
        self._engine: engines.Engine | None = None

    @property
    def unsupported(self) -> Mapping[str, str]:  # type: ignore[override]  # depends on the network
        if self._runs_own_proxy:
            return {}
        return unsupported_faults(forwarded=self._network is not None and not self._network_reachable)

    @property
    def _runs_own_proxy(self) -> bool:
        return self._settings.proxy == "ours"

    def start(self) -> None:
        try:
            engine = engines.find_engine(self._environ)
        except engines.EngineUnavailable as problem:
            raise BackendUnavailable(f"no Docker engine: {problem}") from None
        try:
            self._start(engine)
        except BaseException:
            self.close()
            raise

    def _start(self, engine: engines.Engine) -> None:
        self._open()
        remove_stale()
        session = self.directory.name
        pending_dir = self.directory / "pending"
        self._run_at_exit("backends.docker.engine", engine.url, session, str(pending_dir))
        remove_stale_sessions(engine)
        self._engine = engine
        self._pull_missing_images(engine, self._settings.images)
        labels = {
            engines.SESSION: session,
            engines.OWNER: str(self.directory / OWNER),
            engines.MACHINE: machine_id(),
        }
        with private_umask():
            pending_dir.mkdir()
        with ryuk_disabled(self._environ):
            self._network = self._create_network(engine, session, labels, pending_dir)
            context = self._context = ContainerContext(
                docker_client_options(engine), self._network, labels, pending_dir, self._clock
            )
            postgres = PostgresContainer(self._settings.postgres_image, context, password=new_password())
            redis = RedisContainer(self._settings.redis_image, context, password=new_password())
            self._containers = [postgres, redis]
            if not self._runs_own_proxy:
                self._proxy = self._create_toxiproxy(context)
                self._containers.append(self._proxy)
            launches = [in_background(container.launch) for container in self._containers]
            wait(launches)
            for launch in launches:
                launch.result()
        for container in self._containers:
            container.wait_until_ready()
        self._add(postgres)
        self._add(redis)
        self.api = self._proxy.api if self._proxy is not None else self.tcp_api()

    def _create_toxiproxy(self, context: ContainerContext) -> ToxiproxyContainer:
        ports = 0 if self._network_reachable else PUBLISHED_PROXY_PORTS
        return ToxiproxyContainer("toxiproxy", self._settings.toxiproxy_image, context, proxy_ports=ports)

    def _add(self, server: PostgresContainer | RedisContainer) -> None:
        """Add a server that answers."""
        self.servers[server.name] = server
        if self._runs_own_proxy and self._network_reachable:
            server.on_move = self._follow

    def _follow(self, before: Address, now: Address) -> None:
        """Have the proxies in front of a container that started again dial its present address."""
        with contextlib.closing(ToxiproxyClient(*self.api)) as client:
            for name, proxy in client.request("GET", "/proxies").items():
                if proxy["upstream"] == str(before):
                    client.request("POST", f"/proxies/{name}", {"upstream": str(now)})

    def add_server(self, kind: Literal["postgres", "redis"], name: str) -> None:
        assert self._context is not None, "start first"
        server: PostgresContainer | RedisContainer
        password = new_password()
        if kind == "postgres":
            server = PostgresContainer(self._settings.postgres_image, self._context, password=password, name=name)
        else:
            server = RedisContainer(self._settings.redis_image, self._context, password=password, name=name)
        self._containers.append(server)
        with ryuk_disabled(self._environ):
            server.launch()
        server.wait_until_ready()
        self._add(server)

    def add_system(self, program: SystemProgram, name: str) -> SystemContainer:
        assert self._context is not None, "start first"
        assert self._engine is not None, "start first"
        try:
            self._pull_missing_images(self._engine, [program.image])
        except BackendUnavailable as missing:
            raise SetupError(
                f"{name}: {missing}. Pull it, or take --resilience-backend=docker, which does; image=... names another"
            ) from None
        server = SystemContainer(program, self._context, name)
        self._containers.append(server)
        with ryuk_disabled(self._environ):
            server.launch()
        server.wait_until_ready()
        self.servers[name] = server
        return server

    def _create_network(
        self, engine: engines.Engine, session: str, labels: Mapping[str, str], pending_dir: Path
    ) -> Network:
        import docker
        from docker.errors import APIError

        client = self._docker = docker.DockerClient(base_url=engine.url)
        try:
            with mark_pending(pending_dir, session):
                network = client.networks.create(session, driver="bridge", labels=dict(labels))
        except APIError as error:
            raise BackendUnavailable(f"Docker could not make a network: {error.explanation or error}") from None
        gateways = (network.attrs.get("IPAM") or {}).get("Config") or []
        if not gateways:
            network.reload()
            gateways = network.attrs["IPAM"]["Config"] or []
        self._network_reachable = any(is_local_address(each.get("Gateway", "")) for each in gateways)
        return network

    def _pull_missing_images(self, engine: engines.Engine, images: list[str]) -> None:
        missing = engine.missing_images(images)
        if missing and not self._pull:
            raise BackendUnavailable(f"Docker has no image {', '.join(missing)}")
        if missing:
            import docker
            from docker.errors import DockerException

            client = docker.DockerClient(base_url=engine.url, timeout=PULL_WITHIN)
            try:
                for image in missing:
                    client.images.pull(image)
            except (DockerException, OSError) as error:
                reason = getattr(error, "explanation", None) or error
                raise BackendUnavailable(
                    f"Docker has no image {', '.join(missing)} and can't pull it ({reason}); scripts/images in the repository "
                    "builds stand-ins, --resilience-*-image names others"
                ) from None
            finally:
                client.close()

    def close(self) -> None:
        for container in self._containers:
            container.disconnect()
        self._containers = []
        if self._docker is not None:
            self._docker.close()
            self._docker = self._network = None
        super().close()

    def proxy_addresses(self, name: str) -> tuple[str, str]:
        if self._runs_own_proxy:
            return f"{HOST}:{free_port()}", str(self.upstream_address(name))
        number = next(self._proxy_numbers)
        if number >= PUBLISHED_PROXY_PORTS and not self._network_reachable:
            raise SetupError(
                f"{name!r} is one server too many: clients reach servers by forwarded ports here, of which there are "
                f"{PUBLISHED_PROXY_PORTS}"
            )
        return f"0.0.0.0:{FIRST_PROXY_PORT + number}", str(self.servers[name].upstream_address)

    def upstream_address(self, name: str) -> Address:
        server = self.servers[name]
        if not self._runs_own_proxy:
            return server.upstream_address
        assert isinstance(server, ContainerServer)
        return server.private_address if self._network_reachable else server.direct_address

    def client_address(self, listen: str) -> Address:
        if self._runs_own_proxy:
            return Address.parse(listen)
        assert self._proxy is not None, "start first"
        port = int(listen.rpartition(":")[2])
        return (
            Address(self._proxy.private_host, port) if self._network_reachable else self._proxy.published_address(port)
        )

    def tcp_api(self) -> Address:
        """Return the API of a proxy in a process of this machine, because a container can't reach the machine's loopback."""
        if self._tcp_proxy is None:
            proxy = ProxyProcess(ProcessContext(self._supervisor, self.directory, self._clock))
            proxy.launch()
            proxy.wait_until_ready()
            self._tcp_proxy = proxy
        return self._tcp_proxy.address

    def tcp_listen_address(self) -> str:
        return f"{HOST}:{free_port()}"

    def tcp_client_address(self, listen: str) -> Address:
        return Address.parse(listen)

    def connection_counts(self, proxy: str) -> ConnectionCounts | None:
        return self._proxy.connection_counts(proxy) if self._proxy is not None else None

    def proxied_clients(self, proxy: str) -> ProxiedClients | None:
        # With forwarded ports, the client of Toxiproxy is the forwarder.
        return self._proxy.proxied_clients(proxy) if self._proxy is not None and self._network_reachable else None

    def versions(self) -> str:
        return f"Postgres {self.servers['postgres'].version}, Redis {self.servers['redis'].version}"

    def restart_dead(self) -> None:
        if self._tcp_proxy is not None:
            self._tcp_proxy.start()
        if self._proxy is not None:
            self._restart_toxiproxy(self._proxy)
        else:
            self.api = self.tcp_api()
        for server in self.servers.values():
            server.start()

    def _restart_toxiproxy(self, proxy: ToxiproxyContainer) -> None:
        before = proxy.private_host
        if proxy.alive() and not proxy.api_responds():
            proxy.kill()
        proxy.start()
        self.api = proxy.api
        if self._network_reachable and proxy.private_host != before:
            raise ServerNotReady(
                "toxiproxy",
                command=["docker", "start"],
                within=0.0,
                log=f"it restarted at {proxy.private_host}, but clients have the address {before}",
                exit_code=None,
            )

    def check(self) -> None:
        for container in self._containers:
            container.check()
        if self._tcp_proxy is not None:
            self._tcp_proxy.check()
        if self._proxy is not None and not self._proxy.api_responds():
            raise BackendDied(
                f"toxiproxy's API does not answer any more; its log, last lines:\n{self._proxy.log_text()[-2000:]}"
            )


def unsupported_faults(*, forwarded: bool) -> Mapping[str, str]:
    """Return the faults that the backend can't inject, such as "redis.half_open", with reasons.

    Args:
        forwarded: True if clients reach Toxiproxy by forwarded ports.
    """
    if not forwarded:
        return TOXIPROXY_UNSUPPORTED
    names = (f"{server}.{fault}" for server in ("postgres", "redis") for fault in ("refuse", "reset", "flap"))
    return TOXIPROXY_UNSUPPORTED | dict.fromkeys(names, FORWARDED_REASON)


def forwards_ports(engine: engines.Engine) -> bool:
    """True if clients would reach containers of the engine by forwarded ports, because its networks are not on this machine.

    Its default network is evidence for the network of a session, which does not exist yet.
    """
    gateways = engine.bridge_gateways()
    return bool(gateways) and not any(map(is_local_address, gateways))


def is_local_address(address: str) -> bool:
    """True if an address belongs to this machine. Then its network is on this machine too."""
    if not address or sys.platform != "linux":
        return False
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def machine_id() -> str:
    """Return an id of this machine or container, which changes with each start."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}:{boot.read_text().strip() if boot.exists() else ''}"


def remove_stale_sessions(engine: engines.Engine) -> list[str]:
    """Remove the containers and networks of sessions of this machine that were killed together with their supervisor.

    Returns:
        The names of the sessions.
    """
    here = f"{engines.MACHINE}={machine_id()}"
    found: dict[str, str] = {}
    for kind in "containers", "networks":
        for each in engine.find_labelled(kind, here):
            labels = each["Labels"]
            found[labels.get(engines.SESSION, "")] = labels.get(engines.OWNER, "")
    stale = [session for session, owner in found.items() if session and owner and not is_locked(Path(owner))]
    for session in stale:
        engine.remove(session)
    return stale


@contextlib.contextmanager
def ryuk_disabled(environ: Mapping[str, str]) -> Iterator[None]:
    """Keep testcontainers from starting Ryuk, unless TESTCONTAINERS_RYUK_DISABLED=false demands it.

    The supervisor does the work of Ryuk in a tenth of its time.
    """
    from testcontainers.core.config import testcontainers_config

    before = testcontainers_config.ryuk_disabled
    if environ.get(RYUK_VARIABLE, "").lower() not in ("false", "0", "no"):
        testcontainers_config.ryuk_disabled = True
    try:
        yield
    finally:
        testcontainers_config.ryuk_disabled = before
