"""flap: refuse and let in, again and again, by seconds or by counted connections."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..errors import CannotInject, SetupError
from ..proxy_client.handle import ProxyHandle
from .fault import Receipt, Strike, at_least
from .network import NetworkFault, NetworkTarget, refusals

UNITS = ("seconds", "connections")
LOOK_EVERY = 0.005  # seconds between two looks at the counters


@dataclass(frozen=True)
class Flap(NetworkFault):
    """Down and up in turn, beginning with down, until healed.

    Args:
        down: how long connections are refused: seconds, or how many are refused.
        up: how long they are let in: seconds, or how many are let in.
        unit: "seconds" or "connections"; counts depend on nobody's speed, and so repeat.
    """

    name: ClassVar[str] = "flap"
    down: float = 0.1
    up: float = 0.1
    unit: str = "seconds"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise SetupError(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}")
        least = 0.01 if self.unit == "seconds" else 1
        at_least("down", self.down, least, self.unit)
        at_least("up", self.up, least, self.unit)

    def strike(self, target: NetworkTarget) -> Strike:
        if self.unit == "connections" and target.door.counters().toxics is None:
            raise CannotInject(
                f"{self.label(target)}: the real Toxiproxy does not count the connections that it refuses"
            )
        flapping = _Flapper(target.door, self)
        return target.struck(Strike(self.label(target), self, heal=flapping.stop, look=flapping.look))


class _Flapper:
    """A door that opens and shuts, in a thread of its own; the strike of a `Flap`."""

    def __init__(self, door: ProxyHandle, fault: Flap) -> None:
        self._door = door
        self._fault = fault
        self._before = door.counters()
        self._over = threading.Event()
        self._failure: Exception | None = None
        door.shut()  # here, so that it is down when the call returns
        self._thread = threading.Thread(target=self._run, name="resilience-flap", daemon=True)
        self._thread.start()

    def look(self) -> Receipt:
        """What was refused or cut so far, over all its turns."""
        return refusals(self._door, self._before)

    def stop(self) -> None:
        """End, with the door open."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while True:
                is_over = self._wait(self._fault.down, lambda: self._counted(refused=True))
                self._door.open()
                if is_over or self._wait(self._fault.up, lambda: self._counted(refused=False)):
                    return
                self._door.shut()
        except Exception as error:  # noqa: BLE001  # raised by stop(), in the thread that heals
            self._failure = error

    def _counted(self, *, refused: bool) -> int:
        counters = self._door.counters()
        if not refused:
            return counters.accepted.connections
        return counters.unattributed + (counters.refused.connections if counters.refused else 0)

    def _wait(self, amount: float, count: Callable[[], int]) -> bool:
        """Until so many seconds have passed or connections were counted; True when it is over."""
        if self._fault.unit == "seconds":
            return self._over.wait(amount)
        enough = count() + amount
        while count() < enough:
            if self._over.wait(LOOK_EVERY):
                return True
        return False
