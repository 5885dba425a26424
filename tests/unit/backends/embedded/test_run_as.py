"""The user that Postgres runs as."""

import os
from types import SimpleNamespace

import pytest

from pytest_resilience.backends.embedded import run_as
from pytest_resilience.errors import BackendUnavailable
from pytest_resilience.processes import PLAIN, RunAs


class FakeSupervisor:
    def __init__(self, *, namespaces=False, becomes=False):
        self.namespaces = namespaces
        self.becomes = becomes

    def user_namespaces(self):
        return self.namespaces

    def can_become(self, _uid, _gid):
        return self.becomes


@pytest.fixture
def as_user(monkeypatch):
    """Set the current user, and the users with a line in /etc/passwd."""

    def become(uid, *named):
        def look_up(number):
            if number not in named:
                raise KeyError(number)

        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(run_as.pwd, "getpwuid", look_up)
        entries = [SimpleNamespace(pw_uid=each, pw_gid=each + 1) for each in named]
        monkeypatch.setattr(run_as.pwd, "getpwall", lambda: entries)

    return become


def test_an_ordinary_user_with_a_name_runs_postgres(as_user):
    as_user(1000, 0, 1000)
    assert run_as.postgres_user(FakeSupervisor(namespaces=True)) == PLAIN


@pytest.mark.parametrize(("namespaces", "mode"), [(True, "userns"), (False, "setuid")])
def test_root_becomes_nobody_in_a_user_namespace_or_by_setuid(as_user, namespaces, mode):
    as_user(0, 0, 65534)
    assert run_as.postgres_user(FakeSupervisor(namespaces=namespaces, becomes=True)) == RunAs(mode, 65534, 65534)


def test_a_user_without_a_name_becomes_a_user_with_a_name(as_user):
    as_user(12345, 0, 65534)
    assert run_as.postgres_user(FakeSupervisor(namespaces=True)) == RunAs("userns", 65534, 65534)


def test_another_user_stands_in_for_nobody_without_a_name(as_user):
    as_user(0, 0, 405)
    assert run_as.postgres_user(FakeSupervisor(namespaces=True)) == RunAs("userns", 405, 406)
    as_user(0, 0)
    assert run_as.postgres_user(FakeSupervisor(namespaces=True)) == RunAs("userns", 65534, 65534)


def test_the_error_has_a_remedy_when_postgres_can_run_as_no_user(as_user):
    as_user(12345, 0, 65534)
    with pytest.raises(
        BackendUnavailable, match=r"^Postgres does not start for user 12345, .*/etc/passwd.*docker run -u nobody\)$"
    ):
        run_as.postgres_user(FakeSupervisor())
    as_user(0, 0, 65534)
    with pytest.raises(
        BackendUnavailable, match=r"^Postgres does not start for root, .* run the tests as an ordinary user$"
    ):
        run_as.postgres_user(FakeSupervisor())


def test_no_owner_changes_unless_the_user_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", None)
    run_as.chown_tree(tmp_path, PLAIN)
    run_as.chown_tree(tmp_path, RunAs("userns"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change owners")
def test_the_owner_of_everything_changes_to_the_user(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("")
    run_as.chown_tree(tmp_path, RunAs("setuid", 1234, 1235))
    assert {(p.stat().st_uid, p.stat().st_gid) for p in [tmp_path, *tmp_path.rglob("*")]} == {(1234, 1235)}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change owners")
def test_the_target_of_a_link_keeps_its_owner(tmp_path):
    """The new owner of a directory may create links in it before the other owners are changed."""
    (tmp_path / "of root").write_text("")
    (tmp_path / "also of root").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").symlink_to(tmp_path / "of root")
    (tmp_path / "data" / "directory").symlink_to(tmp_path / "also of root")
    (tmp_path / "data-link").symlink_to(tmp_path / "also of root")
    for path in tmp_path / "data", tmp_path / "data-link":
        run_as.chown_tree(path, RunAs("setuid", 1234, 1235))
    assert {(tmp_path / name).stat().st_uid for name in ("of root", "also of root")} == {0}
    assert (tmp_path / "data" / "file").lstat().st_uid == 1234


def installation(root):
    for name in (
        "pkg/pginstall/bin/postgres",
        "pkg/pginstall/lib/a.so",
        "pkg/pginstall/include/a.h",
        "pkg.libs/libpq.so",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root / "pkg" / "pginstall" / "bin"


@pytest.fixture
def binaries(tmp_path):
    """The programs of an installation in a home that is closed to others, beside the directory of a session."""
    found = installation(tmp_path / "home")
    (tmp_path / "home").chmod(0o700)
    (tmp_path / "session").mkdir()
    return found


def test_programs_that_all_users_can_read_are_not_copied():
    assert run_as.readable_copy(run_as.Path("/usr/bin"), run_as.Path("/nowhere")).as_posix() == "/usr/bin"


def test_programs_in_a_closed_home_are_copied_with_their_libraries(binaries, tmp_path):
    copy = run_as.readable_copy(binaries, tmp_path / "session")
    assert (copy / "postgres").read_text() == "pkg/pginstall/bin/postgres"
    assert (copy / "../../../pkg.libs/libpq.so").read_text() == "pkg.libs/libpq.so", "where $ORIGIN leads"
    assert not (copy.parent / "include").exists()


def test_further_servers_use_the_copy_that_is_there(binaries, tmp_path):
    first = run_as.readable_copy(binaries, tmp_path / "session")
    assert run_as.readable_copy(binaries, tmp_path / "session") == first


def test_the_copy_of_programs_that_were_installed_for_root_alone_is_readable_for_all_users(binaries, tmp_path):
    (binaries / "postgres").chmod(0o700)
    (binaries / "link").symlink_to("postgres")
    for path in (tmp_path / "home").rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    copy = run_as.readable_copy(binaries, tmp_path / "session")
    assert (copy / "postgres").stat().st_mode & 0o077 == 0o055
    assert (copy / "../lib/a.so").stat().st_mode & 0o077 == 0o044
    assert copy.stat().st_mode & 0o077 == copy.parent.stat().st_mode & 0o077 == 0o055
