"""A superuser's session in Postgres, around the proxy, which is opened again when it has ended.

Sessions run on an event loop of their own in a background thread, because their callers are synchronous and a test may have a running
loop in its own thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from ..backends.backend import Server
from ..backends.session.background import BackgroundLoop
from ..clients.postgres import TERMINATED, PostgresError, Row, Session, connect

Result = TypeVar("Result")

APPLICATION = "pytest-resilience"
STATEMENT_TIMEOUT = 10.0  # seconds for one statement of this package; restoring a baseline takes a few milliseconds
CLOSE_TIMEOUT = 1.0  # seconds; a heal waits for that long on a server that does not answer

# Settings that would hinder this package. Tests may set them for a database, a role or the whole server.
NEUTRAL_SETTINGS = """
set default_transaction_read_only = off; set statement_timeout = 0; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0;
set idle_session_timeout = 0; set search_path = "$user", public; set role none; set standard_conforming_strings = on;
"""
NO_SUCH_DATABASE, NO_CONNECTIONS = "3D000", "55000"


class AdminSession:
    """One session of a superuser, kept open between uses.

    Args:
        server: the server. Its URL names the database.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self._background: BackgroundLoop | None = None
        self._session: Session | None = None

    def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run a coroutine function on the background loop and return its result."""
        if self._background is None:
            self._background = BackgroundLoop("pytest-resilience-postgres")
        return self._background.run(work)

    def spawn(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Future[Result]:
        """Start a coroutine function on the background loop. The future cancels it."""
        assert self._background is not None, "spawn comes after run"
        return self._background.spawn(work)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The background loop, or None before the first `run`."""
        return self._background.loop if self._background is not None else None

    async def connect(self, database: str | None = None) -> Session:
        """Open a new session. None for the database that the server's URL names."""
        url = self.server.url(
            self.server.direct_address
        )  # the present address: it may change when a container starts again
        return await connect(url, database=database, application_name=APPLICATION, within=STATEMENT_TIMEOUT)

    async def session(self) -> Session:
        """Return the session, opened again if it is known to have ended."""
        if self._session is None or self._session.is_closed():
            session = await self.connect()
            await session.execute(NEUTRAL_SETTINGS)
            self._session = session
        return self._session

    async def maintenance_session(self) -> Session:
        """Open a session in another database, for statements that need the own database without sessions."""
        try:
            session = await self.connect("postgres")
        except PostgresError as error:
            if error.code not in (NO_SUCH_DATABASE, NO_CONNECTIONS):
                raise
            session = await self.connect("template1")
        await session.execute(NEUTRAL_SETTINGS)
        return session

    async def close_session(self) -> None:
        """Close the session. The next use opens it again."""
        if self._session is not None:
            session, self._session = self._session, None
            await close_quietly(session)

    async def on_session(self, work: Callable[[Session], Awaitable[Result]]) -> Result:
        """Run `work` on the session, and once more on a new session if the server has terminated the old one.

        A test may terminate all sessions. The client learns of that only when it uses the session.
        """
        before, session = self._session, await self.session()
        try:
            return await work(session)
        except (ConnectionError, PostgresError) as error:
            if isinstance(error, PostgresError) and error.code not in TERMINATED:
                raise
            if before is None or session is not before:  # it was opened for this call: the server is down
                raise
            session.terminate()
            self._session = None
        return await work(await self.session())

    async def _fetch(self, query: str, *arguments: object) -> list[Row]:
        return await self.on_session(lambda session: session.fetch(query, *arguments))

    def fetch(self, query: str, *arguments: object) -> list[Row]:
        """Run a query and return its rows."""
        return self.run(lambda: self._fetch(query, *arguments))

    def fetch_soon(self, query: str) -> Future[list[Row]]:
        """Start a query and return the future of its rows."""
        return self.spawn(lambda: self._fetch(query))

    async def execute_in(self, database: str, *statements: str) -> None:
        """Execute statements in another database."""
        session = await self.connect(database)
        try:
            for statement in statements:
                await session.execute(statement)
        finally:
            await close_quietly(session)

    def close(self) -> None:
        """Close the session and end the background loop."""
        if self._background is not None:
            self._background.run(self.close_session)
            self._background.close()
            self._background = None


async def close_quietly(session: Session) -> None:
    """Close a session, and drop it if the server does not answer."""
    try:
        await session.close(within=CLOSE_TIMEOUT)
    except Exception:  # noqa: BLE001  # the server may be gone in any way
        session.terminate()


async def close_all_quietly(sessions: Sequence[Session]) -> None:
    """Close sessions as `close_quietly` does, all at once."""
    await asyncio.gather(*(close_quietly(session) for session in sessions))
