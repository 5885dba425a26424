"""Postgres' protocol, tables of literals."""

import pytest

from pytest_resilience.wire import postgres


def test_startup_packet_names_user_and_database():
    packet = postgres.startup("ann", "shop")
    assert packet == b"\0\0\0\x20\0\3\0\0user\0ann\0database\0shop\0\0"
    assert int.from_bytes(packet[:4], "big") == len(packet)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", None),
        (b"R\0\0\0", None),
        (b"R\0\0\0\x08\0\0\0", None),
        (b"R\0\0\0\x08\0\0\0\0", (b"R", b"\0\0\0\0")),
        (b"R\0\0\0\x08\0\0\0\0Z\0\0\0\5I", (b"R", b"\0\0\0\0")),
        (b"N\0\0\0\4", (b"N", b"")),
    ],
)
def test_first_message_waits_until_it_is_complete(data, message):
    assert postgres.first_message(data) == message


ERROR = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0Fpostmaster.c\0\0"


def test_error_fields_go_by_their_letter():
    fields = postgres.error_fields(ERROR)
    assert (fields["S"], fields["C"], fields["M"]) == ("FATAL", "57P03", "the database system is starting up")


@pytest.mark.parametrize(
    ("kind", "body", "verdict"),
    [
        (b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0", "accepting"),
        (b"E", ERROR, "starting"),
        (
            b"E",
            b"SFATAL\0C53300\0Msorry, too many clients already\0\0",
            "FATAL: sorry, too many clients already (53300)",
        ),
        (b"H", b"", "not a Postgres server: it answered with b'H'"),
    ],
)
def test_first_answer_says_whether_the_server_serves(kind, body, verdict):
    assert postgres.verdict(postgres.Message(kind, body)) == verdict
