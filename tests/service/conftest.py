"""The service as a process of its own, with short intervals, behind the proxies of the stack.

Most tests share one process: a start is half of what such a test costs, and a service that keeps its promises is as good as new
once it is ready again. A module whose tests need a fresh one overrides `resilience_service`.
"""

import sys

import pytest

from pytest_resilience import Service, eventually

# Limits are far enough from each other, and from what a busy machine takes to get round to things, to tell which one was kept.
SETTINGS = {
    "HOST": "127.0.0.1",
    "REDIS_BUDGET": "1",
    "DB_POOL_MAX": "5",
    "DB_POOL_ACQUIRE_TIMEOUT": "0.5",
    "DB_POOL_CHECK_INTERVAL": "60",
    "DB_POOL_IDLE_TIMEOUT": "2",
    "DB_COMMAND_TIMEOUT": "3",
    "MEMORY_CHECK_INTERVAL": "0.2",
    "CACHE_STALE_TTL": "120",
    "CLEANUP_MIN_INTERVAL": "30",
}


@pytest.fixture(scope="session")
def service_spec(resilience_stack):
    """Makes a Service: settings in lower case are the process's environment, on top of SETTINGS."""

    def make(*, restart_between_tests=False, **settings):
        servers = {"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url}
        env = {**SETTINGS, **servers, **{name.upper(): str(value) for name, value in settings.items()}}
        return Service(
            [sys.executable, "-m", "service"],
            port_variable="PORT",
            ready="/readyz",
            within=10.0,
            env=env,
            restart_between_tests=restart_between_tests,
        )

    return make


@pytest.fixture(scope="session")
def resilience_service(service_spec):
    return service_spec()


@pytest.fixture
def service(resilience):
    """The service, as ready as can be."""
    eventually(lambda: resilience.service.get("/readyz").json()["status"] == "ready", within=5)
    return resilience.service


@pytest.fixture
def log(service):
    """What the service has logged since the test began."""
    begin = len(service.log)
    return lambda: service.log[begin:]


@pytest.fixture
def campaign(service):
    """A campaign that is in the database, in Redis and in the service's memory."""
    reply = service.post("/api/campaigns", json={"name": "Spring", "message": "Hello"})
    assert reply.status_code == 201, reply.text
    return reply.json()
