"""Directories of a session, and of sessions that were killed."""

import os
import stat

import pytest

from pytest_resilience.backends.session import session_dir as scratch
from pytest_resilience.backends.session.session_dir import OWNER, PREFIX, SessionDirectory, remove_stale


def stale(root, name="killed"):
    path = root / f"{PREFIX}{name}"
    (path / "postgres").mkdir(parents=True)
    (path / "postgres" / "file").write_text("x")
    (path / OWNER).write_text("1\n")
    return path


def test_only_we_may_enter(tmp_path):
    made = SessionDirectory(tmp_path)
    made.create()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert made.path.name.startswith(PREFIX)
    made.release()


def test_what_is_in_use_is_not_swept(tmp_path):
    made = SessionDirectory(tmp_path)
    made.create()
    assert remove_stale([tmp_path]) == []
    assert made.path.exists()
    made.release()
    assert remove_stale([tmp_path]) == [made.path]
    assert not made.path.exists()


def test_what_a_killed_session_left_is_swept(tmp_path):
    path = stale(tmp_path)
    assert remove_stale([tmp_path]) == [path]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("without", [OWNER, PREFIX])
def test_what_may_not_be_ours_stays(tmp_path, without):
    path = stale(tmp_path)
    if without == OWNER:
        (path / OWNER).unlink()
    else:
        path = path.rename(tmp_path / "killed")
    assert remove_stale([tmp_path]) == []
    assert (path / "postgres" / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a directory away")
def test_what_belongs_to_somebody_else_stays(tmp_path):
    path = stale(tmp_path)
    os.chown(path, 65534, 65534)
    assert remove_stale([tmp_path]) == []
    assert path.exists()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "root").mkdir()
    path = stale(tmp_path, "kept")
    (tmp_path / "root" / f"{PREFIX}link").symlink_to(path)
    assert remove_stale([tmp_path / "root"]) == []
    assert path.exists()


def test_small_memory_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(scratch, "MIN_FREE_BYTES", 2**60)
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    assert scratch.default_root() == tmp_path


def test_without_memory_temporary_files_will_do(monkeypatch, tmp_path):
    def missing(_path):
        raise FileNotFoundError

    monkeypatch.setattr(scratch.os, "statvfs", missing)
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    assert scratch.default_root() == tmp_path
