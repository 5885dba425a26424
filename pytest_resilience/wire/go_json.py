"""JSON read and written as Go's encoding/json does it, with Go's error messages.

The functions are pure. The facts come from toxiproxy-server 2.12. tests/contract compares the responses.

Rules of reading:
- Keys match in any case, and unknown keys are ignored.
- `null` keeps the default.
- The last of equal keys wins.
- Anything behind the first value is ignored.
- Integers must be written as integers (`5.0` and `1e3` are refused).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from .api_error import ApiError, bad_body

MAX_INT64 = 2**63 - 1
MAX_FLOAT32 = 3.4028234663852886e38


class JsonObject(list[tuple[str, Any]]):
    """A JSON object as its (key, value) pairs in order, equal keys included."""


class JsonNumber(float):
    """A JSON number that is no integer literal, or one of more than 20 characters.

    Attributes:
        text: the number as it was written.
    """

    text: str

    def __new__(cls, text: str) -> JsonNumber:
        self = super().__new__(cls, text)
        self.text = text
        return self


def _integer(text: str) -> int | JsonNumber:
    if text == "-0":
        return JsonNumber(text)  # a float keeps its sign
    # Longer literals are out of range anyway, and int() refuses very long ones.
    return int(text) if len(text) <= 20 else JsonNumber(text)


def _constant(text: str) -> float:
    character = "I" if text.startswith("-") else text[0]
    where = "in numeric literal" if text.startswith("-") else "looking for beginning of value"
    raise bad_body(f"invalid character {character!r} {where}")


_DECODER = json.JSONDecoder(
    object_pairs_hook=JsonObject, parse_float=JsonNumber, parse_int=_integer, parse_constant=_constant, strict=True
)
_SPACE = " \t\r\n"
_INVALID_BYTES = dict.fromkeys(range(0xDC80, 0xDD00), "\ufffd")
_GO_CONTEXTS = {
    "Expecting value": "looking for beginning of value",
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Expecting ',' delimiter": "after object key:value pair",
    "Invalid \\escape": "in string escape code",
    "Invalid \\uXXXX escape": "in \\u hexadecimal character escape",
    "Invalid control character at": "in string literal",
}


def decode(body: bytes) -> Any:
    """Return the first JSON value of `body`.

    Returns:
        None, bool, int, JsonNumber, str, list or JsonObject.

    Raises:
        ApiError: 400 `bad request body: `, then EOF for an empty body, unexpected EOF for a truncated one, or Go's message.
    """
    # As in Go, each byte that is no UTF-8 becomes one character.
    text = body.decode("utf-8", "surrogateescape").strip(_SPACE)
    if not text:
        raise bad_body("EOF")
    try:
        return _DECODER.raw_decode(text if text.isascii() else text.translate(_INVALID_BYTES))[0]
    except json.JSONDecodeError as error:
        raise bad_body(_syntax_error(text, error)) from None
    except RecursionError:
        raise bad_body("exceeded max depth") from None


def _syntax_error(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :]
    if error.msg.startswith("Illegal trailing comma"):  # Python 3.13 and later point at the comma, Go behind it
        rest = rest[1:].lstrip(_SPACE)
    place = next((place for message, place in _GO_CONTEXTS.items() if error.msg.startswith(message)), "in the body")
    unicode_escape = error.msg.startswith("Invalid \\u")
    if error.msg.startswith("Unterminated string") or (unicode_escape and len(rest) < 5):
        return "unexpected EOF"
    if error.msg.startswith("Invalid \\escape"):  # Python points at the backslash, Go behind it
        rest = rest[1:]
    elif error.msg.startswith("Expecting value"):
        rest, place = _bad_literal(rest) or (rest, place)
    elif error.msg.startswith("Expecting ',' delimiter"):
        before = text[: error.pos]
        rest, place = _bad_number(before, rest) or (rest, "after array element" if _is_inside_array(before) else place)
    if not rest:
        return "unexpected EOF"
    character = chr(rest[0].encode("utf-8", "surrogateescape")[0])  # Go reports bytes
    return f"invalid character {_go_quoted(character)} {place}"


def _bad_literal(rest: str) -> tuple[str, str] | None:
    """Return the text from the first wrong character of `true`, `false`, `null` or a number on, and Go's context for the message."""
    if rest.startswith("-"):
        return rest[1:], "in numeric literal"
    for literal in ("true", "false", "null"):
        if rest.startswith(literal[0]):
            at = next((at for at in range(len(literal)) if rest[at : at + 1] != literal[at]), 0)
            return rest[at:], f"in literal {literal} (expecting {literal[at]!r})"
    return None


def _bad_number(before: str, rest: str) -> tuple[str, str] | None:
    """Return the text behind `1.` or `1e`, and Go's context for the message. Python parses both as the number 1 with a rest."""
    if not before[-1:].isdigit():
        return None
    if rest.startswith("."):
        return rest[1:], "after decimal point in numeric literal"
    if rest.startswith(("e", "E")):
        return rest[2 if rest[1:2] in ("+", "-") else 1 :], "in exponent of numeric literal"
    return None


def _is_inside_array(before: str) -> bool:
    """True if the innermost array or object that is open at the end of `before` is an array."""
    opened: list[str] = []
    quoted = False
    characters = iter(before)
    for character in characters:
        if quoted:
            if character == "\\":
                next(characters, "")
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character in "[{":
            opened.append(character)
        elif character in "]}" and opened:
            opened.pop()
    return opened[-1:] == ["["]


def _go_quoted(character: str) -> str:
    return "'\\''" if character == "'" else repr(character)


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, JsonObject) else "array"


class GoTarget(NamedTuple):
    """The place in Go's data into which a value is read, as error messages name it.

    Attributes:
        struct: the Go type that has the field; "" for a struct without a name.
        field: the name in JSON; "" if the value itself is the target.
    """

    struct: str
    field: str = ""

    def type_error(self, value: Any, go_type: str) -> ApiError:
        """Return the error for a value that does not fit into this target."""
        target = f"Go struct field {self.struct}.{self.field}" if self.field else "Go value"
        shows_number = isinstance(value, JsonNumber) and go_type in ("int64", "float32")
        kind = f"number {value.text}" if shows_number else _json_type(value)
        return bad_body(f"json: cannot unmarshal {kind} into {target} of type {go_type}")


def read_object(value: Any, into: GoTarget, go_type: str) -> JsonObject:
    """Return an object, empty for null."""
    if value is None:
        return JsonObject()
    if not isinstance(value, JsonObject):
        raise into.type_error(value, go_type)
    return value


def read_list(value: Any, into: GoTarget, go_type: str) -> list[Any]:
    """Return an array."""
    if not isinstance(value, list) or isinstance(value, JsonObject):
        raise into.type_error(value, go_type)
    return value


def read_text(value: Any, into: GoTarget) -> str:
    """Return a string. Lone surrogates are replaced, as in Go."""
    if not isinstance(value, str):
        raise into.type_error(value, "string")
    if value.isascii():
        return value
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)


def read_bool(value: Any, into: GoTarget) -> bool:
    """Return a bool."""
    if not isinstance(value, bool):
        raise into.type_error(value, "bool")
    return value


def is_integer(value: Any) -> bool:
    """True if the value was written as an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_int64(value: Any, into: GoTarget) -> int:
    """Return an integer of at most 64 bits that was written as an integer."""
    if isinstance(value, JsonNumber) and value.text == "-0":
        return 0
    if not is_integer(value):
        raise into.type_error(value, "int64")
    if not -MAX_INT64 - 1 <= value <= MAX_INT64:
        raise into.type_error(JsonNumber(str(value)), "int64")
    number: int = value
    return number


def read_float32(value: Any, into: GoTarget) -> float:
    """Return a number rounded to a float32."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise into.type_error(value, "float32")
    try:
        narrow = float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        narrow = float("inf")
    if not -MAX_FLOAT32 <= narrow <= MAX_FLOAT32:
        raise into.type_error(value if isinstance(value, JsonNumber) else JsonNumber(str(value)), "float32")
    return narrow


# --- writing ---------------------------------------------------------------------------------------------------------


def shortest_float32(value: float) -> str:
    """Return a float32 in Go's notation, with the fewest digits that are read back as an equal float32."""

    def narrow(number: float) -> float:
        return float(struct.unpack("f", struct.pack("f", number))[0])

    wanted = narrow(value)
    text = next(text for text in (f"{wanted:.{digits}e}" for digits in range(10)) if narrow(float(text)) == wanted)
    mantissa, exponent = text.split("e")
    power = int(exponent)
    if wanted and not -6 <= power < 21:
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}".replace("e-0", "e-")
    digits = max(0, len(mantissa.lstrip("-").replace(".", "")) - 1 - power)
    return f"{float(text):.{digits}f}"


_ESCAPES: tuple[tuple[str, str], ...] = (
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("&", "\\u0026"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)


class NumberLiteral(str):
    """A number that `encode` writes as it is."""

    __slots__ = ()


_quote: Callable[[str], str] = json.JSONEncoder(ensure_ascii=False).encode


def encode(value: Any) -> bytes:
    """Return a value as compact JSON with Go's escapes and without a newline at the end."""
    text = _encoded(value)
    for character, escape in _ESCAPES:  # these characters occur inside strings only
        if character in text:
            text = text.replace(character, escape)
    return text.encode("utf-8", "replace")


def _encoded(value: Any) -> str:
    if isinstance(value, NumberLiteral):
        return value
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quote(key)}:{_encoded(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_encoded, value)) + "]"
    return _quote(value)


def float32_literal(value: float) -> NumberLiteral:
    """Return a toxicity for `encode`, which writes it as a float32 in Go's notation."""
    return NumberLiteral(shortest_float32(value))
