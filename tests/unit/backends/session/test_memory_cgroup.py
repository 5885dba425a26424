"""Memory cgroups of both versions, read from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_resilience.backends.session import memory_cgroup as cgroup

MIB = 2**20
LIMIT = 10 * MIB
VERSION_1 = {
    "cgroup.procs": "7\n8\n",
    "memory.failcnt": "0\n",
    "memory.max_usage_in_bytes": "0\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
}
VERSION_2 = {
    "cgroup.procs": "7\n8\n",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
    "memory.peak": "0\n",
}


def group(path: Path, version: int, files: dict[str, str]) -> cgroup.MemoryCgroup:
    for name, text in files.items():
        (path / name).write_text(text)
    created = cgroup.MemoryCgroup.__new__(cgroup.MemoryCgroup)
    created.path, created._version, created._limit = str(path), version, LIMIT
    return created


@pytest.mark.parametrize(
    ("version", "changed", "met"),
    [
        (1, {}, 0),
        (1, {"memory.max_usage_in_bytes": f"{8 * MIB}"}, 0),
        (1, {"memory.max_usage_in_bytes": f"{9 * MIB}"}, 2),
        (1, {"memory.failcnt": "12"}, 2),
        (1, {"memory.failcnt": "12", "memory.oom_control": "under_oom 0\noom_kill 1\n"}, 1),
        (1, {"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, None),  # before Linux 4.13
        (2, {}, 0),
        (2, {"memory.peak": f"{9 * MIB}"}, 2),
        (2, {"memory.events": "max 3\noom 0\noom_kill 0\n"}, 2),
        (2, {"memory.events": "max 3\noom 4\noom_kill 3\n"}, 3),
        (2, {"memory.events": "max 3\noom 0\noom_kill 0\n", "cgroup.procs": ""}, 1),
    ],
)
def test_a_group_counts_the_processes_that_met_its_limit(
    tmp_path: Path, version: int, changed: dict[str, str], met: int | None
) -> None:
    files = (VERSION_1 if version == 1 else VERSION_2) | changed
    assert group(tmp_path, version, files).affected_processes() == met


@pytest.mark.parametrize(
    ("events", "met"), [("max 0\noom_kill 0\n", None), ("max 1\noom_kill 0\n", 2), ("max 1\noom_kill 1\n", 1)]
)
def test_without_a_peak_a_group_that_was_never_full_is_unknown(tmp_path: Path, events: str, met: int | None) -> None:
    assert group(tmp_path, 2, {"cgroup.procs": "7\n8\n", "memory.events": events}).affected_processes() == met


def test_a_removed_group_counts_nothing(tmp_path: Path) -> None:
    assert group(tmp_path, 2, {}).affected_processes() is None


def test_a_process_is_added_once(tmp_path: Path) -> None:
    created = group(tmp_path, 2, {"cgroup.procs": "7\n"})
    assert not created.add(7)
    assert created.add(9)
    (tmp_path / "cgroup.procs").unlink()
    (tmp_path / "cgroup.procs").mkdir()
    with pytest.raises(OSError, match="directory"):
        created.add(9)
