"""The ports of a service, which are known before its first start."""

from __future__ import annotations

from collections.abc import Callable

from ..backends.session.ports import free_port
from .placeholders import fill
from .service_spec import Service


class ServicePorts:
    """The ports of a service by name.

    Args:
        spec: the description of the service.

    Attributes:
        numbers: the ports by name; 0 for one that is not chosen yet.
    """

    def __init__(self, spec: Service) -> None:
        self._spec = spec
        self._changed: list[Callable[[int], None]] = []
        self._announced = 0
        self.numbers: dict[str, int] = dict.fromkeys(spec.ports, 0)

    @property
    def first(self) -> int:
        """The first port. It is 0 for a service that chooses its own and has not been started."""
        self.reserve()
        return self.numbers[self._spec.ports[0]]

    def reserve(self) -> None:
        """Choose free ports, unless that has been done or the service chooses its own."""
        if not self.numbers[self._spec.ports[0]]:
            self.draw()

    def draw(self) -> None:
        """Choose free ports in place of the present ones, unless the service chooses its own."""
        if self._spec.logged_ports is None:
            found: set[int] = set()
            while len(found) < len(self.numbers):
                found.add(free_port())
            self.numbers.update(zip(self.numbers, found, strict=True))

    def on_change(self, callback: Callable[[int], None]) -> None:
        """Call a function with the first port when a start has changed it."""
        self._announced = self.first
        self._changed.append(callback)

    def announce(self) -> None:
        """Call the functions of `on_change` if the first port is another one than at the last call."""
        if self.first != self._announced:
            self._announced = self.first
            for callback in self._changed:
                callback(self._announced)

    def filled(self, text: str) -> str:
        """Return a text with the given ports in place of their placeholders. A port that the service chooses is 0."""
        given = self._spec.logged_ports is None
        numbers = self.numbers if given else dict.fromkeys(self.numbers, 0)
        return fill(str(text), {"port": numbers[self._spec.ports[0]], **numbers})
