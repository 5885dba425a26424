"""Receipts of network faults, read from the counters of a proxy.

There are three sources, and a receipt uses the best one that exists:

1. Our proxy counts the work of each toxic, the connections that it closed and, where the kernel reports them, those that it refused.
2. The backend counts the connections that the log of a real Toxiproxy shows (`ProxyCounters.backend_counts`).
3. The metrics of a real Toxiproxy show the bytes of closed connections (`ProxyCounters.closed_bytes`).

Two of them are late. The kernel reports a refused connection when its client has closed the socket, and a few milliseconds after that.
A real Toxiproxy logs a close after the client has seen it. So a receipt that would be 0 is read again until no late report can change it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..clock import SYSTEM
from ..destroyed_sockets import NOTICE_TIMEOUT, wait_for_notices
from ..proxy_client.counters import ProxyCounters, Tally
from ..proxy_client.handle import ProxyHandle
from .fault import Receipt

POLL_INTERVAL = 0.002  # seconds between two readings; refusals are complete when two are equal, and the kernel takes a tenth of that
REFUSED_CLIENT_CLOSES_WITHIN = 0.04  # seconds after a refusal
CLOSE_LOGGED_WITHIN = 0.25  # seconds until a real Toxiproxy has logged a connection that it has closed


def accepted(proxy: ProxyHandle, before: ProxyCounters) -> Receipt:
    """Return the receipt of a fault that affects each connection accepted since `before`."""
    tally = proxy.counters().accepted.since(before.accepted)
    return timed(tally.connections, "connections", [tally], before.now)


def toxics(
    proxy: ProxyHandle, names: Sequence[str], unit: str, struck_at: float, before: ProxyCounters | None
) -> Receipt:
    """Return the receipt of toxics.

    Args:
        proxy: the proxy that has them.
        names: their names, one per stream.
        unit: "bytes" or "connections".
        struck_at: when they were added, in seconds of the machine's monotonic clock.
        before: the counters before that; None for a proxy that is known to count the work of each toxic.
    """
    counters = proxy.counters() if before is None or unit == "bytes" else counters_after_close(proxy, before)
    if counters.toxics is None:
        return uncounted(before, counters, unit)
    tallies = [counters.toxics.get(name, Tally()) for name in names]
    # Bytes of the two streams add up. Both streams belong to one connection.
    count = sum(t.bytes for t in tallies) if unit == "bytes" else max(t.connections for t in tallies)
    return timed(count, unit, tallies, struck_at)


def uncounted(before: ProxyCounters | None, after: ProxyCounters, unit: str) -> Receipt:
    """Infer the receipt of a toxic from a server that does not count its work.

    Returns:
        0 if there was no connection at all. The number of closed connections if `unit` is "connections", because such a toxic closes
        each connection that it affects, and None if none is known to have closed. None in all other cases.
    """
    if before is not None and unused_since(before, after):
        return Receipt(0, unit)
    closed = closed_since(before, after) if before is not None and unit == "connections" else None
    return Receipt(closed or None, unit)


def refusals(proxy: ProxyHandle, before: ProxyCounters, after: ProxyCounters | None = None) -> Receipt:
    """Return the receipt of a disabled proxy.

    Args:
        proxy: the proxy.
        before: its counters before it was disabled.
        after: its counters when the fault ended. None to read them now, and again while a count of 0 may be too early.
    """
    if after is not None:
        return refused_between(before, after)
    until = late_closes_until(proxy)
    receipt = refused_between(before, stable_counters(proxy, before))
    while receipt.touched == 0 and proxy.now() < until:
        receipt = refused_between(before, stable_counters(proxy, before))
    if receipt.touched == 0 and not _refusals_are_reported(proxy):
        return Receipt(None, receipt.unit)
    return receipt if receipt.touched != 0 else refused_between(before, proxy.counters())


def refused_between(before: ProxyCounters, after: ProxyCounters) -> Receipt:
    """Return the number of connections that a disabled proxy refused or closed between two readings of its counters."""
    if after.cut is None or before.cut is None:  # a real Toxiproxy
        return Receipt(closed_since(before, after) or None, "connections")
    closed = after.cut.since(before.cut)
    refused = after.refused.since(before.refused) if after.refused and before.refused else None
    count = _count_refusals(
        closed.connections,
        refused.connections if refused is not None else None,
        has_unattributed=after.unattributed > before.unattributed,
    )
    if count is None:
        return Receipt(None, "connections")
    return timed(count, "connections", [closed, refused or Tally()], before.now)


def _count_refusals(closed: int, refused: int | None, *, has_unattributed: bool) -> int | None:
    """Return the number of affected connections, or None where it is unknown.

    Args:
        closed: connections that the proxy closed. Negative if its process is not the one that counted before.
        refused: connections that the kernel reported as refused at the proxy's port; None where it reports none.
        has_unattributed: the kernel reported refused connections without a port, which may have been refused here.
    """
    match closed, refused:
        case 0, None:
            return None
        case 0, 0 if has_unattributed:
            return None
        case _ if closed < 0:
            return None
        case _:
            return closed + (refused or 0)


def timed(count: int, unit: str, tallies: Iterable[Tally], struck_at: float) -> Receipt:
    """Return a receipt with the first and last moment of some tallies, in seconds since `struck_at`."""
    tallies = list(tallies)
    firsts = [t.first for t in tallies if t.first is not None]
    lasts = [t.last for t in tallies if t.last is not None]
    return Receipt(
        count,
        unit,
        first=max(0.0, min(firsts) - struck_at) if firsts else None,
        last=max(0.0, max(lasts) - struck_at) if lasts else None,
    )


def late_closes_until(proxy: ProxyHandle) -> float:
    """Return the moment until which clients that the proxy has refused so far may close their sockets."""
    return (proxy.now() if proxy.disabled_by else proxy.enabled_at) + REFUSED_CLIENT_CLOSES_WITHIN


def _refusals_are_reported(proxy: ProxyHandle) -> bool:
    """Wait until the kernel has reported each refused client that has closed its socket. Return False if it does not."""
    may_be_late = proxy.disabled_by or proxy.now() < proxy.enabled_at + NOTICE_TIMEOUT
    return wait_for_notices() if may_be_late else True


def reported_counters(proxy: ProxyHandle) -> ProxyCounters:
    """Return the counters once the kernel has reported the connections that were refused so far."""
    _refusals_are_reported(proxy)
    return proxy.counters()


def stable_counters(proxy: ProxyHandle, before: ProxyCounters) -> ProxyCounters:
    """Return the counters once the kernel has reported the refused connections, and two readings agree on them.

    Args:
        proxy: the proxy.
        before: counters since which a connection may have closed.
    """
    until = late_closes_until(proxy)
    _refusals_are_reported(proxy)
    counters = counters_after_close(proxy, before)
    while counters.refused is not None and proxy.now() < until:
        SYSTEM.sleep(POLL_INTERVAL)
        previous, counters = counters, proxy.counters()
        if (previous.refused, previous.unattributed) == (counters.refused, counters.unattributed):
            break
    return counters


def counters_after_close(proxy: ProxyHandle, before: ProxyCounters) -> ProxyCounters:
    """Return the counters, after a wait of up to 0.25 s for a real Toxiproxy to log a close.

    There is no wait if a connection is known to have closed since `before`, or if none is open.
    """
    until = proxy.now() + CLOSE_LOGGED_WITHIN
    counters = proxy.counters()
    while close_may_be_pending(before, counters) and proxy.now() < until:
        SYSTEM.sleep(POLL_INTERVAL)
        counters = proxy.counters()
    return counters


def closed_since(before: ProxyCounters, after: ProxyCounters) -> int | None:
    """Return the least number of connections that closed between two readings, or None if it is unknown."""
    if after.backend_counts is not None and before.backend_counts is not None:
        return after.backend_counts.closed - before.backend_counts.closed
    return 1 if after.closed_bytes > before.closed_bytes else None


def close_may_be_pending(before: ProxyCounters, after: ProxyCounters) -> bool:
    """True if no connection is known to have closed between two readings, although one is open."""
    counts = after.backend_counts
    return counts is not None and counts.accepted > counts.closed and not closed_since(before, after)


def unused_since(before: ProxyCounters, after: ProxyCounters) -> bool:
    """True if there is proof that no connection was open at the first reading and none came until the second."""
    counts = before.backend_counts
    return counts is not None and counts == after.backend_counts and counts.accepted == counts.closed
