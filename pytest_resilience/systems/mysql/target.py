"""The target MySQL, which MariaDB is too."""

from __future__ import annotations

from collections.abc import Mapping

from ...backends.backend import SystemProgram
from ...faults.close_connections import CloseConnections
from ...faults.postgres_server import ReadOnly, Starve, TakeConnections
from ...targets.fault_method import fault_method
from ...targets.target import StrikeRegistry
from ...targets.tcp import TcpSystem
from ..system import ReadySystem, SystemTarget
from .admin import Init, MysqlAdmin
from .program import DATABASE, USER, MysqlProgram


class MysqlTarget(SystemTarget[MysqlAdmin]):
    """MySQL or MariaDB behind its proxy.

    Attributes:
        kind: "mysql".
        user, password, database: for clients that take no URL.
    """

    kind = "mysql"
    user = USER
    database = DATABASE

    @property
    def password(self) -> str:
        """The password of the user."""
        return self._admin.program.password

    starve = fault_method(Starve)
    take_connections = fault_method(TakeConnections)
    read_only = fault_method(ReadOnly)
    close_connections = fault_method(CloseConnections)


class MysqlSystem(ReadySystem):
    """A MySQL or MariaDB.

    Args:
        image: its image.
        init: SQL, files with SQL, or functions that take its URL, which make its schema once; None for none.
    """

    kind = "mysql"
    admin: MysqlAdmin

    def __init__(self, image: str, init: Init | None) -> None:
        self._program = MysqlProgram(image)
        self._init = init

    def program(self) -> SystemProgram:
        return self._program

    def begin(self) -> None:
        self.admin = MysqlAdmin(self.server, self._program)
        if self._init is not None:
            self.admin.prepare(self._init)
        self.admin.take_baseline()

    def target(self, name: str, registry: StrikeRegistry, system: TcpSystem, cannot: Mapping[str, str]) -> MysqlTarget:
        return MysqlTarget(name, registry, system, server=self.server, admin=self.admin, cannot=cannot)
