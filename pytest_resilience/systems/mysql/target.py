"""The target MySQL, which MariaDB is too."""

from __future__ import annotations

from ...admin.schema_init import Init
from ...faults.close_connections import CloseConnections
from ...faults.postgres_server import ReadOnly, Starve, TakeConnections
from ...targets.fault_method import fault_method
from ..system import ReadySystem, SystemTarget
from .admin import MysqlAdmin
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

    starve = fault_method(Starve)
    take_connections = fault_method(TakeConnections)
    read_only = fault_method(ReadOnly)
    close_connections = fault_method(CloseConnections)


class MysqlSystem(ReadySystem[MysqlProgram]):
    """A MySQL or MariaDB.

    Args:
        image: its image.
        init: SQL, files with SQL, or functions that take its URL, which make its schema once; None for none.
    """

    target_type = MysqlTarget

    def __init__(self, image: str, init: Init | None) -> None:
        super().__init__(MysqlProgram(image))
        self._init = init

    def create_admin(self) -> MysqlAdmin:
        admin = MysqlAdmin(self.server, self.program)
        if self._init is not None:
            admin.prepare(self._init)
        return admin
