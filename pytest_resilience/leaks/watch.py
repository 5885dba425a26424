"""One test watched: what is there when its body begins, and what of it has stayed when its fixtures are gone.

A look asks each server one question and this process itself, about a millisecond in all. Whose a connection is, is asked only when
there is one too many: that costs more, and takes a proxy and servers on this machine that are all ours. Elsewhere only this
process is looked at, so that nobody is accused of what others do.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..backends.postgres_admin import APPLICATION
from ..clock import SYSTEM, Clock
from ..faults.fault import Strike
from ..faults.process import ProcessFault
from ..stack import Stack
from . import postgres, process, redis
from .compare import Leak, Trace, stayed
from .holders import Holder, Holders
from .process import Descriptor

if TYPE_CHECKING:
    import asyncio

PATIENCE = 0.5  # seconds for what is about to end: a server takes a moment to notice that a client has gone
COLLECT_AFTER = 0.015  # seconds; before that it is mostly a server that has not noticed yet
LOOK_EVERY = 0.003  # seconds between two looks
ANSWER_WITHIN = 5.0  # seconds for a server to answer; it takes a millisecond
OF_SERVER = {"postgres": "postgres", "lock": "postgres", "redis": "redis", "subscription": "redis", "pattern": "redis"}


class Look(NamedTuple):
    """What was seen at one moment.

    Args:
        traces: what is there, without what is ours.
        ports: by each server that was asked, the ports by which it knows its clients, ours too.
        channels: what anybody subscribes to.
        descriptors: what this process has open.
    """

    traces: list[Trace]
    ports: dict[str, set[int | None]]
    channels: list[str]
    descriptors: list[Descriptor]


class Watch:
    """Looks when it is made, and again when asked what has stayed.

    Args:
        stack: the servers, proxies and services.
        strikes: what has struck so far, in the test and in its session.
        root: what paths are shown from.
        loops: event loops that outlive the test.
        clock: what to wait with.
    """

    def __init__(
        self,
        stack: Stack,
        strikes: Callable[[], Iterable[Strike]],
        *,
        root: Path,
        loops: Iterable[asyncio.AbstractEventLoop] = (),
        clock: Clock = SYSTEM,
    ) -> None:
        self._stack = stack
        self._strikes = strikes
        self._root = root
        self._loops = list(loops)
        self._clock = clock
        look = self._look()
        # Their names are enough, and nothing is kept alive.
        self._before = look._replace(traces=[trace._replace(thing=None) for trace in look.traces], descriptors=[])

    def leaks(self, allowed: Sequence[str]) -> list[Leak]:
        """What has stayed for longer than a moment, and that none of these patterns allows."""
        begin = self._clock.now()
        collected = False
        while left := [leak for leak in self._judge(self._look()) if not leak.allowed_by(allowed)]:
            passed = self._clock.now() - begin
            if passed >= PATIENCE and collected:
                return [self._and_origin(leak) for leak in left]
            if passed >= COLLECT_AFTER and not collected:
                gc.collect()  # what nobody refers to any more is no leak
                collected = True
            else:
                self._clock.sleep(LOOK_EVERY)
        return []

    def _and_origin(self, leak: Leak) -> Leak:
        """With where its descriptor was opened, which takes long to find out."""
        origin = process.opened_at(leak.descriptor, self._root) if leak.descriptor is not None else ""
        return leak._replace(more=", ".join(filter(None, (leak.more, origin)))) if origin else leak

    # -- looking

    def _look(self) -> Look:
        asks = [name for name in ("postgres", "redis") if self._stack.knows_clients and self._answers(name)]
        admin = self._stack.postgres.admin
        rows = admin.fetch_soon(postgres.QUERY) if "postgres" in asks else None  # while the others are asked
        traces: list[Trace] = []
        ports: dict[str, set[int | None]] = {}
        channels: list[str] = []
        try:
            if "redis" in asks:
                clients, channels = self._clients()
                ports["redis"] = {client.port for client in clients}
                traces += redis.traces(client for client in clients if client.name != APPLICATION)
        except Exception:  # noqa: BLE001  # a server that does not answer is another's story: it is not compared
            ports.pop("redis", None)
        try:
            if rows is not None:
                sessions = [postgres.Session.read(row) for row in rows.result(ANSWER_WITHIN)]
                ports["postgres"] = {session.port for session in sessions}
                traces += postgres.traces(session for session in sessions if session.name != APPLICATION)
        except Exception:  # noqa: BLE001  # the same
            ports.pop("postgres", None)
        descriptors = process.descriptors()
        traces += map(process.descriptor_trace, descriptors)
        traces += process.threads()
        traces += process.tasks(self._loops, ours=admin.loop)
        return Look(traces, ports, channels, descriptors)

    def _answers(self, name: str) -> bool:
        """Whether nothing has stopped that server."""
        return not any(
            isinstance(strike.fault, ProcessFault) and strike.label.startswith(f"{name}.") and not strike.healed
            for strike in self._strikes()
        )

    def _clients(self) -> tuple[list[redis.Client], list[str]]:
        pipe: Any = self._stack.redis.admin.client.pipeline(transaction=False)
        pipe.client_list()
        pipe.pubsub_channels()
        rows, channels = pipe.execute()
        clients = [redis.Client.read(row) for row in rows if not {"M", "S"} & set(row.get("flags", ""))]  # replication
        return clients, [name.decode(errors="replace") if isinstance(name, bytes) else name for name in channels]

    # -- judging

    def _judge(self, now: Look) -> list[Leak]:
        """What is too much, without what is ours or the service's."""
        asked = self._before.ports.keys() & now.ports.keys()
        too_many = [
            trace
            for trace in stayed(self._before.traces, now.traces)
            if trace.kind not in OF_SERVER or OF_SERVER[trace.kind] in asked
        ]
        if not too_many:
            return []
        ours = self._stack.descriptors | process.kept_by_python()
        holders = Holders(self._stack, now.descriptors)
        leaks: list[Leak] = []
        subscribed = 0
        for trace in too_many:
            if trace.kind in OF_SERVER:
                holder = holders.of(OF_SERVER[trace.kind], trace.thing.port)
                if holder is not None and trace.kind == "subscription":
                    subscribed += 1
                elif holder is not None:
                    leaks.append(self._of_server(trace, holder))
            elif trace.kind == "thread":
                leaks.append(Leak(f"thread:{trace.name}", process.thread_stands(trace.thing, self._root)))
            elif trace.kind == "task":
                leaks.append(Leak(f"task:{trace.name}", process.task_stands(trace.thing, self._root)))
            elif trace.thing.number not in ours and not self._is_known(trace.thing, now, holders):
                leaks.append(self._descriptor(trace))
        names = redis.channel_names(subscribed, self._before.channels, now.channels)
        return leaks + [Leak(f"subscription:{name}") for name in names[:subscribed]]

    def _of_server(self, trace: Trace, holder: Holder) -> Leak:
        if trace.kind == "lock":
            return Leak(f"lock:{trace.name}", f"an advisory lock of the session postgres:{trace.thing.name}")
        if trace.kind == "pattern":
            return Leak(f"subscription:{redis.PATTERN}", f"of redis:{trace.name}")
        held = holder.descriptor
        aliases = (f"socket:{process.descriptor_trace(held).name}",) if held is not None else ()
        told = ", ".join(filter(None, (trace.thing.told(), holder.told)))
        return Leak(f"{trace.kind}:{trace.name}", told, aliases, held)

    def _is_known(self, descriptor: Descriptor, now: Look, holders: Holders) -> bool:
        """Whether it is a connection that its server was asked about, or one that nobody here can tell from our own."""
        if not descriptor.is_socket:
            return False
        if descriptor.is_unix or not descriptor.remote:
            return descriptor.is_unix and not self._stack.knows_clients  # a Docker engine's, for all we know
        local, remote = descriptor.local[1], descriptor.remote[1]
        for name, target in (("postgres", self._stack.postgres), ("redis", self._stack.redis)):
            if remote == target.server.direct.port:
                return not self._stack.knows_clients or local in now.ports.get(name, ())
            if remote == target.port and name in now.ports:
                through = holders.through_the_proxy(name)
                return any(client == local and port in now.ports[name] for port, client in through.items())
        return False

    def _descriptor(self, trace: Trace) -> Leak:
        descriptor: Descriptor = trace.thing
        told = ["an event loop or selector that nobody closed"] if trace.name == "eventpoll" else []
        if descriptor.is_socket and not descriptor.is_unix:
            told.append(self._peer(descriptor))
        return Leak(f"{trace.kind}:{trace.name}", ", ".join(filter(None, told)), (), descriptor)

    def _peer(self, descriptor: Descriptor) -> str:
        """What a socket leads to."""
        if not descriptor.remote:
            return "a socket without a peer"
        port = descriptor.remote[1]
        for name, target in (("postgres", self._stack.postgres), ("redis", self._stack.redis)):
            if port == target.port:
                return f"a connection to {name} (through the proxy)"
            if port == target.server.direct.port:
                return f"a connection to {name} (around the proxy)"
        if any(running.url.endswith(f":{port}") for running in self._stack.services):
            return "a connection to the service"
        return ""
