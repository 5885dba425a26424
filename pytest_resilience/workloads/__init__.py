"""The workloads of clients: the protocol, and one each for HTTP services, Postgres clients and Redis clients."""

from .http_resource import HttpResource
from .postgres_registers import PostgresRegisters
from .redis_registers import RedisRegisters
from .workload import Workload

__all__ = ["HttpResource", "PostgresRegisters", "RedisRegisters", "Workload"]
