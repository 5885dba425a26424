"""A toxic on a proxy: its name, stream, settings, and what it has done so far."""

from __future__ import annotations

from typing import Any

from ..wire import toxiproxy as wire
from ..wire.api_error import ApiError
from ..wire.go_json import float32_literal
from .event_counter import EventCounter
from .toxics import build
from .toxics.toxic import Toxic


class InstalledToxic:
    """One toxic of one proxy.

    Attributes:
        name: unique in the proxy.
        kind: Toxiproxy's name of its type.
        stream: as the client wrote it; `upward` is what it means.
        toxicity: 0 to 1, the share of links that it works on.
        attributes: as on the wire, all of the type's, in order.
        toxic: the settings at work; replaced, never changed, by an update.
        trigger: counts when it works; None: always.
        added_at: the time of its addition to the proxy, in seconds of the loop's clock.
        seen: links that it came to, for triggers that count connections.
        hits: connections that it really affected, each once; `bytes` is how many bytes it touched.
    """

    __slots__ = (
        "added_at",
        "attributes",
        "bytes",
        "hits",
        "kind",
        "name",
        "seen",
        "stream",
        "toxic",
        "toxicity",
        "trigger",
        "upward",
    )

    def __init__(
        self,
        *,
        name: str,
        kind: str,
        stream: str,
        toxicity: float,
        attributes: dict[str, Any],
        trigger: wire.Trigger | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.stream = stream
        self.upward = stream.lower() == "upstream"
        self.toxicity = toxicity
        self.attributes = attributes
        self.toxic: Toxic = build(kind, wire.settings(kind, attributes))
        self.trigger = trigger
        self.added_at = 0.0
        self.seen = 0
        self.hits = EventCounter()
        self.bytes = 0

    def update(self, *, toxicity: float, attributes: dict[str, Any]) -> None:
        """Take new settings; the links have to be told."""
        self.toxicity = toxicity
        self.attributes = attributes
        self.toxic = build(self.kind, wire.settings(self.kind, attributes))

    def to_json(self) -> dict[str, Any]:
        """The toxic as the API answers it."""
        return {
            "attributes": self.attributes,
            "name": self.name,
            "type": self.kind,
            "stream": self.stream,
            "toxicity": float32_literal(self.toxicity),
            **(self.trigger.as_json if self.trigger else {}),
        }

    def counters_json(self) -> dict[str, Any]:
        """What it has done, for GET /proxies/{p}/counters."""
        return {"connections": self.hits.count, "bytes": self.bytes, "first": self.hits.first, "last": self.hits.last}


def parse_toxic(body: wire.ToxicBody) -> InstalledToxic:
    """A new toxic out of the body of its creation.

    Raises:
        ApiError: 400, for the stream, then the type, then the attributes.
    """
    stream, kind = parse_stream_and_type(body)
    name = wire.check_name(body.name or f"{kind}_{stream}")
    toxicity = 1.0 if body.toxicity is None else body.toxicity
    attributes = wire.merge_attributes(kind, body.attributes, {})
    return InstalledToxic(
        name=name, kind=kind, stream=stream, toxicity=toxicity, attributes=attributes, trigger=body.trigger
    )


def parse_stream_and_type(body: wire.ToxicBody) -> tuple[str, str]:
    """The stream and the type of a new toxic, checked in this order.

    Raises:
        ApiError: 400.
    """
    stream = "downstream" if body.stream is None else body.stream
    if stream.lower() not in wire.STREAMS:
        raise ApiError(400, "stream was invalid, can be either upstream or downstream")
    if body.kind not in wire.ATTRIBUTES:
        raise ApiError(400, "invalid toxic type")
    return stream, body.kind
