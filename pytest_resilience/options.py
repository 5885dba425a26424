"""The switches: command line, then environment, then ini; read once into a frozen `Options`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

BACKENDS = ("auto", "embedded", "docker", "external")


@dataclass(frozen=True)
class Options:
    """What a run was asked for.

    Args:
        backend: "auto", "embedded", "docker" or "external".
        seed: the number that all random choices of the run follow from; drawn when nobody gave one.
        strict: whether a vacuous test is an error.
    """

    backend: str
    seed: int
    strict: bool


OPTIONS: pytest.StashKey[Options] = pytest.StashKey()


def add(parser: pytest.Parser) -> None:
    """Declare the options and their ini twins."""
    group = parser.getgroup("resilience", "resilience: real servers behind proxies, and faults that heal")
    group.addoption(
        "--resilience-backend",
        metavar="NAME",
        default=None,
        help=f"where Postgres, Redis and the proxy come from: {', '.join(BACKENDS)} (default: auto)",
    )
    group.addoption(
        "--resilience-seed",
        metavar="INTEGER",
        default=None,
        help="the seed of all random choices (default: drawn, and printed in the header)",
    )
    group.addoption(
        "--resilience-strict",
        action="store_true",
        default=None,
        help="a test whose fault touched nothing (VACUOUS) is an error",
    )
    parser.addini("resilience_backend", "default of --resilience-backend", default=None)
    parser.addini("resilience_seed", "default of --resilience-seed", default=None)
    parser.addini("resilience_strict", "default of --resilience-strict", default=None)


def keep(config: pytest.Config) -> Options:
    """Read the options once, before the first test.

    Raises:
        pytest.UsageError: a value is not allowed; names where it came from and what is.
    """
    config.stash[OPTIONS] = given = Options(backend=_backend(config), seed=_seed(config), strict=_strict(config))
    return given


def read(config: pytest.Config) -> Options:
    """The options of this run."""
    return config.stash[OPTIONS]


def _given(config: pytest.Config, name: str, environ: Mapping[str, str]) -> tuple[Any, str] | None:
    """The value that somebody gave and where, the nearest first."""
    value = config.getoption(f"resilience_{name}")
    if value is not None:
        return value, f"--resilience-{name}"
    variable = f"PYTEST_RESILIENCE_{name.upper()}"
    if environ.get(variable):
        return environ[variable], f"the environment's {variable}"
    value = config.getini(f"resilience_{name}")
    return None if value in (None, "") else (value, f"the ini option resilience_{name}")


def _backend(config: pytest.Config) -> str:
    given = _given(config, "backend", os.environ)
    if given is None:
        return "auto"
    value, where = given
    if value not in BACKENDS:
        raise pytest.UsageError(f"{where} must be one of {', '.join(BACKENDS)}, got {value!r}")
    return str(value)


def _seed(config: pytest.Config) -> int:
    worker = getattr(config, "workerinput", None)
    if worker is not None and "resilience_seed" in worker:
        return int(worker["resilience_seed"])  # one seed for all workers, drawn by the controller
    given = _given(config, "seed", os.environ)
    if given is None:
        return int.from_bytes(os.urandom(4))
    value, where = given
    try:
        return int(str(value))
    except ValueError:
        raise pytest.UsageError(f"{where} must be an integer, got {value!r}") from None


def _strict(config: pytest.Config) -> bool:
    given = _given(config, "strict", os.environ)
    if given is None:
        return False
    value, where = given
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise pytest.UsageError(f"{where} must be true or false, got {value!r}")
    return words[str(value).lower()]
