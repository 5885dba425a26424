"""The registry of faults by name. A new kind is one class in one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import SetupError
from ..wording import did_you_mean
from .close_connections import CloseConnections
from .fault import Fault, Receipt, Strike
from .network import (
    Bandwidth,
    Blackhole,
    Flap,
    HalfOpen,
    Latency,
    LimitData,
    ProtocolViolation,
    Refuse,
    Reset,
    Slicer,
    SlowAccept,
    SlowClose,
)
from .postgres_server import Crash, HoldLocks, ReadOnly, SlowQueries, Starve, TakeConnections, TerminateBackends
from .process import Kill, Pause, Restart, Terminate
from .rabbitmq_server import DiskAlarm, MemoryAlarm, QueueFull
from .redis_server import BusyScript, ClientKillOutputBuffer, Flush, Loading, MaxClients, Oom, Readonly
from .resources import ExhaustDescriptors, MemoryLimit, MemoryPressure, StarveCpu
from .statements import After, CommitInDoubt, Deadlock, LoadingReplies, On, SerializationFailure

FAULTS: dict[str, type[Fault]] = {
    "refuse": Refuse,
    "reset": Reset,
    "blackhole": Blackhole,
    "latency": Latency,
    "bandwidth": Bandwidth,
    "slow_close": SlowClose,
    "slicer": Slicer,
    "limit_data": LimitData,
    "protocol_violation": ProtocolViolation,
    "flap": Flap,
    "half_open": HalfOpen,
    "slow_accept": SlowAccept,
    "on": On,
    "after": After,
    "commit_in_doubt": CommitInDoubt,
    "serialization_failure": SerializationFailure,
    "deadlock": Deadlock,
    "loading_replies": LoadingReplies,
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
    "client_kill_output_buffer": ClientKillOutputBuffer,
    "flush": Flush,
    "close_connections": CloseConnections,
    "memory_alarm": MemoryAlarm,
    "disk_alarm": DiskAlarm,
    "queue_full": QueueFull,
    "memory_pressure": MemoryPressure,
    "memory_limit": MemoryLimit,
    "exhaust_descriptors": ExhaustDescriptors,
    "starve_cpu": StarveCpu,
}


After.kinds = FAULTS


def from_json(data: Mapping[str, Any]) -> Fault:
    """Create the fault that `Fault.to_json` has described.

    Args:
        data: {"fault": name, "settings": {...}}; without settings, each has its default.

    Raises:
        SetupError: no fault has that name, or the settings don't fit it.
    """
    name, settings = data["fault"], data.get("settings", {})
    if name not in FAULTS:
        raise SetupError(f"no fault named {name!r}{did_you_mean(name, FAULTS)}")
    try:
        return FAULTS[name](**settings)
    except TypeError as error:
        raise SetupError(f"fault {name!r}: {error}") from None


__all__ = ["FAULTS", "Fault", "Receipt", "Strike", "from_json"]
