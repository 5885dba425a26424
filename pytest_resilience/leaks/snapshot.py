"""The resources of the servers and of this process at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..admin.postgres_session import APPLICATION
from ..faults.fault import Strike
from ..faults.process import ProcessFault
from ..stack import Stack
from ..targets.server import PostgresTarget, RedisTarget
from ..wire.redis import ErrorReply, parse_client_list
from . import child_processes, postgres, redis, tasks
from .attribution import can_attribute, is_only_client
from .compare import Resource
from .descriptors import Descriptor, descriptor_resource, open_descriptors
from .owners import ClientEndpoints

if TYPE_CHECKING:
    import asyncio

QUERY_TIMEOUT = 5.0  # seconds for a server to answer; it takes a millisecond


class Snapshot(NamedTuple):
    """The resources at one moment.

    Args:
        resources: all resources but the plugin's.
        clients: the clients of each server that answered, the plugin's among them.
        channels: the channels that any client of a Redis subscribes to.
        descriptors: the open descriptors of this process.
        servers: the number of servers.
    """

    resources: list[Resource]
    clients: dict[str, ClientEndpoints]
    channels: list[str]
    descriptors: list[Descriptor]
    servers: int

    def has_client(self, server: str, port: int) -> bool:
        """True if a server has a client at that port."""
        return any(port == client for _, client in self.clients.get(server, ()))

    def without_values(self) -> Snapshot:
        """Return a copy that has the names and keys only, so that it keeps no object alive."""
        return self._replace(resources=[each._replace(value=None) for each in self.resources], descriptors=[])


class Snapshots:
    """Takes snapshots of one test's stack and of this process.

    Args:
        stack: the servers, proxies and services.
        strikes: returns the strikes of the test and of its session so far.
        loops: event loops that outlive the test.
    """

    def __init__(
        self, stack: Stack, strikes: Callable[[], Iterable[Strike]], loops: Iterable[asyncio.AbstractEventLoop]
    ) -> None:
        self._stack = stack
        self._strikes = strikes
        self._loops = list(loops)
        self._pids = child_processes.process_ids()

    def take(self) -> Snapshot:
        """Query the servers and scan this process."""
        targets = self._stack.targets
        attributable = can_attribute(self._stack) or is_only_client(self._stack)
        names = [name for name in targets if attributable and not self._is_stopped(name)]
        queries = {name: _query(name, targets[name]) for name in names}  # all before the first result is awaited
        resources: list[Resource] = []
        clients: dict[str, ClientEndpoints] = {}
        channels: list[str] = []
        for name in sorted(
            names, key=lambda name: isinstance(targets[name], PostgresTarget)
        ):  # those still at work last
            try:
                server = queries[name]()
            except Exception:  # noqa: BLE001  # a server that does not answer is not compared, and reported elsewhere
                continue
            resources += server.resources
            clients[name] = server.clients
            channels += server.channels
        descriptors = open_descriptors()
        resources += map(descriptor_resource, descriptors)
        resources += tasks.threads()
        resources += tasks.tasks(self._loops, excluded=own_loops(self._stack))
        resources += child_processes.new_children(self._pids)
        return Snapshot(resources, clients, channels, descriptors, len(targets))

    def clients_of(self, name: str) -> ClientEndpoints:
        """Return the clients that a server has now, or none if it does not answer."""
        try:
            return _query(name, self._stack.targets[name])().clients
        except Exception:  # noqa: BLE001  # as in `take`; no client is paired then
            return []

    def _is_stopped(self, name: str) -> bool:
        """True if a fault has stopped the processes of a server."""
        return any(
            isinstance(strike.fault, ProcessFault) and strike.label.startswith(f"{name}.") and not strike.healed
            for strike in self._strikes()
        )


class ServerSnapshot(NamedTuple):
    """The resources of one server at one moment.

    Args:
        resources: all resources but the plugin's.
        clients: its clients, the plugin's among them.
        channels: the channels that any client subscribes to.
    """

    resources: list[Resource]
    clients: ClientEndpoints
    channels: list[str]


def _query(name: str, target: PostgresTarget | RedisTarget) -> Callable[[], ServerSnapshot]:
    """Start a query and return a function that returns its result. A Postgres works on the query until the call."""
    if isinstance(target, PostgresTarget):
        rows = target.admin.fetch_soon(postgres.QUERY)
        return lambda: _postgres_snapshot(
            name, [postgres.SessionRow.from_row(row.as_dict()) for row in rows.result(QUERY_TIMEOUT)]
        )
    return lambda: _redis_snapshot(name, *_redis_clients(target))


def _postgres_snapshot(name: str, sessions: Sequence[postgres.SessionRow]) -> ServerSnapshot:
    users = [session for session in sessions if session.name != APPLICATION]
    return ServerSnapshot(postgres.resources(users, name), postgres.client_endpoints(sessions), [])


def _redis_snapshot(name: str, clients: Sequence[redis.ClientRow], channels: list[str]) -> ServerSnapshot:
    users = [client for client in clients if client.name != APPLICATION]
    return ServerSnapshot(redis.resources(users, name), redis.client_endpoints(clients), channels)


def _redis_clients(target: RedisTarget) -> tuple[list[redis.ClientRow], list[str]]:
    """Return the clients of a Redis without its replication, and the channels that they subscribe to."""
    listed, channels = target.admin.client.call_all([("CLIENT", "LIST"), ("PUBSUB", "CHANNELS")])
    for reply in listed, channels:
        if isinstance(reply, ErrorReply):
            raise reply
    assert isinstance(listed, str), "CLIENT LIST answers with text"
    assert isinstance(channels, list), "PUBSUB CHANNELS answers with names"
    rows = parse_client_list(listed)
    clients = [redis.ClientRow.from_row(row) for row in rows if not {"M", "S"} & set(row.get("flags", ""))]
    return clients, [str(name) for name in channels]


def own_loops(stack: Stack) -> list[asyncio.AbstractEventLoop | None]:
    """Return the event loops of the plugin's own sessions."""
    return [target.admin.loop for target in stack.targets.values() if isinstance(target, PostgresTarget)]
