"""What nobody sets is set well: the figures that the night taught are the defaults, and a service without settings keeps its promises."""

from __future__ import annotations

import healthy
from service.settings import ServiceSettings


def test_defaults_are_the_figures_learned_from_the_incident() -> None:
    """The suite runs with shorter periods than production, so only this test sees what production gets."""
    settings = ServiceSettings.from_environment({"DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing"})
    for name, (wanted, why) in healthy.DEFAULTS.items():
        default = getattr(settings, name.lower())
        assert default == wanted, f"{name} is {default:g} where nobody sets it, and not {wanted:g}: {why}"
