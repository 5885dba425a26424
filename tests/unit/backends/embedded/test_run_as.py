"""As whom Postgres runs."""

import os
from types import SimpleNamespace

import pytest

from pytest_resilience.backends.embedded import run_as as accounts
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
    """Says who runs this, and who has a line in /etc/passwd."""

    def become(uid, *known):
        def look_up(asked):
            if asked not in known:
                raise KeyError(asked)

        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(accounts.pwd, "getpwuid", look_up)
        entries = [SimpleNamespace(pw_uid=each, pw_gid=each + 1) for each in known]
        monkeypatch.setattr(accounts.pwd, "getpwall", lambda: entries)

    return become


def test_a_user_with_a_name_runs_postgres_as_it_is(as_user):
    as_user(1000, 0, 1000)
    assert accounts.postgres_user(FakeSupervisor(namespaces=True)) == PLAIN


@pytest.mark.parametrize(("namespaces", "mode"), [(True, "userns"), (False, "setuid")])
def test_root_becomes_nobody_in_the_gentlest_way_that_works(as_user, namespaces, mode):
    as_user(0, 0, 65534)
    assert accounts.postgres_user(FakeSupervisor(namespaces=namespaces, becomes=True)) == RunAs(mode, 65534, 65534)


def test_a_user_without_a_name_becomes_one_with_a_name(as_user):
    as_user(12345, 0, 65534)
    assert accounts.postgres_user(FakeSupervisor(namespaces=True)) == RunAs("userns", 65534, 65534)


def test_where_nobody_has_no_name_another_user_does(as_user):
    as_user(0, 0, 405)
    assert accounts.postgres_user(FakeSupervisor(namespaces=True)) == RunAs("userns", 405, 406)
    as_user(0, 0)
    assert accounts.postgres_user(FakeSupervisor(namespaces=True)) == RunAs("userns", 65534, 65534)


def test_where_postgres_would_not_run_one_line_says_what_to_do(as_user):
    as_user(12345, 0, 65534)
    with pytest.raises(
        BackendUnavailable, match=r"^Postgres does not start for user 12345, .*/etc/passwd.*docker run -u nobody\)$"
    ):
        accounts.postgres_user(FakeSupervisor())
    as_user(0, 0, 65534)
    with pytest.raises(
        BackendUnavailable, match=r"^Postgres does not start for root, .* run the tests as an ordinary user$"
    ):
        accounts.postgres_user(FakeSupervisor())


def test_nothing_is_given_away_unless_the_user_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", None)
    accounts.chown_tree(tmp_path, PLAIN)
    accounts.chown_tree(tmp_path, RunAs("userns"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_everything_is_given_to_the_user(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("")
    accounts.chown_tree(tmp_path, RunAs("setuid", 1234, 1235))
    assert {(p.stat().st_uid, p.stat().st_gid) for p in [tmp_path, *tmp_path.rglob("*")]} == {(1234, 1235)}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_what_a_link_points_at_is_not_given_away(tmp_path):
    """The user who is given a directory may put links into it while the rest is given."""
    (tmp_path / "of root").write_text("")
    (tmp_path / "also of root").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").symlink_to(tmp_path / "of root")
    (tmp_path / "data" / "directory").symlink_to(tmp_path / "also of root")
    (tmp_path / "data-link").symlink_to(tmp_path / "also of root")
    for path in tmp_path / "data", tmp_path / "data-link":
        accounts.chown_tree(path, RunAs("setuid", 1234, 1235))
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


def test_programs_that_everybody_reaches_stay_where_they_are():
    assert accounts.readable_copy(accounts.Path("/usr/bin"), accounts.Path("/nowhere")).as_posix() == "/usr/bin"


def test_programs_in_a_closed_home_are_copied_with_their_libraries(tmp_path):
    home = tmp_path / "home"
    binaries = installation(home)
    home.chmod(0o700)
    (tmp_path / "scratch").mkdir()
    copy = accounts.readable_copy(binaries, tmp_path / "scratch")
    assert (copy / "postgres").read_text() == "pkg/pginstall/bin/postgres"
    assert (copy / "../../../pkg.libs/libpq.so").read_text() == "pkg.libs/libpq.so", "where $ORIGIN leads"
    assert not (copy.parent / "include").exists()
