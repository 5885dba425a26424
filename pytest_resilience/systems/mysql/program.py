"""The program of MySQL or MariaDB, and the users of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from ...backends.backend import Address, SystemProgram
from ...redaction import new_password
from .client import Connection
from .protocol import ServerError

MYSQL_IMAGE = "mysql:8.4"
MARIADB_IMAGE = "mariadb:11"
PORT = 3306
DATABASE = "resilience"
ROOT, USER = "root", "resilience"
# A user with SUPER or READ_ONLY ADMIN would write in spite of read_only, and take the connection that the server reserves.
PRIVILEGES = (
    "select, insert, update, delete, create, drop, reload, process, references, index, alter, create temporary tables, "
    "lock tables, execute, create view, show view, create routine, alter routine, event, trigger"
)
SETTINGS = {
    "skip-name-resolve": None,
    "skip-log-bin": None,
    "max-connections": "151",
    "innodb-buffer-pool-size": "32M",
    # A killed server loses nothing that it has acknowledged, because the kernel keeps the pages. Power loss is not simulated.
    "innodb-flush-log-at-trx-commit": "2",
    "innodb-doublewrite": "0",
}


class MysqlProgram(SystemProgram):
    """A MySQL or a MariaDB with a root and an ordinary user, whose passwords are random.

    Args:
        image: the image.
    """

    kind = "mysql"
    ports = (PORT,)

    def __init__(self, image: str) -> None:
        super().__init__(image)
        self._root_password = new_password()

    def command(self) -> list[str]:
        return [f"--{name}" if value is None else f"--{name}={value}" for name, value in SETTINGS.items()]

    def environment(self) -> Mapping[str, str]:
        """Return the password of root, under the names that the images of MySQL and of MariaDB read."""
        return {"MYSQL_ROOT_PASSWORD": self._root_password, "MARIADB_ROOT_PASSWORD": self._root_password}

    def url(self, address: Address) -> str:
        """Return the URL of the ordinary user."""
        return f"mysql://{USER}:{quote(self.password)}@{address}/{DATABASE}"

    def connect_as_root(self, address: Address) -> Connection:
        """Return a connection of root. The server keeps one for it when all others are taken."""
        return Connection(address, ROOT, self._root_password)

    def connect(self, address: Address) -> Connection:
        """Return a connection of the ordinary user."""
        return Connection(address, USER, self.password)

    def create_user(self, connection: Connection) -> None:
        """Create the ordinary user."""
        connection.query(f"create user {USER}@'%' identified by '{self.password}'")
        connection.query(f"grant {PRIVILEGES} on *.* to {USER}@'%'")

    def version_at(self, addresses: Sequence[Address]) -> str | None:
        try:
            with self.connect_as_root(addresses[0]) as connection:
                return connection.version
        except ServerError:  # it starts or ends
            return None
