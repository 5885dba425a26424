"""The verifier of a password, and its place in a data directory."""

from __future__ import annotations

import pytest

from pytest_resilience.backends import postgres_password
from pytest_resilience.backends.postgres_password import Place, find, put, verifier_for
from pytest_resilience.backends.template import TemplateBroken

# What Postgres 18 made of the password "secretpassword", with one iteration.
MADE_BY_POSTGRES = (
    "SCRAM-SHA-256$1:JDUalWsBdISfP63F7cslow==$udD86H1tsueMR7yKW126sJrFMaV4Ms1QZ6MzBgXF4VE="
    ":MrUzAjvEZsJ2bD1+fplpC+Dg9v7BR3y2OjCuWFgm+Ms="
)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "global" / "directory").mkdir(parents=True)
    (tmp_path / "global" / "1260").write_bytes(b"\0" * 100 + MADE_BY_POSTGRES.encode() + b"\0" * 100)
    (tmp_path / "global" / "1261").write_bytes(b"\0" * 8192)
    return tmp_path


def test_a_verifier_is_what_postgres_makes_of_the_password(monkeypatch):
    import base64

    monkeypatch.setattr(postgres_password.os, "urandom", lambda _size: base64.b64decode("JDUalWsBdISfP63F7cslow=="))
    assert verifier_for("secretpassword", like=MADE_BY_POSTGRES) == MADE_BY_POSTGRES


def test_a_verifier_is_found_and_another_put_in_its_place(data):
    place = find(data)
    assert place == Place("global/1260", MADE_BY_POSTGRES)
    put(data, place, "another")
    assert (data / "global/1260").stat().st_size == 200 + len(MADE_BY_POSTGRES)
    assert find(data).verifier != MADE_BY_POSTGRES
    with pytest.raises(TemplateBroken, match="global/1260 has not the verifier"):
        put(data, place, "another")


def test_two_verifiers_or_none_are_refused(data):
    (data / "global" / "1261").write_text(MADE_BY_POSTGRES)
    with pytest.raises(TemplateBroken, match="2 verifiers"):
        find(data)
    (data / "global" / "1260").unlink()
    (data / "global" / "1261").unlink()
    with pytest.raises(TemplateBroken, match="0 verifiers"):
        find(data)
