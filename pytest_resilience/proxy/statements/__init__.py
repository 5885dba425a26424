"""Rules that act on single statements, and the taps that find these in a connection, by protocol."""

from __future__ import annotations

from collections.abc import Callable

from ..tap import Tap, TapHost
from .installed_rule import InstalledRule, parse_rule
from .postgres import PostgresTap
from .redis import RedisTap
from .rule import Rule, Rules

__all__ = ["InstalledRule", "Rule", "Rules", "create_tap", "parse_rule"]


_TAPS: dict[str, Callable[[TapHost, Rules], Tap]] = {"postgres": PostgresTap, "redis": RedisTap}


def create_tap(host: TapHost, rules: Rules) -> Tap:
    """Return the tap of a new connection."""
    return _TAPS[rules.protocol](host, rules)
