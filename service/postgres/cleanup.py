"""The cleanup of zombie connections and garbage. It takes bounded time and leaves live connections alone.

A zombie is
    leaked      a connection of the pool that has been checked out for longer than any request may take
    dead        an idle connection of the pool that does not answer
    orphaned    a server session of this service that no live process can need (ZOMBIES in postgres_monitor.py)
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

from ..errors import Unavailable
from ..memory.collector import GarbageCollector
from ..memory.malloc import MIB
from .connection import UNAVAILABLE_ERRORS
from .monitor import PostgresMonitor
from .pool import Database

if TYPE_CHECKING:
    from starlette.datastructures import Headers

    from ..settings import ServiceSettings

log = logging.getLogger("service.cleanup")

PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
TERMINATE_SECONDS = 1.3  # for terminating server sessions, so that a whole cleanup stays below 2 s


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """The counts that a cleanup reports."""

    idle_closed: int
    leaked_closed: int
    server_terminated: int
    gc_freed_mb: float


class CleanupRateLimited(Exception):
    """The last cleanup is too recent.

    Args:
        retry_after: seconds until the next one is allowed.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"again in {retry_after:.1f} s")


class Cleanup:
    """Cleanups, one at a time. Callers during a cleanup share its result."""

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
            min_interval: seconds that must have passed since the last cleanup.

        Raises:
            CleanupRateLimited: less time has passed.
            Unavailable: Postgres is down, and nothing was cleaned up.
        """
        if self._running is None:
            wait = self._last_run + min_interval - self._clock()
            if wait > 0:
                raise CleanupRateLimited(wait)
            self._running = asyncio.get_running_loop().create_future()
            self._tasks.create_task(self._run_once(self._running))
        return await asyncio.shield(self._running)

    async def sweep(self) -> None:
        """Clean up leaked connections and orphaned sessions, with every check of the pool.

        Idle connections are left alone, so that they can expire.
        """
        await self._database.settle()
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
        except Exception as error:  # noqa: BLE001  # every error goes to the waiting callers
            result.set_exception(error)
            result.exception()  # marks the exception as retrieved, even if no caller is left
        else:
            self._last_run = self._clock()
            result.set_result(cleaned)
        finally:
            self._running = None

    async def _clean_up(self) -> CleanupResult:
        await self._database.settle()
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
    """Return the HTTP status that refuses a caller the cleanup (401 or 403), or None if the caller is allowed.

    A caller from elsewhere without credentials gets 401, one with wrong credentials 403.

    Args:
        settings: hold the cleanup token, if there is one.
        peer: the address of the socket's other end, never one from a header.
        authorization: the header of that name.
        untrusted: the reason why a caller on loopback may act for another machine or site (see `untrusted_reason`). Such
            a caller needs the token, and gets 403 without it. None trusts loopback.
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
    """Return the reason why a request from loopback may act for another machine or site, or None.

    It may come from a proxy, or from a page of another site in a browser on this machine. A browser sends Host, Origin
    and Sec-Fetch-Site truthfully. A foreign name that resolves to 127.0.0.1 (DNS rebinding) shows in Host.
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
    """Return True if an address, IPv4-mapped IPv6 included, is a loopback address."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
