"""Rules that act on single statements, and the taps that find these in a connection, by protocol."""

from __future__ import annotations

from ..tap import Tap, TapHost
from .installed_rule import InstalledRule, parse_rule
from .postgres import PostgresTap
from .rule import Rule, Rules

__all__ = ["InstalledRule", "Rule", "Rules", "create_tap", "parse_rule"]


def create_tap(host: TapHost, rules: Rules) -> Tap | None:
    """Return the tap of a new connection, or None for a protocol that has no tap."""
    return PostgresTap(host, rules) if rules.protocol == "postgres" else None
