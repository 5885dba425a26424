"""The parts of the process that all its proxies use."""

from __future__ import annotations

from .descriptors import DescriptorBudget
from .event_loop import EventLoop
from .log import Log
from .refused_connections import RefusedConnectionMonitor
from .resolver import Resolver
from .self_connections import SelfConnections


class ProxyRuntime:
    """The event loop, the log, and what else all proxies of a process use.

    Args:
        seed: of the toxics' random numbers.
        refused_connections: counts refused connections; None counts none.
    """

    __slots__ = ("descriptors", "log", "loop", "refused_connections", "resolver", "seed", "self_connections")

    def __init__(
        self, loop: EventLoop, log: Log, seed: int, refused_connections: RefusedConnectionMonitor | None = None
    ) -> None:
        self.loop = loop
        self.log = log
        self.seed = seed
        self.refused_connections = refused_connections
        self.resolver = Resolver(loop)
        self.descriptors = DescriptorBudget()
        self.self_connections = SelfConnections()
