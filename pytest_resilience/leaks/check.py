"""One test watched: what is there when its body begins, and what of it has new_resources when its fixtures are gone.

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
from .compare import Leak, Resource, new_resources
from .descriptors import Descriptor, descriptor_resource, open_descriptors, opened_at, python_internal_descriptors
from .owners import CLIENT_GONE, ConnectionOwners, Owner
from .snapshot import Snapshot, Snapshots, own_loops

if TYPE_CHECKING:
    import asyncio

TIMEOUT = 0.5  # seconds for what is about to end: a server takes a moment to notice that a client has gone
SERVER_TIMEOUT = 3.0  # seconds for a server to notice that a client has gone; a busy machine needs more than a moment
COLLECT_AFTER = 0.015  # seconds; before that it is mostly a server that has not noticed yet
POLL_INTERVAL = 0.003  # seconds between two looks


class Finding(NamedTuple):
    """A leak, and what the next look needs to know of it.

    Args:
        leak: what is reported.
        key: what tells it from others of its name.
        is_local: whether this process has it, so that no server has to notice anything.
        client_gone: whether its client is gone, and only the server has it still.
        descriptor: what this process has open of it.
    """

    leak: Leak
    key: Hashable
    is_local: bool = True
    client_gone: bool = False
    descriptor: Descriptor | None = None


class LeakCheck:
    """Looks when it is made, and again when asked what has new_resources.

    Args:
        stack: the servers, proxies and services.
        strikes: what has struck so far, in the test and in its session.
        root: what paths are relative_path from.
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
        self._reported_sockets: set[str] = set()  # what /proc calls those
        look = self._snapshots.take()
        # Their names are enough, and nothing is kept alive.
        self._before = look._replace(
            resources=[resource._replace(value=None) for resource in look.resources], descriptors=[]
        )

    @contextmanager
    def watching_event_loops(self) -> Iterator[None]:
        """Look at each event loop that is closed within the block, and remember which connections were closed with it."""
        with event_loops.on_close(self._before_close):
            yield

    def leaks(self, allowed: Sequence[str] = ()) -> list[Leak]:
        """Return what has new_resources for longer than a moment, and that no pattern allows, neither one of these."""
        return self._poll(lambda left: SERVER_TIMEOUT if _any_client_gone(left) else TIMEOUT, allowed)

    def leaks_now(self) -> list[Leak]:
        """Return the same without waiting for anything in this process: in a running event loop, nothing there would end meanwhile."""

        def timeout(left: Sequence[Finding]) -> float:
            if _any_client_gone(left):
                return SERVER_TIMEOUT
            return 0.0 if all(finding.is_local for finding in left) else TIMEOUT

        return self._poll(timeout)

    def _poll(self, timeout: Callable[[list[Finding]], float], allowed: Sequence[str] = ()) -> list[Leak]:
        begin = self._clock.now()
        collected = False
        while left := self._without_allowed(self._find_leaks(self._snapshots.take()), allowed):
            passed = self._clock.now() - begin
            waiting = passed < timeout(left)
            if not waiting and collected:
                break
            if not collected and (passed >= COLLECT_AFTER or not waiting):
                gc.collect()  # what nobody refers to any more is no leak
                collected = True
            else:
                self._clock.sleep(POLL_INTERVAL)
        # A socket of a closed loop may stay open for a while, when its server has let go: it has a line already.
        left = [
            each for each in left if each.descriptor is None or each.descriptor.target not in self._reported_sockets
        ]
        known = {finding.key for finding in left}
        closed = [leak for key, leak in self._closed_with_loops.items() if key not in known]
        return closed + [self._with_origin(finding.leak) for finding in left]

    def _without_allowed(self, findings: Iterable[Finding], allowed: Sequence[str] = ()) -> list[Finding]:
        return [finding for finding in findings if not finding.leak.allowed_by([*self._allowed, *allowed])]

    # -- event loops that are closed

    def _before_close(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Find the connections that nobody has closed; those that are closed with the loop are leaks."""
        mine = event_loops.open_connections(loop)
        if mine == set() or loop in own_loops(self._stack):
            return lambda: None
        try:
            findings = self._find_leaks_of(mine)
        except Exception:  # noqa: BLE001  # of a server or proxy that is away: the loop's owner must not hear of it
            return lambda: None
        findings = [f._replace(leak=self._with_origin(f.leak)) for f in self._without_allowed(findings)]

        def closed() -> None:
            left = {} if mine is not None else {each.number: each.target for each in open_descriptors()}
            for finding in findings:
                held = finding.descriptor
                if held is not None and left.get(held.number) != held.target:
                    more = f"{finding.leak.details}, open when its event loop was closed"
                    self._closed_with_loops[finding.key] = finding.leak._replace(details=more, descriptor=None)
                    self._reported_sockets.add(held.target)

        return closed

    def _find_leaks_of(self, descriptors: set[int] | None) -> list[Finding]:
        """Look and judge what this process has open of these descriptors; None for all.

        While others come and go at a server, it can't be told which of its sessions is whose: then again.
        """
        give_up = self._clock.now() + TIMEOUT
        while True:
            now = self._snapshots.take()
            only = descriptors if descriptors is not None else {each.number for each in now.descriptors}
            findings = self._find_leaks(now, only)
            ports = {target.port for target in self._stack.targets.values()}
            unpaired = any(f.leak.kind == "socket" and f.descriptor and _port(f.descriptor) in ports for f in findings)
            if not unpaired or self._clock.now() > give_up:
                return findings
            self._clock.sleep(POLL_INTERVAL)

    def _with_origin(self, leak: Leak) -> Leak:
        """With where its descriptor was opened, which takes long to find out."""
        origin = opened_at(leak.descriptor, self._root) if leak.descriptor is not None else ""
        return leak._replace(details=", ".join(filter(None, (leak.details, origin)))) if origin else leak

    # -- judging

    def _find_leaks(self, now: Snapshot, only: Collection[int] | None = None) -> list[Finding]:
        """Return what is too much, without what is ours or the service's.

        Args:
            now: what there is.
            only: descriptors, where only what this process has open of these is asked about.
        """
        asked = self._before.clients.keys() & now.clients.keys()
        too_many = [
            resource
            for resource in new_resources(self._before.resources, now.resources)
            if not resource.server or resource.server in asked
        ]
        if not too_many:
            return []
        ours = own_descriptors(self._stack) | python_internal_descriptors()
        internal = event_loops.internal_descriptors() if only is None else set()
        current = event_loops.current_task()
        owners = ConnectionOwners(self._stack, now.descriptors, now.clients, self._snapshots.clients_of)
        found: list[Finding] = []
        subscribed: list[Finding] = []
        for resource in too_many:
            key = resource.kind, resource.name, resource.key
            if resource.server:
                owner = owners.of(resource.server, resource.value.host, resource.value.port)
                if owner is not None and not _is_loop_internal(owner.descriptor, internal):
                    held, gone = owner.descriptor, owner.description == CLIENT_GONE
                    finding = Finding(self._server_leak(resource, owner), key, held is not None, gone, held)
                    (subscribed if resource.kind == "subscription" else found).append(finding)
            elif resource.kind == "thread":
                found.append(
                    Finding(Leak(f"thread:{resource.name}", tasks.thread_location(resource.value, self._root)), key)
                )
            elif resource.kind == "task":
                if resource.value is not current:
                    found.append(
                        Finding(Leak(f"task:{resource.name}", tasks.task_location(resource.value, self._root)), key)
                    )
            elif resource.kind == "process":
                found.append(Finding(Leak(f"process:{resource.name}", resource.value.describe(self._root)), key))
            elif resource.value.number not in ours and not _is_loop_internal(resource.value, internal):
                found.append(Finding(self._descriptor_leak(resource), key, descriptor=resource.value))
        names = redis.channel_names(len(subscribed), self._before.channels, now.channels)
        found += [f._replace(leak=Leak(f"subscription:{name}")) for f, name in zip(subscribed, names, strict=False)]
        if only is not None:
            found = [f for f in found if f.descriptor is not None and f.descriptor.number in only]
        told = {f.descriptor.number for f in found if f.descriptor is not None and f.leak.kind not in ("socket", "fd")}
        return [f for f in found if not self._is_duplicate(f, now, owners, told, only)]

    def _is_duplicate(
        self, finding: Finding, now: Snapshot, owners: ConnectionOwners, told: set[int], only: Collection[int] | None
    ) -> bool:
        """True if a descriptor needs no line of its own: a server has told of it, or would have."""
        if finding.descriptor is None or finding.leak.kind not in ("socket", "fd"):
            return False
        if only is not None:  # of connections that their loop has, so they are this test's
            return finding.descriptor.number in told
        return self._is_reported_elsewhere(finding.descriptor, now, owners)

    def _server_leak(self, resource: Resource, owner: Owner) -> Leak:
        if resource.kind == "lock":
            return Leak(f"lock:{resource.name}", f"an advisory lock of the session postgres:{resource.value.name}")
        if resource.kind == "pattern":
            return Leak(f"subscription:{redis.PATTERN}", f"of redis:{resource.name}")
        held = owner.descriptor
        aliases = (f"socket:{descriptor_resource(held).name}",) if held is not None else ()
        where = f"in {resource.server}" if resource.server != resource.kind else ""  # one of several
        told = ", ".join(filter(None, (resource.value.describe(), where, owner.description)))
        return Leak(f"{resource.kind}:{resource.name}", told, aliases, held)

    def _is_reported_elsewhere(self, descriptor: Descriptor, now: Snapshot, owners: ConnectionOwners) -> bool:
        """Whether it is a connection that its server was asked about, or one that nobody here can tell from our own."""
        if descriptor.is_unix or descriptor.target == "anon_inode:[eventpoll]":
            # A Docker engine's, for all we know, or the loop of a server that was added meanwhile.
            grown = now.servers > self._before.servers
            return grown or (descriptor.is_unix and not sees_client_ports(self._stack))
        if not descriptor.is_socket or not descriptor.remote:
            return False
        local, remote = descriptor.local[1], descriptor.remote[1]
        for name, target in self._stack.targets.items():
            if remote == target.server.direct_address.port:
                return not (can_attribute(self._stack) and sees_client_ports(self._stack)) or now.has_client(
                    name, local
                )
            if remote == target.port and name in now.clients:
                if not can_attribute(self._stack):
                    return True  # nobody else has sessions there, and those are told of
                through = owners.client_ports(name)
                return any(client == local and now.has_client(name, port) for port, client in through.items())
        return False

    def _descriptor_leak(self, resource: Resource) -> Leak:
        descriptor: Descriptor = resource.value
        told = ["an event loop or selector that nobody closed"] if resource.name == "eventpoll" else []
        if descriptor.is_socket and not descriptor.is_unix:
            told.append(self._peer(descriptor))
        return Leak(f"{resource.kind}:{resource.name}", ", ".join(filter(None, told)), (), descriptor)

    def _peer(self, descriptor: Descriptor) -> str:
        """What a socket leads to."""
        if not descriptor.remote:
            return "a socket without a peer"
        port = descriptor.remote[1]
        for name, target in self._stack.targets.items():
            if port == target.port:
                return f"a connection to {name} (through the proxy)"
            if port == target.server.direct_address.port:
                return f"a connection to {name} (around the proxy)"
        if any(running.url.endswith(f":{port}") for running in self._stack.services):
            return "a connection to the service"
        return ""


def _port(descriptor: Descriptor) -> int | None:
    """Return the port that a socket leads to."""
    return descriptor.remote[1] if descriptor.remote and not descriptor.is_unix else None


def _any_client_gone(findings: Iterable[Finding]) -> bool:
    return any(finding.client_gone for finding in findings)


def _is_loop_internal(descriptor: Descriptor | None, internal: set[int] | None) -> bool:
    """True if a descriptor is the running loop's own; where the loop does not say, if it may be."""
    if descriptor is None:
        return False
    if internal is None:
        nameless = descriptor.is_unix and not (descriptor.remote or descriptor.local)
        return nameless or descriptor.target.startswith(("pipe:", "anon_inode:", os.devnull))
    return descriptor.number in internal
