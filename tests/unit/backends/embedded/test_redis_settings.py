"""Commands that take a Redis back to a baseline, as literals."""

from __future__ import annotations

import pytest

from pytest_resilience.admin.redis import RedisSettings
from pytest_resilience.wire.redis import ErrorReply

DEFAULT = "user default on nopass ~* &* +@all"


def test_replies_are_parsed() -> None:
    read = RedisSettings.read(["maxmemory", "0", "save", ""], [DEFAULT])
    assert read == RedisSettings({"maxmemory": "0", "save": ""}, {"default": DEFAULT})


def test_a_redis_without_acl_has_no_users() -> None:
    assert RedisSettings.read([], ErrorReply("ERR unknown command 'ACL'")).users == {}


@pytest.mark.parametrize("answer", [ErrorReply("NOPERM no permissions"), "OK"])
def test_a_redis_that_does_not_show_its_settings_is_an_error(answer: object) -> None:
    with pytest.raises(ErrorReply):
        RedisSettings.read(answer, [])  # type: ignore[arg-type]


def test_nothing_is_done_when_nothing_has_changed() -> None:
    same = RedisSettings({"maxmemory": "0"}, {"default": DEFAULT})
    assert same.back_to(same) == []


def test_settings_and_users_are_taken_back() -> None:
    baseline = RedisSettings({"maxmemory": "0", "hz": "10"}, {"default": DEFAULT, "kept": "user kept off"})
    now = RedisSettings({"maxmemory": "1", "hz": "10"}, {"default": "user default off", "new": "user new on"})
    assert now.back_to(baseline) == [
        ("CONFIG", "SET", "maxmemory", "0"),
        ("ACL", "DELUSER", "new"),
        ("ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all"),
        ("ACL", "SETUSER", "kept", "reset", "off"),
    ]
