"""The types of toxics, by the names that the API has for them."""

from __future__ import annotations

from typing import Any

from .bandwidth import Bandwidth
from .corrupt import Corrupt
from .cut import Cut
from .latency import Latency
from .limit_data import LimitData
from .limit_time import LimitTime
from .malformed import Malformed
from .noop import Noop
from .reset_peer import ResetPeer
from .shared_bandwidth import SharedBandwidth
from .slicer import Slicer
from .slow_close import SlowClose
from .timeout import Timeout
from .toxic import Toxic

KINDS: dict[str, type[Any]] = {  # each is a Toxic; its keyword arguments are the settings of wire.toxiproxy.ATTRIBUTES
    "noop": Noop,
    "latency": Latency,
    "bandwidth": Bandwidth,
    "slow_close": SlowClose,
    "timeout": Timeout,
    "reset_peer": ResetPeer,
    "slicer": Slicer,
    "limit_data": LimitData,
    "limit_time": LimitTime,
    "cut": Cut,
    "shared_bandwidth": SharedBandwidth,
    "corrupt": Corrupt,
    "malformed": Malformed,
}


def build(kind: str, settings: dict[str, Any]) -> Toxic:
    """Return a toxic of one type with its settings."""
    toxic: Toxic = KINDS[kind](**settings)
    return toxic
