"""The leaks between two snapshots, without the resources of the plugin and of the service under test."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable
from pathlib import Path
from typing import NamedTuple

from ..stack import Stack
from . import event_loops, redis, tasks
from .attribution import can_attribute, own_descriptors, sees_client_ports
from .compare import Leak, Resource, new_resources
from .descriptors import Descriptor, descriptor_resource, python_internal_descriptors
from .owners import CLIENT_GONE, ClientEndpoints, ConnectionOwners, Owner
from .snapshot import Snapshot


class Finding(NamedTuple):
    """A leak, and what the next snapshot needs to compare it.

    Args:
        leak: the leak, for the report.
        key: distinguishes the resource from those of its kind and name.
        is_local: True if this process has the resource, so that no server has to release it.
        client_gone: True if only the server still has the connection.
        descriptor: the descriptor in this process, if it has one.
    """

    leak: Leak
    key: Hashable
    is_local: bool = True
    client_gone: bool = False
    descriptor: Descriptor | None = None

    @property
    def number(self) -> int | None:
        """The number of the descriptor in this process, if it has one."""
        return self.descriptor.number if self.descriptor is not None else None


def find_leaks(
    stack: Stack,
    root: Path,
    before: Snapshot,
    now: Snapshot,
    query_clients: Callable[[str], ClientEndpoints],
    only: Collection[int] | None = None,
) -> list[Finding]:
    """Return the resources of `now` that are new since `before`, without those of the plugin and of the service.

    Args:
        stack: the servers, proxies and services.
        root: the directory from which paths are shown.
        before: the snapshot with which `now` is compared.
        now: the snapshot with the new resources.
        query_clients: returns the clients that a server has now.
        only: the descriptors of this process to which the search is limited; None for no limit.
    """
    compared = before.clients.keys() & now.clients.keys()
    new = [
        each for each in new_resources(before.resources, now.resources) if not each.server or each.server in compared
    ]
    return _Finder(stack, root, before, now, query_clients, only).findings(new) if new else []


class _Finder:
    """A finder of leaks, made from the arguments of `find_leaks`."""

    def __init__(
        self,
        stack: Stack,
        root: Path,
        before: Snapshot,
        now: Snapshot,
        query_clients: Callable[[str], ClientEndpoints],
        only: Collection[int] | None,
    ) -> None:
        self._stack = stack
        self._root = root
        self._before = before
        self._now = now
        self._only = only
        self._own = own_descriptors(stack) | python_internal_descriptors()
        self._loop_internal = event_loops.internal_descriptors() if only is None else set()
        self._current_task = event_loops.current_task()
        self._owners = ConnectionOwners(stack, now.descriptors, now.clients, query_clients)
        self._by_kind = {
            "thread": self._thread,
            "task": self._task,
            "process": self._process,
            "socket": self._descriptor,
            "fd": self._descriptor,
        }

    def findings(self, new: list[Resource]) -> list[Finding]:
        """Return a finding for each new resource that is a leak, subscriptions last."""
        subscriptions = [resource for resource in new if resource.kind == "subscription"]
        others = [resource for resource in new if resource.kind != "subscription"]
        found = self._describe(others) + self._with_channels(self._describe(subscriptions))
        if self._only is not None:
            found = [finding for finding in found if finding.number in self._only]
        reported = {finding.number for finding in found if finding.leak.kind not in ("socket", "fd")}
        return [finding for finding in found if not self._is_duplicate(finding, reported)]

    def _describe(self, resources: list[Resource]) -> list[Finding]:
        described = [
            (self._server_resource if resource.server else self._by_kind[resource.kind])(resource)
            for resource in resources
        ]
        return [finding for finding in described if finding is not None]

    def _with_channels(self, subscriptions: list[Finding]) -> list[Finding]:
        """Give subscriptions the names of the new channels."""
        channels = redis.channel_names(len(subscriptions), self._before.channels, self._now.channels)
        named = zip(subscriptions, channels, strict=False)
        return [finding._replace(leak=Leak(f"subscription:{channel}")) for finding, channel in named]

    def _finding(self, resource: Resource, details: str, descriptor: Descriptor | None = None) -> Finding:
        return Finding(
            Leak(f"{resource.kind}:{resource.name}", details, (), descriptor), resource.id, descriptor=descriptor
        )

    def _thread(self, resource: Resource) -> Finding:
        return self._finding(resource, tasks.thread_location(resource.value, self._root))

    def _task(self, resource: Resource) -> Finding | None:
        if resource.value is self._current_task:
            return None
        return self._finding(resource, tasks.task_location(resource.value, self._root))

    def _process(self, resource: Resource) -> Finding:
        return self._finding(resource, resource.value.describe(self._root))

    def _descriptor(self, resource: Resource) -> Finding | None:
        descriptor: Descriptor = resource.value
        if descriptor.number in self._own or self._is_loop_internal(descriptor):
            return None
        details = ["an event loop or selector that is not closed"] if resource.name == "eventpoll" else []
        if descriptor.is_socket and not descriptor.is_unix:
            details.append(self._peer(descriptor))
        return self._finding(resource, ", ".join(filter(None, details)), descriptor)

    def _server_resource(self, resource: Resource) -> Finding | None:
        owner = self._owners.of(resource.server, resource.value.host, resource.value.port)
        if owner is None or (owner.descriptor is not None and self._is_loop_internal(owner.descriptor)):
            return None
        return Finding(
            _server_leak(resource, owner),
            resource.id,
            is_local=owner.descriptor is not None,
            client_gone=owner.description == CLIENT_GONE,
            descriptor=owner.descriptor,
        )

    def _is_loop_internal(self, descriptor: Descriptor) -> bool:
        """True if the running event loop needs a descriptor for itself, or may need it where the loop does not report its own."""
        if self._loop_internal is None:
            nameless = descriptor.is_unix and not (descriptor.remote or descriptor.local)
            return nameless or descriptor.target.startswith(("pipe:", "anon_inode:", os.devnull))
        return descriptor.number in self._loop_internal

    def _is_duplicate(self, finding: Finding, reported: Collection[int | None]) -> bool:
        """True if a descriptor is reported with the server's resource, or would be if that was a leak."""
        if finding.descriptor is None or finding.leak.kind not in ("socket", "fd"):
            return False
        if self._only is not None:  # these are connections of a loop, so they belong to this test
            return finding.number in reported
        return self._is_reported_elsewhere(finding.descriptor)

    def _is_reported_elsewhere(self, descriptor: Descriptor) -> bool:
        """True if a server reports the connection, or if the descriptor may be one of the plugin's."""
        if descriptor.is_unix or descriptor.target == "anon_inode:[eventpoll]":
            return self._may_be_own(descriptor)
        if not descriptor.is_socket or not descriptor.remote:
            return False
        for name, target in self._stack.targets.items():
            if descriptor.port == target.server.direct_address.port:
                return self._is_reported_directly(name, descriptor)
            if descriptor.port == target.port and name in self._now.clients:
                return self._is_reported_through_proxy(name, descriptor)
        return False

    def _may_be_own(self, descriptor: Descriptor) -> bool:
        """True if it may be a connection to a Docker engine, or belong to a server that was added during the test."""
        grown = self._now.servers > self._before.servers
        return grown or (descriptor.is_unix and not sees_client_ports(self._stack))

    def _is_reported_directly(self, server: str, descriptor: Descriptor) -> bool:
        known = can_attribute(self._stack) and sees_client_ports(self._stack)
        return not known or self._now.has_client(server, descriptor.local[1])

    def _is_reported_through_proxy(self, server: str, descriptor: Descriptor) -> bool:
        if not can_attribute(self._stack):
            return True  # this process is the only client, and the server reports all of its sessions
        ports = self._owners.client_ports(server).items()
        return any(client == descriptor.local[1] and self._now.has_client(server, port) for port, client in ports)

    def _peer(self, descriptor: Descriptor) -> str:
        """Return the server or service to which a socket is connected, "" for any other."""
        if not descriptor.remote:
            return "a socket without a peer"
        for name, target in self._stack.targets.items():
            if descriptor.port == target.port:
                return f"a connection to {name} (through the proxy)"
            if descriptor.port == target.server.direct_address.port:
                return f"a connection to {name} (around the proxy)"
        for name, system in self._stack.tcp_targets.items():
            if descriptor.port == system.port:
                return f"a connection to {name} (through the proxy)"
        for running in self._stack.services:
            if running.spec.has_port and descriptor.port in running.ports.values():
                return f"a connection to {running.title}"
        return ""


def _server_leak(resource: Resource, owner: Owner) -> Leak:
    if resource.kind == "lock":
        return Leak(f"lock:{resource.name}", f"an advisory lock of the session postgres:{resource.value.name}")
    if resource.kind == "pattern":
        return Leak(f"subscription:{redis.PATTERN}", f"of redis:{resource.name}")
    held = owner.descriptor
    aliases = (f"socket:{descriptor_resource(held).name}",) if held is not None else ()
    where = f"in {resource.server}" if resource.server != resource.kind else ""  # one of several
    details = ", ".join(filter(None, (resource.value.describe(), where, owner.description)))
    return Leak(f"{resource.kind}:{resource.name}", details, aliases, held)
