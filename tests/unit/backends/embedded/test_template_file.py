"""The template file is published complete and checked during each copy."""

import os
import stat

import pytest

from pytest_resilience.backends.embedded import template_file as template
from pytest_resilience.backends.embedded.template_file import DataDirTemplate, TemplateCorrupt

METADATA = {"version": "18.6", "password": "secret"}


@pytest.fixture
def data(tmp_path):
    """A directory with the files and directories of a data directory."""
    root = tmp_path / "data"
    for name in ("base/1", "base/7", "global", "pg_wal/empty"):
        (root / name).mkdir(parents=True)
    (root / "PG_VERSION").write_text("18\n")
    (root / "global" / "pg_control").write_bytes(os.urandom(3000))
    (root / "base/1/100").write_bytes(b"same" * 5000)
    (root / "base/7/100").write_bytes(b"same" * 5000)
    (root / "base/1/101").write_bytes(b"")
    (root / "base/7/pg_internal.init").write_text("made at every start")
    (root / "postmaster.opts").write_text("made at every start")
    return root


@pytest.fixture
def packed(data, tmp_path):
    path = tmp_path / "it.template"
    template.write(data, path, METADATA, essential=lambda name: not name.startswith("base/1"))
    return path


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def test_a_copy_has_everything_except_files_that_a_start_creates(data, packed, tmp_path):
    with DataDirTemplate(packed) as opened:
        assert opened.metadata == METADATA
        opened.copy_essential(tmp_path / "copy")
        opened.copy_remaining(tmp_path / "copy")
    expected = contents(data)
    del expected["base/7/pg_internal.init"], expected["postmaster.opts"]
    assert contents(tmp_path / "copy") == expected


def test_the_essential_part_has_the_files_for_a_start_and_all_directories(packed, tmp_path):
    with DataDirTemplate(packed) as opened:
        opened.copy_essential(tmp_path / "copy")
    names = set(contents(tmp_path / "copy"))
    assert {"base/7/100", "global/pg_control", "base/1", "pg_wal/empty"} <= names
    assert not {"base/1/100", "base/1/101"} & names


def test_equal_files_are_stored_once(packed):
    assert packed.stat().st_size < 30_000


def test_only_the_user_may_read_the_file_and_its_copies(packed, tmp_path):
    with DataDirTemplate(packed) as opened:
        opened.copy_essential(tmp_path / "copy")
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "copy", *(tmp_path / "copy").rglob("*")]}
    assert modes == {0o700, 0o600}


def test_a_missing_template_is_not_a_corrupt_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        DataDirTemplate(tmp_path / "none")


def use(path, to):
    with DataDirTemplate(path) as opened:
        opened.copy_essential(to)
        opened.copy_remaining(to)


def test_every_flipped_byte_and_every_cut_is_detected(packed, tmp_path):
    """Change every 97th byte, all bytes of the header, and the last byte."""
    whole = packed.read_bytes()
    header = len(template.MAGIC) + 8
    places = {*range(0, len(whole), 97), *range(header + 4), len(whole) - 1}
    for number, place in enumerate(sorted(places)):
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with pytest.raises(TemplateCorrupt):
            use(packed, tmp_path / f"flipped-{number}")
        packed.write_bytes(whole[:place])
        with pytest.raises(TemplateCorrupt):
            use(packed, tmp_path / f"cut-{number}")


def test_zeros_in_place_of_content_are_detected(packed, tmp_path):
    """A power failure leaves zeros on a file system that writes the length first."""
    packed.write_bytes(bytes(packed.stat().st_size))
    with pytest.raises(TemplateCorrupt):
        use(packed, tmp_path / "copy")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file away")
def test_a_file_of_another_user_is_refused(packed):
    os.chown(packed, 65534, 65534)
    with pytest.raises(TemplateCorrupt, match="another user"):
        DataDirTemplate(packed)


def test_a_file_that_other_users_may_write_is_refused(packed):
    packed.chmod(0o622)
    with pytest.raises(TemplateCorrupt, match="another user"):
        DataDirTemplate(packed)


def test_a_failed_write_leaves_the_old_template(data, packed, monkeypatch):
    before = packed.read_bytes()

    def full(_descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(template.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        template.write(data, packed, {}, essential=bool)
    assert packed.read_bytes() == before
    assert [path.name for path in packed.parent.iterdir() if path.name.startswith(".")] == []


def test_templates_that_were_unused_for_a_month_are_removed(tmp_path):
    now = 1_800_000_000
    for name, age in {"new.template": 86400, "old.template": 40 * 86400, "old.json": 40 * 86400}.items():
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (now - age, now - age))
    template.remove_unused(tmp_path, now=now)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.template", "old.json"]


def test_the_lock_is_exclusive(tmp_path):
    lock = tmp_path / "lock"
    with template.exclusive_lock(lock), lock.open() as other, pytest.raises(BlockingIOError):
        template.fcntl.flock(other, template.fcntl.LOCK_EX | template.fcntl.LOCK_NB)
    with lock.open() as other:
        template.fcntl.flock(other, template.fcntl.LOCK_EX | template.fcntl.LOCK_NB)
    assert lock.exists()
