"""A toxic as it is installed on a proxy: its name, stream and settings, and the figures of its effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..wire import toxiproxy as wire
from ..wire.api_error import ApiError
from ..wire.go_json import float32_literal
from .event_counter import EventCounter
from .toxics import build
from .toxics.noop import Noop
from .toxics.toxic import Toxic


class InstalledToxic:
    """One toxic of one proxy.

    Attributes:
        name: unique in the proxy.
        kind: the type, by Toxiproxy's name.
        stream: as the client wrote it; `upward` is its meaning.
        toxicity: 0 to 1, the share of links that it works on.
        attributes: as on the wire, all of the type's, in order.
        toxic: the settings at work; replaced, never changed, by an update.
        trigger: selects chunks and connections by counts; None for all.
        added_at: the time of its addition to the proxy, in seconds of the loop's clock.
        seen: links that it came to, for triggers that count connections.
        hits: connections that it affected, each counted once.
        bytes: bytes that it affected.
        on_links: True for a toxic that is a stage of links, False for a rule of taps.
    """

    on_links = True
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
        self.toxic: Toxic = build(kind, wire.settings(kind, attributes)) if self.on_links else Noop()
        self.trigger = trigger
        self.added_at = 0.0
        self.seen = 0
        self.hits = EventCounter()
        self.bytes = 0

    def update(self, *, toxicity: float, attributes: dict[str, Any]) -> None:
        """Take new settings. The links have to be updated, too."""
        self.toxicity = toxicity
        self.attributes = attributes
        self.toxic = build(self.kind, wire.settings(self.kind, attributes))

    def to_json(self) -> dict[str, Any]:
        """Return the toxic as the API shows it."""
        return {
            "attributes": self.attributes,
            "name": self.name,
            "type": self.kind,
            "stream": self.stream,
            "toxicity": float32_literal(self.toxicity),
            **(self.trigger.as_json if self.trigger else {}),
        }

    def counters_json(self) -> dict[str, Any]:
        """Return the figures for GET /proxies/{p}/counters."""
        return {"connections": self.hits.count, "bytes": self.bytes, "first": self.hits.first, "last": self.hits.last}


def parse_toxic(body: wire.ToxicBody, is_taken: Callable[[str], bool] | None = None) -> InstalledToxic:
    """Return a new toxic from the body of its creation.

    Args:
        body: of the request.
        is_taken: True for a name that the proxy has already; None takes any name.

    Raises:
        ApiError: 400 for the stream, then for the type; 409 for a name taken; 400 for the name, then for the attributes.
    """
    stream = "downstream" if body.stream is None else body.stream
    if stream.lower() not in wire.STREAMS:
        raise ApiError(400, "stream was invalid, can be either upstream or downstream")
    kind = body.kind
    if kind not in wire.ATTRIBUTES:
        raise ApiError(400, "invalid toxic type")
    name = body.name or f"{kind}_{stream}"
    if is_taken is not None and is_taken(name):
        raise ApiError(409, "toxic already exists")
    return InstalledToxic(
        name=wire.check_name(name),
        kind=kind,
        stream=stream,
        toxicity=1.0 if body.toxicity is None else body.toxicity,
        attributes=wire.merge_attributes(kind, body.attributes, {}),
        trigger=body.trigger,
    )
