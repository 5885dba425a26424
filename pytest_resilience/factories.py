"""Factories of fixtures for further Postgres and Redis servers, called in your conftest.py.

    from pytest_resilience import factories

    replica = factories.postgres("replica", init=Path("schema.sql"))
    sessions = factories.redis("sessions")

Each server has its own proxy, is in its baseline at the begin of each test, and its faults heal at the end of the test. For a
service that needs the URL at the start of the session, use `resilience_stack.add_postgres("replica").url`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .admin.postgres import Init
    from .resilience import Resilience
    from .targets.server import PostgresTarget, RedisTarget


def postgres(name: str, *, init: Init | None = None) -> Any:
    """Return a fixture with another Postgres, which starts when a test first uses it.

    Args:
        name: the name, such as "replica", with which the labels of its faults begin, as in
            `@pytest.mark.fault("replica.refuse")`.
        init: SQL, `Path`s of files with SQL, or functions that take its URL, which make its schema once; None for none.
    """

    @pytest.fixture
    def extra_server(resilience: Resilience) -> PostgresTarget:
        return resilience.add_postgres(name, init)

    return extra_server


def redis(name: str) -> Any:
    """Return a fixture with another Redis, which starts when a test first uses it.

    Args:
        name: the name, such as "sessions", with which the labels of its faults begin.
    """

    @pytest.fixture
    def extra_server(resilience: Resilience) -> RedisTarget:
        return resilience.add_redis(name)

    return extra_server


if not TYPE_CHECKING:  # a type checker would no longer report wrong names

    def __getattr__(name: str) -> Any:
        __tracebackhide__ = True
        from .wording import did_you_mean

        hint = did_you_mean(name, ("postgres", "redis")) if not name.startswith("_") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=None)
