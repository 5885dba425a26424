"""A RabbitMQ, a publisher and a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from newsletter import Publisher, Worker
from pytest_resilience import RabbitmqTarget, factories

rabbitmq = factories.rabbitmq("rabbitmq")


@pytest.fixture
def sent() -> list[str]:
    return []


@pytest.fixture
def publisher(rabbitmq: RabbitmqTarget) -> Iterator[Publisher]:
    publisher = Publisher(rabbitmq.url)
    yield publisher
    publisher.close()


@pytest.fixture
def worker(rabbitmq: RabbitmqTarget, sent: list[str]) -> Iterator[Worker]:
    worker = Worker(rabbitmq.url, sent.append)
    yield worker
    worker.close()
