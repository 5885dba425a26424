"""The recorded conversations of drivers in tests/data/conversations. `scripts/record` makes them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

DIRECTORY = Path(__file__).resolve().parents[1] / "data" / "conversations"


@dataclass
class RecordedConnection:
    """One connection of a driver.

    Attributes:
        pieces: what was received, in the order of arrival at the relay: "up" from the client, "down" from the server.
    """

    pieces: list[tuple[Literal["up", "down"], bytes]] = field(default_factory=list)

    def stream(self, direction: Literal["up", "down"]) -> bytes:
        """Return all bytes of one direction."""
        return b"".join(data for each, data in self.pieces if each == direction)


@dataclass
class Conversation:
    """All connections of one run of a driver's program.

    Attributes:
        driver: its name, such as "redis-py-8".
        protocol: "postgres" or "redis".
        server: the version of the server.
    """

    driver: str
    protocol: str
    server: str
    connections: dict[int, RecordedConnection] = field(default_factory=dict)


def drivers(protocol: str) -> list[str]:
    """Return the names of the recorded drivers of a protocol."""
    return [path.stem for path in sorted(DIRECTORY.glob("*.jsonl")) if load(path.stem).protocol == protocol]


def load(driver: str) -> Conversation:
    """Return what was recorded of one driver."""
    with (DIRECTORY / f"{driver}.jsonl").open() as lines:
        header = json.loads(next(lines))
        conversation = Conversation(header["driver"], header["protocol"], header["server"])
        for line in lines:
            number, direction, data = json.loads(line)
            connection = conversation.connections.setdefault(number, RecordedConnection())
            connection.pieces.append((direction, base64.b64decode(data)))
    return conversation
