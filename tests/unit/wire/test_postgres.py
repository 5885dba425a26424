"""Postgres' protocol, tables of literals."""

import pytest

from pytest_resilience.wire import postgres


def test_a_startup_packet_contains_user_and_database():
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
def test_the_first_message_is_none_while_incomplete(data, message):
    assert postgres.first_message(data) == message


ERROR = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0Fpostmaster.c\0\0"


def test_error_fields_are_read_by_letter():
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
def test_the_first_response_shows_the_state_of_the_server(kind, body, verdict):
    assert postgres.startup_status(postgres.Message(kind, body)) == verdict


# -- a client's side of a session


def test_messages_are_read_from_bytes_in_any_pieces():
    messages = postgres.MessageReader()
    data = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\5I"
    taken = []
    for byte in data:
        messages.feed(bytes([byte]))
        while message := messages.next_message():
            taken.append(tuple(message))
    assert taken == [(b"R", b"\0\0\0\0"), (b"Z", b"I")]


def test_scram_computes_the_example_of_rfc_7677():
    scram = postgres.Scram("pencil", "rOprNGfwEbeRWgbNEkqO", name="user")
    assert scram.initial_response()[5:] == b"SCRAM-SHA-256\0" + b"\0\0\0\x20" + b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    proof = scram.proof(b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    assert proof[5:] == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    scram.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    with pytest.raises(ValueError, match="does not have the password"):
        scram.verify(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


@pytest.mark.parametrize("nonce", ["other", "mine"], ids=["of another handshake", "not made longer"])
def test_scram_refuses_the_challenge_of_another_handshake(nonce):
    with pytest.raises(ValueError, match="another handshake"):
        postgres.Scram("pencil", "mine").proof(f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode())


def test_passwords_by_md5_are_salted_twice():
    assert (
        postgres.md5_password_message("ann", "secret", b"salt") == b"p\0\0\0\x28md5b8f5ba9f485dba302ec0963f7ee9ba8f\0"
    )


def test_a_cancel_request_contains_process_and_secret():
    assert postgres.cancel_request(258, b"\1\2\3\4") == b"\0\0\0\x10\4\xd2\x16\x2e\0\0\1\2\1\2\3\4"


@pytest.mark.parametrize(
    ("argument", "sent"),
    [
        (None, b"\xff\xff\xff\xff"),
        (True, b"\0\0\0\1t"),
        (False, b"\0\0\0\1f"),
        (12, b"\0\0\0\x0212"),
        (0.5, b"\0\0\0\x030.5"),
        ("gr\u00fc\u00df", b"\0\0\0\6gr\xc3\xbc\xc3\x9f"),
        ([], b"\0\0\0\2{}"),
        (["a", None, 'b"\\'], b'\0\0\0\x12{"a",NULL,"b\\"\\\\"}'),
        ([[1], [2]], b'\0\0\0\x0d{{"1"},{"2"}}'),
    ],
)
def test_arguments_are_sent_as_text(argument, sent):
    assert sent + b"\0\0D" in postgres.parameterized_query("select $1", [argument])


def test_an_argument_of_another_type_is_refused():
    with pytest.raises(TypeError, match=r"must be str, int.*got bytes"):
        postgres.parameterized_query("select $1", [b""])


def test_a_nul_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        postgres.query("select '\0'")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (16, "t", True),
        (16, "f", False),
        (20, "-7", -7),
        (701, "0.5", 0.5),
        (1700, "12.50", 12.5),
        (25, "12", "12"),
        (2950, "c0ffee", "c0ffee"),
        (1000, "{t,f,NULL}", [True, False, None]),
        (1007, "{}", []),
        (1016, "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (1009, '{a,"b, {c}","d\\"\\\\e","NULL"}', ["a", "b, {c}", 'd"\\e', "NULL"]),
        (1007, "[2:3]={5,6}", [5, 6]),
    ],
)
def test_values_are_read_by_their_type(kind, text, value):
    row = b"\0\2" + b"\xff\xff\xff\xff" + len(text).to_bytes(4, "big") + text.encode()
    described = [postgres.Column("nothing", 25), postgres.Column("it", kind)]
    assert postgres.row_values(row, described) == [None, value]


def test_a_row_description_has_names_and_types():
    body = b"\0\2a\0" + b"\0" * 6 + b"\0\0\0\x17" + b"\0" * 8 + b"bc\0" + b"\0" * 6 + b"\0\0\0\x19" + b"\0" * 8
    assert postgres.columns(body) == [("a", 23), ("bc", 25)]
