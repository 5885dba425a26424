"""A Postgres or Redis that somebody else runs: a database of our own in it, and nothing else."""

from __future__ import annotations

from typing import Literal, NoReturn
from urllib.parse import quote

from ...clients.postgres import PostgresError, connect
from ...clients.redis import RedisClient
from ...errors import CannotInject, SetupError
from ...wire.redis import ErrorReply
from ...wording import counted
from ..backend import Address, Server
from .endpoints import ServerEndpoint

ANSWER_WITHIN = 10.0  # seconds
DATABASES = 16  # of a Redis, unless it was set up otherwise
NOT_OWNED = "its processes belong to whoever runs it"
SHARED = "it would hit everybody who uses that server"


class ExternalServer(Server):
    """A server that is not ours to start or to end.

    Args:
        kind: "postgres" or "redis".
        named: what the user said of it.
        database: ours in it.
        direct_address: around the proxy that is struck: another proxy, which never is.
    """

    exclusive = False
    log_readable = False

    def __init__(
        self, kind: Literal["postgres", "redis"], named: ServerEndpoint, database: str, direct_address: Address
    ) -> None:
        self.kind = kind
        self.version = "?"
        self.direct_address = direct_address
        self.upstream_address = named.address
        self.database = database
        self._endpoints = named

    def url(self, address: Address) -> str:
        return self.url_of(self.database, address)

    def url_of(self, database: str, address: Address) -> str:
        """The URL of another database."""
        user, password = self._endpoints.user or "", self._endpoints.password
        if self.kind == "postgres":
            user = user or "postgres"
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        query = f"?{self._endpoints.query}" if self._endpoints.query else ""
        return f"{self._endpoints.scheme}://{login}{'@' if login else ''}{address}/{quote(database)}{query}"

    def processes(self) -> list[int]:
        return []

    def alive(self) -> bool:
        return True

    def start(self) -> None:
        """Nothing: whoever runs it does that."""

    def _not_ours(self, verb: str) -> NoReturn:
        raise CannotInject(f"external cannot {self.kind}.{verb}: {NOT_OWNED}")

    def stop(self) -> None:
        self._not_ours("stop")

    def kill(self) -> None:
        self._not_ours("kill")

    def pause(self) -> None:
        self._not_ours("pause")

    def resume(self) -> None:
        """Nothing: it was not paused."""

    def log_size(self) -> int:
        return 0

    def log_text(self, since: int = 0) -> str:
        return ""

    def check(self) -> None:
        """Nothing: its end would be told by whoever asks it next."""


async def create_database(server: ExternalServer, first: str) -> str:
    """Make our database; returns the server's version.

    Args:
        server: the Postgres; its `database` names the new one.
        first: a database that is there.

    Raises:
        SetupError: we may not do what clean state needs.
    """

    def told(what: str, error: Exception) -> SetupError:
        return SetupError(f"the external Postgres at {server.upstream_address} {what}: {type(error).__name__}: {error}")

    try:
        url = server.url_of(first, server.direct_address)
        connection = await connect(url, application_name="pytest-resilience", within=ANSWER_WITHIN)
    except (OSError, PostgresError) as error:
        advice = "; give user and password in its URL" if isinstance(error, PostgresError) else ""
        raise told(f"can't be reached through the Toxiproxy{advice}", error) from None
    try:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("reset session_replication_role")
        await connection.execute(f'create database "{server.database}"')
        version: str = await connection.fetchval("show server_version")
    except PostgresError as error:
        raise told("does not let this user make and clean a database (a superuser may)", error) from None
    finally:
        await connection.close()
    return version.split(maxsplit=1)[0]


class RedisDatabaseLease:
    """A logical database of a Redis that was empty and that nobody else of our kind uses; ours until `close`.

    Our mark is the name of a connection, since a key would be found by the tests.

    Args:
        server: the Redis; its `database` is set to the one that we got.
        session: what tells us from other sessions.

    Raises:
        SetupError: there is none; we don't empty what others have filled.
    """

    def __init__(self, server: ExternalServer, session: str) -> None:
        named, start = server.database, int(session[:8], 16)
        numbers = [named] if named else [str((start + step) % DATABASES) for step in range(DATABASES)]
        self._client: RedisClient | None = None
        self.version = "?"
        problems: list[str] = []
        for number in numbers:
            server.database = number
            # The name is our mark, and a connection that is opened again says it again.
            name = f"pytest-resilience-{number}-{session}"
            client = RedisClient(server.url(server.direct_address), name=name, timeout=ANSWER_WITHIN)
            try:
                problem = self._problem(client, name.removesuffix(session), session)
            except (ErrorReply, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
            if problem is None:
                self._client = client
                return
            client.close()
            problems.append(f"database {number}: {problem}")
            if "holds" not in problem and "session" not in problem:
                break  # the others will say the same
        raise SetupError(
            f"the external Redis at {server.upstream_address} has no database for us; we empty ours before each test, so it must be "
            f"empty, and nobody else's. {'; '.join(problems)}"
        )

    def _problem(self, client: RedisClient, ours: str, session: str) -> str | None:
        names = [each.get("name", "") for each in client.clients()]
        if any(name.startswith(ours) and name != ours + session for name in names):
            return "another session uses it"
        if keys := client.count("DBSIZE"):
            return f"it holds {counted(keys, 'keys')}"
        info = client.info("server")
        valkey = info.get("valkey_version")
        self.version = f"{valkey} (valkey)" if valkey else str(info.get("redis_version", "?"))
        return None

    def close(self) -> None:
        """Empty it and let go."""
        if self._client is not None:
            try:
                self._client.call("FLUSHDB")
            except (ErrorReply, OSError):
                pass  # it is away; what we left there is what a crash would leave
            self._client.close()
            self._client = None
