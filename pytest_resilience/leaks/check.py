"""One test watched: what is there when its body begins, and what of it has stayed when its fixtures are gone.

What an event loop alone keeps is looked at when that loop is about to be closed: later it is gone.

A look asks each server one question and this process itself, about a millisecond in all. Whose a connection is, is asked only when
there is one too many: that costs more, and takes servers that are all ours, behind a proxy that tells, or whose log does. Other servers
of ours are asked while no service runs, since then nobody else has sessions there. Otherwise only this process is looked at, so that
nobody is accused of what others do.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..clock import SYSTEM, Clock
from ..faults.fault import Strike
from ..stack import Stack
from . import event_loops, redis, tasks
from .attribution import can_attribute, own_descriptors, sees_client_ports
from .compare import Leak, Resource, stayed
from .descriptors import Descriptor, descriptor_trace, kept_by_python, open_descriptors, opened_at
from .owners import GONE, ConnectionOwners, Owner
from .snapshot import Snapshot, Snapshots, own_loops

if TYPE_CHECKING:
    import asyncio

PATIENCE = 0.5  # seconds for what is about to end: a server takes a moment to notice that a client has gone
PATIENCE_WITH_SERVERS = (
    3.0  # seconds for a server to notice that a client has gone; a busy machine needs more than a moment
)
COLLECT_AFTER = 0.015  # seconds; before that it is mostly a server that has not noticed yet
LOOK_EVERY = 0.003  # seconds between two looks


class Finding(NamedTuple):
    """A leak, and what the next look needs to know of it.

    Args:
        leak: what is reported.
        key: what tells it from others of its name.
        is_here: whether this process has it, so that no server has to notice anything.
        is_gone: whether its client is gone, and only the server has it still.
        descriptor: what this process has open of it.
    """

    leak: Leak
    key: Hashable
    is_here: bool = True
    is_gone: bool = False
    descriptor: Descriptor | None = None


class LeakCheck:
    """Looks when it is made, and again when asked what has stayed.

    Args:
        stack: the servers, proxies and services.
        strikes: what has struck so far, in the test and in its session.
        root: what paths are shown from.
        loops: event loops that outlive the test.
        allowed: patterns of what may stay.
        clock: what to wait with.
    """

    def __init__(
        self,
        stack: Stack,
        strikes: Callable[[], Iterable[Strike]],
        *,
        root: Path,
        loops: Iterable[asyncio.AbstractEventLoop] = (),
        allowed: Sequence[str] = (),
        clock: Clock = SYSTEM,
    ) -> None:
        self._stack = stack
        self._root = root
        self._snapshots = Snapshots(stack, strikes, loops)
        self._clock = clock
        self._allowed = list(allowed)
        self._closed_with_loops: dict[Hashable, Leak] = {}
        self._told_sockets: set[str] = set()  # what /proc calls those
        look = self._snapshots.take()
        # Their names are enough, and nothing is kept alive.
        self._before = look._replace(traces=[trace._replace(thing=None) for trace in look.traces], descriptors=[])

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Look at each event loop that is closed within the block, and remember which connections were closed with it."""
        with event_loops.listening(self._loop_closes):
            yield

    def leaks(self, allowed: Sequence[str] = ()) -> list[Leak]:
        """Return what has stayed for longer than a moment, and that no pattern allows, neither one of these."""
        return self._after(lambda left: PATIENCE_WITH_SERVERS if _any_gone(left) else PATIENCE, allowed)

    def leaks_now(self) -> list[Leak]:
        """Return the same without waiting for anything in this process: in a running event loop, nothing there would end meanwhile."""

        def patience(left: Sequence[Finding]) -> float:
            if _any_gone(left):
                return PATIENCE_WITH_SERVERS
            return 0.0 if all(finding.is_here for finding in left) else PATIENCE

        return self._after(patience)

    def _after(self, patience: Callable[[list[Finding]], float], allowed: Sequence[str] = ()) -> list[Leak]:
        begin = self._clock.now()
        collected = False
        while left := self._allowing(self._judge(self._snapshots.take()), allowed):
            passed = self._clock.now() - begin
            waiting = passed < patience(left)
            if not waiting and collected:
                break
            if not collected and (passed >= COLLECT_AFTER or not waiting):
                gc.collect()  # what nobody refers to any more is no leak
                collected = True
            else:
                self._clock.sleep(LOOK_EVERY)
        # A socket of a closed loop may stay open for a while, when its server has let go: it has a line already.
        left = [each for each in left if each.descriptor is None or each.descriptor.target not in self._told_sockets]
        known = {finding.key for finding in left}
        closed = [leak for key, leak in self._closed_with_loops.items() if key not in known]
        return closed + [self._and_origin(finding.leak) for finding in left]

    def _allowing(self, findings: Iterable[Finding], allowed: Sequence[str] = ()) -> list[Finding]:
        return [finding for finding in findings if not finding.leak.allowed_by([*self._allowed, *allowed])]

    # -- event loops that are closed

    def _loop_closes(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Find the connections that nobody has closed; those that are closed with the loop are leaks."""
        mine = event_loops.open_descriptors(loop)
        if mine == set() or loop in own_loops(self._stack):
            return lambda: None
        try:
            findings = self._judged_with(mine)
        except Exception:  # noqa: BLE001  # of a server or proxy that is away: the loop's owner must not hear of it
            return lambda: None
        findings = [f._replace(leak=self._and_origin(f.leak)) for f in self._allowing(findings)]

        def closed() -> None:
            left = {} if mine is not None else {each.number: each.target for each in open_descriptors()}
            for finding in findings:
                held = finding.descriptor
                if held is not None and left.get(held.number) != held.target:
                    more = f"{finding.leak.more}, open when its event loop was closed"
                    self._closed_with_loops[finding.key] = finding.leak._replace(more=more, descriptor=None)
                    self._told_sockets.add(held.target)

        return closed

    def _judged_with(self, descriptors: set[int] | None) -> list[Finding]:
        """Look and judge what this process has open of these descriptors; None for all.

        While others come and go at a server, it can't be told which of its sessions is whose: then again.
        """
        give_up = self._clock.now() + PATIENCE
        while True:
            now = self._snapshots.take()
            only = descriptors if descriptors is not None else {each.number for each in now.descriptors}
            findings = self._judge(now, only)
            ports = {target.port for target in self._stack.systems.values()}
            unpaired = any(f.leak.kind == "socket" and f.descriptor and _port(f.descriptor) in ports for f in findings)
            if not unpaired or self._clock.now() > give_up:
                return findings
            self._clock.sleep(LOOK_EVERY)

    def _and_origin(self, leak: Leak) -> Leak:
        """With where its descriptor was opened, which takes long to find out."""
        origin = opened_at(leak.descriptor, self._root) if leak.descriptor is not None else ""
        return leak._replace(more=", ".join(filter(None, (leak.more, origin)))) if origin else leak

    # -- judging

    def _judge(self, now: Snapshot, only: Collection[int] | None = None) -> list[Finding]:
        """Return what is too much, without what is ours or the service's.

        Args:
            now: what there is.
            only: descriptors, where only what this process has open of these is asked about.
        """
        asked = self._before.known.keys() & now.known.keys()
        too_many = [
            trace for trace in stayed(self._before.traces, now.traces) if not trace.server or trace.server in asked
        ]
        if not too_many:
            return []
        ours = own_descriptors(self._stack) | kept_by_python()
        machinery = event_loops.machinery() if only is None else set()
        current = event_loops.current_task()
        holders = ConnectionOwners(self._stack, now.descriptors, now.known, self._snapshots.known)
        found: list[Finding] = []
        subscribed: list[Finding] = []
        for trace in too_many:
            key = trace.kind, trace.name, trace.key
            if trace.server:
                holder = holders.of(trace.server, trace.thing.host, trace.thing.port)
                if holder is not None and not _is_of_loop(holder.descriptor, machinery):
                    held, gone = holder.descriptor, holder.told == GONE
                    finding = Finding(self._of_server(trace, holder), key, held is not None, gone, held)
                    (subscribed if trace.kind == "subscription" else found).append(finding)
            elif trace.kind == "thread":
                found.append(Finding(Leak(f"thread:{trace.name}", tasks.thread_stands(trace.thing, self._root)), key))
            elif trace.kind == "task":
                if trace.thing is not current:
                    found.append(Finding(Leak(f"task:{trace.name}", tasks.task_stands(trace.thing, self._root)), key))
            elif trace.kind == "process":
                found.append(Finding(Leak(f"process:{trace.name}", trace.thing.described(self._root)), key))
            elif trace.thing.number not in ours and not _is_of_loop(trace.thing, machinery):
                found.append(Finding(self._descriptor(trace), key, descriptor=trace.thing))
        names = redis.channel_names(len(subscribed), self._before.channels, now.channels)
        found += [f._replace(leak=Leak(f"subscription:{name}")) for f, name in zip(subscribed, names, strict=False)]
        if only is not None:
            found = [f for f in found if f.descriptor is not None and f.descriptor.number in only]
        told = {f.descriptor.number for f in found if f.descriptor is not None and f.leak.kind not in ("socket", "fd")}
        return [f for f in found if not self._is_told(f, now, holders, told, only)]

    def _is_told(
        self, finding: Finding, now: Snapshot, holders: ConnectionOwners, told: set[int], only: Collection[int] | None
    ) -> bool:
        """True if a descriptor needs no line of its own: a server has told of it, or would have."""
        if finding.descriptor is None or finding.leak.kind not in ("socket", "fd"):
            return False
        if only is not None:  # of connections that their loop has, so they are this test's
            return finding.descriptor.number in told
        return self._is_known(finding.descriptor, now, holders)

    def _of_server(self, trace: Resource, holder: Owner) -> Leak:
        if trace.kind == "lock":
            return Leak(f"lock:{trace.name}", f"an advisory lock of the session postgres:{trace.thing.name}")
        if trace.kind == "pattern":
            return Leak(f"subscription:{redis.PATTERN}", f"of redis:{trace.name}")
        held = holder.descriptor
        aliases = (f"socket:{descriptor_trace(held).name}",) if held is not None else ()
        where = f"in {trace.server}" if trace.server != trace.kind else ""  # one of several
        told = ", ".join(filter(None, (trace.thing.told(), where, holder.told)))
        return Leak(f"{trace.kind}:{trace.name}", told, aliases, held)

    def _is_known(self, descriptor: Descriptor, now: Snapshot, holders: ConnectionOwners) -> bool:
        """Whether it is a connection that its server was asked about, or one that nobody here can tell from our own."""
        if descriptor.is_unix or descriptor.target == "anon_inode:[eventpoll]":
            # A Docker engine's, for all we know, or the loop of a server that was added meanwhile.
            grown = now.servers > self._before.servers
            return grown or (descriptor.is_unix and not sees_client_ports(self._stack))
        if not descriptor.is_socket or not descriptor.remote:
            return False
        local, remote = descriptor.local[1], descriptor.remote[1]
        for name, target in self._stack.systems.items():
            if remote == target.server.direct.port:
                return not (can_attribute(self._stack) and sees_client_ports(self._stack)) or now.knows(name, local)
            if remote == target.port and name in now.known:
                if not can_attribute(self._stack):
                    return True  # nobody else has sessions there, and those are told of
                through = holders.through_the_proxy(name)
                return any(client == local and now.knows(name, port) for port, client in through.items())
        return False

    def _descriptor(self, trace: Resource) -> Leak:
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
        for name, target in self._stack.systems.items():
            if port == target.port:
                return f"a connection to {name} (through the proxy)"
            if port == target.server.direct.port:
                return f"a connection to {name} (around the proxy)"
        if any(running.url.endswith(f":{port}") for running in self._stack.services):
            return "a connection to the service"
        return ""


def _port(descriptor: Descriptor) -> int | None:
    """Return the port that a socket leads to."""
    return descriptor.remote[1] if descriptor.remote and not descriptor.is_unix else None


def _any_gone(findings: Iterable[Finding]) -> bool:
    return any(finding.is_gone for finding in findings)


def _is_of_loop(descriptor: Descriptor | None, machinery: set[int] | None) -> bool:
    """True if a descriptor is the running loop's own; where the loop does not say, if it may be."""
    if descriptor is None:
        return False
    if machinery is None:
        nameless = descriptor.is_unix and not (descriptor.remote or descriptor.local)
        return nameless or descriptor.target.startswith(("pipe:", "anon_inode:", os.devnull))
    return descriptor.number in machinery
