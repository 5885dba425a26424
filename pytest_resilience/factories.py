"""Fixtures for more than one Postgres or Redis, made to measure and given a name in your conftest.py.

    from pytest_resilience import factories

    replica = factories.postgres("replica", init=Path("schema.sql"))
    sessions = factories.redis("sessions")

Each has a proxy of its own, begins every test clean, and what a test strikes on it is healed with all else. Where a service needs its
URL at the start of the session, `resilience_stack.add_postgres("replica").url` has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .admin.postgres import Init
    from .resilience import Resilience
    from .targets.server import PostgresTarget, RedisTarget


def postgres(name: str, *, init: Init | None = None) -> Any:
    """A fixture with one more Postgres, started when a test first asks for it.

    Args:
        name: such as "replica"; the first half of its faults' labels, and good for `@pytest.mark.fault("replica.refuse")` too.
        init: SQL, `Path`s of files with SQL, or functions that are given its URL: what makes its schema, once.
    """

    @pytest.fixture
    def one_more(resilience: Resilience) -> PostgresTarget:
        return resilience.add_postgres(name, init)

    return one_more


def redis(name: str) -> Any:
    """A fixture with one more Redis, started when a test first asks for it.

    Args:
        name: such as "sessions"; the first half of its faults' labels.
    """

    @pytest.fixture
    def one_more(resilience: Resilience) -> RedisTarget:
        return resilience.add_redis(name)

    return one_more


if not TYPE_CHECKING:  # type checkers see wrong names by themselves

    def __getattr__(name: str) -> Any:
        __tracebackhide__ = True
        from .wording import did_you_mean

        hint = did_you_mean(name, ("postgres", "redis")) if not name.startswith("_") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=None)
