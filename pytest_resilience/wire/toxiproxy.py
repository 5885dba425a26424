"""The bodies of Toxiproxy's HTTP API: toxics, proxies, TLS and errors.

Toxiproxy's units (ms, microseconds, KB/s) occur in this file only. The functions are pure.
The facts come from toxiproxy-server 2.12. tests/contract compares the responses. Keys that toxiproxy-server lacks are marked
as extensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from .api_error import ApiError, bad_body
from .go_json import (
    MAX_INT64,
    GoTarget,
    JsonObject,
    decode,
    encode,
    is_integer,
    read_bool,
    read_float32,
    read_int64,
    read_list,
    read_object,
    read_text,
    shortest_float32,
)
from .statement_rule import PROTOCOLS

VERSION = "2.12.0"
STREAMS = ("upstream", "downstream")

# The range of Go's time.Duration. Above it toxiproxy-server overflows: it then panics, stalls or does nothing.
MAX_MS = MAX_INT64 // 1_000_000
MAX_US = MAX_INT64 // 1_000
MAX_PORT = 65535
MAX_NAME = 8192
"""Bytes of a name. The percent-encoded names of a proxy and its toxic fit into the longest request head that the API accepts."""


# --- toxics ----------------------------------------------------------------------------------------------------------


class Attribute(NamedTuple):
    """One attribute of a toxic type.

    Attributes:
        name: its key in JSON.
        setting: the argument of the toxic's class that receives the value.
        scale: factor from the unit of the API to that of `setting` (seconds, bytes, bytes per second); None keeps the integer.
        low, high: allowed values, both included.
        choices: the allowed words of a text, the default first. Responses leave out the default. An extension.
    """

    name: str
    setting: str
    scale: float | None = None
    low: int = 0
    high: int = MAX_INT64
    choices: tuple[str, ...] = ()

    @property
    def default(self) -> int | str:
        """The value that the attribute has if a body does not contain it."""
        return self.choices[0] if self.choices else 0

    def read(self, value: Any, into: GoTarget) -> int | str:
        """Return the value of the attribute out of a decoded JSON value.

        Raises:
            ApiError: 400 for a wrong type, and for a text that is none of the choices.
        """
        if not self.choices:
            return read_int64(value, into)
        text = read_text(value, into)
        if text not in self.choices:
            raise bad_body(f"{self.name} must be one of {', '.join(self.choices)}, not {text}")
        return text

    def is_left_out(self, value: int | str) -> bool:
        """True if responses leave out the value, because it is the default of a text."""
        return bool(self.choices) and value == self.default


_MS = 0.001
_US = 0.000001
_KB = 1000.0  # Toxiproxy's KB is 1000 bytes

ATTRIBUTES: dict[str, tuple[Attribute, ...]] = {
    "noop": (),
    "latency": (
        Attribute("latency", "delay", _MS, high=MAX_MS),
        Attribute("jitter", "jitter", _MS, high=MAX_MS // 2),
        Attribute("distribution", "distribution", choices=("uniform", "normal", "pareto")),
    ),
    "bandwidth": (Attribute("rate", "rate_bytes_per_s", _KB, high=MAX_MS),),
    "slow_close": (Attribute("delay", "delay", _MS, high=MAX_MS),),
    "timeout": (Attribute("timeout", "timeout", _MS, high=MAX_MS),),
    "reset_peer": (Attribute("timeout", "timeout", _MS, high=MAX_MS),),
    "slicer": (
        Attribute("average_size", "average_size", low=1, high=MAX_INT64 // 4),
        Attribute("size_variation", "size_variation", high=MAX_INT64 // 4),
        Attribute("delay", "delay", _US, high=MAX_US),
    ),
    "limit_data": (Attribute("bytes", "limit_bytes"),),
    # Extensions:
    "limit_time": (Attribute("time", "seconds", _MS, high=MAX_MS),),
    "cut": (),
    "shared_bandwidth": (Attribute("rate", "rate_bytes_per_s", _KB, high=MAX_MS),),
    "corrupt": (Attribute("every", "every_bytes", low=1, high=MAX_INT64 // 4),),
    "malformed": (),
}
"""The types of toxics and their attributes, in the order of responses."""


def check_attributes(kind: str, values: Mapping[str, Any]) -> None:
    """Refuse negative values, and values that crash or stall toxiproxy-server.

    Raises:
        ApiError: 400 that names the attribute.
    """
    for attribute in ATTRIBUTES[kind]:
        if attribute.choices:
            continue  # `Attribute.read` has checked it
        value = values[attribute.name]
        if not attribute.low <= value <= attribute.high:
            raise bad_body(f"{attribute.name} must be from {attribute.low} to {attribute.high}, not {value}")
    if kind == "slicer" and values["size_variation"] > values["average_size"]:
        raise bad_body(
            f"size_variation must be at most average_size ({values['average_size']}), not {values['size_variation']}"
        )


def settings(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as keyword arguments of the toxic's class, in seconds, bytes and bytes per second."""
    return {
        attribute.setting: values[attribute.name] * (1 if attribute.scale is None else attribute.scale)
        for attribute in ATTRIBUTES[kind]
        if attribute.name in values
    }


def merge_attributes(kind: str, value: Any, onto: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a toxic after an update.

    Args:
        kind: the type of the toxic.
        value: the decoded JSON object with the changes.
        onto: the attributes before the update; empty for a new toxic.

    Returns:
        All attributes of the type in its order, without texts that have their default.

    Raises:
        ApiError: 400 for a value that is no object, a number that is no integer, or one out of range.
    """
    struct_name = "".join(word.capitalize() for word in kind.split("_")) + "Toxic"
    table = {attribute.name: attribute for attribute in ATTRIBUTES[kind]}
    merged = {name: onto.get(name, attribute.default) for name, attribute in table.items()}
    # In error messages of toxiproxy-server, a new toxic's attributes go into a NoopToxic, and an existing toxic's into no named struct.
    place = (GoTarget("", "attributes"), struct_name) if onto else (GoTarget("ToxicWrapper", "attributes"), "NoopToxic")
    for key, member in read_object(value, place[0], f"toxics.{place[1]}"):
        attribute = table.get(key.casefold())
        if attribute is not None and member is not None:
            merged[attribute.name] = attribute.read(member, GoTarget(struct_name, f"attributes.{attribute.name}"))
    check_attributes(kind, merged)
    return {name: each for name, each in merged.items() if not table[name].is_left_out(each)}


UNITS: dict[str, tuple[str, ...]] = {"after": ("chunks", "bytes", "connections"), "count": ("chunks", "connections")}
"""The units of a trigger's amounts, by key."""


class Trigger:
    """A deterministic condition for a toxic to be active, by counts and connections. An extension.

    Attributes:
        after: how much passes untouched first.
        after_unit: one of UNITS["after"].
        count: how much the toxic affects after that; None for no limit.
        count_unit: one of UNITS["count"].
        connections: the connections that the toxic affects: the nth since the toxic was added (an int), or the connections of a
            client (its "host" or "host:port"). Empty for all.
        as_json: the keys and values for the API's response, as they were sent.
    """

    __slots__ = ("after", "after_unit", "as_json", "connections", "count", "count_unit")

    def __init__(self) -> None:
        self.after = 0
        self.after_unit = "chunks"
        self.count: int | None = None
        self.count_unit = "chunks"
        self.connections: tuple[int | str, ...] = ()
        self.as_json: dict[str, Any] = {}

    def read(self, name: str, value: Any) -> None:
        """Read one of the keys after, count and connections.

        Raises:
            ApiError: 400.
        """
        if name == "connections":
            self.connections = tuple(_read_connections(value))
            self.as_json[name] = value
        else:
            unit, amount = _read_amount(name, value)
            setattr(self, name, amount)
            setattr(self, f"{name}_unit", unit)
            self.as_json[name] = {unit: amount} if isinstance(value, JsonObject) else amount


def _read_connections(value: Any) -> list[int | str]:
    if not isinstance(value, list) or isinstance(value, JsonObject) or not all(map(_is_connection_selector, value)):
        raise bad_body('connections must be a list of numbers from 1 and client addresses ("127.0.0.1")')
    return value


def _is_connection_selector(value: Any) -> bool:
    return isinstance(value, str) or (is_integer(value) and value >= 1)


def _read_amount(name: str, value: Any) -> tuple[str, int]:
    units = UNITS[name]
    unit, amount = value[0] if isinstance(value, JsonObject) and len(value) == 1 else ("chunks", value)
    if unit not in units or not is_integer(amount) or not 0 <= amount <= MAX_INT64:
        raise bad_body(f'{name} must be a number of chunks, or {{"{units[-1]}": number}} ({", ".join(units)})')
    return unit, amount


Reader: TypeAlias = Callable[[Any, GoTarget], Any]


class Field(NamedTuple):
    """A key of a body.

    Attributes:
        attribute: the body's attribute that receives the value.
        read: returns the value for the attribute, or raises ApiError.
    """

    attribute: str
    read: Reader


class ToxicBody:
    """The body of a toxic's creation or update. None stands for a key that was not sent."""

    __slots__ = ("attributes", "kind", "name", "stream", "toxicity", "trigger")

    def __init__(self) -> None:
        self.name: str | None = None
        self.kind: str | None = None
        self.stream: str | None = None
        self.toxicity: float | None = None
        self.attributes: Any = None  # decoded JSON, which only `merge_attributes` can read, since it has the type
        self.trigger: Trigger | None = None


_TOXIC_FIELDS: dict[str, Field] = {
    "name": Field("name", read_text),
    "type": Field("kind", read_text),
    "stream": Field("stream", read_text),
    "toxicity": Field("toxicity", read_float32),
}
TOXIC_UPDATE = 'struct { Attributes interface {} "json:\\"attributes\\""; Toxicity float32 "json:\\"toxicity\\"" }'


def read_toxic(value: Any, *, update: bool = False) -> ToxicBody:
    """Return a toxic's body out of a decoded JSON value.

    Args:
        value: a value that `decode` returned.
        update: True for the body of an update, for which Go's messages name another struct.

    Raises:
        ApiError: 400 for a value of the wrong type, or a toxicity outside 0 to 1.
    """
    body = ToxicBody()
    for key, member in read_object(value, GoTarget(""), TOXIC_UPDATE if update else "toxics.ToxicWrapper"):
        name = key.casefold()
        if member is None:
            continue
        if field := _TOXIC_FIELDS.get(name):
            struct = "" if update and name == "toxicity" else "ToxicWrapper"
            setattr(body, field.attribute, field.read(member, GoTarget(struct, name)))
        elif name == "attributes":
            body.attributes = _joined(body.attributes, member)
        elif name in ("after", "count", "connections"):
            body.trigger = body.trigger or Trigger()
            body.trigger.read(name, member)
    _check_toxicity(body.toxicity)
    return body


def _joined(attributes: Any, more: Any) -> Any:
    both = isinstance(attributes, JsonObject) and isinstance(more, JsonObject)
    return JsonObject([*attributes, *more]) if both else more


def _check_toxicity(toxicity: float | None) -> None:
    if toxicity is not None and not 0.0 <= toxicity <= 1.0:
        raise bad_body(f"toxicity must be from 0 to 1, not {shortest_float32(toxicity)}")


# --- proxies ---------------------------------------------------------------------------------------------------------


class ProxyBody:
    """The body of a proxy's creation or update. None stands for a key that was not sent.

    Attributes:
        admission: the options of ADMISSION_DEFAULTS that were sent.
        tls: an extension.
        protocol: one of `statement_rule.PROTOCOLS`, or "" for none. An extension.
        unknown: the keys that the API ignores.
    """

    __slots__ = ("admission", "enabled", "listen", "name", "protocol", "tls", "toxics", "unknown", "upstream")

    def __init__(self) -> None:
        self.admission: dict[str, Any] = {}
        self.name: str | None = None
        self.listen: str | None = None
        self.upstream: str | None = None
        self.enabled: bool | None = None
        self.toxics: list[ToxicBody] | None = None
        self.tls: TlsBody | None = None
        self.protocol: str | None = None
        self.unknown: list[str] = []


ADMISSION_DEFAULTS: dict[str, int | bool | None] = {
    "accept_delay": 0,
    "refuse_after": None,
    "hang": False,
    "refuse_when_down": False,
}
"""The options of a proxy's admission and their defaults. Extensions.

accept_delay: ms between a client's connect and the dial. refuse_after: connections to accept from now on before all are refused.
hang: leave connects unanswered (a full backlog). refuse_when_down: refuse while the upstream refuses.
"""


def _admission_value(name: str, value: Any) -> Any:
    default = ADMISSION_DEFAULTS[name]
    if isinstance(default, bool):
        return read_bool(value, GoTarget("Proxy", name))
    number = read_int64(value, GoTarget("Proxy", name))
    low = -1 if default is None else 0  # -1 resets refuse_after
    if not low <= number <= MAX_MS:
        raise bad_body(f"{name} must be from {low} to {MAX_MS}, not {number}")
    return None if number < 0 else number


class TlsBody(NamedTuple):
    """The TLS options of a proxy as they were sent.

    Attributes:
        client, upstream: the options of TLS_KEYS by name; None for a side without TLS. If both are None, the proxy stops using TLS.
    """

    client: dict[str, Any] | None = None
    upstream: dict[str, Any] | None = None

    @property
    def as_json(self) -> dict[str, Any]:
        """The value for the API's response."""
        return {side: options for side, options in zip(self._fields, self, strict=True) if options is not None}


TLS_KEYS: dict[str, tuple[str, ...]] = {
    "client": ("cert", "key", "ca", "alpn"),
    "upstream": ("ca", "cert", "key", "server_name", "verify", "alpn"),
}
"""The TLS options towards the client, whose server the proxy is, and towards the upstream, whose client the proxy is.

cert, key, ca: paths of PEM files. ca: the authority that signs the peer's certificate; if given, clients must present a certificate.
server_name: the name in the upstream's certificate. verify: check that certificate. alpn: application protocols to offer.
"""


def read_tls(value: Any) -> TlsBody:
    """Return a proxy's TLS options out of a decoded JSON value.

    Raises:
        ApiError: 400 that names the field, for a value of the wrong type, an unknown key, a cert without key or a key without cert.
    """
    sides: dict[str, dict[str, Any] | None] = dict.fromkeys(TLS_KEYS)
    for key, member in read_object(value, GoTarget("Proxy", "tls"), "toxiproxy.Tls"):
        side = key.casefold()
        if side not in sides:
            raise bad_body(f"tls.{key}: no such key; there are {', '.join(sides)}")
        sides[side] = None if member is None else _read_tls_side(side, member)
    return TlsBody(**sides)


def _read_texts(value: Any, into: GoTarget) -> list[str]:
    return [read_text(each, into) for each in read_list(value, into, "[]string")]


_TLS_READERS: dict[str, Reader] = {"verify": read_bool, "alpn": _read_texts}  # the other keys hold a text


def _read_tls_side(side: str, value: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, member in read_object(value, GoTarget("Proxy", f"tls.{side}"), "toxiproxy.Tls"):
        name = key.casefold()
        if name not in TLS_KEYS[side]:
            raise bad_body(f"tls.{side}.{key}: no such key; there are {', '.join(TLS_KEYS[side])}")
        if member is None:
            options.pop(name, None)
        else:
            read: Reader = _TLS_READERS.get(name, read_text)
            options[name] = read(member, GoTarget("Proxy", f"tls.{side}.{name}"))
    for name, other in (("cert", "key"), ("key", "cert")):
        if name not in options and (side == "client" or other in options):
            raise bad_body(f"tls.{side}.{name}: missing")
    return options


def _read_address(value: Any, into: GoTarget) -> str:
    """Return an address as it was sent.

    Raises:
        ApiError: 400 that names the field, for control characters and a missing path.
    """
    field, text = into.field, read_text(value, into)
    for character in text:
        if character < " " or character == "\x7f":
            raise bad_body(f"{field} must not contain control characters, such as {character!r}")
    if text == "unix:":
        raise bad_body(f"{field}: unix: must be followed by a path")
    return text


def _check_port(field: str, address: str) -> None:
    """Refuse a number that is no port. Everything else in an upstream is checked when it is dialled.

    Raises:
        ApiError: 400 that names the field.
    """
    port = address.rpartition(":")[2]
    if address.startswith("unix:") or port == address or not (port.isascii() and port.isdigit()):
        return
    if len(port.lstrip("0")) > 5 or int(port.lstrip("0") or "0") > MAX_PORT:
        shown = port if len(port) <= 10 else f"{port[:10]}... ({len(port)} digits)"
        raise bad_body(f"{field}: a port is a number from 0 to {MAX_PORT}, not {shown}")


def _read_upstream(value: Any, into: GoTarget) -> str:
    address = _read_address(value, into)
    _check_port(into.field, address)
    return address


def _read_toxics(value: Any, into: GoTarget) -> list[ToxicBody]:
    return [read_toxic(each) for each in read_list(value, into, "[]toxics.ToxicWrapper")]


def check_name(name: str) -> str:
    """Return the name of a proxy or a toxic, which must fit into a URL.

    Raises:
        ApiError: 400 with the reason why no URL can address the name.
    """
    if name in (".", ".."):
        raise bad_body(f"name must not be {name!r}, which no URL can address")
    if len(name) > MAX_NAME or len(name.encode()) > MAX_NAME:
        raise bad_body(f"name must have at most {MAX_NAME} bytes, as more can be in no URL")
    return name


def _read_protocol(value: Any, into: GoTarget) -> str:
    protocol = read_text(value, into)
    if protocol and protocol not in PROTOCOLS:
        raise bad_body(f"protocol must be one of {', '.join(PROTOCOLS)}, or empty for none, not {protocol}")
    return protocol


_PROXY_FIELDS: dict[str, Field] = {
    "name": Field("name", read_text),
    "listen": Field("listen", _read_address),
    "upstream": Field("upstream", _read_upstream),
    "enabled": Field("enabled", read_bool),
    "toxics": Field("toxics", _read_toxics),
    "protocol": Field("protocol", _read_protocol),
}


def read_proxy(value: Any, *, go_type: str = "toxiproxy.Proxy", struct: str = "Proxy") -> ProxyBody:
    """Return a proxy's body out of a decoded JSON value.

    Args:
        value: a value that `decode` returned.
        go_type: the type into which the value is read, as Go's messages name it.
        struct: the struct with the fields, as Go's messages name it. populate embeds that struct into one without a name.

    Raises:
        ApiError: 400 for a value of the wrong type.
    """
    body = ProxyBody()
    for key, member in read_object(value, GoTarget(""), go_type):
        name = key.casefold()
        if name == "tls":  # a null has a meaning for this key only
            body.tls = read_tls(member)
            continue
        if member is None:
            continue
        if field := _PROXY_FIELDS.get(name):
            # The nameless struct of populate has a field for this key.
            outer = name == "enabled" and struct != "Proxy"
            setattr(body, field.attribute, field.read(member, GoTarget("" if outer else struct, name)))
        elif name in ADMISSION_DEFAULTS:
            body.admission[name] = _admission_value(name, member)
        elif name != "logger":  # part of toxiproxy-server's responses, which users send back
            body.unknown.append(key)
    return body


def read_new_proxy(body: bytes) -> ProxyBody:
    """Return the proxy in the body of POST /proxies.

    Raises:
        ApiError: 400 for bad JSON, wrong types, and a missing name or upstream, the name first.
    """
    proxy = read_proxy(decode(body))
    for field in ("name", "upstream"):
        if not getattr(proxy, field):
            raise ApiError(400, f"missing required field: {field}")
    check_name(proxy.name or "")
    return proxy


POPULATE_ENTRY = 'struct { toxiproxy.Proxy; Enabled *bool "json:\\"enabled\\"" }'


def read_proxies(body: bytes) -> list[ProxyBody]:
    """Return the proxies in the body of POST /populate or in a config file, each with name and upstream.

    Raises:
        ApiError: 400. The message about a missing field counts the proxies from 1.
    """
    value = decode(body)
    if value is None:
        return []
    entries = read_list(value, GoTarget(""), f"[]{POPULATE_ENTRY}")
    proxies = [read_proxy(each, go_type=POPULATE_ENTRY, struct=".Proxy") for each in entries]
    for position, proxy in enumerate(proxies, 1):
        for field in ("name", "upstream"):
            if not getattr(proxy, field):
                raise ApiError(400, f"missing required field: {field} at proxy {position}")
        check_name(proxy.name or "")
    return proxies


# --- responses -------------------------------------------------------------------------------------------------------


def error_body(status: int, message: str) -> bytes:
    """Return the body of an error of every route except /populate. It ends in a newline."""
    return encode({"error": message, "status": status}) + b"\n"


def populate_error_body(status: int, message: str) -> bytes:
    """Return the body of an error of /populate. It never lists a proxy, because populate changes all proxies or none."""
    return encode({"error": message, "status": status, "proxies": None})


def version_body(version: str = VERSION) -> bytes:
    """Return the body of GET /version, with toxiproxy-server's space and newline."""
    return b'{"version": ' + encode(version) + b"}\n"
