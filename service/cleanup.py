"""Ends zombie connections and collects garbage, in bounded time, without touching what is alive.

A zombie is
    leaked      a connection of our pool that is out past the time that any request may take
    dead        an idle connection of our pool that gives no sign of life
    left        a server session of this service that no live process can need: see ZOMBIES in postgres_monitor.py
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from .database import UNAVAILABLE_ERRORS, Database
from .errors import Unavailable
from .memory import MIB, GarbageCollector
from .postgres_monitor import PostgresMonitor

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from .settings import ServiceSettings

log = logging.getLogger("service.cleanup")

PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
TERMINATE_SECONDS = 1.3  # for ending sessions of the server; all of a cleanup stays below 2 s


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """What a cleanup did."""

    idle_closed: int
    leaked_closed: int
    server_terminated: int
    gc_freed_mb: float


class CleanupRateLimited(Exception):
    """The last cleanup was only a moment ago."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"again in {retry_after:.1f} s")


class Cleanup:
    """One at a time: who asks while one is running gets that one's result."""

    def __init__(
        self,
        settings: ServiceSettings,
        database: Database,
        postgres_monitor: PostgresMonitor,
        collector: GarbageCollector,
        tasks: asyncio.TaskGroup,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._postgres_monitor = postgres_monitor
        self._collector = collector
        self._tasks = tasks
        self._clock = clock
        self._running: asyncio.Future[CleanupResult] | None = None
        self._last_run = -math.inf

    async def run(self, *, min_interval: float) -> CleanupResult:
        """Clean up now.

        Args:
            min_interval: seconds that must have passed since the last one.

        Raises:
            CleanupRateLimited: they have not.
            Unavailable: Postgres is away, and nothing could be done.
        """
        if self._running is None:
            wait = self._last_run + min_interval - self._clock()
            if wait > 0:
                raise CleanupRateLimited(wait)
            self._running = asyncio.get_running_loop().create_future()
            self._tasks.create_task(self._run_once(self._running))
        return await asyncio.shield(self._running)

    async def sweep(self) -> None:
        """The part that runs with every check of the pool: it leaves idle connections alone, so they can expire."""
        leaked = self._database.sweep_leaked()
        try:
            terminated = await self._postgres_monitor.terminate_zombies(leaked, TERMINATE_SECONDS)
        except UNAVAILABLE_ERRORS:
            terminated = 0
        if leaked or terminated:
            log.warning("Closed %d leaked connections, terminated %d orphaned server sessions", len(leaked), terminated)

    async def _run_once(self, result: asyncio.Future[CleanupResult]) -> None:
        try:
            cleaned = await self._clean_up()
        except asyncio.CancelledError:
            result.cancel()
            raise
        except Exception as error:  # noqa: BLE001  # whoever waits gets it, whatever it is
            result.set_exception(error)
            result.exception()  # now it counts as seen, even if nobody waits any longer
        else:
            self._last_run = self._clock()
            result.set_result(cleaned)
        finally:
            self._running = None

    async def _clean_up(self) -> CleanupResult:
        leaked = self._database.sweep_leaked()
        idle_closed, terminated = await asyncio.gather(
            self._database.sweep_dead(),
            self._postgres_monitor.terminate_zombies(leaked, TERMINATE_SECONDS),
            return_exceptions=True,
        )
        freed = await self._collector.collect()
        log.info(freed.log_line())
        if isinstance(idle_closed, BaseException):
            raise idle_closed
        if isinstance(terminated, BaseException):
            if not isinstance(terminated, UNAVAILABLE_ERRORS):
                raise terminated
            if not leaked and not idle_closed:
                raise Unavailable(
                    "The database cannot be reached: nothing was cleaned up.", retry_after=2
                ) from terminated
            terminated = 0
        return CleanupResult(idle_closed, len(leaked), terminated, round((freed.heap + freed.external) / MIB, 2))


def denial_status(
    settings: ServiceSettings, peer: str | None, authorization: str | None, untrusted: str | None = None
) -> int | None:
    """Why this caller may not clean up: 401 without credentials, 403 with wrong ones, None when it may.

    Args:
        settings: may hold a cleanup token.
        peer: the address of the socket's other end, never what a header claims.
        authorization: the header of that name.
        untrusted: why a caller on loopback speaks for another machine or another site, see `untrusted_reason`; then only the
            token counts, and without one it is 403.
    """
    is_local = peer is not None and is_loopback(peer)
    if is_local and untrusted is None:
        return None
    scheme, _, token = (authorization or "").partition(" ")
    if not authorization or scheme.lower() != "bearer":
        return 403 if is_local else 401
    expected = settings.cleanup_token
    is_valid = expected is not None and hmac.compare_digest(token.strip().encode(), expected.encode())
    return None if is_valid else 403


def untrusted_reason(settings: ServiceSettings, headers: Headers) -> str | None:
    """Return why a request from loopback may be somebody else's: a page of another site in a browser on this machine, or a proxy.

    A browser sends Host, Origin and Sec-Fetch-Site as they are. A name of another site that leads to 127.0.0.1 (DNS rebinding)
    shows in Host.
    """
    if any(name in headers for name in PROXY_HEADERS):
        return "the request came through a proxy"
    hosts = headers.getlist("host")
    named = None if settings.host in ("0.0.0.0", "::") else settings.host.lower()
    for host in hosts:
        name = _host_name(host)
        if not (name == "localhost" or name.endswith(".localhost") or is_loopback(name) or name == named):
            return "the Host of the request is no name of this machine"
    for origin in headers.getlist("origin"):
        scheme, _, authority = origin.partition("://")
        if scheme not in ("http", "https") or [authority.lower()] != [host.lower() for host in hosts]:
            return "the request has a foreign Origin"
    if any(site.strip().lower() not in ("same-origin", "none") for site in headers.getlist("sec-fetch-site")):
        return "the request comes from a page of another site"
    return None


def _host_name(host: str) -> str:
    """Return the name or address in a Host header."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def is_loopback(peer: str) -> bool:
    """Whether an address, also an IPv4 one in IPv6 clothes, is of this machine only."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
