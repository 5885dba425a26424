"""The start of the service, and the database of pytest-django on the same Postgres."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connections

from pytest_resilience import Service, Stack
from shelf.settings import database

GUNICORN = "gunicorn --bind 127.0.0.1:{port} --workers 1 --timeout 4 --no-control-socket shelf.wsgi"


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return Service(
        [sys.executable, "-m", *GUNICORN.split()],
        setup=[[sys.executable, "manage.py", "migrate"]],
        port_variable=None,  # gunicorn reads PORT while it is imported, which a fork can't repeat
        ready="/readyz",
        within=20.0,
        cwd=Path(__file__).parent.parent,
        env={"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url},
        restart="struck",
        preload=(
            "gunicorn.app.wsgiapp",
            "gunicorn.workers.sync",
            "django.core.handlers.wsgi",
            "django.db.backends.postgresql.base",
            "django.views.debug",
            "django_redis.cache",
            "redis",
        ),
    )


@pytest.fixture(scope="session")
def django_db_modify_db_settings(resilience_stack: Stack) -> None:
    """Let pytest-django create its database, which is named test_..., on the Postgres of the stack."""
    connections["default"].settings_dict.update(database(resilience_stack.postgres.url))
    settings.CACHES["default"]["LOCATION"] = resilience_stack.redis.url


@pytest.fixture(scope="session", autouse=True)
def database_of_pytest_django(django_db_setup: None) -> None:
    """Create it before the first test, whichever that is, because later it would be undone as a change of a test."""


def pytest_runtest_setup() -> None:
    """Let Django connect again in each test, because a fault of the last one may have ended its connection."""
    connections.close_all()
