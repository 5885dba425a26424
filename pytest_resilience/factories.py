"""Factories of fixtures for further servers, TCP systems and services, called in your conftest.py.

    from pytest_resilience import Service, factories

    replica = factories.postgres("replica", init=Path("schema.sql"))
    sessions = factories.redis("sessions")
    mysql = factories.mysql("mysql", init=Path("tables.sql"))
    rabbitmq = factories.rabbitmq("rabbitmq")
    broker = factories.tcp("broker", upstream="127.0.0.1:9092")
    payments = factories.http_stub("payments")
    worker = factories.service("worker", lambda stack: Service([sys.executable, "-m", "shop.worker"], ready=None,
                                                               env={"REDIS_URL": stack.redis.url}))

Each server has its own proxy, is in its baseline at the begin of each test, and its faults heal at the end of the test. For a
service that needs the URL at the start of the session, use `resilience_stack.add_postgres("replica").url`, or
`resilience_stack.add_http_stub("payments").url`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from .described_services import MARK, ServiceFactory, SystemFactory

if TYPE_CHECKING:
    from .admin.schema_init import Init
    from .resilience import Resilience
    from .stack import Stack
    from .systems.mysql.target import MysqlTarget
    from .systems.rabbitmq.target import RabbitmqTarget
    from .targets.http_stub import HttpStub
    from .targets.server import PostgresTarget, RedisTarget
    from .targets.service import ServiceTarget
    from .targets.service_spec import Service
    from .targets.tcp import TcpTarget


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


def mysql(name: str, *, init: Init | None = None, image: str | None = None) -> Any:
    """Return a fixture with a MySQL, which starts when a test first uses it. It is also the attribute of `resilience` with its name.

    Args:
        name: the name, such as "mysql", with which the labels of its faults begin, as in `@pytest.mark.fault("mysql.read_only")`.
        init: SQL, `Path`s of files with SQL, or functions that take its URL, which make its schema once; None for none.
        image: the image of the docker backend; None for mysql:8.4.
    """

    def mysql_server(resilience: Resilience) -> MysqlTarget:
        """A MySQL, which is in its baseline at the begin of each test."""
        return resilience.add_mysql(name, init, image=image)

    return _fixture_of_system(name, mysql_server)


def mariadb(name: str, *, init: Init | None = None, image: str | None = None) -> Any:
    """Return a fixture with a MariaDB, which starts when a test first uses it. It is also the attribute of `resilience` with its name.

    Args:
        name: the name, such as "mariadb", with which the labels of its faults begin.
        init: SQL, `Path`s of files with SQL, or functions that take its URL, which make its schema once; None for none.
        image: the image of the docker backend; None for mariadb:11.
    """

    def mariadb_server(resilience: Resilience) -> MysqlTarget:
        """A MariaDB, which is in its baseline at the begin of each test."""
        return resilience.add_mariadb(name, init, image=image)

    return _fixture_of_system(name, mariadb_server)


def rabbitmq(name: str, *, image: str | None = None) -> Any:
    """Return a fixture with a RabbitMQ, which starts when a test first uses it. It is also the attribute of `resilience` with its name.

    Args:
        name: the name, such as "rabbitmq", with which the labels of its faults begin.
        image: the image of the docker backend; None for rabbitmq:4.
    """

    def rabbitmq_server(resilience: Resilience) -> RabbitmqTarget:
        """A RabbitMQ, which has no queues of earlier tests at the begin of each test."""
        return resilience.add_rabbitmq(name, image=image)

    return _fixture_of_system(name, rabbitmq_server)


def _fixture_of_system(name: str, add: Callable[[Resilience], object]) -> Any:
    fixture: Any = pytest.fixture(add)
    setattr(fixture, MARK, SystemFactory(name, add))
    return fixture


def tcp(name: str, upstream: str | Service | Callable[[Stack], Service]) -> Any:
    """Return a fixture with a TCP system behind a proxy: a server of another kind, an HTTP API, a broker, another service.

    The fixture has `.host`, `.port` and `.url` of the proxy, and the network faults.

    Args:
        name: the name, such as "payments", with which the labels of its faults begin, as in
            `@pytest.mark.fault("payments.refuse")`.
        upstream: "host:port", or a URL such as "http://127.0.0.1:9000/v1". Hosts other than loopback must be named by the ini option
            or the fixture `resilience_hosts`. Or the description of a service, or a function of the stack that returns one. If no
            other fixture describes that service, it runs under the name with "_server" for each test, as those of
            `factories.service` do.

    Raises:
        SetupError: the name of the service is malformed or taken.
    """
    if isinstance(upstream, str):

        @pytest.fixture
        def tcp_system(resilience: Resilience) -> TcpTarget:
            """A TCP system behind a proxy."""
            return resilience.add_tcp(name, upstream)

        return tcp_system

    factory = ServiceFactory(f"{name}_server", upstream if callable(upstream) else lambda _: upstream, is_upstream=True)

    def service_behind_a_proxy(resilience: Resilience, resilience_stack: Stack) -> TcpTarget:
        """A service behind a proxy."""
        return resilience.add_tcp(name, factory.describe(resilience_stack))

    fixture: Any = pytest.fixture(service_behind_a_proxy)
    setattr(fixture, MARK, factory)
    return fixture


def http_stub(name: str) -> Any:
    """Return a fixture with an HTTP server that tests script, in a process of its own behind a proxy.

    `.answer(path, 503, Answer(json={...}))` scripts the answers, `.requests` has the requests, and the network faults strike what lies
    between. Each test begins without answers and requests.

    Args:
        name: the name, such as "payments", with which the labels of its faults begin.
    """

    @pytest.fixture
    def stub(resilience: Resilience) -> HttpStub:
        return resilience.add_http_stub(name)

    return stub


def service(name: str, describe: Callable[[Stack], Service]) -> Any:
    """Return a fixture with a service, which runs for each test of the conftest.py or module that has the fixture.

    Like the service of `resilience_service`, it starts before the test. Its target is also `resilience.services[name]` and the
    attribute of `resilience` with its name.

    Args:
        name: the name, such as "worker", with which the labels of its faults begin, as in `@pytest.mark.fault("worker.pause")`.
        describe: the function that returns its description, given the stack, such as `lambda stack: Service([...])`. It is called
            once.

    Raises:
        SetupError: the name is malformed or taken.
    """

    def described_service(resilience: Resilience) -> ServiceTarget:
        return resilience.services[name]

    described_service.__doc__ = (
        f"The service {name!r}, which runs for each test: a target with `.log`, `.process` and faults, and with `.get` and so on if it "
        "has a port."
    )
    fixture: Any = pytest.fixture(described_service)
    setattr(fixture, MARK, ServiceFactory(name, describe))
    return fixture


KINDS = ("postgres", "redis", "mysql", "mariadb", "rabbitmq", "tcp", "http_stub", "service")

if not TYPE_CHECKING:  # a type checker would no longer report wrong names

    def __getattr__(name: str) -> Any:
        __tracebackhide__ = True
        from .wording import did_you_mean

        hint = did_you_mean(name, KINDS) if not name.startswith("_") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}", name=name, obj=None)
