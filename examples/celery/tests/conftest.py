"""The start of the web process and of the worker. All other fixtures come with pytest-resilience."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_resilience import Service, Stack, factories

PROJECT = Path(__file__).parent.parent
WEB = "gunicorn --bind 127.0.0.1:{port} --threads 4 --no-control-socket invoices.web:app"
WORKER = "celery --app invoices.tasks worker --concurrency 1 --loglevel info --without-mingle --without-gossip"


def environment(stack: Stack) -> dict[str, str]:
    """Return the environment that both processes need."""
    return {"DATABASE_URL": stack.postgres.url, "REDIS_URL": stack.redis.url}


@pytest.fixture(scope="session")
def resilience_service(resilience_stack: Stack) -> Service:
    return Service(
        [sys.executable, "-m", *WEB.split()],
        setup=[[sys.executable, "-m", "invoices.database"]],
        port_variable=None,  # gunicorn reads PORT while it is imported, which a fork can't repeat
        ready="/readyz",
        within=20.0,
        cwd=PROJECT,
        env=environment(resilience_stack),
        timeout=4.0,  # each answer comes within this time, whatever is struck
        restart="struck",
        preload=(
            "gunicorn.app.wsgiapp",
            "gunicorn.workers.gthread",
            "flask",
            "celery",
            "kombu.transport.redis",
            "psycopg",
        ),
    )


worker = factories.service(
    "worker",
    lambda stack: Service(
        [sys.executable, "-m", *WORKER.split()],
        port_variable=None,
        ready=" ready.",  # as in "celery@host ready."
        within=20.0,
        cwd=PROJECT,
        env=environment(stack),
        restart="struck",
        preload=(
            "celery.bin.celery",
            "celery.apps.worker",
            "celery.concurrency.prefork",
            "kombu.transport.redis",
            "psycopg",
        ),
    ),
)
