"""The faults that only a Postgres or only a Redis has, as methods."""

from __future__ import annotations

from ..faults.fault import Strike
from ..faults.postgres_server import Crash, HoldLocks, ReadOnly, SlowQueries, Starve, TakeConnections, TerminateBackends
from ..faults.process import Restart
from ..faults.redis_server import BusyScript, ClientKillOutputBuffer, Flush, Loading, MaxClients, Oom, Readonly
from ..faults.statements import CommitInDoubt, Deadlock, LoadingReplies, SerializationFailure
from .fault_method import fault_method
from .target import ProcessFaults


class PostgresFaults(ProcessFaults):
    """The faults of a Postgres."""

    starve = fault_method(Starve)
    take_connections = fault_method(TakeConnections)

    def hold_locks(self, *tables: str) -> Strike:
        """Lock tables exclusively, as a migration does. Without names, lock all tables."""
        return self.inject(HoldLocks(tables))

    def slow_queries(self, seconds: float, *tables: str) -> Strike:
        """Make each statement on the named tables (default: all) take up to `seconds` longer in the server."""
        return self.inject(SlowQueries(seconds, tables))

    terminate_backends = fault_method(TerminateBackends)
    crash = fault_method(Crash)
    read_only = fault_method(ReadOnly)
    commit_in_doubt = fault_method(CommitInDoubt)
    serialization_failure = fault_method(SerializationFailure)
    deadlock = fault_method(Deadlock)


class RedisFaults(ProcessFaults):
    """The faults of a Redis."""

    def restart(self, data: str | None = None) -> Strike:
        """Stop Redis in order and start it again, before the call returns.

        Args:
            data: "kept" or "lost"; None for the default of the server, which is "lost" for the embedded Redis.
        """
        return self.inject(Restart(data))

    oom = fault_method(Oom)
    readonly = fault_method(Readonly)
    loading = fault_method(Loading)
    busy_script = fault_method(BusyScript)
    max_clients = fault_method(MaxClients)
    client_kill_output_buffer = fault_method(ClientKillOutputBuffer)
    flush = fault_method(Flush)
    loading_replies = fault_method(LoadingReplies)
