"""As whom Postgres runs."""

import os

import pytest

from pytest_resilience.backends import accounts
from pytest_resilience.processes import PLAIN, User


class KeeperThat:
    def __init__(self, allows):
        self.allows = allows

    def user_namespaces(self):
        return self.allows


@pytest.mark.parametrize(("uid", "allows", "mode"), [(1000, True, "plain"), (0, True, "userns"), (0, False, "setuid")])
def test_root_becomes_nobody_in_the_gentlest_way_that_works(monkeypatch, uid, allows, mode):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert accounts.user_for_postgres(KeeperThat(allows)).mode == mode


def test_nothing_is_given_away_unless_the_user_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", None)
    accounts.give(tmp_path, PLAIN)
    accounts.give(tmp_path, User("userns"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_everything_is_given_to_the_user(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("")
    accounts.give(tmp_path, User("setuid", 1234, 1235))
    assert {(p.stat().st_uid, p.stat().st_gid) for p in [tmp_path, *tmp_path.rglob("*")]} == {(1234, 1235)}


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
