"""What can break: every kind of fault by its name. A new kind is one class in one file and one line here."""

from __future__ import annotations

from .fault import Fault, Receipt, Strike
from .network import (
    Bandwidth,
    Blackhole,
    Flap,
    HalfOpen,
    Latency,
    LimitData,
    Refuse,
    Reset,
    Slicer,
    SlowAccept,
    SlowClose,
)
from .postgres_server import Crash, HoldLocks, ReadOnly, SlowQueries, Starve, TakeConnections, TerminateBackends
from .process import Kill, Pause, Restart, Terminate
from .redis_server import BusyScript, Flush, Loading, MaxClients, Oom, Readonly
from .resources import ExhaustDescriptors, MemoryLimit, MemoryPressure, StarveCpu

FAULTS: dict[str, type[Fault]] = {
    "refuse": Refuse,
    "reset": Reset,
    "blackhole": Blackhole,
    "latency": Latency,
    "bandwidth": Bandwidth,
    "slow_close": SlowClose,
    "slicer": Slicer,
    "limit_data": LimitData,
    "flap": Flap,
    "half_open": HalfOpen,
    "slow_accept": SlowAccept,
    "kill": Kill,
    "pause": Pause,
    "terminate": Terminate,
    "restart": Restart,
    "starve": Starve,
    "take_connections": TakeConnections,
    "hold_locks": HoldLocks,
    "slow_queries": SlowQueries,
    "terminate_backends": TerminateBackends,
    "crash": Crash,
    "read_only": ReadOnly,
    "oom": Oom,
    "readonly": Readonly,
    "loading": Loading,
    "busy_script": BusyScript,
    "max_clients": MaxClients,
    "flush": Flush,
    "memory_pressure": MemoryPressure,
    "memory_limit": MemoryLimit,
    "exhaust_descriptors": ExhaustDescriptors,
    "starve_cpu": StarveCpu,
}

__all__ = ["FAULTS", "Fault", "Receipt", "Strike"]
