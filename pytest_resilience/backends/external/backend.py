"""The external backend uses a Toxiproxy and servers that the user runs and names by options.

A session creates proxies with its own prefix and changes no other proxies. It creates and drops one Postgres database, and leases one
empty logical Redis database. The supervisor removes all of that when the session ends, also if it is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Mapping

from ...errors import BackendDied, BackendUnavailable, SetupError
from ...proxy_client.client import (
    TOXIPROXY_UNSUPPORTED,
    TOXIPROXY_UNSUPPORTED_FOR_TCP,
    ToxiproxyClient,
    ToxiproxyError,
)
from ...proxy_client.handle import create_proxy
from ..backend import Address
from ..session.background import in_background
from ..session.ports import with_free_port
from ..session.session_dir import CLEANUP_PLAN, private_umask, remove_stale
from ..session.supervised import SupervisedBackend
from ..settings import Settings
from .endpoints import ExternalEndpoints, ServerEndpoint, read_endpoints
from .servers import ANSWER_WITHIN, NOT_OWNED, SHARED, ExternalServer, RedisDatabaseLease, create_database

UNSUPPORTED = {
    f"{server}.{fault}": NOT_OWNED for server in ("postgres", "redis") for fault in ("kill", "pause", "restart")
} | {
    "postgres.crash": NOT_OWNED,
    "postgres.terminate_backends": SHARED,
    "postgres.read_only": SHARED,
    "postgres.take_connections": SHARED,
    "redis.oom": SHARED,
    "redis.loading": SHARED,
    "redis.busy_script": SHARED,
    "redis.readonly": SHARED,
    "redis.max_clients": SHARED,
    "redis.flush": SHARED,
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ExternalBackend(SupervisedBackend):
    """A Toxiproxy and servers that the user runs.

    Args:
        settings: the options of the run.
        reason: why this backend was selected, one phrase for pytest's header.
    """

    name = "external"
    shares_toxiproxy = True

    def __init__(self, settings: Settings, *, reason: str = "asked for") -> None:
        super().__init__()
        self.reason = reason
        self._endpoints: ExternalEndpoints = read_endpoints(settings)
        self._id = secrets.token_hex(8)
        self.proxy_prefix = f"pytest-resilience-{self._id}-"
        self.template_database = f"resilience_{self._id}_baseline"
        self._client: ToxiproxyClient | None = None
        self._lease: RedisDatabaseLease | None = None
        self._used_ports: set[int] = set()
        self._direct_proxies: dict[str, str] = {}  # the proxies that are never struck: server -> listen address

    @property
    def unsupported(self) -> Mapping[str, str]:  # type: ignore[override]  # depends on the Toxiproxy that answers
        if self._client is not None and self._client.has_counters:
            return UNSUPPORTED
        return UNSUPPORTED | TOXIPROXY_UNSUPPORTED | TOXIPROXY_UNSUPPORTED_FOR_TCP

    def start(self) -> None:
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        endpoints = self._endpoints
        self.api = endpoints.api
        self._client = ToxiproxyClient(*endpoints.api)
        try:
            self._client.request("GET", "/version")
        except (BackendDied, SetupError, ValueError) as error:
            raise BackendUnavailable(f"no Toxiproxy at {endpoints.api}: {error}") from None
        self._open()
        remove_stale()
        database = f"resilience_{self._id}"
        postgres = ExternalServer("postgres", endpoints.postgres, database, Address("", 0))
        redis = ExternalServer("redis", endpoints.redis, endpoints.redis.database, Address("", 0))
        existing = endpoints.postgres.database or "postgres"
        plan: dict[str, object] = {"api": list(endpoints.api), "prefix": self.proxy_prefix}
        self._write_cleanup_plan(plan)
        self._register_cleanup()
        postgres.direct_address = self._create_direct_proxy("postgres", endpoints.postgres)
        redis.direct_address = self._create_direct_proxy("redis", endpoints.redis)
        plan["postgres"] = postgres.url_of(existing, postgres.direct_address)
        plan["databases"] = [database, self.template_database]
        self._write_cleanup_plan(plan)
        postgres.version = in_background(lambda: asyncio.run(create_database(postgres, existing))).result()
        self._lease = RedisDatabaseLease.acquire(redis, self._id)
        redis.version = self._lease.version
        plan["redis"] = redis.url(redis.direct_address)
        self._write_cleanup_plan(plan)
        self.servers = {"postgres": postgres, "redis": redis}

    def _write_cleanup_plan(self, plan: Mapping[str, object]) -> None:
        """Write the file for the cleanup. It has passwords, so only this user can read it, and it is deleted with its directory."""
        unpublished = self.directory / f"{CLEANUP_PLAN}.new"
        with (
            private_umask(),
            os.fdopen(os.open(unpublished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file,
        ):
            json.dump(plan, file)
        unpublished.replace(self.directory / CLEANUP_PLAN)

    def _register_cleanup(self) -> None:
        """Let the supervisor run the cleanup when the session ends."""
        self._run_at_exit("backends.external.cleanup", str(self.directory / CLEANUP_PLAN))

    def _create_direct_proxy(self, name: str, upstream: ServerEndpoint) -> Address:
        """Create a second proxy that is never struck, and return its address.

        The server may only be reachable through the user's Toxiproxy, so this is the direct route.
        """
        assert self._client is not None, "start creates it"
        proxy = f"{self.proxy_prefix}{name}-direct"
        client = self._client
        handle = with_free_port(
            lambda _: create_proxy(client, proxy, self._listen_address(), str(upstream.address)), taken=SetupError
        )
        handle.counters()  # detects whether this Toxiproxy has counters
        self._direct_proxies[name] = handle.listen
        address = self.client_address(handle.listen)
        try:
            socket.create_connection(address, timeout=ANSWER_WITHIN).close()
        except OSError as error:
            raise SetupError(
                f"the Toxiproxy at {self.api} listens on port {address.port}, but {address} can't be reached from here "
                f"({type(error).__name__}); name the ports that can by --resilience-toxiproxy-ports=FIRST-LAST"
            ) from None
        return address

    def _listen_address(self) -> str:
        """Return the address at which a new proxy may listen."""
        if not self._endpoints.ports:
            return "127.0.0.1:0" if self.api.host in LOOPBACK else "0.0.0.0:0"
        assert self._client is not None, "start creates it"
        proxies = self._client.request("GET", "/proxies").values()
        taken = {int(proxy["listen"].rpartition(":")[2] or 0) for proxy in proxies} | self._used_ports
        free = [port for port in self._endpoints.ports if port not in taken]
        if not free:
            raise SetupError(f"all ports from {self._endpoints.ports[0]} to {self._endpoints.ports[-1]} are in use")
        self._used_ports.add(free[0])
        return f"0.0.0.0:{free[0]}"

    def close(self) -> None:
        if self._lease is not None:
            self._lease.close()
            self._lease = None
        if self._client is not None:
            self._client.close()
            self._client = None
        super().close()

    def proxy_addresses(self, name: str) -> tuple[str, str]:
        return self._listen_address(), str(self.servers[name].upstream_address)

    def client_address(self, listen: str) -> Address:
        return Address(self.api.host, int(listen.rpartition(":")[2]))

    def versions(self) -> str:
        return f"Postgres {self.servers['postgres'].version}, Redis {self.servers['redis'].version}"

    def restart_dead(self) -> None:
        assert self._client is not None, "start creates it"
        for name, listen in self._direct_proxies.items():
            try:
                self._client.request("GET", f"/proxies/{self.proxy_prefix}{name}-direct")
            except ToxiproxyError:
                create_proxy(
                    self._client, f"{self.proxy_prefix}{name}-direct", listen, str(self.servers[name].upstream_address)
                )

    def check(self) -> None:
        assert self._client is not None, "start creates it"
        for name in self._direct_proxies:
            try:
                self._client.request("GET", f"/proxies/{self.proxy_prefix}{name}-direct")
            except ToxiproxyError:
                raise BackendDied(
                    f"the Toxiproxy at {self.api} has lost the proxies of this session; it was restarted or reset"
                ) from None
