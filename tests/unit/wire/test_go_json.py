"""Go's JSON: tables of literals, each line a response of toxiproxy-server 2.12."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_resilience.wire import go_json
from pytest_resilience.wire.api_error import ApiError


def refused(body: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        go_json.decode(body)
    assert caught.value.status == 400
    return caught.value.message.removeprefix("bad request body: ")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "EOF"),
        (b" \n\t", "EOF"),
        (b"{", "unexpected EOF"),
        (b'{"a":', "unexpected EOF"),
        (b'{"a":1', "unexpected EOF"),
        (b'"abc', "unexpected EOF"),
        (b"tru", "unexpected EOF"),
        (b"-", "unexpected EOF"),
        (b'"\\u12', "unexpected EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b"{1:2}", "invalid character '1' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        (b"NaN", "invalid character 'N' looking for beginning of value"),
        (b"Infinity", "invalid character 'I' looking for beginning of value"),
        (b"-Infinity", "invalid character 'I' in numeric literal"),
        (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
        (b"'", "invalid character '\\'' looking for beginning of value"),
        (b"[" * 100_000, "exceeded max depth"),
    ],
)
def test_bad_json_is_refused_with_the_message_of_go(body: bytes, message: str) -> None:
    assert refused(body) == message


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b" 5 ", 5),
        (b"null", None),
        (b'{"a":1,"a":2}', [("a", 1), ("a", 2)]),
        (b'{"a":1} and more', [("a", 1)]),
        (b'"\xff"', "\ufffd"),
        (b'["a",true,{}]', ["a", True, []]),
    ],
)
def test_the_first_value_of_a_body_is_decoded(body: bytes, value: Any) -> None:
    assert go_json.decode(body) == value


def test_numbers_other_than_integers_keep_their_text() -> None:
    values = go_json.decode(b"[5.0, 1e3, 123456789012345678901]")
    assert [value.text for value in values] == ["5.0", "1e3", "123456789012345678901"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (0.1, "0.1"),
        (0.9, "0.9"),
        (1 / 3, "0.33333334"),
        (0.00001, "0.00001"),
        (1e-7, "1e-7"),
        (1.5e-9, "1.5e-9"),
        (1e21, "1e+21"),
        (123456.0, "123456"),
    ],
)
def test_a_float32_is_written_with_the_fewest_digits(value: float, text: str) -> None:
    assert go_json.shortest_float32(value) == text


def test_strings_are_escaped_as_in_go() -> None:
    assert (
        go_json.encode({"a": "<é>&\u2028\u2029\n\x01"})
        == '{"a":"\\u003cé\\u003e\\u0026\\u2028\\u2029\\n\\u0001"}'.encode()
    )
