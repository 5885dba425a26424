"""The check of one test for resources that are there at its end and were not when its body began.

A snapshot costs one query per server and a scan of this process, about a millisecond in all. Owners of connections are
resolved only for surplus ones, because that is slower. It needs servers that the session owns, behind a proxy that reports its
clients or logs them. Other servers that the session owns are compared while no service runs, since only this process has
connections to them then. Otherwise only this process is compared, so that a test is not blamed for other clients.

The connections of an event loop are compared when the loop is about to be closed: after that, they are gone.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import SYSTEM, Clock
from ..faults.fault import Strike
from ..stack import Stack
from . import event_loops
from .compare import Leak
from .descriptors import open_descriptors, opened_at
from .findings import Finding, find_leaks
from .snapshot import Snapshots, own_loops

if TYPE_CHECKING:
    import asyncio

TIMEOUT = 0.5  # seconds for a resource that is about to be released
SERVER_TIMEOUT = 3.0  # seconds for a server to detect that a client has gone; a busy machine needs long
COLLECT_AFTER = 0.015  # seconds; until then, a server that has not detected the end of its client is the usual reason
FIRST_PAUSE = 0.003  # seconds between two snapshots; each pause is half as long again as the one before it
LONGEST_PAUSE = 0.025  # seconds


class LeakCheck:
    """A comparison with the snapshot that is taken when the check is made.

    Args:
        stack: the servers, proxies and services.
        strikes: returns the strikes of the test and of its session so far.
        root: the directory from which paths are shown.
        loops: event loops that outlive the test.
        allowed: patterns of resources that may stay.
        patience: seconds for a resource that is about to be released; a server gets 3 s at least.
        clock: reads and spends time.
    """

    def __init__(
        self,
        stack: Stack,
        strikes: Callable[[], Iterable[Strike]],
        *,
        root: Path,
        loops: Iterable[asyncio.AbstractEventLoop] = (),
        allowed: Sequence[str] = (),
        patience: float = TIMEOUT,
        clock: Clock = SYSTEM,
    ) -> None:
        self._stack = stack
        self._root = root
        self._loops = list(loops)
        self._snapshots = Snapshots(stack, strikes, self._loops)
        self._clock = clock
        self._allowed = list(allowed)
        self._timeout = patience
        self._server_timeout = max(SERVER_TIMEOUT, patience)
        self._closed_with_loops: dict[Hashable, Leak] = {}
        self._reported_sockets: set[str] = set()  # those of closed loops, as /proc names them
        self._before = self._snapshots.take().without_values()

    @contextmanager
    def watching_event_loops(self) -> Iterator[None]:
        """Report the open connections of each event loop that is closed within the block."""
        with event_loops.on_close(self._before_close):
            yield

    def leaks(self, allowed: Sequence[str] = ()) -> list[Leak]:
        """Return the leaks, after a wait for resources that are about to be released.

        Event loops that outlive the test run meanwhile, because they close connections that were reset or cancelled.

        Args:
            allowed: patterns of resources that may stay, beside those of the check.
        """

        def timeout(findings: Sequence[Finding]) -> float:
            return self._server_timeout if _any_client_gone(findings) else self._timeout

        return self._poll(timeout, allowed)

    def leaks_now(self) -> list[Leak]:
        """Return the leaks without a wait for this process. Inside a running event loop, nothing would be released during it."""

        def timeout(findings: Sequence[Finding]) -> float:
            if _any_client_gone(findings):
                return self._server_timeout
            return 0.0 if all(finding.is_local for finding in findings) else self._timeout

        return self._poll(timeout)

    def look(self) -> list[Leak]:
        """Return the leaks of this moment, without any wait."""
        return self._report(self._without_allowed(self._find()))

    def _poll(self, timeout: Callable[[list[Finding]], float], allowed: Sequence[str] = ()) -> list[Leak]:
        begin = self._clock.now()
        collected = False
        turned = not event_loops.idle(self._loops)  # on a busy machine, one look may take all of the time
        pause = FIRST_PAUSE
        while findings := self._without_allowed(self._find(), allowed):
            passed = self._clock.now() - begin
            waiting = passed < timeout(findings)
            if not waiting and collected and turned:
                break
            if not collected and (passed >= COLLECT_AFTER or not waiting):
                gc.collect()  # an object without references is no leak
                collected = True
            else:
                event_loops.run_idle(self._loops, pause, self._clock)
                turned = True
                pause = min(1.5 * pause, LONGEST_PAUSE)
        return self._report(findings)

    def _report(self, findings: Iterable[Finding]) -> list[Leak]:
        # A socket of a closed loop may stay open for a while after its server has closed it. It is reported with its loop.
        findings = [f for f in findings if f.descriptor is None or f.descriptor.target not in self._reported_sockets]
        keys = {finding.key for finding in findings}
        closed = [leak for key, leak in self._closed_with_loops.items() if key not in keys]
        return closed + [self._with_origin(finding.leak) for finding in findings]

    def _find(self) -> list[Finding]:
        return find_leaks(self._stack, self._root, self._before, self._snapshots.take(), self._snapshots.clients_of)

    def _without_allowed(self, findings: Iterable[Finding], allowed: Sequence[str] = ()) -> list[Finding]:
        return [finding for finding in findings if not finding.leak.allowed_by([*self._allowed, *allowed])]

    def _with_origin(self, leak: Leak) -> Leak:
        """Add the place where the descriptor of a leak was opened. The search takes long."""
        origin = opened_at(leak.descriptor, self._root) if leak.descriptor is not None else ""
        return leak._replace(details=", ".join(filter(None, (leak.details, origin)))) if origin else leak

    def _before_close(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Find the open connections of a loop. Return a function that reports those that were closed with it."""
        connections = event_loops.open_connections(loop)
        if connections == set() or loop in own_loops(self._stack):
            return lambda: None
        try:
            findings = self._find_connections(connections)
        except Exception:  # noqa: BLE001  # a server or proxy is down, which must not fail the loop's owner
            return lambda: None
        still = event_loops.open_connections(loop)  # the peer may have reset some meanwhile
        findings = [f for f in findings if still is None or f.number in still]
        findings = [f._replace(leak=self._with_origin(f.leak)) for f in self._without_allowed(findings)]

        def after_close() -> None:
            still_open = {} if connections is not None else {each.number: each.target for each in open_descriptors()}
            for finding in findings:
                held = finding.descriptor
                if held is not None and still_open.get(held.number) != held.target:
                    details = f"{finding.leak.details}, open when its event loop was closed"
                    self._closed_with_loops[finding.key] = finding.leak._replace(details=details, descriptor=None)
                    self._reported_sockets.add(held.target)

        return after_close

    def _find_connections(self, descriptors: set[int] | None) -> list[Finding]:
        """Return the leaks among these descriptors of this process, or among all if None.

        While other clients connect to a server or leave it, its sessions can't be paired with their clients, so this polls.
        """
        give_up = self._clock.now() + TIMEOUT
        while True:
            now = self._snapshots.take()
            only = descriptors if descriptors is not None else {each.number for each in now.descriptors}
            findings = find_leaks(self._stack, self._root, self._before, now, self._snapshots.clients_of, only)
            ports = {target.port for target in self._stack.targets.values()}
            unpaired = any(f.leak.kind == "socket" and f.descriptor and f.descriptor.port in ports for f in findings)
            if not unpaired or self._clock.now() > give_up:
                return findings
            self._clock.sleep(FIRST_PAUSE)


def _any_client_gone(findings: Iterable[Finding]) -> bool:
    return any(finding.client_gone for finding in findings)
