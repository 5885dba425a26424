"""A service without configuration gets the settings that the incident taught, and keeps its promises with them."""

from __future__ import annotations

import resource
from dataclasses import fields

import pytest

import healthy
from service.http.connections import connection_limit
from service.settings import ServiceSettings

MAX_CONNECTIONS = 10_000  # without the setting, however many descriptors the process may have
NO_CONFIGURATION = {"DATABASE_URL": "postgresql://nobody@127.0.0.1/nothing"}
OTHER_DESCRIPTORS = 500  # more than those of the pool, of Redis and of files


def test_defaults_are_the_figures_learned_from_the_incident() -> None:
    """The suite runs with shorter periods than production, so only this test sees production's settings."""
    settings = ServiceSettings.from_environment(NO_CONFIGURATION)
    defaults = {**healthy.DEFAULTS, **healthy.OTHER_DEFAULTS}
    for name, (expected, reason) in defaults.items():
        default = getattr(settings, name.lower())
        assert default == expected, f"{name} defaults to {default}, not {expected}: {reason}"
    names = {each.name.upper() for each in fields(settings)}
    assert names == {"DATABASE_URL", *defaults}, f"settings without an expected default: {names - defaults.keys()}"


def test_the_default_of_max_connections_has_a_maximum() -> None:
    limits = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MAX_CONNECTIONS + OTHER_DESCRIPTORS:
        pytest.skip(f"a process may have {hard} descriptors, which leaves room for fewer connections")
    settings = ServiceSettings.from_environment(NO_CONFIGURATION)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MAX_CONNECTIONS + OTHER_DESCRIPTORS), hard))
    try:
        default = connection_limit(settings)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert default == MAX_CONNECTIONS, f"MAX_CONNECTIONS defaults to {default}, and {MAX_CONNECTIONS} is the most"
