"""Settings of Redis that overlapping strikes change, on a client that answers from a dictionary."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from pytest_resilience import CannotInject
from pytest_resilience.clients.redis import RedisClient
from pytest_resilience.faults.setting_layers import SettingLayers
from pytest_resilience.wire.redis import ErrorReply


class FakeClient:
    """A server with settings, one of which it refuses to change."""

    def __init__(self, settings: dict[str, str], *, fixed: str = "") -> None:
        self.settings = settings
        self.fixed = fixed
        self.run = "1"
        self.changes: list[tuple[str, str]] = []

    def info(self, section: str) -> dict[str, str]:
        assert section == "server"
        return {"run_id": self.run}

    def setting(self, name: str) -> str | None:
        return self.settings.get(name)

    def configure(self, name: str, value: str) -> None:
        if name == self.fixed:
            raise ErrorReply(f"ERR {name} is fixed")
        self.changes.append((name, value))
        self.settings[name] = value

    def call(self, *words: str) -> None:
        assert words[0] == "REPLICAOF"
        self.configure("replicaof", "" if words[1] == "NO" else " ".join(words[1:]))


def add(layers: SettingLayers, client: FakeClient, **settings: str) -> Callable[[], None]:
    return layers.add(cast("RedisClient", client), settings)


def test_settings_are_restored_in_reverse_order() -> None:
    client = FakeClient({"a": "1", "b": "2"})
    undo = add(SettingLayers(), client, a="3", b="4")
    assert client.settings == {"a": "3", "b": "4"}
    undo()
    assert client.changes[2:] == [("b", "2"), ("a", "1")]


def test_an_unknown_setting_leaves_the_others_as_they_were() -> None:
    client = FakeClient({"a": "1"})
    with pytest.raises(CannotInject, match="no setting 'b'"):
        add(SettingLayers(), client, a="3", b="4")
    assert client.settings == {"a": "1"}


def test_a_refused_change_leaves_the_others_as_they_were() -> None:
    client = FakeClient({"a": "1", "b": "2"}, fixed="b")
    with pytest.raises(ErrorReply, match="b is fixed"):
        add(SettingLayers(), client, a="3", b="4")
    assert client.settings == {"a": "1", "b": "2"}


def test_the_latest_remaining_layer_counts_and_the_last_undo_restores_the_beginning() -> None:
    client, layers = FakeClient({"a": "1", "b": "2"}), SettingLayers()
    first = add(layers, client, a="3", b="4")
    second = add(layers, client, a="5")
    third = add(layers, client, a="6")
    first()
    assert client.settings == {"a": "6", "b": "2"}
    third()
    assert client.settings == {"a": "5", "b": "2"}
    second()
    assert client.settings == {"a": "1", "b": "2"}


def test_an_undo_that_failed_continues() -> None:
    client = FakeClient({"a": "1", "b": "2"})
    undo = add(SettingLayers(), client, a="3", b="4")
    client.fixed = "a"
    with pytest.raises(ErrorReply):
        undo()
    client.fixed = ""
    undo()
    assert client.settings == {"a": "1", "b": "2"}


def test_settings_of_an_earlier_run_of_the_server_are_not_restored() -> None:
    client, layers = FakeClient({"a": "1"}), SettingLayers()
    before = add(layers, client, a="3")
    client.run, client.settings = "2", {"a": "7"}
    after = add(layers, client, a="8")
    before()
    assert client.settings == {"a": "8"}
    after()
    assert client.settings == {"a": "7"}


def test_the_primary_is_a_setting() -> None:
    client = FakeClient({"replicaof": ""})
    undo = add(SettingLayers(), client, replicaof="127.0.0.1 1")
    assert client.settings == {"replicaof": "127.0.0.1 1"}
    undo()
    assert client.settings == {"replicaof": ""}
