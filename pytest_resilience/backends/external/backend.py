"""The external backend: a Toxiproxy and servers that somebody else runs, named by the user.

Rules: we make proxies under a prefix of our own and touch no other; we make a Postgres database of our own and drop it; we take a logical
database of Redis that is empty. All of that is removed when the session ends, by the supervisor, however it ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Mapping

from ...errors import BackendDied, BackendUnavailable, SetupError
from ...proxy_client.client import TOXIPROXY_UNSUPPORTED, ToxiproxyClient, ToxiproxyError
from ...proxy_client.handle import create_proxy
from ..backend import Address
from ..session.background import InBackground
from ..session.ports import with_free_port
from ..session.session_dir import files_of_our_own, sweep
from ..session.supervised import SupervisedBackend
from ..settings import Settings
from .endpoints import ExternalEndpoints, ServerEndpoint, read
from .servers import ANSWER_WITHIN, NOT_OURS, SHARED, ExternalServer, RedisDatabaseLease, make_database

CANNOT = {
    f"{server}.{fault}": NOT_OURS for server in ("postgres", "redis") for fault in ("kill", "pause", "restart")
} | {
    "postgres.crash": NOT_OURS,
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
    """Somebody else's Toxiproxy and servers.

    Args:
        settings: what the user named.
        reason: one phrase for the header.
    """

    name = "external"
    shares_toxiproxy = True

    def __init__(self, settings: Settings, *, reason: str = "asked for") -> None:
        super().__init__()
        self.reason = reason
        self._named: ExternalEndpoints = read(settings)
        self._id = secrets.token_hex(8)
        self.proxy_prefix = f"pytest-resilience-{self._id}-"
        self.template_database = f"resilience_{self._id}_baseline"
        self._control: ToxiproxyClient | None = None
        self._claim: RedisDatabaseLease | None = None
        self._used: set[int] = set()
        self._direct: dict[str, str] = {}  # the proxies that are never struck: name -> where they listen

    @property
    def unsupported(self) -> Mapping[str, str]:  # type: ignore[override]  # known when its Toxiproxy has been asked
        return CANNOT | (TOXIPROXY_UNSUPPORTED if self._control is None or not self._control.has_counters else {})

    def start(self) -> None:
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        named = self._named
        self.api = named.api
        self._control = ToxiproxyClient(*named.api)
        try:
            self._control.request("GET", "/version")
        except (BackendDied, SetupError, ValueError) as error:
            raise BackendUnavailable(f"no Toxiproxy at {named.api}: {error}") from None
        self._open()
        sweep()
        database = f"resilience_{self._id}"
        postgres = ExternalServer("postgres", named.postgres, database, Address("", 0))
        redis = ExternalServer("redis", named.redis, named.redis.database, Address("", 0))
        first = named.postgres.database or "postgres"
        facts: dict[str, object] = {"api": list(named.api), "prefix": self.proxy_prefix}
        self._plan_the_end(facts)
        self._at_end_run()
        postgres.direct_address = self._way_around("postgres", named.postgres)
        redis.direct_address = self._way_around("redis", named.redis)
        facts["postgres"] = postgres.url_of(first, postgres.direct_address)
        facts["databases"] = [database, self.template_database]
        self._plan_the_end(facts)
        postgres.version = InBackground(lambda: asyncio.run(make_database(postgres, first))).result()
        self._claim = RedisDatabaseLease(redis, self._id)
        redis.version = self._claim.version
        facts["redis"] = redis.url(redis.direct_address)
        self._plan_the_end(facts)
        self.servers = {"postgres": postgres, "redis": redis}

    def _plan_the_end(self, facts: Mapping[str, object]) -> None:
        """Write down what is to be removed at the end. Passwords are among it: the file is ours alone, and goes with its directory."""
        planned = self.directory / "end.json.new"
        with files_of_our_own(), os.fdopen(os.open(planned, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(facts, file)
        planned.replace(self.directory / "end.json")

    def _at_end_run(self) -> None:
        """Have the supervisor do it."""
        self._run_at_exit("backends.external.cleanup", str(self.directory / "end.json"))

    def _way_around(self, name: str, upstream: ServerEndpoint) -> Address:
        """A second proxy, which no fault strikes: the only way that is sure to reach a server behind somebody's Toxiproxy."""
        assert self._control is not None, "start makes it"
        proxy = f"{self.proxy_prefix}{name}-direct"
        control = self._control
        door = with_free_port(
            lambda _: create_proxy(control, proxy, self._listen(), str(upstream.address)), taken=SetupError
        )
        door.counters()  # tells ours from the real Toxiproxy
        self._direct[name] = door.listen
        address = self.client_address(door.listen)
        try:
            socket.create_connection(address, timeout=ANSWER_WITHIN).close()
        except OSError as error:
            raise SetupError(
                f"the Toxiproxy at {self.api} listens for us on port {address.port}, but {address} can't be reached from here "
                f"({type(error).__name__}); --resilience-toxiproxy-ports=FIRST-LAST says which ports can"
            ) from None
        return address

    def _listen(self) -> str:
        """Where a new proxy may listen."""
        if not self._named.ports:
            return "127.0.0.1:0" if self.api.host in LOOPBACK else "0.0.0.0:0"
        assert self._control is not None, "start makes it"
        shown = self._control.request("GET", "/proxies").values()
        taken = {int(proxy["listen"].rpartition(":")[2] or 0) for proxy in shown} | self._used
        free = [port for port in self._named.ports if port not in taken]
        if not free:
            raise SetupError(f"others use all of the ports from {self._named.ports[0]} to {self._named.ports[-1]}")
        self._used.add(free[0])
        return f"0.0.0.0:{free[0]}"

    def close(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None
        if self._control is not None:
            self._control.close()
            self._control = None
        super().close()

    def proxy_addresses(self, name: str) -> tuple[str, str]:
        return self._listen(), str(self.servers[name].upstream_address)

    def client_address(self, listen: str) -> Address:
        return Address(self.api.host, int(listen.rpartition(":")[2]))

    def versions(self) -> str:
        return f"Postgres {self.servers['postgres'].version}, Redis {self.servers['redis'].version}"

    def restart_dead(self) -> None:
        assert self._control is not None, "start makes it"
        for name, listen in self._direct.items():
            try:
                self._control.request("GET", f"/proxies/{self.proxy_prefix}{name}-direct")
            except ToxiproxyError:
                create_proxy(
                    self._control, f"{self.proxy_prefix}{name}-direct", listen, str(self.servers[name].upstream_address)
                )

    def check(self) -> None:
        assert self._control is not None, "start makes it"
        for name in self._direct:
            try:
                self._control.request("GET", f"/proxies/{self.proxy_prefix}{name}-direct")
            except ToxiproxyError:
                raise BackendDied(
                    f"the Toxiproxy at {self.api} has lost our proxies; it was restarted, or reset by somebody"
                ) from None
