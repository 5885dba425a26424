"""The settings of a running Redis that strikes have changed, one layer per strike.

Strikes overlap and heal in any order. The latest layer with a value counts, and the last heal restores the value from before them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..clients.redis import RedisClient
from ..errors import CannotInject

PRIMARY = "replicaof"  # CONFIG GET shows it, and the command REPLICAOF sets it


class SettingLayers:
    """The changed settings of one server."""

    def __init__(self) -> None:
        self._run_id: str | None = None
        self._before: dict[str, str] = {}
        self._layers: list[dict[str, str]] = []

    def add(self, client: RedisClient, settings: Mapping[str, str]) -> Callable[[], None]:
        """Change settings. Return the function that undoes it, which a second call continues where a first one failed.

        Settings of a server that has started again since are gone with its process, so nothing is undone then.

        Args:
            client: a client of the server.
            settings: the new values. "replicaof" is the host and port of the primary.

        Raises:
            CannotInject: the server has no such setting. No setting has changed then.
        """
        run_id = client.info("server").get("run_id")
        if run_id != self._run_id:
            self.clear()
            self._run_id = run_id
        layer: dict[str, str] = {}
        self._layers.append(layer)

        def undo() -> None:
            if client.info("server").get("run_id") == run_id:
                self._remove(client, layer)

        try:
            for name, value in settings.items():
                self._change(client, layer, name, value)
        except BaseException:
            undo()
            raise
        return undo

    def _change(self, client: RedisClient, layer: dict[str, str], name: str, value: str) -> None:
        present = client.setting(name)
        if present is None:
            raise CannotInject(f"this server has no setting {name!r}")
        _set(client, name, value)
        if not any(name in each for each in self._layers):
            self._before[name] = present
        layer[name] = value

    def _remove(self, client: RedisClient, layer: dict[str, str]) -> None:
        """Restore the settings of one layer in reverse order, each to the value of the latest other layer that has it."""
        for name in reversed(list(layer)):
            others = [each[name] for each in self._layers if each is not layer and name in each]
            _set(client, name, others[-1] if others else self._before[name])
            del layer[name]
        self._layers = [each for each in self._layers if each is not layer]

    def clear(self) -> None:
        """Forget all layers, because the server has its baseline settings again."""
        self._before = {}
        self._layers = []


def _set(client: RedisClient, name: str, value: str) -> None:
    if name == PRIMARY:
        client.call("REPLICAOF", *(value.split() or ("NO", "ONE")))
    else:
        client.configure(name, value)
