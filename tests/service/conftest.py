"""The service as a separate process, with short intervals, behind the proxies of the stack.

Most tests share one process, because a start takes half the time of such a test. A service that keeps its promises is in its
initial state once it is ready again. A module overrides `resilience_service` if its tests need a new process.
"""

import sys

import pytest

from pytest_resilience import Service, eventually

# The limits differ by more than the delays of a busy machine, so that a test can distinguish them.
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
def service_spec(resilience_stack, tmp_path_factory):
    """Return a function that makes a Service. Its keyword arguments extend the environment of SETTINGS."""

    def make(*, restart_between_tests=False, **settings):
        servers = {"DATABASE_URL": resilience_stack.postgres.url, "REDIS_URL": resilience_stack.redis.url}
        servers["JOURNAL_DIR"] = str(tmp_path_factory.mktemp("journal"))
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
    """Return the service once all its dependencies are up."""
    eventually(lambda: resilience.service.get("/readyz").json()["status"] == "ready", within=5)
    return resilience.service


@pytest.fixture
def log(service):
    """Return a function that returns the log since the test began."""
    begin = len(service.log)
    return lambda: service.log[begin:]


@pytest.fixture
def campaign(service):
    """Create a campaign, which is then in Postgres, in Redis and in memory."""
    reply = service.post("/api/campaigns", json={"name": "Spring", "message": "Hello"})
    assert reply.status_code == 201, reply.text
    return reply.json()
