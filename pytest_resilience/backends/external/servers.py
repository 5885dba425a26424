"""Servers that the user runs. A session uses one database on each."""

from __future__ import annotations

from typing import Literal, NoReturn, Self
from urllib.parse import quote

from ...clients.postgres import PostgresError, connect
from ...clients.redis import RedisClient
from ...errors import CannotInject, SetupError
from ...wire.redis import ErrorReply
from ...wording import counted
from ..backend import Address, Server
from .endpoints import ServerEndpoint

ANSWER_WITHIN = 10.0  # seconds
DATABASES = 16  # of a Redis by default
NOT_OWNED = "its processes belong to its operator"
SHARED = "it would affect all users of that server"


class ExternalServer(Server):
    """A server that the session neither starts nor ends.

    Args:
        kind: "postgres" or "redis".
        endpoint: the address and login from the options.
        database: the database of the session.
        direct_address: the address of a proxy that is never struck.
    """

    exclusive = False
    log_readable = False

    def __init__(
        self, kind: Literal["postgres", "redis"], endpoint: ServerEndpoint, database: str, direct_address: Address
    ) -> None:
        self.kind = kind
        self.version = "?"
        self.direct_address = direct_address
        self.upstream_address = endpoint.address
        self.database = database
        self._endpoint = endpoint

    def url(self, address: Address) -> str:
        return self.url_of(self.database, address)

    def url_of(self, database: str, address: Address) -> str:
        """Return the URL of another database."""
        user, password = self._endpoint.user or "", self._endpoint.password
        if self.kind == "postgres":
            user = user or "postgres"
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        query = f"?{self._endpoint.query}" if self._endpoint.query else ""
        return f"{self._endpoint.scheme}://{login}{'@' if login else ''}{address}/{quote(database)}{query}"

    def processes(self) -> list[int]:
        return []

    def alive(self) -> bool:
        return True

    def start(self) -> None:
        """Do nothing, because the operator starts the server."""

    def _not_owned(self, verb: str) -> NoReturn:
        raise CannotInject(f"external cannot {self.kind}.{verb}: {NOT_OWNED}")

    def stop(self) -> None:
        self._not_owned("stop")

    def kill(self) -> None:
        self._not_owned("kill")

    def pause(self) -> None:
        self._not_owned("pause")

    def resume(self) -> None:
        """Do nothing, because the server can't be paused."""

    def log_size(self) -> int:
        return 0

    def log_text(self, since: int = 0) -> str:
        return ""

    def check(self) -> None:
        """Do nothing. The next query to a dead server fails."""


async def create_database(server: ExternalServer, existing: str) -> str:
    """Create the database of the session.

    Args:
        server: the Postgres. Its `database` is the name of the new database.
        existing: the name of a database to connect to.

    Returns:
        The version of the server.

    Raises:
        SetupError: the server can't be reached, or does not permit what a clean state needs.
    """

    def failed(problem: str, error: Exception) -> SetupError:
        return SetupError(
            f"the external Postgres at {server.upstream_address} {problem}: {type(error).__name__}: {error}"
        )

    try:
        url = server.url_of(existing, server.direct_address)
        connection = await connect(url, application_name="pytest-resilience", within=ANSWER_WITHIN)
    except (OSError, PostgresError) as error:
        advice = "; give user and password in its URL" if isinstance(error, PostgresError) else ""
        raise failed(f"can't be reached through the Toxiproxy{advice}", error) from None
    try:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("reset session_replication_role")
        await connection.execute(f'create database "{server.database}"')
        version: str = await connection.fetchval("show server_version")
    except PostgresError as error:
        raise failed("does not let this user make and clean a database (a superuser may)", error) from None
    finally:
        await connection.close()
    return version.split(maxsplit=1)[0]


class DatabaseTaken(Exception):
    """A logical database has keys, or another session uses it."""


class RedisDatabaseLease:
    """An exclusive lease on one empty logical Redis database, held until `close()`.

    The name of a connection marks the database as used. A key as the mark would be visible to the tests.

    Attributes:
        version: the version of the server.
    """

    def __init__(self, client: RedisClient, version: str) -> None:
        self._client = client
        self.version = version

    @classmethod
    def acquire(cls, server: ExternalServer, session: str) -> Self:
        """Take the database that the server names, or otherwise the first empty one.

        Args:
            server: the Redis. Its `database` is set to the number of the database.
            session: the id of the session, hexadecimal.

        Raises:
            SetupError: no database is empty and unused, or the server can't be reached.
        """
        start = int(session[:8], 16)
        named = [server.database] if server.database else []
        problems: list[str] = []
        for number in named or [str((start + step) % DATABASES) for step in range(DATABASES)]:
            server.database = number
            try:
                return cls._take(server, session)
            except DatabaseTaken as taken:
                problems.append(f"database {number}: {taken}")
            except (ErrorReply, OSError) as error:
                problems.append(f"database {number}: {type(error).__name__}: {error}")
                break  # every database would have this error
        raise SetupError(
            f"the external Redis at {server.upstream_address} has no database for this session, which needs an empty and unused one, "
            f"because it empties its database before each test. {'; '.join(problems)}"
        )

    @classmethod
    def _take(cls, server: ExternalServer, session: str) -> Self:
        mark = f"pytest-resilience-{server.database}-"
        # The client sets the name again whenever it reconnects.
        client = RedisClient(server.url(server.direct_address), name=mark + session, timeout=ANSWER_WITHIN)
        try:
            names = [each.get("name", "") for each in client.clients()]
            if any(name.startswith(mark) and name != mark + session for name in names):
                raise DatabaseTaken("another session uses it")
            if keys := client.count("DBSIZE"):
                raise DatabaseTaken(f"it holds {counted(keys, 'keys')}")
            info = client.info("server")
        except BaseException:
            client.close()
            raise
        valkey = info.get("valkey_version")
        return cls(client, f"{valkey} (valkey)" if valkey else str(info.get("redis_version", "?")))

    def close(self) -> None:
        """Empty the database and end the lease."""
        try:
            self._client.call("FLUSHDB")
        except (ErrorReply, OSError):
            pass  # the server is down; a crash of the session would leave the same keys
        self._client.close()
