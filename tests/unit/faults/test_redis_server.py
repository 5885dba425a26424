"""Faults inside Redis, on a client that answers from a dictionary."""

from __future__ import annotations

from typing import cast

import pytest

from pytest_resilience import CannotInject
from pytest_resilience.clients.redis import RedisClient
from pytest_resilience.faults.redis_server import _set_config
from pytest_resilience.wire.redis import ErrorReply


class FakeClient:
    """A server with settings, one of which it refuses to change."""

    def __init__(self, settings: dict[str, str], *, fixed: str = "") -> None:
        self.settings = settings
        self.fixed = fixed
        self.changes: list[tuple[str, str]] = []

    def setting(self, name: str) -> str | None:
        return self.settings.get(name)

    def configure(self, name: str, value: str) -> None:
        if name == self.fixed:
            raise ErrorReply(f"ERR {name} is fixed")
        self.changes.append((name, value))
        self.settings[name] = value


def set_config(client: FakeClient, **settings: str) -> object:
    return _set_config(cast("RedisClient", client), settings)


def test_settings_are_restored_in_reverse_order() -> None:
    client = FakeClient({"a": "1", "b": "2"})
    restore = _set_config(cast("RedisClient", client), {"a": "3", "b": "4"})
    assert client.settings == {"a": "3", "b": "4"}
    restore()
    assert client.changes[2:] == [("b", "2"), ("a", "1")]


def test_an_unknown_setting_leaves_the_others_as_they_were() -> None:
    client = FakeClient({"a": "1"})
    with pytest.raises(CannotInject, match="no setting 'b'"):
        set_config(client, a="3", b="4")
    assert client.settings == {"a": "1"}


def test_a_refused_change_leaves_the_others_as_they_were() -> None:
    client = FakeClient({"a": "1", "b": "2"}, fixed="b")
    with pytest.raises(ErrorReply, match="b is fixed"):
        set_config(client, a="3", b="4")
    assert client.settings == {"a": "1", "b": "2"}
