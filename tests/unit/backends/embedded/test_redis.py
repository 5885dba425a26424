"""The command line and settings of an embedded Redis."""

from __future__ import annotations

import stat

import pytest

from pytest_resilience.backends.embedded import binaries
from pytest_resilience.backends.embedded.binaries import Installation
from pytest_resilience.backends.embedded.redis import PROTECTED_CONFIGS, RedisProcess
from pytest_resilience.backends.session.server_process import ProcessContext


def redis_process(directory):
    (directory / "redis").mkdir(exist_ok=True)
    return RedisProcess(ProcessContext(None, directory), "redis", Installation(directory / "redis-server", "system"))


@pytest.fixture
def process(tmp_path):
    return redis_process(tmp_path)


@pytest.mark.parametrize(("version", "protected"), [("9.1.2", True), ("7.0.15", True), ("6.2.14", False), ("?", True)])
def test_from_version_7_on_commands_that_reach_beyond_the_server_are_disabled(
    tmp_path, monkeypatch, version, protected
):
    monkeypatch.setattr(binaries, "program_version", lambda _program: version)
    process = redis_process(tmp_path)
    words = process.argv()
    assert words[1] == "-"
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert {f"--{name}" for name in PROTECTED_CONFIGS} <= given.keys() or not protected
    assert given.get("--enable-module-command") == ("no" if protected else None)
    lines = process.stdin().read_text().splitlines()
    assert lines == [
        f"rename-command DEBUG {process.debug_command}",
        *([] if protected else ['rename-command MODULE ""']),
    ]
    assert process.debug_command not in " ".join(words)


def test_only_the_user_may_read_the_settings_and_a_link_is_not_followed(process, tmp_path):
    assert stat.S_IMODE(process.stdin().stat().st_mode) == 0o600
    process.stdin().unlink()
    (tmp_path / "redis" / "settings.conf").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        process.stdin()
    assert not (tmp_path / "elsewhere").exists()


def test_each_server_has_another_name_for_debug(tmp_path):
    names = {redis_process(tmp_path).debug_command for _ in range(3)}
    assert len(names) == 3
