"""The directories of living and of killed sessions."""

import os
import stat

import pytest

from pytest_resilience.backends.session import session_dir
from pytest_resilience.backends.session.session_dir import OWNER, PREFIX, SessionDirectory, remove_stale


def stale(root, name="killed"):
    path = root / f"{PREFIX}{name}"
    (path / "postgres").mkdir(parents=True)
    (path / "postgres" / "file").write_text("x")
    (path / OWNER).write_text("1\n")
    return path


def test_only_the_user_may_enter(tmp_path):
    made = SessionDirectory(tmp_path)
    made.create()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert made.path.name.startswith(PREFIX)
    made.release()


def test_a_directory_in_use_is_not_removed(tmp_path):
    made = SessionDirectory(tmp_path)
    made.create()
    assert remove_stale([tmp_path]) == []
    assert made.path.exists()
    made.release()
    assert remove_stale([tmp_path]) == [made.path]
    assert not made.path.exists()


def test_the_directory_of_a_killed_session_is_removed(tmp_path):
    path = stale(tmp_path)
    assert remove_stale([tmp_path]) == [path]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("without", [OWNER, PREFIX])
def test_a_directory_that_may_not_be_a_sessions_stays(tmp_path, without):
    path = stale(tmp_path)
    if without == OWNER:
        (path / OWNER).unlink()
    else:
        path = path.rename(tmp_path / "killed")
    assert remove_stale([tmp_path]) == []
    assert (path / "postgres" / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change an owner")
def test_a_directory_of_another_user_stays(tmp_path):
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


def test_a_small_dev_shm_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(session_dir, "MIN_FREE_BYTES", 2**60)
    monkeypatch.setattr(session_dir.tempfile, "gettempdir", lambda: str(tmp_path))
    assert session_dir.default_root() == tmp_path


def test_without_dev_shm_temporary_files_are_used(monkeypatch, tmp_path):
    def missing(_path):
        raise FileNotFoundError

    monkeypatch.setattr(session_dir.os, "statvfs", missing)
    monkeypatch.setattr(session_dir.tempfile, "gettempdir", lambda: str(tmp_path))
    assert session_dir.default_root() == tmp_path
