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
    """What was seen at one moment.

    Args:
        resources: what is there, without what is ours.
        clients: by each server that has answered, whom it knows, ours too.
        channels: what anybody subscribes to.
        servers: how many there are.
        descriptors: what this process has open.
    """

    resources: list[Resource]
    clients: dict[str, ClientEndpoints]
    channels: list[str]
    descriptors: list[Descriptor]
    servers: int

    def has_client(self, server: str, port: int) -> bool:
        """Whether a server has a client at that port."""
        return any(port == known for _, known in self.clients.get(server, ()))


class Snapshots:
    """Takes snapshots of one test's stack and of this process."""

    def __init__(
        self, stack: Stack, strikes: Callable[[], Iterable[Strike]], loops: Iterable[asyncio.AbstractEventLoop]
    ) -> None:
        self._stack = stack
        self._strikes = strikes
        self._loops = list(loops)
        self._pids = child_processes.process_ids()

    def take(self) -> Snapshot:
        systems = self._stack.targets
        can_tell = can_attribute(self._stack) or is_only_client(self._stack)
        asked = {
            name: _query(name, system) for name, system in systems.items() if can_tell and self._answers(name)
        }  # they answer while others are asked
        resources: list[Resource] = []
        clients: dict[str, ClientEndpoints] = {}
        channels: list[str] = []
        for name, answer_of in sorted(asked.items(), key=lambda each: isinstance(systems[each[0]], PostgresTarget)):
            try:  # those that have to answer yet come last
                answer = answer_of()
            except Exception:  # noqa: BLE001  # a server that does not answer is another's story: it is not compared
                continue
            resources += answer.resources
            clients[name] = answer.clients
            channels += answer.channels
        descriptors = open_descriptors()
        resources += map(descriptor_resource, descriptors)
        resources += tasks.threads()
        resources += tasks.tasks(self._loops, ours=own_loops(self._stack))
        resources += child_processes.new_children(self._pids)
        return Snapshot(resources, clients, channels, descriptors, len(systems))

    def clients_of(self, name: str) -> ClientEndpoints:
        """Whom a server knows now; nobody when it does not answer."""
        try:
            return _query(name, self._stack.targets[name])().clients
        except Exception:  # noqa: BLE001  # another's story, as in a look: then nobody is paired
            return []

    def _answers(self, name: str) -> bool:
        """Whether nothing has stopped that server."""
        return not any(
            isinstance(strike.fault, ProcessFault) and strike.label.startswith(f"{name}.") and not strike.healed
            for strike in self._strikes()
        )


class ServerSnapshot(NamedTuple):
    """What one server says.

    Args:
        resources: what it has, without what is ours.
        clients: whom it knows, ours too.
        channels: what anybody subscribes to.
    """

    resources: list[Resource]
    clients: ClientEndpoints
    channels: list[str]


def _query(name: str, system: PostgresTarget | RedisTarget) -> Callable[[], ServerSnapshot]:
    """Ask a server, and get its answer by a call; a Postgres works on it in the meantime."""
    if isinstance(system, PostgresTarget):
        rows = system.admin.fetch_soon(postgres.QUERY)
        return lambda: _of_sessions(
            name, [postgres.SessionRow.from_row(row.as_dict()) for row in rows.result(QUERY_TIMEOUT)]
        )
    return lambda: _of_clients(name, *_clients(system))


def _of_sessions(name: str, sessions: Sequence[postgres.SessionRow]) -> ServerSnapshot:
    others = [session for session in sessions if session.name != APPLICATION]
    return ServerSnapshot(postgres.resources(others, name), postgres.client_endpoints(sessions), [])


def _of_clients(name: str, clients: Sequence[redis.ClientRow], channels: list[str]) -> ServerSnapshot:
    others = [client for client in clients if client.name != APPLICATION]
    return ServerSnapshot(redis.resources(others, name), redis.client_endpoints(clients), channels)


def _clients(system: RedisTarget) -> tuple[list[redis.ClientRow], list[str]]:
    """The clients of a Redis, replication left out, and the channels that anybody subscribes to."""
    listed, channels = system.admin.client.call_all([("CLIENT", "LIST"), ("PUBSUB", "CHANNELS")])
    for reply in listed, channels:
        if isinstance(reply, ErrorReply):
            raise reply
    assert isinstance(listed, str), "CLIENT LIST answers with text"
    assert isinstance(channels, list), "PUBSUB CHANNELS answers with names"
    clients = [
        redis.ClientRow.from_row(row) for row in parse_client_list(listed) if not {"M", "S"} & set(row.get("flags", ""))
    ]
    return clients, [str(name) for name in channels]


def own_loops(stack: Stack) -> list[asyncio.AbstractEventLoop | None]:
    """Return the event loops of the plugin's own sessions."""
    return [system.admin.loop for system in stack.targets.values() if isinstance(system, PostgresTarget)]
