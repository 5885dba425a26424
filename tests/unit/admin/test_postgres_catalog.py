"""Statements that restore roles and settings, as literals."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.admin.postgres_catalog import Cluster, assignment, fingerprint, literal, quoted, settings_of

EMPTY = Cluster({}, {}, {}, frozenset(), {}, {})


def role(name: str, **changes: Any) -> dict[str, Any]:
    flags = dict.fromkeys(
        ("rolsuper", "rolcreaterole", "rolcreatedb", "rolcanlogin", "rolreplication", "rolbypassrls"), False
    )
    rest = {"rolinherit": True, "rolconnlimit": -1, "rolpassword": None, "rolvaliduntil": None, "comment": None}
    return {"name": name, **flags, **rest, **changes}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("work_mem", "4MB", "\"work_mem\" = E'4MB'"),
        ("my.own", "it's", "\"my\".\"own\" = E'it''s'"),
        ("search_path", '"$user", public', "\"search_path\" = E'$user', E'public'"),
        ("search_path", '"a b", "c,d"', "\"search_path\" = E'a b', E'c,d'"),
        ("search_path", "", "\"search_path\" = E''"),
    ],
)
def test_a_setting_is_assigned_as_it_was_stored(name: str, value: str, expected: str) -> None:
    assert assignment(name, value) == expected


def test_names_and_texts_are_quoted() -> None:
    assert quoted('a"b') == '"a""b"'
    assert literal("a\\b'c") == "E'a\\\\b''c'"


def test_settings_are_set_on_a_database_a_role_or_both() -> None:
    (of_all,) = settings_of("", "", ["a=1"])
    (of_a_database,) = settings_of("shop", "", ["a=1"])
    (of_a_role,) = settings_of("", "me", ["a=1"])
    (of_both,) = settings_of("shop", "me", ["a=1"])
    assert of_all == "alter role all set \"a\" = E'1'"
    assert of_a_database == 'alter database "shop" set "a" = E\'1\''
    assert of_a_role == 'alter role "me" set "a" = E\'1\''
    assert of_both == 'alter role "me" in database "shop" set "a" = E\'1\''


def test_no_statement_is_needed_when_nothing_has_changed() -> None:
    same = Cluster({"me": role("me")}, {("a", "me"): True}, {("shop", ""): ["a=1"]}, frozenset(), {}, {})
    assert list(same.back_to(same, {"shop"})) == []
    assert list(same.role_back_to(same, "me")) == []
    assert same.differences(same) == ""


def test_roles_are_created_and_altered() -> None:
    baseline = EMPTY._replace(
        roles={"me": role("me", rolsuper=True, rolpassword="secret"), "you": role("you", rolvaliduntil="2030-01-01")}
    )
    now = EMPTY._replace(roles={"me": role("me", comment="x")})
    assert list(now.back_to(baseline, set())) == [
        (
            'alter role "me" with superuser inherit nocreaterole nocreatedb nologin noreplication nobypassrls '
            "connection limit -1 password E'secret' valid until E'infinity'"
        ),
        "update pg_authid set rolvaliduntil = null where rolname = E'me'",
        'comment on role "me" is null',
        'create role "you"',
        (
            'alter role "you" with nosuperuser inherit nocreaterole nocreatedb nologin noreplication nobypassrls '
            "connection limit -1 password null valid until E'2030-01-01'"
        ),
        'comment on role "you" is null',
    ]
    assert len(list(now.role_back_to(baseline, "me"))) == 3
    assert list(now.role_back_to(baseline, "you")) == [], "the role does not exist"


def test_members_and_settings_are_restored() -> None:
    roles = {name: role(name) for name in ("me", "you")}
    baseline = EMPTY._replace(
        roles=roles, members={("me", "you"): True}, settings={("shop", ""): ["a=1"], ("", "me"): ["b=2"]}
    )
    now = EMPTY._replace(
        roles=roles | {"extra": role("extra")},
        members={("me", "you"): False, ("pg_monitor", "me"): False, ("me", "extra"): False},
        settings={("", "me"): ["b=3"], ("gone", ""): ["c=4"], ("", "extra"): ["d=5"]},
    )
    assert list(now.back_to(baseline, {"shop"})) == [
        'revoke "pg_monitor" from "me" cascade',
        'revoke "me" from "you" cascade',
        'grant "me" to "you" with admin option',
        'alter role "me" reset all',
        'alter role "me" set "b" = E\'2\'',
        'alter database "shop" reset all',
        'alter database "shop" set "a" = E\'1\'',
    ]
    assert now.extra_roles(baseline) == ["extra"]


def test_differences_are_named() -> None:
    now = EMPTY._replace(roles={"me": role("me")}, objects=frozenset({("slot", "s", ""), ("tablespace", "t", "")}))
    assert now.differences(EMPTY) == "roles of me; slot s; tablespace t"
    assert now.extra(EMPTY, "slot") == [("s", "")]


def test_a_shared_server_is_not_queried_for_what_only_superusers_can_read() -> None:
    assert "pg_largeobject " in fingerprint(exclusive=True)
    assert "pg_largeobject " not in fingerprint(exclusive=False)
