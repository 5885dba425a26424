"""The attribution of connections to processes, as far as servers, proxies and backends allow it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from ..stack import Stack

_attributable: WeakKeyDictionary[Stack, bool] = WeakKeyDictionary()  # takes a request to each proxy


def can_attribute(stack: Stack) -> bool:
    """True if each connection to the servers can be attributed to a process.

    The session then owns the servers, and the proxy or the backend reports the ports of their clients.
    """
    if stack not in _attributable:
        proxies = [target.proxy_handle for target in stack.targets.values()]
        _attributable[stack] = owns_servers(stack) and all(proxy.by_upstream_port() is not None for proxy in proxies)
    return _attributable[stack]


def sees_client_ports(stack: Stack) -> bool:
    """True if the servers see direct clients under the ports of these clients, so that no forwarder is in between."""
    return all(
        server.direct_address == server.upstream_address for server in stack.backend_for_processes.servers.values()
    )


def is_only_client(stack: Stack) -> bool:
    """True if only this process can connect to the servers, because the session owns them and has started no service."""
    return owns_servers(stack) and not stack.services


def owns_servers(stack: Stack) -> bool:
    """True if the session started the servers for its own use."""
    return all(server.exclusive for server in stack.backend_for_processes.servers.values())


def own_descriptors(stack: Stack) -> set[int]:
    """Return the descriptors of the plugin's own connections to the proxy's API and to the services."""
    return stack.proxy_descriptors.union(*(service.descriptors for service in stack.services))
