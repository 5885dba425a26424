"""The verifier of a password in a data directory."""

from __future__ import annotations

import base64

import pytest

from pytest_resilience.backends.embedded import postgres_password
from pytest_resilience.backends.embedded.postgres_password import (
    VerifierLocation,
    find_verifier,
    set_password,
    verifier_for,
)
from pytest_resilience.backends.embedded.template_file import TemplateCorrupt

# Verifiers that Postgres 18 computed from the password "secretpassword".
MADE_BY_POSTGRES = (
    "SCRAM-SHA-256$4096:NAu+0UMHChhLDi9OpMkb5A==$+hxkhEg8NdOqnoeGFNieU7D9yDpfu7fZCzG+lwrucnI="
    ":gg6yk6L+AhknE7ir6uMRkL/m8C2UCNZ0pao/MemGySE="
)
WITH_ONE_ITERATION = (
    "SCRAM-SHA-256$1:JDUalWsBdISfP63F7cslow==$udD86H1tsueMR7yKW126sJrFMaV4Ms1QZ6MzBgXF4VE="
    ":MrUzAjvEZsJ2bD1+fplpC+Dg9v7BR3y2OjCuWFgm+Ms="
)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "global" / "directory").mkdir(parents=True)
    (tmp_path / "global" / "1260").write_bytes(b"\0" * 100 + MADE_BY_POSTGRES.encode() + b"\0" * 100)
    (tmp_path / "global" / "1261").write_bytes(b"\0" * 8192)
    return tmp_path


@pytest.mark.parametrize(("iterations", "verifier"), [(4096, MADE_BY_POSTGRES), (1, WITH_ONE_ITERATION)])
def test_a_verifier_equals_the_one_that_postgres_computes(monkeypatch, iterations, verifier):
    salt = base64.b64decode(verifier.split(":")[1].split("$")[0])
    monkeypatch.setattr(postgres_password.os, "urandom", lambda _size: salt)
    made = verifier_for("secretpassword", iterations)
    assert made.replace("$0001:", "$1:") == verifier
    assert len(made) == len(MADE_BY_POSTGRES)


def test_clients_that_refuse_few_iterations_get_the_number_of_the_standard(data, monkeypatch):
    set_password(data, find_verifier(data), "few")
    assert find_verifier(data).verifier.startswith("SCRAM-SHA-256$0001:")
    monkeypatch.setattr(postgres_password.importlib.util, "find_spec", {"scramp": "here"}.get)
    set_password(data, find_verifier(data), "many")
    assert find_verifier(data).verifier.startswith("SCRAM-SHA-256$4096:")


def test_a_verifier_is_found_and_replaced(data):
    location = find_verifier(data)
    assert location == VerifierLocation("global/1260", MADE_BY_POSTGRES)
    set_password(data, location, "another")
    assert (data / "global/1260").stat().st_size == 200 + len(MADE_BY_POSTGRES)
    assert find_verifier(data).verifier != MADE_BY_POSTGRES
    with pytest.raises(TemplateCorrupt, match="global/1260 does not have the recorded verifier"):
        set_password(data, location, "another")


def test_two_verifiers_or_none_are_refused(data):
    (data / "global" / "1261").write_text(MADE_BY_POSTGRES)
    with pytest.raises(TemplateCorrupt, match="2 verifiers"):
        find_verifier(data)
    (data / "global" / "1260").unlink()
    (data / "global" / "1261").unlink()
    with pytest.raises(TemplateCorrupt, match="0 verifiers"):
        find_verifier(data)
