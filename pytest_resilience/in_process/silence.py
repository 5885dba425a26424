"""A time in which nothing happens, with a receipt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ..clock import SYSTEM
from ..errors import SetupError
from ..faults.fault import Fault, Receipt, Strike
from ..faults.held_stream import open_connections
from ..proxy_client.counters import ConnectionState
from ..proxy_client.handle import ProxyHandle
from ..unused import expect_use
from ..wording import counted

Readings = Mapping[tuple[str, int], ConnectionState]


@dataclass(frozen=True)
class Quiet(Fault):
    """A time without traffic, as for the timeouts of idle connections.

    Args:
        seconds: the duration.
    """

    name: ClassVar[str] = "silence"
    targets: ClassVar[tuple[str, ...]] = ()
    seconds: float = 0.0

    def strike(self, target: Any) -> Strike:
        raise SetupError("silence is a method of the fixture: resilience.silence(seconds)")


class _Counted(NamedTuple):
    """The connections without and with traffic, and the bytes that passed."""

    silent: int
    noisy: int
    bytes: int


class Silence:
    """A time in which nothing happens. In a sync test it is over when `resilience.silence` returns; in an async test, await it.

    Attributes:
        strike: the strike, whose receipt counts the connections on which no byte passed.
    """

    def __init__(
        self,
        proxies: Mapping[str, ProxyHandle],
        seconds: float,
        register: Callable[[Strike], None],
        notify: Callable[[Strike], None],
    ) -> None:
        if not 0 < seconds < float("inf"):
            raise SetupError(f"silence(): seconds must be above 0, got {seconds!r}")
        self._proxies = proxies
        self._seconds = seconds
        self._notify = notify
        self._counted: _Counted | None = None
        self._before = self._read()
        self.strike = Strike(f"silence({seconds:g})", Quiet(seconds), heal=lambda: None, read_receipt=self._receipt)
        register(self.strike)
        self._begun = asyncio._get_running_loop() is None
        if self._begun:
            SYSTEM.sleep(seconds)
            self._end()
        else:
            problem = "was never awaited, so no time has passed: write `await resilience.silence(...)`"
            expect_use("silence(...)", problem, lambda: self._begun)

    @property
    def receipt(self) -> Receipt:
        """The receipt of the strike."""
        return self.strike.receipt

    def __await__(self) -> Generator[Any, None, Silence]:
        self._begun = True
        if self._counted is None:
            yield from asyncio.sleep(self._seconds).__await__()
            self._end()
        return self

    def _read(self) -> Readings:
        proxies = self._proxies.items()
        return {(name, each.number): each for name, proxy in proxies for each in open_connections(proxy, "silence")}

    def _end(self) -> None:
        after = self._read()
        grown = {key: each.up + each.down - _bytes(self._before.get(key)) for key, each in after.items()}
        closed = self._before.keys() - after.keys()
        silent = sum(not size for key, size in grown.items() if key in self._before)
        self._counted = _Counted(silent, len(grown) - silent + len(closed), sum(grown.values()))
        self.strike.heal()
        self._notify(self.strike)  # at the end, because an experiment that asks makes traffic

    def _receipt(self) -> Receipt:
        if self._counted is None:
            return Receipt(0, "connections", note="it was not awaited")
        silent, noisy, passed = self._counted
        if not noisy:
            return Receipt(silent, "connections", note="no byte passed")
        note = f"{counted(passed, 'bytes')} passed on {counted(noisy, 'connections')} that opened, closed or worked"
        return Receipt(silent, "connections", note=note)


def _bytes(state: ConnectionState | None) -> int:
    return state.up + state.down if state is not None else 0
