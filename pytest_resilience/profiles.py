"""The profiles of generated tests: how long they search and shrink, and with how many clients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Profile(NamedTuple):
    """The budgets of one generated test.

    Args:
        name: the name.
        search: seconds in which new schedules are drawn and played.
        shrink: seconds in which a schedule that breaks a promise is shortened. Hypothesis itself shrinks for 300 at most.
        confirm: seconds in which the shortest schedules are played again, to count how often they fail.
        clients: the clients of a workload that does not say how many.
    """

    name: str
    search: float
    shrink: float
    confirm: float
    clients: int


PROFILES = {
    "dev": Profile("dev", search=6.0, shrink=60.0, confirm=30.0, clients=3),
    "ci": Profile("ci", search=60.0, shrink=180.0, confirm=60.0, clients=3),
    "soak": Profile("soak", search=3600.0, shrink=280.0, confirm=240.0, clients=4),
}


def profile_named(name: str | None, environment: Mapping[str, str] = os.environ) -> Profile:
    """Return a profile.

    Args:
        name: its name; None for "ci" where the variable CI is set and not false, and for "dev" elsewhere.
        environment: the variables.
    """
    in_ci = environment.get("CI", "").lower() not in ("", "0", "false", "no", "off")
    return PROFILES[name or ("ci" if in_ci else "dev")]
