"""A service without configuration gets the settings that the incident taught, and keeps its promises with them."""

from __future__ import annotations

import healthy
from service.settings import ServiceSettings


def test_defaults_are_the_figures_learned_from_the_incident() -> None:
    """The suite runs with shorter periods than production, so only this test sees production's settings."""
    settings = ServiceSettings.from_environment({"DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing"})
    for name, (expected, reason) in healthy.DEFAULTS.items():
        default = getattr(settings, name.lower())
        assert default == expected, f"{name} defaults to {default:g}, not {expected:g}: {reason}"
